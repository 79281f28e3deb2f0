//! Inodes, and the operations that change them: the ones a crash may lose or tear.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use crate::backend::{EntryKind, LockMode, RelPath};

/// The number of a file or directory, for as long as the tree exists.
pub(in crate::backend) type Inode = u64;

const ROOT: Inode = 0;

/// The files of a tree.
#[derive(Debug)]
pub(in crate::backend) struct Disk {
    nodes: BTreeMap<Inode, Node>,
    next: Inode,
    locks: BTreeMap<Inode, Holders>,
}

#[derive(Clone, Debug)]
pub(in crate::backend) enum Node {
    File {
        bytes: Arc<Vec<u8>>,
        read_only: bool,
    },
    Dir {
        entries: BTreeMap<String, Inode>,
    },
}

/// Who holds a lock.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Holders {
    shared: usize,
    exclusive: bool,
}

/// One change of a tree, by inode, so that it can be replayed without the others.
#[derive(Clone, Debug)]
pub(in crate::backend) enum Op {
    /// Bytes of a file.
    Write {
        inode: Inode,
        offset: u64,
        bytes: Arc<[u8]>,
    },
    /// The length of a file.
    SetLen { inode: Inode, len: u64 },
    /// Write permission taken away.
    ReadOnly { inode: Inode },
    /// A new name for a file or directory.
    Link {
        dir: Inode,
        name: String,
        inode: Inode,
    },
    /// One name for another, at once.
    Rename {
        from: (Inode, String),
        to: (Inode, String),
        inode: Inode,
    },
    /// A name that goes.
    Unlink { dir: Inode, name: String },
    /// The bytes of a file, or the names in a directory, made durable.
    Sync { inode: Inode },
}

impl Op {
    /// The file or directory that must be synced to make this durable; `None` for a sync itself.
    pub(in crate::backend) fn subject(&self) -> Option<Inode> {
        match self {
            Self::Write { inode, .. } | Self::SetLen { inode, .. } | Self::ReadOnly { inode } => {
                Some(*inode)
            }
            Self::Link { dir, .. } | Self::Unlink { dir, .. } => Some(*dir),
            Self::Rename { to, .. } => Some(to.0),
            Self::Sync { .. } => None,
        }
    }

    /// Whether this changes names and not bytes.
    pub(in crate::backend) fn is_name(&self) -> bool {
        matches!(
            self,
            Self::Link { .. } | Self::Rename { .. } | Self::Unlink { .. }
        )
    }

    pub(in crate::backend) fn label(&self) -> &'static str {
        match self {
            Self::Write { .. } => "write",
            Self::SetLen { .. } => "set-len",
            Self::ReadOnly { .. } => "chmod",
            Self::Link { .. } => "create",
            Self::Rename { .. } => "rename",
            Self::Unlink { .. } => "remove",
            Self::Sync { .. } => "sync",
        }
    }
}

impl Node {
    pub(super) fn empty_file() -> Self {
        Self::File {
            bytes: Arc::default(),
            read_only: false,
        }
    }

    pub(super) fn empty_dir() -> Self {
        Self::Dir {
            entries: BTreeMap::new(),
        }
    }
}

impl Disk {
    pub(super) fn new() -> Self {
        Self {
            nodes: BTreeMap::from([(ROOT, Node::empty_dir())]),
            next: ROOT + 1,
            locks: BTreeMap::new(),
        }
    }

    /// The same files, nothing of them locked.
    pub(in crate::backend) fn image(&self) -> Self {
        Self {
            nodes: self.nodes.clone(),
            next: self.next,
            locks: BTreeMap::new(),
        }
    }

    /// Makes `op` happen.
    pub(in crate::backend) fn apply(&mut self, op: &Op) {
        match op {
            Op::Write {
                inode,
                offset,
                bytes,
            } => {
                if let (Ok(file), Ok(at)) = (self.bytes_mut(*inode), usize::try_from(*offset)) {
                    let end = at.saturating_add(bytes.len());
                    if file.len() < end {
                        file.resize(end, 0);
                    }
                    if let Some(target) = file.get_mut(at..end) {
                        target.copy_from_slice(bytes);
                    }
                }
            }
            Op::SetLen { inode, len } => {
                if let (Ok(file), Ok(len)) = (self.bytes_mut(*inode), usize::try_from(*len)) {
                    file.resize(len, 0);
                }
            }
            Op::ReadOnly { inode } => {
                if let Some(Node::File { read_only, .. }) = self.nodes.get_mut(inode) {
                    *read_only = true;
                }
            }
            Op::Link { dir, name, inode } => self.link(*dir, name, *inode),
            Op::Unlink { dir, name } => self.unlink(*dir, name),
            Op::Rename { from, to, inode } => {
                self.unlink(from.0, &from.1);
                self.link(to.0, &to.1, *inode);
            }
            Op::Sync { .. } => {}
        }
    }

