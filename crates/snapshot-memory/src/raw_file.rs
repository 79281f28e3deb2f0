//! Raw memory files of other VMMs, as a source of guest memory.

use std::io;

use snapshot_format::{MemoryLayout, PAGE_BYTES, PageRange};

use crate::backend::ReadFile;
use crate::error::MemoryError;
use crate::source::{GuestMemorySource, HostRun};

/// A raw file that holds each region of a layout in one piece.
///
/// All of it is read. Which parts the file system calls holes is not asked: some say hole where
/// data is still on its way (OpenZFS issues 6958 and 12477), and reading a true hole costs no I/O.
#[derive(Debug)]
pub struct RawFile {
    file: Box<dyn ReadFile>,
    layout: MemoryLayout,
    offsets: Vec<u64>,
}

/// A raw file that cannot hold the memory of a layout.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RawFileError {
    /// Not one offset for each region.
    #[error("{offsets} file offsets for {regions} memory regions")]
    Offsets {
        /// How many offsets.
        offsets: usize,
        /// How many regions.
        regions: usize,
    },
    /// A region that ends beyond the file.
    #[error("region {index} needs bytes {offset} to {end} of a file of {len_bytes} bytes")]
    TooShort {
        /// Which region.
        index: usize,
        /// Where it starts in the file.
        offset: u64,
        /// One past its last byte; saturated.
        end: u64,
        /// The length of the file.
        len_bytes: u64,
    },
    /// The length of the file could not be read.
    #[error("measure the memory file")]
    Measure(#[source] io::Error),
}

impl RawFile {
    /// A file that holds region i of `layout` from `offsets[i]` on.
    pub fn new(
        file: Box<dyn ReadFile>,
        layout: MemoryLayout,
        offsets: Vec<u64>,
    ) -> Result<Self, RawFileError> {
        let regions = layout.regions().len();
        if offsets.len() != regions {
            return Err(RawFileError::Offsets {
                offsets: offsets.len(),
                regions,
            });
        }
        let len_bytes = file.len().map_err(RawFileError::Measure)?;
        for (index, (region, &offset)) in layout.regions().iter().zip(&offsets).enumerate() {
            let end = offset.saturating_add(region.len_bytes);
            if end > len_bytes {
                return Err(RawFileError::TooShort {
                    index,
                    offset,
                    end,
                    len_bytes,
                });
            }
        }
        Ok(Self {
            file,
            layout,
            offsets,
        })
    }

    /// A file that is the raw image: the regions one after the other.
    pub fn image(file: Box<dyn ReadFile>, layout: MemoryLayout) -> Result<Self, RawFileError> {
        let mut next = 0;
        let mut offsets = Vec::with_capacity(layout.regions().len());
        for region in layout.regions() {
            offsets.push(next);
            next += region.len_bytes;
        }
        Self::new(file, layout, offsets)
    }

    fn read(&self, pages: PageRange, mut out: &mut [u8]) -> io::Result<()> {
        let short = || io::Error::from(io::ErrorKind::UnexpectedEof);
        let mut first = 0;
        for (region, &offset) in self.layout.regions().iter().zip(&self.offsets) {
            let end = first + region.len_bytes / PAGE_BYTES;
            let (from, to) = (pages.start.0.max(first), pages.end().0.min(end));
            if from < to {
                let len = usize::try_from((to - from) * PAGE_BYTES).map_err(|_| short())?;
                let part = out.split_off_mut(..len).ok_or_else(short)?;
                self.file
                    .read_exact_at(offset + (from - first) * PAGE_BYTES, part)?;
            }
            first = end;
        }
        Ok(())
    }
}

impl GuestMemorySource for RawFile {
    fn layout(&self) -> &MemoryLayout {
        &self.layout
    }

    fn read_pages(&self, pages: PageRange, out: &mut [u8]) -> Result<(), MemoryError> {
        MemoryError::check_buffer(pages, out.len())?;
        let page_count = self.layout.page_count();
        if pages
            .start
            .0
            .checked_add(pages.count)
            .is_none_or(|end| end > page_count)
        {
            return Err(MemoryError::OutOfRange {
                range: pages,
                page_count,
            });
        }
        self.read(pages, out).map_err(|source| MemoryError::Read {
            range: pages,
            source,
        })
    }

    fn host_run(&self, _pages: PageRange) -> Option<HostRun<'_>> {
        None
    }
}
