//! Memory that the last pages are copied to while the machine waits.

use snapshot_format::{PAGE_BYTES, PageRange};

use crate::capture::chunk::bytes_of;
use crate::direct::DirectBuffer;
use crate::dirty::DirtyBitmap;
use crate::error::{FileError, MemoryError, SinkError};
use crate::source::GuestMemorySource;
use crate::staged::StagedFile;

/// Buffers that are there and touched before the pause, so that in it nothing is done but copying.
#[derive(Debug)]
pub(super) struct Aside {
    buffers: Vec<DirectBuffer>,
    /// For each buffer that is in use the pages that it holds, one after the other.
    runs: Vec<Vec<PageRange>>,
}

/// Pages that one buffer holds.
const BUFFER_PAGES: u64 = DirectBuffer::LEN_BYTES as u64 / PAGE_BYTES;

impl Aside {
    /// Room for so many bytes, a whole number of buffers. `file` is what they will be written to.
    pub(super) fn new(bytes: u64, file: &StagedFile) -> Result<Self, FileError> {
        let count = bytes.div_ceil(DirectBuffer::LEN_BYTES as u64);
        let touched = (0..count).map(|_| {
            let mut buffer = DirectBuffer::new()?;
            buffer.chunks_mut(bytes_of(1)).for_each(touch);
            Ok(buffer)
        });
        let buffers = touched.collect::<Result<Vec<_>, _>>();
        let buffers = buffers.map_err(FileError::at("get buffers for", file.path()))?;
        // At worst each page is a run of its own.
        let most = usize::try_from(BUFFER_PAGES).unwrap_or(usize::MAX);
        let no_run = PageRange::new(0, 0);
        let mut runs = vec![vec![no_run; most]; buffers.len()];
        runs.iter_mut().for_each(Vec::clear);
        Ok(Self { buffers, runs })
    }

    /// Copies all pages of `dirty`; how many. Where there is no room for all, none is kept.
    pub(super) fn copy(
        &mut self,
        source: &dyn GuestMemorySource,
        dirty: &DirtyBitmap,
    ) -> Result<u64, SinkError> {
        // Not counted first: that is another walk through the bits, in the pause.
        let copied = self.copy_fitting(source, dirty);
        if !matches!(copied, Ok(Some(_))) {
            self.runs.iter_mut().for_each(Vec::clear);
        }
        copied?.ok_or_else(|| SinkError::AsideFull {
            needed_bytes: dirty.count() * PAGE_BYTES,
            room_bytes: self.buffers.len() as u64 * DirectBuffer::LEN_BYTES as u64,
        })
    }

    /// Copies pages until there are no more, or no more room: `None`.
    fn copy_fitting(
        &mut self,
        source: &dyn GuestMemorySource,
        dirty: &DirtyBitmap,
    ) -> Result<Option<u64>, MemoryError> {
        let mut places = self.buffers.iter_mut().zip(&mut self.runs);
        let mut place = None;
        let mut copied = 0;
        for run in dirty.iter_runs() {
            let mut rest = run;
            while !rest.is_empty() {
                let held = copied % BUFFER_PAGES;
                if held == 0 {
                    place = places.next();
                }
                let Some((buffer, runs)) = &mut place else {
                    return Ok(None);
                };
                let count = rest.count.min(BUFFER_PAGES - held);
                let now = PageRange::new(rest.start.0, count);
                let out = buffer.get_mut(bytes_of(held)..bytes_of(held + count));
                source.read_pages(now, out.unwrap_or_default())?;
                runs.push(now);
                copied += count;
                rest = PageRange::new(rest.start.0 + count, rest.count - count);
            }
        }
        Ok(Some(copied))
    }

    /// The buffers that hold pages, with the pages that each holds.
    pub(super) fn into_parts(self) -> impl Iterator<Item = (DirectBuffer, Vec<PageRange>)> {
        let parts = self.buffers.into_iter().zip(self.runs);
        parts.filter(|(_, runs)| !runs.is_empty())
    }
}

fn touch(page: &mut [u8]) {
    if let Some(byte) = page.first_mut() {
        *byte = 0;
    }
}
