//! One write, and the memory that it is from.

use std::sync::Arc;

use super::{DirectBuffer, Piece};
use crate::guest_io::HostRun;

/// One write that a device carries out, or the rest of one.
///
/// It holds on to its memory: as long as it exists, its bytes stay mapped, and those of a buffer
/// unchanged.
#[derive(Debug)]
pub(crate) struct Write<'m> {
    memory: Memory<'m>,
    /// Where the rest starts in the memory.
    start: usize,
    len_bytes: usize,
    offset: u64,
    /// Whether it was started past the page cache.
    pub(super) is_direct: bool,
    /// How often it was started again without any byte written.
    pub(super) idle_starts: u32,
}

#[derive(Debug)]
enum Memory<'m> {
    Guest(HostRun<'m>),
    Buffer(LentBuffer),
}

impl<'m> Write<'m> {
    /// A write of guest memory to `offset`.
    pub(super) fn of_run(run: HostRun<'m>, offset: u64) -> Self {
        let len_bytes = run.len_bytes();
        Self::new(Memory::Guest(run), 0, len_bytes, offset)
    }

    /// A write of `piece` of `buffer`.
    pub(super) fn of_piece(buffer: &LentBuffer, piece: Piece) -> Self {
        let memory = Memory::Buffer(buffer.clone());
        Self::new(memory, piece.start, piece.len_bytes, piece.offset)
    }

    fn new(memory: Memory<'m>, start: usize, len_bytes: usize, offset: u64) -> Self {
        Self {
            memory,
            start,
            len_bytes,
            offset,
            is_direct: false,
            idle_starts: 0,
        }
    }

    /// The bytes still to be written.
    pub(crate) fn run(&self) -> HostRun<'_> {
        let whole = match &self.memory {
            Memory::Guest(run) => *run,
            Memory::Buffer(buffer) => buffer.run(),
        };
        whole.part(self.start, self.len_bytes)
    }

    /// Where they go in the file.
    pub(crate) fn offset(&self) -> u64 {
        self.offset
    }

    pub(super) fn len_bytes(&self) -> usize {
        self.len_bytes
    }

    /// Takes off what was written.
    pub(super) fn advance(&mut self, written: usize) {
        let written = written.min(self.len_bytes);
        self.start += written;
        self.len_bytes -= written;
        self.offset += written as u64;
    }

    /// Gives up the memory; the buffer, where this was the last write of it.
    pub(super) fn into_buffer(self) -> Option<DirectBuffer> {
        match self.memory {
            Memory::Guest(_) => None,
            Memory::Buffer(buffer) => buffer.give_back(),
        }
    }
}

/// A buffer that is being written. Nobody can change it until all who lent it gave it back.
#[derive(Clone, Debug)]
pub(super) struct LentBuffer(Arc<DirectBuffer>);

impl LentBuffer {
    pub(super) fn new(buffer: DirectBuffer) -> Self {
        Self(Arc::new(buffer))
    }

    /// The bytes, for the kernel or a copy.
    pub(super) fn run(&self) -> HostRun<'_> {
        HostRun::of_bytes(&self.0)
    }

    /// The buffer, once this is the last one who holds it.
    pub(super) fn give_back(self) -> Option<DirectBuffer> {
        Arc::into_inner(self.0)
    }
}
