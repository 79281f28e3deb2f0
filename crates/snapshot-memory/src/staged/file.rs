//! A file of a stage: its errors name it.

use snapshot_format::sabotage::Sabotage;

use super::StagedQueue;
use crate::backend::{Backend, RelPath, WriteFile};
use crate::capture::Engine;
use crate::direct::{DirectRefused, QueueMode};
use crate::error::{FileError, SinkError};
use crate::source::HostRun;

/// A new file that is being written, together with its name.
#[derive(Debug)]
pub struct StagedFile {
    path: RelPath,
    file: Box<dyn WriteFile>,
}

impl StagedFile {
    /// Creates `path`, which must not exist.
    pub fn create(backend: &dyn Backend, path: RelPath) -> Result<Self, FileError> {
        let file = backend
            .create(&path)
            .map_err(FileError::at("create", &path))?;
        Ok(Self { path, file })
    }

    /// The name.
    #[must_use]
    pub fn path(&self) -> &RelPath {
        &self.path
    }

    /// Writes all of `bytes` at `offset`.
    pub fn write_all_at(&mut self, offset: u64, bytes: &[u8]) -> Result<(), FileError> {
        let written = self.file.write_all_at(offset, bytes);
        written.map_err(FileError::at("write", &self.path))
    }

    /// Writes the runs back to back from `offset`, straight from guest memory.
    pub fn write_runs_at(&mut self, offset: u64, runs: &[HostRun<'_>]) -> Result<(), FileError> {
        let written = self.file.write_runs_at(offset, runs);
        written.map_err(FileError::at("write", &self.path))
    }

    /// Sets the length; new bytes are zero.
    pub fn set_len(&mut self, len_bytes: u64) -> Result<(), FileError> {
        let set = self.file.set_len(len_bytes);
        set.map_err(FileError::at("set the length of", &self.path))
    }

    /// Reserves blocks for the first `len_bytes` bytes, where the file system can.
    pub fn reserve(&mut self, len_bytes: u64) -> Result<(), FileError> {
        let reserved = self.file.reserve(len_bytes);
        reserved.map_err(FileError::at("reserve blocks of", &self.path))
    }

    /// A queue of writes with so many buffers. Where the file cannot be written as `mode` demands,
    /// this is [`SinkError::EngineRefused`].
    pub fn write_queue(
        &mut self,
        mode: QueueMode,
        buffers: usize,
    ) -> Result<StagedQueue<'_>, SinkError> {
        let path = &self.path;
        let queue = self.file.write_queue(mode, buffers);
        let queue = queue.map_err(|error| match DirectRefused::of(&error) {
            Some(refused) => SinkError::EngineRefused {
                path: path.clone(),
                engine: Engine::Direct.name(),
                reason: refused.reason(),
            },
            None => FileError::at("write", path)(error).into(),
        })?;
        Ok(StagedQueue::new(path, queue))
    }

    /// Bytes of blocks that the file occupies.
    pub fn allocated_bytes(&self) -> Result<u64, FileError> {
        let allocated = self.file.allocated_bytes();
        allocated.map_err(FileError::at("measure", &self.path))
    }

    /// Takes write permission away, then makes the file durable.
    ///
    /// It is never tried again: after a failed sync the kernel may have dropped the bytes and
    /// report success the next time.
    pub fn seal(mut self) -> Result<(), FileError> {
        self.file
            .make_read_only()
            .map_err(FileError::at("take write permission from", &self.path))?;
        match self.file.sync() {
            Err(_) if Sabotage::IgnoredFsyncError.is_on() => Ok(()),
            synced => synced.map_err(FileError::at("sync", &self.path)),
        }
    }
}
