//! A tree, as the kernel asks for it.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use fuser::{
    BsdFileFlags, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation,
    INodeNo, LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory,
    ReplyEmpty, ReplyEntry, ReplyOpen, ReplyStatfs, ReplyWrite, Request, TimeOrNow, WriteFlags,
};
use snapshot_memory::backend::{
    Backend, EntryKind, FaultBackend, MemNode, Nodes, ReadFile, RelPath, WriteFile,
};

/// The kernel keeps no name and no attribute: it asks each time.
const NOT_KEPT: Duration = Duration::ZERO;

/// What all numbers of nodes are shifted by: the kernel calls the root 1.
const SHIFT: u64 = 1;

const BLOCK_BYTES: u32 = 4096;

/// A tree that counts, cuts and fails, behind a mount.
#[derive(Debug)]
pub(super) struct TreeFileSystem {
    backend: FaultBackend,
    nodes: Nodes,
    open: Mutex<Open>,
    loses_synced: bool,
}

/// Files that are open.
#[derive(Debug, Default)]
struct Open {
    files: BTreeMap<u64, OpenFile>,
    next: u64,
}

#[derive(Debug)]
struct OpenFile {
    reader: Box<dyn ReadFile>,
    writer: Box<dyn WriteFile>,
}

impl TreeFileSystem {
    pub(super) fn new(backend: FaultBackend, loses_synced: bool) -> Self {
        Self {
            nodes: backend.nodes(),
            backend,
            open: Mutex::default(),
            loses_synced,
        }
    }

    fn sync(&self, node: u64) -> io::Result<()> {
        if self.loses_synced {
            return Ok(());
        }
        self.nodes.sync(node)
    }

    fn open_files(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn open_node(&self, number: u64) -> io::Result<FileHandle> {
        let file = OpenFile {
            reader: self.nodes.read(number)?,
            writer: self.nodes.write(number)?,
        };
        let mut open = self.open_files();
        let handle = open.next;
        open.next += 1;
        open.files.insert(handle, file);
        Ok(FileHandle(handle))
    }

    fn with_open<T>(
        &self,
        handle: FileHandle,
        work: impl FnOnce(&mut OpenFile) -> io::Result<T>,
    ) -> io::Result<T> {
        let mut open = self.open_files();
        let file = open.files.get_mut(&handle.0);
        work(file.ok_or_else(|| io::Error::from_raw_os_error(libc::EBADF))?)
    }

    fn path(&self, directory: INodeNo, name: &OsStr) -> io::Result<RelPath> {
        self.nodes.path(number(directory), text(name)?)
    }

    fn find(&self, directory: INodeNo, name: &OsStr) -> io::Result<FileAttr> {
        let node = self.nodes.find(number(directory), text(name)?)?;
        Ok(attributes(&node))
    }

    fn set(&self, node: u64, mode: Option<u32>, size: Option<u64>) -> io::Result<FileAttr> {
        if let Some(len) = size {
            self.nodes.write(node)?.set_len(len)?;
        }
        let is_file = self.nodes.node(node)?.metadata.kind == EntryKind::File;
        if is_file && mode.is_some_and(|mode| mode & 0o222 == 0) {
            self.nodes.write(node)?.make_read_only()?;
        }
        Ok(attributes(&self.nodes.node(node)?))
    }
}

/// The number of a node in the tree.
fn number(inode: INodeNo) -> u64 {
    inode.0 - SHIFT
}

fn text(name: &OsStr) -> io::Result<&str> {
    name.to_str()
        .ok_or_else(|| io::ErrorKind::InvalidInput.into())
}

fn kind(kind: EntryKind) -> FileType {
    match kind {
        EntryKind::Directory => FileType::Directory,
        _ => FileType::RegularFile,
    }
}

fn attributes(node: &MemNode) -> FileAttr {
    let time = SystemTime::UNIX_EPOCH;
    let is_directory = node.metadata.kind == EntryKind::Directory;
    FileAttr {
        ino: INodeNo(node.number + SHIFT),
        size: node.metadata.len_bytes,
        blocks: node.metadata.allocated_bytes / 512,
        atime: time,
        mtime: time,
        ctime: time,
        crtime: time,
        kind: kind(node.metadata.kind),
        perm: match (is_directory, node.is_read_only) {
            (true, _) => 0o700,
            (false, true) => 0o400,
            (false, false) => 0o600,
        },
        nlink: if is_directory { 2 } else { 1 },
        uid: nix::unistd::geteuid().as_raw(),
        gid: nix::unistd::getegid().as_raw(),
        rdev: 0,
        blksize: BLOCK_BYTES,
        flags: 0,
    }
}

fn errno(error: &io::Error) -> Errno {
    let code = error.raw_os_error().unwrap_or_else(|| match error.kind() {
        io::ErrorKind::NotFound => libc::ENOENT,
        io::ErrorKind::AlreadyExists => libc::EEXIST,
        io::ErrorKind::StorageFull => libc::ENOSPC,
        io::ErrorKind::QuotaExceeded => libc::EDQUOT,
        io::ErrorKind::NotADirectory => libc::ENOTDIR,
        io::ErrorKind::IsADirectory => libc::EISDIR,
        io::ErrorKind::DirectoryNotEmpty => libc::ENOTEMPTY,
        io::ErrorKind::InvalidInput => libc::EINVAL,
        io::ErrorKind::ReadOnlyFilesystem => libc::EROFS,
        io::ErrorKind::FileTooLarge => libc::EFBIG,
        // The power is cut, too.
        _ => libc::EIO,
    });
    Errno::from_i32(code)
}

/// Answers an empty reply.
fn done(reply: ReplyEmpty, result: io::Result<()>) {
    match result {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(errno(&error)),
    }
}

fn entry(reply: ReplyEntry, result: io::Result<FileAttr>) {
    match result {
        Ok(attributes) => reply.entry(&NOT_KEPT, &attributes, Generation(0)),
        Err(error) => reply.error(errno(&error)),
    }
}

fn attribute(reply: ReplyAttr, result: io::Result<FileAttr>) {
    match result {
        Ok(attributes) => reply.attr(&NOT_KEPT, &attributes),
        Err(error) => reply.error(errno(&error)),
    }
}

impl Filesystem for TreeFileSystem {
    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        entry(reply, self.find(parent, name));
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        let node = self.nodes.node(number(ino));
        attribute(reply, node.map(|node| attributes(&node)));
    }

