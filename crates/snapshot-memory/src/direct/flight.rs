//! The queue of direct writes: bounded, in any order, the first failure kept.

use std::io;

use super::failure::Failure;
use super::outcome::Outcome;
use super::queue::{check_pieces, is_aligned, misplaced};
use super::write::LentBuffer;
use super::{Completion, Device, DirectBuffer, Piece, Write, WriteQueue};
use crate::capture::Engine;
use crate::guest_io::HostRun;

/// The longest single write; a longer run is cut.
const MAX_WRITE_BYTES: usize = 4 << 20;

/// Bytes under way at most: what a cancelled capture still waits for.
const MAX_FLIGHT_BYTES: usize = 32 << 20;

/// A queue of writes that a device carries out.
///
/// A write that is refused past the page cache waits until nothing is under way; then the queue
/// goes over to the cache for good. So direct writes and cached ones never overlap in time.
#[derive(Debug)]
pub(crate) struct DirectQueue<'m, D: Device<'m>> {
    device: D,
    engine: Engine,
    is_direct: bool,
    free: Vec<DirectBuffer>,
    buffers_left: usize,
    writes: usize,
    bytes: usize,
    /// Writes that wait for the queue to go over to the cache.
    refused: Vec<Write<'m>>,
    /// Completions being looked at; kept for its capacity.
    done: Vec<Completion<'m>>,
    failure: Failure,
}

impl<'m, D: Device<'m>> DirectQueue<'m, D> {
    /// A queue of `device`, which is set to write past the cache, with so many buffers.
    pub(crate) fn new(device: D, engine: Engine, buffers: usize) -> Self {
        Self {
            device,
            engine,
            is_direct: true,
            free: Vec::new(),
            buffers_left: buffers.max(1),
            writes: 0,
            bytes: 0,
            refused: Vec::new(),
            done: Vec::new(),
            failure: Failure::default(),
        }
    }

    /// Starts `write` as soon as there is room for it.
    fn start(&mut self, write: Write<'m>) -> io::Result<()> {
        while self.is_full(write.len_bytes()) {
            self.reap(1)?;
        }
        self.restart(write)
    }

    fn is_full(&self, more_bytes: usize) -> bool {
        self.writes >= self.device.depth()
            || (self.writes > 0 && self.bytes + more_bytes > MAX_FLIGHT_BYTES)
    }

    /// Starts `write`, for which there is room.
    fn restart(&mut self, mut write: Write<'m>) -> io::Result<()> {
        write.is_direct = self.is_direct;
        let bytes = write.len_bytes();
        self.device.start(write)?;
        self.writes += 1;
        self.bytes += bytes;
        Ok(())
    }

    /// Waits for so many writes, and does what follows from all that are done.
    fn reap(&mut self, at_least: usize) -> io::Result<()> {
        self.collect(at_least)?;
        if !self.refused.is_empty() {
            self.leave_direct()?;
        }
        Ok(())
    }

    fn collect(&mut self, at_least: usize) -> io::Result<()> {
        let mut done = std::mem::take(&mut self.done);
        let mut result = self.device.wait(at_least.min(self.writes), &mut done);
        self.writes -= done.len().min(self.writes);
        for completion in done.drain(..) {
            self.bytes -= completion.write.len_bytes().min(self.bytes);
            let followed = self.follow(completion);
            result = result.and(followed);
        }
        self.done = done;
        result
    }

    /// Does what follows from one completion. Its place in the device is free.
    fn follow(&mut self, completion: Completion<'m>) -> io::Result<()> {
        match Outcome::of(completion) {
            Outcome::Done(write) => self.free.extend(write.into_buffer()),
            Outcome::Again(write) => return self.restart(write),
            Outcome::Refused(write) => self.refused.push(write),
            Outcome::Failed(error) => return Err(error),
        }
        Ok(())
    }

    /// Goes over to the page cache, once nothing is under way.
    fn leave_direct(&mut self) -> io::Result<()> {
        while self.writes > 0 {
            self.collect(1)?;
        }
        tracing::info!("direct writes are refused: the file is written through the page cache");
        self.device.set_direct(false)?;
        self.is_direct = false;
        self.engine = Engine::Buffered;
        while let Some(write) = self.refused.pop() {
            self.start(write)?;
        }
        Ok(())
    }

    fn take_free_buffer(&mut self) -> io::Result<Option<DirectBuffer>> {
        // One that is done costs less than a new one, whose pages must be zeroed.
        self.reap(0)?;
        if self.free.is_empty() && self.buffers_left > 0 {
            let buffer = DirectBuffer::new()?;
            self.buffers_left -= 1;
            return Ok(Some(buffer));
        }
        Ok(self.free.pop())
    }

    fn take_buffer(&mut self) -> io::Result<DirectBuffer> {
        loop {
            if let Some(buffer) = self.take_free_buffer()? {
                return Ok(buffer);
            }
            if self.writes == 0 {
                return Err(in_use());
            }
            self.reap(1)?;
        }
    }

    fn start_pieces(&mut self, buffer: DirectBuffer, pieces: &[Piece]) -> io::Result<()> {
        let buffer = LentBuffer::new(buffer);
        for piece in pieces {
            self.start(Write::of_piece(&buffer, *piece))?;
        }
        self.free.extend(buffer.give_back());
        self.reap(0)
    }

    fn start_run(&mut self, run: HostRun<'m>, offset: u64) -> io::Result<()> {
        for start in (0..run.len_bytes()).step_by(MAX_WRITE_BYTES) {
            let part = run.part(start, MAX_WRITE_BYTES);
            self.start(Write::of_run(part, offset + start as u64))?;
            // Under way now, not when the queue is full.
            self.reap(0)?;
        }
        Ok(())
    }

    fn wait_for_all(&mut self) -> io::Result<()> {
        while self.writes > 0 {
            self.reap(1)?;
        }
        Ok(())
    }
}

