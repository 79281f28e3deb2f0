//! Chunks that wait to be read, and those that were: shared by the threads of a capture.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use super::chunk::{Chunk, ChunkReader};
use crate::error::SinkError;

/// A chunk that was read, or why it could not be.
pub(super) type ReadChunk = Result<Chunk, SinkError>;

/// The work of a capture that any thread may do.
///
/// One thread hands out chunks and takes them back in order; it reads chunks itself while it has
/// nothing else to do.
#[derive(Debug, Default)]
pub(super) struct Pool {
    work: Mutex<Work>,
    /// There is a chunk to be read, or the end.
    waiting: Condvar,
    /// A chunk was read.
    done: Condvar,
}

#[derive(Debug, Default)]
struct Work {
    waiting: VecDeque<Chunk>,
    done: BTreeMap<u64, ReadChunk>,
    /// No more chunks will come.
    closed: bool,
    /// A helper has panicked. What it was at is lost.
    lost: bool,
}

impl Pool {
    /// Reads chunks until the pool is closed: the life of a helping thread.
    pub(super) fn help(&self, mut reader: ChunkReader<'_>) {
        let _guard = TellsLoss(self);
        while let Some(chunk) = self.wait_for_work() {
            self.read(chunk, &mut reader);
        }
    }

    /// Hands out a chunk.
    pub(super) fn push(&self, chunk: Chunk) {
        self.lock().waiting.push_back(chunk);
        self.waiting.notify_one();
    }

    /// Reads a chunk that nobody has begun, if there is one; else waits until chunk `number` is
    /// read, which a helper is at.
    ///
    /// `false` if a helper has panicked: chunks may be missing.
    pub(super) fn work_or_wait(&self, number: u64, reader: &mut ChunkReader<'_>) -> bool {
        let mut work = self.lock();
        if work.lost {
            return false;
        }
        if let Some(chunk) = work.waiting.pop_front() {
            drop(work);
            self.read(chunk, reader);
            return true;
        }
        while !work.done.contains_key(&number) && !work.lost {
            work = self.done.wait(work).unwrap_or_else(PoisonError::into_inner);
        }
        !work.lost
    }

    /// The chunk `number`, if it was read.
    pub(super) fn take(&self, number: u64) -> Option<ReadChunk> {
        self.lock().done.remove(&number)
    }

    /// Lets the helpers end, and forgets what nobody has begun.
    pub(super) fn close(&self) {
        let mut work = self.lock();
        work.closed = true;
        work.waiting.clear();
        self.waiting.notify_all();
    }

    fn read(&self, mut chunk: Chunk, reader: &mut ChunkReader<'_>) {
        let number = chunk.number;
        let result = reader.read(&mut chunk).map(|()| chunk);
        self.lock().done.insert(number, result);
        self.done.notify_one();
    }

    fn wait_for_work(&self) -> Option<Chunk> {
        let mut work = self.lock();
        while work.waiting.is_empty() && !work.closed {
            let waited = self.waiting.wait(work);
            work = waited.unwrap_or_else(PoisonError::into_inner);
        }
        work.waiting.pop_front()
    }

    fn lock(&self) -> MutexGuard<'_, Work> {
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Tells of a helper that unwinds, so that nobody waits for it.
struct TellsLoss<'a>(&'a Pool);

impl Drop for TellsLoss<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.lock().lost = true;
            self.0.done.notify_all();
        }
    }
}

/// Closes a pool when the thread that hands out chunks is done, or gives up.
pub(super) struct ClosesPool<'a>(pub(super) &'a Pool);

impl Drop for ClosesPool<'_> {
    fn drop(&mut self) {
        self.0.close();
    }
}
