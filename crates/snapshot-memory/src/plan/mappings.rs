//! The runs in which the memory of a snapshot lies in files that can be mapped.

use snapshot_format::{DataLayout, GuestPage, LEAF_PAGES, MemoryLayout, PAGE_BYTES, PageRange};

use crate::image::{DataFile, Extent, ImageError, MemoryImage, within_leaf};

/// Mappings that a guest gets at most.
///
/// Each costs some microseconds at the start, and the kernel has room for 65,530 in a process, of
/// which a private mapping between anonymous ones takes two.
pub const MAX_MAPPINGS: usize = 256;

/// Zero pages in a row that are mapped along with the run around them, where the file has zeros for
/// them: up to a huge page. Longer ones stay anonymous, which costs no page cache. A snapshot of
/// one sparse file is mapped whole all the same: its start must not depend on its size.
const MAX_BRIDGED_PAGES: u64 = 512;

/// Whether, and how, the memory of a snapshot can be mapped from its data files.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Mappable {
    /// In these runs, sorted by page; what lies between them is zero.
    Runs(Vec<FileRun>),
    /// In more runs than were allowed.
    TooMany,
    /// Not at all: pages lie compressed in this data file, counted from 1.
    Compressed {
        /// The data file.
        file: u16,
    },
}

/// Pages that lie in a row in a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FileRun {
    /// The pages of the image.
    pub pages: PageRange,
    /// The data file, counted from 1.
    pub file: u16,
    /// Where they are in it, in bytes.
    pub offset: u64,
}

impl Mappable {
    /// The runs of `image`, at most `limit` of them.
    ///
    /// A snapshot of one sparse data file is one run, whatever lies in it. For others the page map
    /// is read, up to where the runs exceed `limit`.
    pub fn of(image: &MemoryImage, limit: usize) -> Result<Self, ImageError> {
        if !Self::needs_map(image)? {
            return Ok(Self::Runs(vec![FileRun {
                pages: everything(image.layout()),
                file: 1,
                offset: 0,
            }]));
        }
        let mut runs = Runs::new(image, limit);
        for (_, region) in image.layout().runs(everything(image.layout())) {
            let mut at = region.start.0;
            while at < region.end().0 {
                let extent = image.extent(PageRange::new(at, region.end().0 - at))?;
                at = extent.pages.end().0;
                if let Some(refused) = runs.add(extent)? {
                    return Ok(refused);
                }
            }
        }
        Ok(Self::Runs(runs.found))
    }

    /// Whether the page map has to be read: not for a snapshot of one sparse file of the layout of
    /// the image. What is zero there is zero in the file, too.
    pub(super) fn needs_map(image: &MemoryImage) -> Result<bool, ImageError> {
        let is_plain = |file: &DataFile| {
            file.root().data_layout == DataLayout::Sparse && file.root().layout == *image.layout()
        };
        if image.references().len() != 1 {
            return Ok(true);
        }
        image.file(1).map(|file| !is_plain(file))
    }
}

fn everything(layout: &MemoryLayout) -> PageRange {
    PageRange::new(0, layout.page_count())
}

/// Adds a run to those before it, as a part of the last where it goes on from it after `gap` zero
/// pages.
fn extend(found: &mut Vec<FileRun>, run: FileRun, gap: u64) {
    match found.last_mut() {
        Some(last) if follows(last, &run, gap) => last.pages.count += gap + run.pages.count,
        _ => found.push(run),
    }
}

/// Whether `run` goes on from `last`, `gap` pages later, in memory and in the file.
fn follows(last: &FileRun, run: &FileRun, gap: u64) -> bool {
    let pages = last.pages.count + gap;
    last.file == run.file
        && last.pages.start.0 + pages == run.pages.start.0
        && last.offset.checked_add(pages * PAGE_BYTES) == Some(run.offset)
}

/// Runs that are put together from extents.
struct Runs<'i> {
    image: &'i MemoryImage,
    limit: usize,
    found: Vec<FileRun>,
    /// Zero pages since the last run, and the first of them as a guest page.
    zero: Option<(GuestPage, u64)>,
}

impl<'i> Runs<'i> {
    fn new(image: &'i MemoryImage, limit: usize) -> Self {
        Self {
            image,
            limit,
            found: Vec::new(),
            zero: None,
        }
    }

    /// Adds an extent; `Some`: it cannot be mapped.
    fn add(&mut self, extent: Extent) -> Result<Option<Mappable>, ImageError> {
        let Some(number) = extent.file else {
            let (_, count) = self.zero.get_or_insert((extent.guest, 0));
            *count += extent.pages.count;
            return Ok(None);
        };
        let file = self.image.file(number)?;
        if file.root().data_layout == DataLayout::Frames {
            return Ok(Some(Mappable::Compressed { file: number }));
        }
        let run = FileRun {
            pages: extent.pages,
            file: number,
            offset: file.page_offset(extent.guest)?,
        };
        let gap = match self.zero.take() {
            None => 0,
            Some((first, count)) => {
                let fits = self.found.last().is_some_and(|l| follows(l, &run, count));
                if fits && count <= MAX_BRIDGED_PAGES && is_zero_in(file, first, count)? {
                    count
                } else {
                    0
                }
            }
        };
        extend(&mut self.found, run, gap);
        Ok((self.found.len() > self.limit).then_some(Mappable::TooMany))
    }
}

/// Whether a sparse data file holds none of `count` guest pages from `first` on, so that it has
/// zeros for them.
fn is_zero_in(file: &DataFile, first: GuestPage, count: u64) -> Result<bool, ImageError> {
    if file.root().data_layout != DataLayout::Sparse {
        return Ok(false);
    }
    for page in (first.0..first.0 + count).map(GuestPage) {
        let number = u32::try_from(page.0 / LEAF_PAGES as u64).unwrap_or(u32::MAX);
        let leaf = file.index_leaf(number)?;
        if leaf.is_some_and(|leaf| leaf.present().contains(within_leaf(page))) {
            return Ok(false);
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests;