impl<'m, D: Device<'m>> WriteQueue<'m> for DirectQueue<'m, D> {
    fn engine(&self) -> Engine {
        self.engine
    }

    fn buffer(&mut self) -> io::Result<DirectBuffer> {
        self.failure.check()?;
        let buffer = self.take_buffer();
        buffer.or_else(|error| self.failure.keep(error))
    }

    fn free_buffer(&mut self) -> io::Result<Option<DirectBuffer>> {
        self.failure.check()?;
        let buffer = self.take_free_buffer();
        buffer.or_else(|error| self.failure.keep(error))
    }

    fn submit(&mut self, buffer: DirectBuffer, pieces: &[Piece]) -> io::Result<()> {
        self.failure.check()?;
        check_pieces(pieces)?;
        let started = self.start_pieces(buffer, pieces);
        started.or_else(|error| self.failure.keep(error))
    }

    fn submit_run(&mut self, run: HostRun<'m>, offset: u64) -> io::Result<()> {
        self.failure.check()?;
        check_run(&run, offset)?;
        let started = self.start_run(run, offset);
        started.or_else(|error| self.failure.keep(error))
    }

    fn finish(&mut self) -> io::Result<()> {
        self.failure.check()?;
        let waited = self.wait_for_all();
        waited.or_else(|error| self.failure.keep(error))
    }
}

impl<'m, D: Device<'m>> Drop for DirectQueue<'m, D> {
    fn drop(&mut self) {
        while self.writes > 0 {
            if let Err(error) = self.device.wait(self.writes, &mut self.done) {
                tracing::warn!(%error, "writes of a dropped queue cannot be waited for");
                break;
            }
            self.writes -= self.done.len().min(self.writes);
            self.done.clear();
        }
        // Later writes of the file may be of any length.
        if self.is_direct
            && let Err(error) = self.device.set_direct(false)
        {
            tracing::warn!(%error, "a file stays open for direct writes only");
        }
    }
}

/// Refuses a run that is not aligned.
fn check_run(run: &HostRun<'_>, offset: u64) -> io::Result<()> {
    if is_aligned(run.address().addr(), run.len_bytes(), offset) {
        Ok(())
    } else {
        Err(misplaced())
    }
}

fn in_use() -> io::Error {
    io::Error::other("every buffer is in the caller's hands")
}

#[cfg(test)]
mod tests;
