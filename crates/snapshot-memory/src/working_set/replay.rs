//! Bringing a working set back: large reads under way, pages checked and placed by all threads.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use snapshot_format::{Operation, WorkingSetIndex};

use super::chunk::{self, Chunk};
use super::error::WorkingSetError;
use super::open::WorkingSet;
use super::replay_options::{ReplayOptions, Replayed};
use super::target::PageTarget;
use crate::capture::Cancel;
use crate::direct::{DirectBuffer, FilledBuffer, READ_DEPTH, ReadQueue};

impl WorkingSet {
    /// Reads the pages, checks them and puts them into `target`, in their order as far as several
    /// threads keep it.
    ///
    /// Ends with the first error. What was put in place by then was checked and stays; the guest
    /// only waits for the rest as it would without a working set.
    pub fn replay(
        &mut self,
        target: &dyn PageTarget,
        options: &ReplayOptions,
    ) -> Result<Replayed, WorkingSetError> {
        let allowed = self.file.header().allows(Operation::Restore);
        allowed.map_err(WorkingSetError::damaged(self.file.name()))?;
        let found = target.page_count();
        if found != self.index.page_count {
            return Err(WorkingSetError::PageCount {
                expected: self.index.page_count,
                found,
            });
        }
        let mut chunks = chunk::chunks(&self.index);
        chunks.retain(|chunk| options.part.contains(&chunk.start));
        let span = tracing::debug_span!("replay working set", chunks = chunks.len());
        let _entered = span.enter();
        let work = Work {
            index: &self.index,
            file: self.file.name(),
            chunks: &chunks,
            target,
            cancel: &options.cancel,
            queue: Mutex::default(),
            ready: Condvar::new(),
        };
        let helpers = options.threads.clamp(1, READ_DEPTH) - 1;
        let read = thread::scope(|scope| {
            let closes = Closes(&work.queue, &work.ready);
            let mut threads = Vec::new();
            for _ in 0..helpers.min(chunks.len()) {
                match thread::Builder::new().spawn_scoped(scope, || work.help()) {
                    Ok(thread) => threads.push(thread),
                    // The threads that there are do all of it.
                    Err(error) => tracing::warn!(%error, "a helping thread does not start"),
                }
            }
            let read = work.read(self.file.file(), self.index.data_offset());
            drop(closes);
            for thread in threads {
                if thread.join().is_err() {
                    work.lock().error.get_or_insert(WorkingSetError::Panicked);
                }
            }
            read
        });
        read?;
        work.into_result()
    }
}

/// What the threads of a replay share.
struct Work<'r> {
    index: &'r WorkingSetIndex,
    file: &'r str,
    chunks: &'r [Chunk],
    target: &'r dyn PageTarget,
    cancel: &'r Cancel,
    queue: Mutex<Queue>,
    /// A chunk was read, a chunk is done, or the end.
    ready: Condvar,
}

#[derive(Default)]
struct Queue {
    read: VecDeque<FilledBuffer>,
    free: Vec<DirectBuffer>,
    closed: bool,
    error: Option<WorkingSetError>,
    done: Replayed,
}

impl Work<'_> {
    /// The caller's thread: keeps reads under way, and does what the others do meanwhile.
    fn read(
        &self,
        file: &dyn crate::backend::ReadFile,
        data_offset: u64,
    ) -> Result<(), WorkingSetError> {
        let failed = || WorkingSetError::file_at("read", self.file);
        let mut reads = ReadQueue::new(file);
        let mut chunks = self.chunks.iter().enumerate();
        let mut is_all_started = false;
        loop {
            while !is_all_started && reads.pending() < READ_DEPTH && !self.is_over() {
                let Some((number, chunk)) = chunks.next() else {
                    is_all_started = true;
                    break;
                };
                let buffer = self.buffer().map_err(failed())?;
                let offset = data_offset + chunk.start;
                reads
                    .start(buffer, offset, chunk.len_bytes, number)
                    .map_err(failed())?;
            }
            // Waits for the device only where nothing else is left to do here.
            let is_idle = self.is_idle();
            match reads.next(is_idle).map_err(failed())? {
                Some(filled) => self.push(filled),
                None if self.is_over() => return Ok(()),
                None if self.work_on_one() => {}
                None if reads.pending() == 0 && is_all_started => return Ok(()),
                None => {}
            }
        }
    }

    /// The life of a helping thread.
    fn help(&self) {
        while let Some(filled) = self.wait() {
            self.place(filled);
        }
    }

    /// Checks and places one chunk that was read. `false`: there is none.
    fn work_on_one(&self) -> bool {
        let Some(filled) = self.take() else {
            return false;
        };
        self.place(filled);
        true
    }

    fn place(&self, filled: FilledBuffer) {
        let result = self.check_and_put(&filled);
        let mut queue = self.lock();
        queue.free.push(filled.buffer);
        match result {
            Ok((data_pages, zero_pages)) => {
                queue.done.data_pages += data_pages;
                queue.done.zero_pages += zero_pages;
                queue.done.reads += 1;
            }
            Err(error) => {
                queue.error.get_or_insert(error);
                self.ready.notify_all();
            }
        }
    }

    fn check_and_put(&self, filled: &FilledBuffer) -> Result<(u64, u64), WorkingSetError> {
        if self.cancel.is_asked() {
            return Err(WorkingSetError::Cancelled);
        }
        let chunk = self.chunks.get(filled.tag);
        let bytes = filled.buffer.get(..filled.len_bytes);
        let (Some(chunk), Some(bytes)) = (chunk, bytes) else {
            return Ok((0, 0));
        };
        chunk.check(self.index, self.file, bytes)?;
        chunk.put(self.index, self.target, bytes)
    }

    fn buffer(&self) -> std::io::Result<DirectBuffer> {
        let free = self.lock().free.pop();
        free.map_or_else(DirectBuffer::new, Ok)
    }

    fn push(&self, filled: FilledBuffer) {
        self.lock().read.push_back(filled);
        self.ready.notify_one();
    }

    fn take(&self) -> Option<FilledBuffer> {
        self.lock().read.pop_front()
    }

    /// A chunk that was read; `None`: no more will come.
    fn wait(&self) -> Option<FilledBuffer> {
        let mut queue = self.lock();
        loop {
            if queue.error.is_some() {
                return None;
            }
            if let Some(filled) = queue.read.pop_front() {
                return Some(filled);
            }
            if queue.closed {
                return None;
            }
            let waited = self.ready.wait(queue);
            queue = waited.unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn is_idle(&self) -> bool {
        self.lock().read.is_empty()
    }

    /// Whether it failed.
    fn is_over(&self) -> bool {
        self.lock().error.is_some()
    }

    fn into_result(self) -> Result<Replayed, WorkingSetError> {
        let queue = self.queue.into_inner();
        let queue = queue.unwrap_or_else(PoisonError::into_inner);
        queue.error.map_or(Ok(queue.done), Err)
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        lock(&self.queue)
    }
}

fn lock(queue: &Mutex<Queue>) -> MutexGuard<'_, Queue> {
    // A queue of chunks is whole after any panic.
    queue.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Lets the helpers end when the thread that reads is done, or gives up.
struct Closes<'r>(&'r Mutex<Queue>, &'r Condvar);

impl Drop for Closes<'_> {
    fn drop(&mut self) {
        lock(self.0).closed = true;
        self.1.notify_all();
    }
}

#[cfg(test)]
mod tests;