    /// Makes an inode exist without a name and without content, so that any operation on it can
    /// be replayed alone.
    pub(in crate::backend) fn adopt(&mut self, inode: Inode, other: &Self) {
        let empty = match other.nodes.get(&inode) {
            Some(Node::File { .. }) => Node::empty_file(),
            _ => Node::empty_dir(),
        };
        self.nodes.entry(inode).or_insert(empty);
        self.next = self.next.max(inode + 1);
    }

    pub(super) fn add(&mut self, node: Node) -> Inode {
        let inode = self.next;
        self.next += 1;
        self.nodes.insert(inode, node);
        inode
    }

    pub(super) fn find(&self, path: &RelPath) -> io::Result<Inode> {
        let parts = path.as_str().split('/').filter(|part| !part.is_empty());
        parts.into_iter().try_fold(ROOT, |dir, name| {
            let found = self.entries(dir)?.get(name);
            found.copied().ok_or_else(|| io::ErrorKind::NotFound.into())
        })
    }

    pub(super) fn entries(&self, dir: Inode) -> io::Result<&BTreeMap<String, Inode>> {
        match self.nodes.get(&dir) {
            Some(Node::Dir { entries }) => Ok(entries),
            _ => Err(io::ErrorKind::NotADirectory.into()),
        }
    }

    pub(super) fn kind(&self, inode: Inode) -> EntryKind {
        match self.nodes.get(&inode) {
            Some(Node::Dir { .. }) => EntryKind::Directory,
            _ => EntryKind::File,
        }
    }

    pub(super) fn bytes(&self, inode: Inode) -> Option<&[u8]> {
        match self.nodes.get(&inode) {
            Some(Node::File { bytes, .. }) => Some(bytes),
            _ => None,
        }
    }

    pub(super) fn bytes_mut(&mut self, inode: Inode) -> io::Result<&mut Vec<u8>> {
        match self.nodes.get_mut(&inode) {
            Some(Node::File { bytes, .. }) => Ok(Arc::make_mut(bytes)),
            _ => Err(crate::backend::Refusal::NotRegular.into()),
        }
    }

    /// The directory and the name of `path`, which must not exist.
    pub(super) fn vacant(&self, path: &RelPath) -> io::Result<(Inode, String)> {
        let (dir, name) = self.place(path)?;
        if self.entries(dir)?.contains_key(&name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        Ok((dir, name))
    }

    pub(super) fn plan_rename(
        &self,
        from: &RelPath,
        to: &RelPath,
        replace: bool,
    ) -> io::Result<Op> {
        let inode = self.find(from)?;
        let target = match self.find(to) {
            Ok(_) if !replace => return Err(io::ErrorKind::AlreadyExists.into()),
            Ok(old) if self.kind(old) == EntryKind::Directory => {
                return Err(io::ErrorKind::IsADirectory.into());
            }
            _ => self.place(to)?,
        };
        self.entries(target.0)?;
        Ok(Op::Rename {
            from: self.place(from)?,
            to: target,
            inode,
        })
    }

    pub(super) fn plan_unlink(&self, path: &RelPath, kind: EntryKind) -> io::Result<Op> {
        let inode = self.find(path)?;
        match (kind, self.nodes.get(&inode)) {
            (EntryKind::Directory, Some(Node::Dir { entries })) if !entries.is_empty() => {
                return Err(io::ErrorKind::DirectoryNotEmpty.into());
            }
            (EntryKind::Directory, Some(Node::File { .. })) => {
                return Err(io::ErrorKind::NotADirectory.into());
            }
            (EntryKind::File, Some(Node::Dir { .. })) => {
                return Err(io::ErrorKind::IsADirectory.into());
            }
            _ => {}
        }
        let (dir, name) = self.place(path)?;
        Ok(Op::Unlink { dir, name })
    }

    /// Takes the lock if nobody is in the way.
    pub(super) fn try_lock(&mut self, inode: Inode, mode: LockMode) -> bool {
        let holders = self.locks.entry(inode).or_default();
        match mode {
            LockMode::Shared if !holders.exclusive => holders.shared += 1,
            LockMode::Exclusive if *holders == Holders::default() => holders.exclusive = true,
            _ => return false,
        }
        true
    }

    pub(super) fn unlock(&mut self, inode: Inode, mode: LockMode) {
        if let Some(holders) = self.locks.get_mut(&inode) {
            match mode {
                LockMode::Shared => holders.shared = holders.shared.saturating_sub(1),
                LockMode::Exclusive => holders.exclusive = false,
            }
        }
    }

    fn place(&self, path: &RelPath) -> io::Result<(Inode, String)> {
        let parent = path.parent().ok_or(io::ErrorKind::ResourceBusy)?;
        let dir = self.find(&parent)?;
        self.entries(dir)?;
        Ok((dir, path.name().to_owned()))
    }

    fn link(&mut self, dir: Inode, name: &str, inode: Inode) {
        if let Some(Node::Dir { entries }) = self.nodes.get_mut(&dir) {
            entries.insert(name.to_owned(), inode);
        }
    }

    fn unlink(&mut self, dir: Inode, name: &str) {
        if let Some(Node::Dir { entries }) = self.nodes.get_mut(&dir) {
            entries.remove(name);
        }
    }
}
