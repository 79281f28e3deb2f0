//! The queue that writes at once.

use std::io;

use super::failure::Failure;
use super::queue::check_pieces;
use super::{DirectBuffer, Piece, WriteQueue};
use crate::backend::WriteFile;
use crate::capture::Engine;
use crate::guest_io::HostRun;

/// A queue that writes at once and through the page cache.
#[derive(Debug)]
pub struct WriteThrough<'m> {
    file: &'m mut dyn WriteFile,
    free: Vec<DirectBuffer>,
    failure: Failure,
}

impl<'m> WriteThrough<'m> {
    /// A queue of `file`.
    pub fn new(file: &'m mut dyn WriteFile) -> Self {
        Self {
            file,
            free: Vec::new(),
            failure: Failure::default(),
        }
    }
}

impl<'m> WriteQueue<'m> for WriteThrough<'m> {
    fn engine(&self) -> Engine {
        Engine::Buffered
    }

    fn buffer(&mut self) -> io::Result<DirectBuffer> {
        self.failure.check()?;
        self.free.pop().map_or_else(DirectBuffer::new, Ok)
    }

    fn free_buffer(&mut self) -> io::Result<Option<DirectBuffer>> {
        self.buffer().map(Some)
    }

    fn submit(&mut self, buffer: DirectBuffer, pieces: &[Piece]) -> io::Result<()> {
        self.failure.check()?;
        check_pieces(pieces)?;
        for piece in pieces {
            let bytes = buffer.get(piece.start..piece.start + piece.len_bytes);
            let bytes = bytes.ok_or(io::ErrorKind::InvalidInput)?;
            let written = self.file.write_all_at(piece.offset, bytes);
            written.or_else(|error| self.failure.keep(error))?;
        }
        self.free.push(buffer);
        Ok(())
    }

    fn submit_run(&mut self, run: HostRun<'m>, offset: u64) -> io::Result<()> {
        self.failure.check()?;
        let written = self.file.write_runs_at(offset, &[run]);
        written.or_else(|error| self.failure.keep(error))
    }

    fn finish(&mut self) -> io::Result<()> {
        self.failure.check()
    }
}
