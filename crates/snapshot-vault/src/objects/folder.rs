//! Objects as files of a local folder.

use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use snapshot_format::sabotage::Sabotage;
use snapshot_memory::backend::{Backend, EntryKind, Lock, LockMode, RelPath, WriteFile};
use snapshot_memory::{DirectBuffer, Piece, QueueMode};

use super::{ListedObject, ObjectError, ObjectName, Objects};
use crate::id::ObjectId;

/// Objects as files of a local folder, mode 0400, each renamed into place when it is durable.
///
/// Clones are the same writer. Another process, or another [`open`](Self::open), is another one.
#[derive(Clone)]
pub struct FolderObjects {
    backend: Arc<dyn Backend>,
    /// Where this writer makes its files; `None` where the folder is open for reading only.
    incoming: Option<Arc<Incoming>>,
}

/// The folder of one writer, which others leave alone while its lock is held.
struct Incoming {
    backend: Arc<dyn Backend>,
    folder: RelPath,
    lock_path: RelPath,
    next: AtomicU64,
    /// Folders that this writer has made durable, whoever made them.
    durable: Mutex<BTreeSet<RelPath>>,
    /// Folders of which a sync failed: what was changed in them may be lost, whatever a later sync
    /// says, so this writer tells of no change in them as done.
    doubtful: Mutex<BTreeSet<RelPath>>,
    /// Dies with the process.
    _lock: Box<dyn Lock>,
}

impl FolderObjects {
    /// Opens a folder to read.
    pub fn read_only(backend: Arc<dyn Backend>) -> Self {
        Self {
            backend,
            incoming: None,
        }
    }

    /// Opens a folder to write, and removes what writers left that died.
    pub fn open(backend: Arc<dyn Backend>) -> Result<Self, ObjectError> {
        let parent = path(INCOMING)?;
        make_dir(&*backend, &parent)?;
        clean(&*backend, &parent);
        let mut id = [0; 16];
        getrandom::fill(&mut id).map_err(io::Error::other)?;
        let writer = ObjectId(id).to_string();
        let lock_path = join(&parent, &format!("{writer}{LOCK_SUFFIX}"))?;
        let lock = backend.lock(&lock_path, LockMode::Exclusive, LOCK_WAIT)?;
        let folder = join(&parent, &writer)?;
        backend.create_dir(&folder)?;
        let incoming = Incoming {
            backend: Arc::clone(&backend),
            folder,
            lock_path,
            next: AtomicU64::new(0),
            durable: Mutex::default(),
            doubtful: Mutex::default(),
            _lock: lock,
        };
        Ok(Self {
            backend,
            incoming: Some(Arc::new(incoming)),
        })
    }

    fn incoming(&self) -> io::Result<&Incoming> {
        let open = self.incoming.as_deref();
        open.ok_or_else(|| io::ErrorKind::ReadOnlyFilesystem.into())
    }

    /// Writes a file that nobody sees yet, and makes it durable.
    fn write(&self, fresh: &RelPath, bytes: &[u8]) -> io::Result<()> {
        let mut file = self.backend.create(fresh)?;
        if bytes.len() < DirectBuffer::LEN_BYTES {
            file.write_all_at(0, bytes)?;
        } else {
            write_past_the_cache(file.as_mut(), bytes)?;
        }
        file.make_read_only()?;
        match file.sync() {
            Err(_) if Sabotage::IgnoredFsyncError.is_on() => Ok(()),
            synced => synced,
        }
    }

    /// Makes the folders that lead to `target` durable, from the root on. One that is there may be
    /// another writer's, who has not synced it yet.
    fn make_folders(&self, incoming: &Incoming, target: &RelPath) -> io::Result<()> {
        let mut folders = Vec::new();
        let mut above = target.parent();
        while let Some(folder) = above.filter(|folder| *folder != RelPath::root()) {
            above = folder.parent();
            folders.push(folder);
        }
        // A set of paths is whole after any panic.
        let mut durable = incoming
            .durable
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        for folder in folders.into_iter().rev() {
            if !durable.contains(&folder) {
                match self.backend.create_dir(&folder) {
                    Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                    created => created?,
                }
                self.sync_dir(&folder.parent().unwrap_or_else(RelPath::root))?;
                durable.insert(folder);
            }
        }
        Ok(())
    }

