//! Inodes, and what changes them.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use super::content::Content;
use super::op::{Op, Slot};
use super::{HoleHints, Planted};
use crate::backend::{EntryKind, LockMode, Refusal, RelPath};

/// The number of a file or directory, for as long as the tree exists.
pub(in crate::backend) type Inode = u64;

pub(super) const ROOT: Inode = 0;

/// The files of a tree.
#[derive(Debug)]
pub(in crate::backend) struct Disk {
    nodes: BTreeMap<Inode, Node>,
    next: Inode,
    locks: BTreeMap<Inode, Holders>,
    pub(super) is_read_only: bool,
    pub(super) hints: HoleHints,
    pub(super) shares_blocks: bool,
}

#[derive(Clone, Debug)]
pub(in crate::backend) enum Node {
    File {
        content: Arc<Content>,
        read_only: bool,
    },
    Dir {
        entries: BTreeMap<String, Inode>,
    },
    Planted(Planted),
}

/// Who holds a lock.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Holders {
    shared: usize,
    exclusive: bool,
}

impl Node {
    pub(super) fn empty_file() -> Self {
        Self::File {
            content: Arc::default(),
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
        Self::with(BTreeMap::from([(ROOT, Node::empty_dir())]), ROOT + 1)
    }

    fn with(nodes: BTreeMap<Inode, Node>, next: Inode) -> Self {
        Self {
            nodes,
            next,
            locks: BTreeMap::new(),
            is_read_only: false,
            hints: HoleHints::default(),
            shares_blocks: false,
        }
    }

    /// The same files: nothing of them locked, writable, with honest hints.
    pub(in crate::backend) fn image(&self) -> Self {
        Self {
            shares_blocks: self.shares_blocks,
            ..Self::with(self.nodes.clone(), self.next)
        }
    }

    /// Makes `op` happen.
    pub(in crate::backend) fn apply(&mut self, op: &Op) {
        match op {
            Op::Write {
                inode,
                offset,
                bytes,
            } => self.edit(*inode, |content| content.write_at(*offset, bytes)),
            Op::SetLen { inode, len } => self.edit(*inode, |content| content.set_len(*len)),
            Op::ReadOnly { inode } => {
                if let Some(Node::File { read_only, .. }) = self.nodes.get_mut(inode) {
                    *read_only = true;
                }
            }
            Op::Link { slot, inode } => self.link(slot, *inode),
            Op::Unlink { slot } => self.unlink(slot),
            Op::Rename { from, to, inode } => {
                self.unlink(from);
                self.link(to, *inode);
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

    /// What `op` is called, and the path that it concerns.
    pub(in crate::backend) fn describe(&self, op: &Op) -> (&'static str, String) {
        let is_dir = |inode| self.kind(inode) == EntryKind::Directory;
        match op {
            Op::Write { inode, .. } => ("write", self.path_of(*inode)),
            Op::SetLen { inode, .. } => ("set-len", self.path_of(*inode)),
            Op::ReadOnly { inode } => ("chmod", self.path_of(*inode)),
            Op::Sync { inode } if is_dir(*inode) => ("sync-dir", self.path_of(*inode)),
            Op::Sync { inode } => ("sync", self.path_of(*inode)),
            Op::Link { slot, inode } if is_dir(*inode) => ("create-dir", self.slot_path(slot)),
            Op::Link { slot, .. } => ("create", self.slot_path(slot)),
            Op::Unlink { slot } if self.get(slot).is_ok_and(is_dir) => {
                ("remove-dir", self.slot_path(slot))
            }
            Op::Unlink { slot } => ("remove", self.slot_path(slot)),
            Op::Rename { from, to, .. } => {
                let (from, to) = (self.slot_path(from), self.slot_path(to));
                ("rename", format!("{from} -> {to}"))
            }
        }
    }

    pub(super) fn add(&mut self, node: Node) -> Inode {
        let inode = self.next;
        self.next += 1;
        self.nodes.insert(inode, node);
        inode
    }

    pub(super) fn find(&self, path: &RelPath) -> io::Result<Inode> {
        let mut parts = path.as_str().split('/').filter(|part| !part.is_empty());
        parts.try_fold(ROOT, |dir, name| {
            let found = self.entries(dir)?.get(name);
            found.copied().ok_or_else(|| io::ErrorKind::NotFound.into())
        })
    }

    pub(super) fn entries(&self, dir: Inode) -> io::Result<&BTreeMap<String, Inode>> {
        match self.nodes.get(&dir) {
            Some(Node::Dir { entries }) => Ok(entries),
            Some(Node::Planted(Planted::SymbolicLink)) => Err(Refusal::SymbolicLink.into()),
            _ => Err(io::ErrorKind::NotADirectory.into()),
        }
    }

    pub(super) fn kind(&self, inode: Inode) -> EntryKind {
        match self.nodes.get(&inode) {
            Some(Node::Dir { .. }) => EntryKind::Directory,
            Some(Node::Planted(_)) => EntryKind::Other,
            _ => EntryKind::File,
        }
    }

    /// The bytes of a regular file; anything else is refused as an open would.
    pub(super) fn content(&self, inode: Inode) -> io::Result<&Content> {
        match self.nodes.get(&inode) {
            Some(Node::File { content, .. }) => Ok(content),
            Some(Node::Planted(Planted::SymbolicLink)) => Err(Refusal::SymbolicLink.into()),
            _ => Err(Refusal::NotRegular.into()),
        }
    }

    /// Whether a file's write permission was taken away.
    pub(super) fn is_sealed(&self, inode: Inode) -> bool {
        matches!(
            self.nodes.get(&inode),
            Some(Node::File {
                read_only: true,
                ..
            })
        )
    }

    pub(super) fn edit(&mut self, inode: Inode, change: impl FnOnce(&mut Content)) {
        if let Some(Node::File { content, .. }) = self.nodes.get_mut(&inode) {
            change(Arc::make_mut(content));
        }
    }

    /// The place of `path`, where nothing is yet.
    pub(super) fn vacant(&self, path: &RelPath) -> io::Result<Slot> {
        let slot = self.place(path)?;
        match self.get(&slot) {
            Ok(_) => Err(io::ErrorKind::AlreadyExists.into()),
            Err(_) => Ok(slot),
        }
    }

    /// What renaming does; the checks come in the order of Linux.
    pub(super) fn plan_rename(
        &self,
        from: &RelPath,
        to: &RelPath,
        replace: bool,
    ) -> io::Result<Op> {
        let source = self.place(from)?;
        let target = self.place(to)?;
        let inode = self.get(&source)?;
        let old = self.get(&target).ok();
        if old.is_some() && !replace {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        if is_below(to, from) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        if let Some(old) = old.filter(|old| *old != inode) {
            let is_dir = |inode| self.kind(inode) == EntryKind::Directory;
            match (is_dir(inode), is_dir(old)) {
                _ if is_below(from, to) => return Err(io::ErrorKind::DirectoryNotEmpty.into()),
                (true, false) => return Err(io::ErrorKind::NotADirectory.into()),
                (false, true) => return Err(io::ErrorKind::IsADirectory.into()),
                (true, true) => self.check_empty(old)?,
                (false, false) => {}
            }
        }
        Ok(Op::Rename {
            from: source,
            to: target,
            inode,
        })
    }

    pub(super) fn plan_unlink(&self, path: &RelPath, kind: EntryKind) -> io::Result<Op> {
        let slot = self.place(path)?;
        let inode = self.get(&slot)?;
        if kind == EntryKind::Directory {
            self.check_empty(inode)?;
        } else if self.kind(inode) == EntryKind::Directory {
            return Err(io::ErrorKind::IsADirectory.into());
        }
        Ok(Op::Unlink { slot })
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

    fn check_empty(&self, dir: Inode) -> io::Result<()> {
        match self.nodes.get(&dir) {
            Some(Node::Dir { entries }) if entries.is_empty() => Ok(()),
            Some(Node::Dir { .. }) => Err(io::ErrorKind::DirectoryNotEmpty.into()),
            _ => Err(io::ErrorKind::NotADirectory.into()),
        }
    }

    fn place(&self, path: &RelPath) -> io::Result<Slot> {
        let parent = path.parent().ok_or(io::ErrorKind::ResourceBusy)?;
        let dir = self.find(&parent)?;
        self.entries(dir)?;
        Ok((dir, path.name().to_owned()))
    }

    fn get(&self, slot: &Slot) -> io::Result<Inode> {
        let found = self.entries(slot.0)?.get(&slot.1);
        found.copied().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn link(&mut self, slot: &Slot, inode: Inode) {
        if let Some(Node::Dir { entries }) = self.nodes.get_mut(&slot.0) {
            entries.insert(slot.1.clone(), inode);
        }
    }

    fn unlink(&mut self, slot: &Slot) {
        if let Some(Node::Dir { entries }) = self.nodes.get_mut(&slot.0) {
            entries.remove(&slot.1);
        }
    }

    fn slot_path(&self, slot: &Slot) -> String {
        match slot.0 {
            ROOT => slot.1.clone(),
            dir => format!("{}/{}", self.path_of(dir), slot.1),
        }
    }

    /// Where `inode` is linked now.
    fn path_of(&self, inode: Inode) -> String {
        if inode == ROOT {
            return ".".to_owned();
        }
        let found = self.nodes.iter().find_map(|(dir, node)| match node {
            Node::Dir { entries } => {
                let name = entries.iter().find(|(_, child)| **child == inode)?.0;
                Some((*dir, name.clone()))
            }
            _ => None,
        });
        found.map_or_else(|| "(removed)".to_owned(), |slot| self.slot_path(&slot))
    }
}

/// Whether `path` lies below `ancestor`. Nothing here is a link, so the text decides.
fn is_below(path: &RelPath, ancestor: &RelPath) -> bool {
    let rest = path.as_str().strip_prefix(ancestor.as_str());
    rest.is_some_and(|rest| rest.starts_with('/'))
}
