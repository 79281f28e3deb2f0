//! Where pages are read to before they are put in place.

use std::ops::{Deref, DerefMut};

use snapshot_format::{PAGE_BYTES, PageRange};

use super::addresses::Part;
use super::engine::{Cause, Content, Engine, PlaceError};
use super::options::{MAX_WINDOW_PAGES, ServeOptions};
use super::origin::Origin;
use super::state::PageState;
use super::stats::Counter;
use crate::direct::DirectBuffer;
use crate::restore::SourceError;

/// A buffer for one window.
#[derive(Debug)]
pub(super) enum Buffer {
    Small(Vec<u8>),
    /// A huge page, which can go to the guest as it is.
    Huge(DirectBuffer),
}

impl Buffer {
    pub(super) fn new(options: ServeOptions) -> Self {
        let huge = options.huge_pages.then(DirectBuffer::new);
        if let Some(Ok(buffer)) = huge {
            return Self::Huge(buffer);
        }
        let len = usize::try_from(options.window_pages * PAGE_BYTES);
        Self::Small(vec![0; len.unwrap_or(DirectBuffer::LEN_BYTES)])
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Small(bytes) => bytes,
            Self::Huge(bytes) => bytes,
        }
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        match self {
            Self::Small(bytes) => bytes,
            Self::Huge(bytes) => bytes,
        }
    }
}

/// The part of a buffer that holds `pages`.
pub(super) fn buffer_for(pages: PageRange, buffer: &mut [u8]) -> &mut [u8] {
    let len = pages.len_bytes().and_then(|len| usize::try_from(len).ok());
    let len = len.unwrap_or(0).min(buffer.len());
    buffer.split_at_mut(len).0
}

impl Engine {
    /// Brings `pages` from where they come from.
    pub(super) fn bring<'a>(
        &self,
        pages: PageRange,
        bytes: &'a mut [u8],
    ) -> Result<Content<'a>, SourceError> {
        self.counters.add(Counter::BytesRead, bytes.len() as u64);
        self.origin.bring(pages, bytes)
    }

    /// Reads `pages`, for this guest alone.
    pub(super) fn read(&self, pages: PageRange, bytes: &mut [u8]) -> Result<(), SourceError> {
        self.counters.add(Counter::BytesRead, bytes.len() as u64);
        self.origin.source().read_pages(pages, bytes)
    }

    /// Whether `part`, no page of which is zero, can become a huge page.
    pub(super) fn takes_huge(&self, part: &Part) -> bool {
        self.options.huge_pages
            && part.pages.count == MAX_WINDOW_PAGES
            && part
                .addresses
                .start
                .is_multiple_of(MAX_WINDOW_PAGES * PAGE_BYTES)
            && matches!(self.origin, Origin::Own(_))
            && self.context.moves_pages()
            && !self.context.is_tracking()
    }

    /// Has `part` become `bytes` by handing over the pages that hold them, or else by a copy. What is
    /// in `bytes` afterwards is not told.
    pub(super) fn place_huge(&self, part: &Part, bytes: &mut [u8]) -> Result<(), PlaceError> {
        let gate = self.close_to_messages();
        if self.states.run(part.pages) == (PageState::Absent, part.pages.count) {
            let moved = self.context.move_pages(part.addresses.start, bytes, true);
            let count = moved.len_bytes / PAGE_BYTES;
            self.states.fill(part.slice(0, count).pages);
            self.counters.add(Counter::Demand, count);
            self.counters.add(Counter::Huge, count / MAX_WINDOW_PAGES);
        }
        drop(gate);
        // What was moved is filled, and is left alone.
        self.place(part, Content::Bytes(bytes), Cause::Demand)?;
        self.wake(&part.addresses)
    }
}