    fn sync_dir(&self, folder: &RelPath) -> io::Result<()> {
        if Sabotage::NoDirFsync.is_on() {
            return Ok(());
        }
        let doubtful = &self.incoming()?.doubtful;
        // A set of paths is whole after any panic.
        let mut doubtful = doubtful.lock().unwrap_or_else(PoisonError::into_inner);
        if doubtful.contains(folder) {
            return Err(io::Error::other("an earlier sync of the folder failed"));
        }
        let synced = self.backend.sync_dir(folder);
        let is_gone = |error: &io::Error| error.kind() == io::ErrorKind::NotFound;
        if synced.as_ref().is_err_and(|error| !is_gone(error)) {
            doubtful.insert(folder.clone());
        }
        synced
    }

    /// Adds the files of `folder` to `found`, and those of the folders in it.
    fn list_into(
        &self,
        folder: &RelPath,
        prefix: &ObjectName,
        depth: usize,
        found: &mut Vec<ListedObject>,
    ) -> io::Result<()> {
        let entries = match self.backend.list(folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            listed => listed?,
        };
        for entry in entries {
            let path = join(folder, &entry.name)?;
            match entry.kind {
                EntryKind::File => match self.backend.metadata(&path) {
                    Ok(metadata) => found.push(ListedObject {
                        name: prefix.below(&entry.name),
                        len_bytes: metadata.len_bytes,
                    }),
                    // Deleted since the folder was listed.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    Err(error) => return Err(error),
                },
                EntryKind::Directory if depth < MAX_DEPTH => {
                    let below = prefix.below(&format!("{}/", entry.name));
                    self.list_into(&path, &below, depth + 1, found)?;
                }
                _ => {}
            }
        }
        Ok(())
    }
}

impl Objects for FolderObjects {
    fn put(&self, name: &ObjectName, bytes: &[u8]) -> Result<(), ObjectError> {
        let incoming = self.incoming()?;
        let target = path_of(name)?;
        let folder = target.parent().unwrap_or_else(RelPath::root);
        let number = incoming.next.fetch_add(1, Ordering::Relaxed);
        let fresh = join(&incoming.folder, &number.to_string())?;
        let placed = self.write(&fresh, bytes).and_then(|()| {
            self.make_folders(incoming, &target)?;
            self.backend.rename_noreplace(&fresh, &target)
        });
        if let Err(error) = placed {
            // The next one who opens the folder removes it, so this may fail.
            drop(self.backend.remove_file(&fresh));
            if error.kind() != io::ErrorKind::AlreadyExists {
                return Err(error.into());
            }
            // It may be this writer's own, whose name is not durable: the sync failed.
            self.sync_dir(&folder)?;
            return Err(ObjectError::Exists);
        }
        Ok(self.sync_dir(&folder)?)
    }

    fn get(&self, name: &ObjectName, offset: u64, out: &mut [u8]) -> Result<usize, ObjectError> {
        let file = match self.backend.open(&path_of(name)?) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(ObjectError::NotFound);
            }
            opened => opened?,
        };
        let left = file.len()?.saturating_sub(offset);
        let len = usize::try_from(left).unwrap_or(usize::MAX).min(out.len());
        file.read_exact_at(offset, out.get_mut(..len).unwrap_or_default())?;
        Ok(len)
    }

    fn list(&self, prefix: &ObjectName) -> Result<Vec<ListedObject>, ObjectError> {
        let mut folder = RelPath::root();
        for component in prefix
            .components()
            .filter(|component| !component.is_empty())
        {
            folder = join(&folder, component)?;
        }
        let mut found = Vec::new();
        self.list_into(&folder, prefix, 0, &mut found)?;
        Ok(found)
    }

    fn delete(&self, name: &ObjectName) -> Result<(), ObjectError> {
        // Nobody deletes in a folder that is open for reading only.
        self.incoming()?;
        let target = path_of(name)?;
        match self.backend.remove_file(&target) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            removed => removed?,
        }
        // Also where it was not there: another one may have removed it a moment ago.
        let folder = target.parent().unwrap_or_else(RelPath::root);
        match self.sync_dir(&folder) {
            // The folder is not there, and nothing in it.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            synced => Ok(synced?),
        }
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        // While the lock is held. What cannot be removed now is removed by the next one who opens
        // the folder.
        let removed = self.backend.remove_dir(&self.folder);
        let removed = removed.and_then(|()| self.backend.remove_file(&self.lock_path));
        if let Err(error) = removed {
            tracing::debug!(%error, folder = %self.folder, "a writer's folder stays");
        }
    }
}

