//! Writing the memory of a snapshot as one raw file.

use std::ops::ControlFlow;

use snapshot_format::{DataLayout, GuestPage, LEAF_PAGES, PAGE_BYTES, PageRange};

use super::data_file::DataFile;
use super::error::ImageError;
use super::reader::{Extent, MemoryImage};
use crate::backend::WriteFile;

/// Writes an image as one raw file, zero pages as holes, every page checked.
///
/// Pages that lie in a data file as they will in the raw one can share its blocks
/// ([`share`](Self::share)); all others are copied. A shared page is checked by reading it back from
/// the raw file.
#[derive(Debug)]
pub struct RawWriter<'a> {
    image: &'a MemoryImage,
    target: &'a mut dyn WriteFile,
    name: &'a str,
    shares: bool,
    buffer: Vec<u8>,
    written: RawBytes,
}

/// How the pages of a raw file that are not zero got there.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct RawBytes {
    /// Bytes whose blocks are those of a data file.
    pub shared: u64,
    /// Bytes that were copied.
    pub copied: u64,
}

/// How far a raw file is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RawStep {
    /// Bytes of memory that are done, zero pages included.
    pub done_bytes: u64,
    /// Bytes that come next, to be read, checked, and shared or copied: 1 MiB and a unit at most.
    pub next_bytes: u64,
}

/// Pages of a run that go the same way.
#[derive(Clone, Copy, Debug)]
struct Part {
    extent: Extent,
    shared: bool,
}

/// Who is told of the steps, and may break off.
type Tell<'t> = &'t mut dyn FnMut(RawStep) -> ControlFlow<()>;

/// Why writing ended before the end.
#[derive(Debug)]
enum Stop {
    Asked,
    Failed(ImageError),
}

impl From<ImageError> for Stop {
    fn from(error: ImageError) -> Self {
        Self::Failed(error)
    }
}

impl MemoryImage {
    /// Writes the whole image, zero pages as holes, and tells `progress` the bytes looked at.
    ///
    /// `progress` may break off; the file is then incomplete, and `Ok(false)` is returned.
    pub fn write_raw(
        &self,
        target: &mut dyn WriteFile,
        target_name: &str,
        progress: &mut dyn FnMut(u64) -> ControlFlow<()>,
    ) -> Result<bool, ImageError> {
        let writer = RawWriter::start(self, target, target_name)?;
        let written = writer.run(&mut |step| progress(step.done_bytes))?;
        Ok(written.is_some())
    }
}

impl<'a> RawWriter<'a> {
    /// Gives `target`, which is empty, the length of the memory. `name` stands for it in errors.
    pub fn start(
        image: &'a MemoryImage,
        target: &'a mut dyn WriteFile,
        name: &'a str,
    ) -> Result<Self, ImageError> {
        let len = image.layout().len_bytes();
        let sized = target.set_len(len);
        sized.map_err(ImageError::file_at("set the length of", name))?;
        Ok(Self {
            image,
            target,
            name,
            shares: false,
            buffer: Vec::new(),
            written: RawBytes::default(),
        })
    }

    /// Shares blocks with the data files where that is possible, which is tried here with the first
    /// pages that would. Whether it is, and there are such pages.
    pub fn share(&mut self) -> Result<bool, ImageError> {
        let mut first = None;
        self.survey(&mut |part| {
            first = first.or_else(|| part.shared.then_some(part));
            match first {
                Some(_) => ControlFlow::Break(()),
                None => ControlFlow::Continue(()),
            }
        })?;
        self.shares = match first {
            Some(part) => self.share_blocks(part.extent)?,
            None => false,
        };
        Ok(self.shares)
    }

    /// Bytes that the file needs blocks of its own for.
    pub fn needed_bytes(&self) -> Result<u64, ImageError> {
        let mut pages = 0;
        self.survey(&mut |part| {
            if !(part.shared && self.shares) {
                pages += part.extent.pages.count;
            }
            ControlFlow::Continue(())
        })?;
        Ok(pages * PAGE_BYTES)
    }

    /// Writes the file; `None` if `tell`, which is called before each step and at the end, broke
    /// off. The file is then incomplete.
    pub fn run(mut self, tell: Tell<'_>) -> Result<Option<RawBytes>, ImageError> {
        match self.write(tell) {
            Ok(()) => Ok(Some(self.written)),
            Err(Stop::Asked) => Ok(None),
            Err(Stop::Failed(error)) => Err(error),
        }
    }

    fn write(&mut self, tell: Tell<'_>) -> Result<(), Stop> {
        let pages = self.image.layout().page_count();
        for start in (0..pages).step_by(LEAF_PAGES) {
            let count = (pages - start).min(LEAF_PAGES as u64);
            for part in self.parts_of(PageRange::new(start, count))? {
                if part.shared && self.shares {
                    self.write_shared(part.extent, tell)?;
                } else {
                    self.write_copied(part.extent, tell)?;
                }
            }
            let done = (start + count) * PAGE_BYTES;
            ask(tell, done, 0)?;
        }
        Ok(())
    }

