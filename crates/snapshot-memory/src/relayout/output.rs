//! Bytes on their way to the new data file.

use snapshot_format::PAGE_BYTES;

use crate::capture::{CaptureControl, CaptureProgress, Pace};
use crate::direct::{DirectBuffer, Piece};
use crate::error::SinkError;
use crate::staged::StagedQueue;

/// Bytes gathered in buffers, which are written past the page cache while the next ones fill.
pub(super) struct Output<'a> {
    queue: StagedQueue<'a>,
    control: CaptureControl,
    pace: Pace,
    buffer: Option<DirectBuffer>,
    /// Bytes in the buffer.
    filled: usize,
    pieces: Vec<Piece>,
    progress: CaptureProgress,
}

impl<'a> Output<'a> {
    pub(super) fn new(queue: StagedQueue<'a>, control: &CaptureControl, total_bytes: u64) -> Self {
        Self {
            queue,
            control: control.clone(),
            pace: Pace::start(control.cancel.clone(), control.bytes_per_second),
            buffer: None,
            filled: 0,
            pieces: Vec::new(),
            progress: CaptureProgress {
                taken_bytes: 0,
                total_bytes,
                written_bytes: 0,
            },
        }
    }

    /// Counts bytes of guest memory that were read.
    pub(super) fn took(&mut self, bytes: u64) {
        self.progress.taken_bytes += bytes;
    }

    /// Room for up to `wanted` bytes more, not zero, and at least one.
    pub(super) fn room(&mut self, wanted: usize) -> Result<&mut [u8], SinkError> {
        self.pace.check()?;
        if self.filled == DirectBuffer::LEN_BYTES {
            self.flush()?;
        }
        let buffer = match self.buffer.take() {
            Some(buffer) => buffer,
            None => self.queue.buffer()?,
        };
        let room = self.filled..DirectBuffer::LEN_BYTES.min(self.filled.saturating_add(wanted));
        let buffer = self.buffer.insert(buffer);
        Ok(buffer.get_mut(room).unwrap_or_default())
    }

    /// Keeps the first `len_bytes` bytes of the room, which go to `offset`.
    ///
    /// Only bytes that follow those before may be other than whole pages.
    pub(super) fn keep(&mut self, len_bytes: usize, offset: u64) {
        match self.pieces.last_mut() {
            Some(last) if last.offset + last.len_bytes as u64 == offset => {
                last.len_bytes += len_bytes;
            }
            _ => self.pieces.push(Piece {
                start: self.filled,
                len_bytes,
                offset,
            }),
        }
        self.filled += len_bytes;
    }

    /// Writes what is left, filled up to whole pages, and waits until all is written.
    pub(super) fn finish(mut self) -> Result<(), SinkError> {
        let over = self.filled % PAGE;
        if over > 0
            && let Some(last) = self.pieces.last_mut()
            && let Some(buffer) = &mut self.buffer
        {
            let rest = self.filled..self.filled + PAGE - over;
            buffer.get_mut(rest).unwrap_or_default().fill(0);
            last.len_bytes += PAGE - over;
        }
        self.flush()?;
        self.queue.finish()?;
        self.pace.check()
    }

    fn flush(&mut self) -> Result<(), SinkError> {
        if let Some(buffer) = self.buffer.take() {
            self.pace.spend(self.filled as u64)?;
            self.queue.submit(buffer, &self.pieces)?;
            self.progress.written_bytes += self.filled as u64;
            self.control.tell(self.progress);
        }
        self.pieces.clear();
        self.filled = 0;
        Ok(())
    }
}

#[expect(clippy::cast_possible_truncation, reason = "4096")]
const PAGE: usize = PAGE_BYTES as usize;
