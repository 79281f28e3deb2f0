//! What a writer asks of a queue of writes.

use std::fmt;
use std::io;

use super::DirectBuffer;
use crate::capture::Engine;
use crate::guest_io::HostRun;

/// What every address, length and offset of a direct write is a multiple of.
pub(super) const ALIGN_BYTES: usize = 4096;

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

/// Which way the writes of a queue go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum QueueMode {
    /// Through the page cache.
    Buffered,
    /// Past the page cache where the file takes such writes, else through it.
    PreferDirect,
    /// Past the page cache; a file that takes no such writes is
    /// [`DirectRefused`](super::DirectRefused).
    Direct,
}

/// Writes of one file, several under way at once. `'m`: how long guest memory stays mapped.
///
/// Pieces may be written in any order: two that overlap give either's bytes. An error of any write
/// is given by a later call, and by every call from then on: nothing that was submitted may be
/// taken for written before [`finish`](Self::finish) has said so. Dropping the queue waits for
/// writes that are under way, and starts none that are not.
pub trait WriteQueue<'m>: Send + fmt::Debug {
    /// What writes now: a queue that was opened for direct writes may have gone over to the cache.
    fn engine(&self) -> Engine;

    /// A buffer to fill: a new one, or one whose writes are done. Waits for one if need be. What a
    /// buffer holds at first is not told.
    fn buffer(&mut self) -> io::Result<DirectBuffer>;

    /// A buffer to fill, if there is one without waiting; `None` while writes are under way that
    /// hold them all.
    fn free_buffer(&mut self) -> io::Result<Option<DirectBuffer>>;

    /// Starts writing `pieces` of `buffer`.
    fn submit(&mut self, buffer: DirectBuffer, pieces: &[Piece]) -> io::Result<()>;

    /// Starts writing `run` to `offset`, straight from where it is. Address, length and offset are
    /// multiples of 4096.
    ///
    /// The bytes are read some time before [`finish`](Self::finish) returns, perhaps more than
    /// once: the guest must be paused until then.
    fn submit_run(&mut self, run: HostRun<'m>, offset: u64) -> io::Result<()>;

    /// Waits until every write is done. Says nothing of durability: that is
    /// [`WriteFile::sync`](crate::backend::WriteFile::sync).
    fn finish(&mut self) -> io::Result<()>;
}

/// Refuses pieces that are not aligned, empty, or not of a buffer.
pub(super) fn check_pieces(pieces: &[Piece]) -> io::Result<()> {
    let is_sound = |piece: &Piece| {
        let end = piece.start.checked_add(piece.len_bytes);
        is_aligned(piece.start, piece.len_bytes, piece.offset)
            && piece.len_bytes > 0
            && end.is_some_and(|end| end <= DirectBuffer::LEN_BYTES)
    };
    if pieces.iter().all(is_sound) {
        Ok(())
    } else {
        Err(misplaced())
    }
}

/// Whether a write of `len_bytes` bytes from `address` to `offset` can go past the page cache.
pub(super) fn is_aligned(address: usize, len_bytes: usize, offset: u64) -> bool {
    let end = offset.checked_add(len_bytes as u64);
    address.is_multiple_of(ALIGN_BYTES)
        && len_bytes.is_multiple_of(ALIGN_BYTES)
        && offset.is_multiple_of(ALIGN_BYTES as u64)
        && end.is_some_and(|end| i64::try_from(end).is_ok())
}

pub(super) fn misplaced() -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidInput,
        "a piece is not within its buffer, or not aligned to 4096 bytes",
    )
}
