//! What a writer asks of a queue of writes.

use std::fmt;
use std::io;

use super::DirectBuffer;
use crate::backend::WriteFile;
use crate::source::HostRun;

/// A part of a buffer and where it goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Piece {
    /// Where it starts in the buffer; a multiple of 4096.
    pub start: usize,
    /// Its length in bytes; a multiple of 4096, not zero.
    pub len_bytes: usize,
    /// Where it goes in the file; a multiple of 4096.
    pub offset: u64,
}

/// Writes of one file, several under way at once.
///
/// An error of any write is given by a later call, and by every call from then on: nothing that
/// was submitted may be taken for written before [`finish`](Self::finish) has said so.
pub trait WriteQueue: Send + fmt::Debug {
    /// Whether writes go past the page cache.
    fn is_direct(&self) -> bool;

    /// A buffer to fill: a new one, or one whose writes are done. Waits for one if need be.
    fn buffer(&mut self) -> io::Result<DirectBuffer>;

    /// Starts writing `pieces` of `buffer`.
    fn submit(&mut self, buffer: DirectBuffer, pieces: &[Piece]) -> io::Result<()>;

    /// Starts writing guest memory, which stays mapped and unchanged until the write is done.
    fn submit_run(&mut self, run: HostRun<'_>, offset: u64) -> io::Result<()>;

    /// Waits until every write is done. Says nothing of durability: that is
    /// [`WriteFile::sync`].
    fn finish(&mut self) -> io::Result<()>;
}

/// A queue that writes at once, for files without direct writes.
#[derive(Debug)]
pub struct WriteThrough<'a> {
    file: &'a mut dyn WriteFile,
    buffers: Vec<DirectBuffer>,
}

impl<'a> WriteThrough<'a> {
    /// A queue of `file`.
    pub fn new(file: &'a mut dyn WriteFile) -> Self {
        Self {
            file,
            buffers: Vec::new(),
        }
    }
}

impl WriteQueue for WriteThrough<'_> {
    fn is_direct(&self) -> bool {
        false
    }

    fn buffer(&mut self) -> io::Result<DirectBuffer> {
        self.buffers.pop().map_or_else(DirectBuffer::new, Ok)
    }

    fn submit(&mut self, buffer: DirectBuffer, pieces: &[Piece]) -> io::Result<()> {
        for piece in pieces {
            let bytes = buffer.get(piece.start..piece.start + piece.len_bytes);
            let bytes = bytes.ok_or(io::ErrorKind::InvalidInput)?;
            self.file.write_all_at(piece.offset, bytes)?;
        }
        self.buffers.push(buffer);
        Ok(())
    }

    fn submit_run(&mut self, run: HostRun<'_>, offset: u64) -> io::Result<()> {
        self.file.write_runs_at(offset, &[run])
    }

    fn finish(&mut self) -> io::Result<()> {
        Ok(())
    }
}
