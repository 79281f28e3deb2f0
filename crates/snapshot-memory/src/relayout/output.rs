//! Present pages on their way to the new data file.

use snapshot_format::{DataLayout, PAGE_BYTES, PageIndex};

use crate::capture::{CaptureControl, CaptureProgress, Pace};
use crate::direct::{DirectBuffer, Piece};
use crate::error::SinkError;
use crate::staged::StagedQueue;

/// Pages gathered in buffers, which are written past the page cache while the next ones fill.
pub(super) struct Output<'a> {
    queue: StagedQueue<'a>,
    layout: DataLayout,
    control: CaptureControl,
    pace: Pace,
    buffer: Option<DirectBuffer>,
    /// Bytes in the buffer.
    filled: usize,
    pieces: Vec<Piece>,
    /// Bytes kept so far.
    kept_bytes: u64,
    total_bytes: u64,
}

impl<'a> Output<'a> {
    pub(super) fn new(
        queue: StagedQueue<'a>,
        layout: DataLayout,
        control: &CaptureControl,
        total_bytes: u64,
    ) -> Self {
        Self {
            queue,
            layout,
            control: control.clone(),
            pace: Pace::start(control.cancel.clone(), control.bytes_per_second),
            buffer: None,
            filled: 0,
            pieces: Vec::new(),
            kept_bytes: 0,
            total_bytes,
        }
    }

    /// Where the next page goes in packed data; 0 in sparse data.
    pub(super) fn data_offset(&self) -> u64 {
        match self.layout {
            DataLayout::Packed => self.kept_bytes,
            _ => 0,
        }
    }

    /// Room for up to `pages` more pages, and at least one.
    pub(super) fn room(&mut self, pages: u64) -> Result<&mut [u8], SinkError> {
        self.pace.check()?;
        if self.filled == DirectBuffer::LEN_BYTES {
            self.flush()?;
        }
        let buffer = match self.buffer.take() {
            Some(buffer) => buffer,
            None => self.queue.buffer()?,
        };
        let free = DirectBuffer::LEN_BYTES - self.filled;
        let wanted = usize::try_from(pages.saturating_mul(PAGE_BYTES)).unwrap_or(free);
        let room = self.filled..self.filled + wanted.min(free);
        let buffer = self.buffer.insert(buffer);
        Ok(buffer.get_mut(room).unwrap_or_default())
    }

    /// Keeps the first `pages` pages of the room, which are image pages from `first` on.
    pub(super) fn keep(&mut self, first: PageIndex, pages: u64) {
        let len_bytes = usize::try_from(pages * PAGE_BYTES).unwrap_or(0);
        let offset = match self.layout {
            DataLayout::Packed => self.kept_bytes,
            // A page that a layout holds: below 2^52.
            _ => first.image_offset().unwrap_or(u64::MAX),
        };
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
        self.kept_bytes += len_bytes as u64;
    }

    /// Writes what is left and waits until all is written; how many bytes it was.
    pub(super) fn finish(mut self) -> Result<u64, SinkError> {
        self.flush()?;
        self.queue.finish()?;
        self.pace.check()?;
        Ok(self.kept_bytes)
    }

    fn flush(&mut self) -> Result<(), SinkError> {
        if let Some(buffer) = self.buffer.take() {
            self.pace.spend(self.filled as u64)?;
            self.queue.submit(buffer, &self.pieces)?;
            self.control.tell(CaptureProgress {
                taken_bytes: self.kept_bytes,
                total_bytes: self.total_bytes,
                written_bytes: self.kept_bytes,
            });
        }
        self.pieces.clear();
        self.filled = 0;
        Ok(())
    }
}
