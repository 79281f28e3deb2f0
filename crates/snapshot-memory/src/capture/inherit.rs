//! Dirty pages that hold what the parent holds.

use std::cmp::Reverse;
use std::ops::Range;

use snapshot_format::{Digest, GuestPage, MemoryLayout, PAGE_BYTES, PageIndex, PageRange};

use super::Dedup;
use crate::dirty::DirtyBitmap;
use crate::error::SinkError;
use crate::image::{ImageError, KnownPage, MemoryImage};

/// A dirty page, as it was copied.
#[derive(Clone, Copy, Debug)]
pub(super) struct Candidate<'c> {
    pub(super) guest: GuestPage,
    pub(super) image: PageIndex,
    /// The private copy: one page.
    pub(super) bytes: &'c [u8],
    /// BLAKE3 of the copy; `None`: it is all zero.
    pub(super) digest: Option<Digest>,
}

/// Finds dirty pages that need not be stored, because the parent has the same bytes.
///
/// What is decided of a chunk follows from that chunk and the bitmap alone, so that each thread may
/// have one of these. Memory taken is one unit of digests, and a few bytes a page of a chunk.
pub(super) struct Inheritance<'a> {
    parent: &'a MemoryImage,
    layout: &'a MemoryLayout,
    /// Whether the parent has other memory.
    layout_differs: bool,
    dirty: &'a DirtyBitmap,
    /// Whether pages are read where the parent has no digest of their own.
    reads: bool,
    /// The unit of digests that was read last: its data file and its pages.
    unit: Option<(u16, PageRange)>,
    unit_bytes: Vec<u8>,
    looks: Vec<Look>,
    splits: Vec<Range<usize>>,
    same: Vec<bool>,
}

/// What comparing a page gave.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Look {
    /// Other bytes than the parent's: to be stored.
    Differs,
    /// Zero, and not so in the parent: recorded, and nothing is stored.
    Zero,
    /// Zero here and in the parent.
    BothZero,
    /// The parent's bytes.
    Equal,
}

impl<'a> Inheritance<'a> {
    /// Compares with `parent`; `None` where `dedup` is off. `layout` is the guest's, and `dirty`
    /// holds the pages that are taken.
    pub(super) fn new(
        parent: &'a MemoryImage,
        layout: &'a MemoryLayout,
        dirty: &'a DirtyBitmap,
        dedup: Dedup,
    ) -> Option<Self> {
        (dedup != Dedup::Off).then(|| Self {
            parent,
            layout,
            layout_differs: parent.layout() != layout,
            dirty,
            reads: dedup == Dedup::Compare,
            unit: None,
            unit_bytes: Vec::new(),
            looks: Vec::new(),
            splits: Vec::new(),
            same: Vec::new(),
        })
    }