    fn setattr(
        &self,
        _: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        _: Option<u32>,
        _: Option<u32>,
        size: Option<u64>,
        _: Option<TimeOrNow>,
        _: Option<TimeOrNow>,
        _: Option<SystemTime>,
        _: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        attribute(reply, self.set(number(ino), mode, size));
    }

    fn mkdir(&self, _: &Request, parent: INodeNo, name: &OsStr, _: u32, _: u32, reply: ReplyEntry) {
        let made = self
            .path(parent, name)
            .and_then(|path| self.backend.create_dir(&path));
        entry(reply, made.and_then(|()| self.find(parent, name)));
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let path = self.path(parent, name);
        done(reply, path.and_then(|path| self.backend.remove_file(&path)));
    }

    fn rmdir(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let path = self.path(parent, name);
        done(reply, path.and_then(|path| self.backend.remove_dir(&path)));
    }

    fn rename(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        newparent: INodeNo,
        newname: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let rename = || {
            let (from, to) = (self.path(parent, name)?, self.path(newparent, newname)?);
            if flags.is_empty() {
                self.backend.rename_replace(&from, &to)
            } else if flags == RenameFlags::RENAME_NOREPLACE {
                self.backend.rename_noreplace(&from, &to)
            } else {
                Err(io::ErrorKind::InvalidInput.into())
            }
        };
        done(reply, rename());
    }

    fn open(&self, _: &Request, ino: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        match self.open_node(number(ino)) {
            Ok(handle) => reply.opened(handle, FopenFlags::empty()),
            Err(error) => reply.error(errno(&error)),
        }
    }

    fn create(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        _: u32,
        _: u32,
        _: i32,
        reply: ReplyCreate,
    ) {
        let create = || {
            drop(self.backend.create(&self.path(parent, name)?)?);
            let attributes = self.find(parent, name)?;
            Ok((attributes, self.open_node(number(attributes.ino))?))
        };
        match create() {
            Ok((attributes, handle)) => reply.created(
                &NOT_KEPT,
                &attributes,
                Generation(0),
                handle,
                FopenFlags::empty(),
            ),
            Err(error) => reply.error(errno(&error)),
        }
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        fh: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let read = self.with_open(fh, |file| {
            let left = file.reader.len()?.saturating_sub(offset);
            let len = usize::try_from(left.min(size.into())).unwrap_or(0);
            let mut bytes = vec![0; len];
            file.reader.read_exact_at(offset, &mut bytes)?;
            Ok(bytes)
        });
        match read {
            Ok(bytes) => reply.data(&bytes),
            Err(error) => reply.error(errno(&error)),
        }
    }

    fn write(
        &self,
        _: &Request,
        _: INodeNo,
        fh: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        match self.with_open(fh, |file| file.writer.write_all_at(offset, data)) {
            Ok(()) => reply.written(u32::try_from(data.len()).unwrap_or(u32::MAX)),
            Err(error) => reply.error(errno(&error)),
        }
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }

    fn release(
        &self,
        _: &Request,
        _: INodeNo,
        fh: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _: bool,
        reply: ReplyEmpty,
    ) {
        self.open_files().files.remove(&fh.0);
        reply.ok();
    }

    fn fsync(&self, _: &Request, ino: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        done(reply, self.sync(number(ino)));
    }

    fn fsyncdir(&self, _: &Request, ino: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        done(reply, self.sync(number(ino)));
    }

    fn readdir(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let listed = match self.nodes.list(number(ino)) {
            Ok(listed) => listed,
            Err(error) => return reply.error(errno(&error)),
        };
        // The offset of an entry is that of the next one.
        for (at, (listed, node)) in (1..).zip(listed) {
            if at > offset && reply.add(INodeNo(node + SHIFT), at, kind(listed.kind), &listed.name)
            {
                break;
            }
        }
        reply.ok();
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        match self.backend.free_bytes() {
            Ok(free) => {
                let free = free / u64::from(BLOCK_BYTES);
                let files = 1 << 20;
                reply.statfs(
                    free,
                    free,
                    free,
                    files,
                    files,
                    BLOCK_BYTES,
                    255,
                    BLOCK_BYTES,
                );
            }
            Err(error) => reply.error(errno(&error)),
        }
    }
}