    /// Looks at every part that is not zero, until `each` breaks off.
    fn survey(&self, each: &mut dyn FnMut(Part) -> ControlFlow<()>) -> Result<(), ImageError> {
        let pages = self.image.layout().page_count();
        for start in (0..pages).step_by(LEAF_PAGES) {
            let count = (pages - start).min(LEAF_PAGES as u64);
            for part in self.parts_of(PageRange::new(start, count))? {
                if each(part).is_break() {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// The parts of `pages` that are not zero.
    fn parts_of(&self, pages: PageRange) -> Result<Vec<Part>, ImageError> {
        let mut parts = Vec::new();
        self.image.visit(pages, &mut |extent| {
            if let Some(owner) = extent.file {
                split(extent, self.image.file(owner)?, &mut parts);
            }
            Ok(())
        })?;
        Ok(parts)
    }

    /// Makes the pages of a run the blocks of the data file that owns them; whether that is
    /// possible.
    fn share_blocks(&mut self, extent: Extent) -> Result<bool, ImageError> {
        let Some(owner) = extent.file else {
            return Ok(false);
        };
        let file = self.image.file(owner)?;
        let from = file.page_offset(extent.guest)?;
        let offset = extent.pages.start.0 * PAGE_BYTES;
        let len = extent.pages.count * PAGE_BYTES;
        let shared = self.target.share(offset, &*file.data, from, len);
        shared.map_err(ImageError::file_at("share blocks with", self.name))
    }

    /// Whole units, shared and then read back.
    fn write_shared(&mut self, extent: Extent, tell: Tell<'_>) -> Result<(), Stop> {
        let Some(owner) = extent.file else {
            return Ok(());
        };
        let (file, leaf) = self.image.held(owner, extent)?;
        ask(tell, extent.pages.start.0 * PAGE_BYTES, 0)?;
        if !self.share_blocks(extent)? {
            return self.write_copied(extent, tell);
        }
        let mut done = 0;
        while done < extent.pages.count {
            let part = behind(extent, done);
            let units = file.whole_units(&leaf, part.guest, part.pages.count)?;
            if units.pages == 0 {
                // No unit begins here after all: what cannot be checked alone is copied.
                return self.write_copied(part, tell);
            }
            let (offset, len) = (part.pages.start.0 * PAGE_BYTES, units.pages * PAGE_BYTES);
            ask(tell, offset, len)?;
            let bytes = room(&mut self.buffer, len);
            let read = self.target.read_exact_at(offset, bytes);
            read.map_err(ImageError::file_at("read back", self.name))?;
            file.check_units(&leaf, part.guest, units.offset, bytes)?;
            self.written.shared += len;
            done += units.pages;
        }
        Ok(())
    }

    fn write_copied(&mut self, extent: Extent, tell: Tell<'_>) -> Result<(), Stop> {
        let mut done = 0;
        while done < extent.pages.count {
            let mut part = behind(extent, done);
            part.pages.count = part.pages.count.min(CHUNK_PAGES);
            let offset = part.pages.start.0 * PAGE_BYTES;
            let len = part.pages.count * PAGE_BYTES;
            ask(tell, offset, len)?;
            let bytes = room(&mut self.buffer, len);
            self.image.read_extent(part, bytes)?;
            let written = self.target.write_all_at(offset, bytes);
            written.map_err(ImageError::file_at("write", self.name))?;
            self.written.copied += len;
            done += part.pages.count;
        }
        Ok(())
    }
}

fn ask(tell: Tell<'_>, done_bytes: u64, next_bytes: u64) -> Result<(), Stop> {
    let step = RawStep {
        done_bytes,
        next_bytes,
    };
    match tell(step) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(()) => Err(Stop::Asked),
    }
}

/// A run without its first `pages`.
fn behind(extent: Extent, pages: u64) -> Extent {
    let (start, count) = (extent.pages.start.0, extent.pages.count);
    Extent {
        pages: PageRange::new(start + pages, count - pages),
        guest: GuestPage(extent.guest.0 + pages),
        ..extent
    }
}

/// So many bytes of a buffer that grows as needed.
fn room(buffer: &mut Vec<u8>, len_bytes: u64) -> &mut [u8] {
    let len = usize::try_from(len_bytes).unwrap_or(usize::MAX);
    if buffer.len() < len {
        buffer.resize(len, 0);
    }
    buffer.get_mut(..len).unwrap_or_default()
}

/// Splits a run of pages that `file` owns into what can share its blocks and what cannot.
///
/// The pages lie back to back in the file, at multiples of 4096. Those of a unit of which the run
/// has a part only are copied: a digest is compared with all of a unit.
fn split(extent: Extent, file: &DataFile, parts: &mut Vec<Part>) {
    let first = extent.guest.0;
    let end = first + extent.pages.count;
    let whole = whole_units(file, first, end);
    let (from, to) = whole
        .filter(|(from, to)| to - from >= MIN_SHARED_PAGES)
        .unwrap_or((end, end));
    for (start, stop, shared) in [(first, from, false), (from, to, true), (to, end, false)] {
        if start < stop {
            let mut extent = behind(extent, start - first);
            extent.pages.count = stop - start;
            parts.push(Part { extent, shared });
        }
    }
}

/// The guest pages of `first..end` that whole units cover, if `file` holds pages as they are.
fn whole_units(file: &DataFile, first: u64, end: u64) -> Option<(u64, u64)> {
    let root = file.root();
    if root.data_layout == DataLayout::Frames || end <= first {
        return None;
    }
    let layout = &root.layout;
    // How many pages of its unit come before a page, and how many from it on.
    let around = |page: u64| {
        let unit = layout.unit(GuestPage(page), root.unit_pages)?;
        let place = layout.image_page(GuestPage(page))?;
        Some((
            place.0.checked_sub(unit.start.0)?,
            unit.end().0.checked_sub(place.0)?,
        ))
    };
    let (before, following) = around(first)?;
    let from = if before == 0 {
        first
    } else {
        first + following
    };
    let (before, following) = around(end - 1)?;
    let to = if following == 1 {
        end
    } else {
        end - 1 - before
    };
    (from < to).then_some((from, to))
}

/// Fewer pages than these are copied: an extent of their own costs more than their bytes.
const MIN_SHARED_PAGES: u64 = 4;

/// Pages that one read and one write move: 1 MiB.
const CHUNK_PAGES: u64 = 256;