    /// Which pages of `chunk` to inherit: one answer for each.
    ///
    /// A chunk holds every dirty page between its first and its last, in ascending order. Where
    /// chunks are cut may change which pages are inherited, never what is read.
    pub(super) fn same_pages(&mut self, chunk: &[Candidate<'_>]) -> Result<&[bool], SinkError> {
        self.looks.clear();
        for page in chunk {
            let look = self.look(page)?;
            self.looks.push(look);
        }
        self.same.clear();
        let zeros = self.looks.iter().map(|look| *look == Look::BothZero);
        self.same.extend(zeros);
        self.choose(chunk);
        Ok(&self.same)
    }

    fn look(&mut self, page: &Candidate<'_>) -> Result<Look, ImageError> {
        if self.is_new(page.guest) {
            return Ok(page.digest.map_or(Look::Zero, |_| Look::Differs));
        }
        let known = self.parent.known_page(page.guest)?;
        let is_equal = match (known, page.digest) {
            (KnownPage::Zero, None) => return Ok(Look::BothZero),
            (_, None) => return Ok(Look::Zero),
            (KnownPage::Zero, Some(_)) => false,
            (KnownPage::Digest(parent), Some(digest)) => parent == digest,
            (KnownPage::InUnit { owner, page: place }, Some(_)) => {
                self.reads && self.is_in_unit(owner, place, page)?
            }
        };
        Ok(if is_equal { Look::Equal } else { Look::Differs })
    }

    /// Whether a page was no memory in the parent: there is nothing to inherit.
    fn is_new(&self, page: GuestPage) -> bool {
        self.layout_differs && self.parent.layout().image_page(page).is_none()
    }

    /// Whether the bytes of `page` are those that data file `owner` has for it at `place`.
    fn is_in_unit(
        &mut self,
        owner: u16,
        place: PageIndex,
        page: &Candidate<'_>,
    ) -> Result<bool, ImageError> {
        let pages = match self.unit.take() {
            Some((of, pages)) if of == owner && holds(pages, place) => pages,
            _ => self
                .parent
                .read_unit(owner, page.guest, &mut self.unit_bytes)?,
        };
        self.unit = Some((owner, pages));
        let within = place.0.checked_sub(pages.start.0);
        let within = within.and_then(|within| usize::try_from(within).ok());
        let theirs = within.and_then(|within| self.unit_bytes.chunks(PAGE).nth(within));
        Ok(theirs == Some(page.bytes))
    }

    /// Enters the runs of equal pages that are worth it. All that do not split a run of stored
    /// pages are, and all long ones; of the others the longest, as many as the chunk may have.
    fn choose(&mut self, chunk: &[Candidate<'_>]) {
        self.splits.clear();
        let mut rest = 0..chunk.len();
        while let Some(look) = self.looks.get(rest.start) {
            let run = rest.start..self.run_end(chunk, rest.start);
            rest.start = run.end;
            if *look != Look::Equal {
                continue;
            }
            if run.len() < LONG_RUN_PAGES && self.splits_stored(chunk, &run) {
                self.splits.push(run);
            } else {
                fill(&mut self.same, run);
            }
        }
        self.splits
            .sort_by_key(|run| (Reverse(run.len()), run.start));
        for run in self.splits.drain(..).take(chunk.len() / PAGES_PER_SPLIT) {
            fill(&mut self.same, run);
        }
    }

    /// Where the run of neighbours ends that look like the page at `start`.
    fn run_end(&self, chunk: &[Candidate<'_>], start: usize) -> usize {
        let pages = chunk.iter().zip(&self.looks).skip(start);
        let next = chunk.iter().zip(&self.looks).skip(start + 1);
        let goes_on =
            |((a, look), (b, after)): &((&Candidate<'_>, &Look), (&Candidate<'_>, &Look))| {
                a.guest.0 + 1 == b.guest.0 && look == after
            };
        start + 1 + pages.zip(next).take_while(goes_on).count()
    }

    /// Whether a stored page stands, or beyond the chunk may stand, on both sides of `run`.
    fn splits_stored(&self, chunk: &[Candidate<'_>], run: &Range<usize>) -> bool {
        let page = |at: usize| Some((chunk.get(at)?, self.looks.get(at)?));
        let (Some((first, _)), Some((last, _))) = (page(run.start), page(run.end - 1)) else {
            return false;
        };
        let before = match run.start.checked_sub(1).and_then(page) {
            Some((page, look)) => *look == Look::Differs && page.guest.0 + 1 == first.guest.0,
            None => self.is_taken(first.image.0.checked_sub(1), first.guest.0.checked_sub(1)),
        };
        let after = match page(run.end) {
            Some((page, look)) => *look == Look::Differs && last.guest.0 + 1 == page.guest.0,
            None => self.is_taken(last.image.0.checked_add(1), last.guest.0.checked_add(1)),
        };
        before && after
    }

    /// Whether `image` is taken and is the guest's page `guest`: beyond the end of a region comes
    /// a page that is no neighbour.
    fn is_taken(&self, image: Option<u64>, guest: Option<u64>) -> bool {
        let image = image.map(PageIndex);
        let found = image.and_then(|image| self.layout.guest_page(image));
        image.is_some_and(|image| self.dirty.is_set(image)) && found.map(|page| page.0) == guest
    }
}

fn holds(pages: PageRange, page: PageIndex) -> bool {
    (pages.start..pages.end()).contains(&page)
}

fn fill(same: &mut [bool], run: Range<usize>) {
    same.get_mut(run).unwrap_or_default().fill(true);
}

#[expect(clippy::cast_possible_truncation, reason = "4096")]
const PAGE: usize = PAGE_BYTES as usize;

/// A run of so many equal pages is always inherited: 64 KiB that are not written, and not read
/// twice, are worth an extent more.
const LONG_RUN_PAGES: usize = 16;

/// One shorter run may split a run of stored pages for so many pages taken: an extent more for each
/// 256 KiB.
const PAGES_PER_SPLIT: usize = 64;

#[cfg(test)]
mod tests;