impl fmt::Debug for FolderObjects {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let writer = self
            .incoming
            .as_ref()
            .map(|incoming| incoming.folder.clone());
        let mut debug = f.debug_struct("FolderObjects");
        debug.field("backend", &self.backend);
        debug.field("incoming", &writer).finish()
    }
}

/// Writes a file in buffers of 2 MiB, several under way at once, past the page cache where the file
/// system takes that.
fn write_past_the_cache(file: &mut dyn WriteFile, bytes: &[u8]) -> io::Result<()> {
    let len_bytes = bytes.len() as u64;
    // Writes to blocks that are reserved need not wait for each other.
    file.reserve(len_bytes.next_multiple_of(PAGE_BYTES as u64))?;
    {
        let mut queue = file.write_queue(QueueMode::PreferDirect, BUFFERS)?;
        let parts = bytes.chunks(DirectBuffer::LEN_BYTES);
        for (number, part) in (0_u64..).zip(parts) {
            let mut buffer = queue.buffer()?;
            let whole = part.len().next_multiple_of(PAGE_BYTES);
            let (filled, rest) = buffer.split_at_mut(part.len());
            filled.copy_from_slice(part);
            // The last page is cut off by the length below.
            rest.get_mut(..whole - part.len())
                .unwrap_or_default()
                .fill(0);
            let piece = Piece {
                start: 0,
                len_bytes: whole,
                offset: number * DirectBuffer::LEN_BYTES as u64,
            };
            queue.submit(buffer, &[piece])?;
        }
        queue.finish()?;
    }
    file.set_len(len_bytes)
}

/// Makes a directory that may exist, and makes it durable.
fn make_dir(backend: &dyn Backend, folder: &RelPath) -> io::Result<()> {
    match backend.create_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        created => created?,
    }
    if Sabotage::NoDirFsync.is_on() {
        return Ok(());
    }
    backend.sync_dir(&folder.parent().unwrap_or_else(RelPath::root))
}

/// Removes the folders of writers whose locks are free. Failing is no error: the next one tries.
fn clean(backend: &dyn Backend, parent: &RelPath) {
    for entry in backend.list(parent).unwrap_or_default() {
        let Some(writer) = entry.name.strip_suffix(LOCK_SUFFIX) else {
            continue;
        };
        if writer.parse::<ObjectId>().is_err() {
            continue;
        }
        if let Err(error) = clean_writer(backend, parent, writer) {
            tracing::debug!(%error, writer, "a writer's files stay");
        }
    }
}

fn clean_writer(backend: &dyn Backend, parent: &RelPath, writer: &str) -> io::Result<()> {
    let lock_path = join(parent, &format!("{writer}{LOCK_SUFFIX}"))?;
    let _lock = backend.lock(&lock_path, LockMode::Exclusive, Duration::ZERO)?;
    let folder = join(parent, writer)?;
    match backend.list(&folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        listed => {
            for file in listed? {
                backend.remove_file(&join(&folder, &file.name)?)?;
            }
            backend.remove_dir(&folder)?;
        }
    }
    backend.remove_file(&lock_path)
}

fn path_of(name: &ObjectName) -> io::Result<RelPath> {
    let mut components = name.components();
    components.try_fold(RelPath::root(), |folder, component| {
        join(&folder, component)
    })
}

fn path(component: &str) -> io::Result<RelPath> {
    join(&RelPath::root(), component)
}

fn join(folder: &RelPath, component: &str) -> io::Result<RelPath> {
    let joined = folder.join(component);
    joined.map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))
}

const INCOMING: &str = "incoming";
const LOCK_SUFFIX: &str = ".lock";

/// `domains/<domain>/packs`.
const MAX_DEPTH: usize = 3;

/// Buffers of a pack under way: enough for the device, little memory.
const BUFFERS: usize = 4;

/// For a cleaner that has the lock of a writer which is just beginning.
const LOCK_WAIT: Duration = Duration::from_secs(5);

const PAGE_BYTES: usize = 4096;

#[cfg(test)]
mod tests;
