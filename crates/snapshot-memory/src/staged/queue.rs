//! The queue of direct writes of a staged file: its errors name the file.

use crate::backend::RelPath;
use crate::capture::Engine;
use crate::direct::{DirectBuffer, Piece, WriteQueue};
use crate::error::FileError;
use crate::source::HostRun;

/// Writes of a staged file, several under way at once.
#[derive(Debug)]
pub struct StagedQueue<'a> {
    path: &'a RelPath,
    queue: Box<dyn WriteQueue<'a> + 'a>,
}

impl<'a> StagedQueue<'a> {
    pub(super) fn new(path: &'a RelPath, queue: Box<dyn WriteQueue<'a> + 'a>) -> Self {
        Self { path, queue }
    }

    /// What writes now: a queue that was opened for direct writes may have gone over to the cache.
    #[must_use]
    pub fn engine(&self) -> Engine {
        self.queue.engine()
    }

    /// A buffer to fill; waits for one if need be.
    pub fn buffer(&mut self) -> Result<DirectBuffer, FileError> {
        self.queue
            .buffer()
            .map_err(FileError::at("write", self.path))
    }

    /// A buffer to fill, if there is one without waiting.
    pub fn free_buffer(&mut self) -> Result<Option<DirectBuffer>, FileError> {
        self.queue
            .free_buffer()
            .map_err(FileError::at("write", self.path))
    }

    /// Starts writing `pieces` of `buffer`.
    pub fn submit(&mut self, buffer: DirectBuffer, pieces: &[Piece]) -> Result<(), FileError> {
        self.queue
            .submit(buffer, pieces)
            .map_err(FileError::at("write", self.path))
    }

    /// Starts writing `run` to `offset`, straight from where it is; see
    /// [`WriteQueue::submit_run`].
    pub fn submit_run(&mut self, run: HostRun<'a>, offset: u64) -> Result<(), FileError> {
        self.queue
            .submit_run(run, offset)
            .map_err(FileError::at("write", self.path))
    }

    /// Waits until every write is done.
    pub fn finish(&mut self) -> Result<(), FileError> {
        self.queue
            .finish()
            .map_err(FileError::at("write", self.path))
    }
}
