//! The files of an import, opened and found usable before anything is written.

use std::ops::ControlFlow;

use snapshot_format::{MemoryLayout, PAGE_BYTES, PageRange, SectionPayload, limits};
use snapshot_memory::backend::ReadFile;
use snapshot_memory::{DirtyBitmap, GuestMemorySource, MemoryError, RawFile};

use super::Import;
use super::state;
use crate::failure::Failure;
use crate::input::{InputFile, read_file};
use crate::regions::Regions;

const PAGE: usize = 4096;

/// Pages that are looked at in one go: 1 MiB.
const CHUNK_PAGES: usize = 256;

/// Everything that an import reads.
#[derive(Debug)]
pub(super) struct Inputs {
    pub(super) memory: RawFile,
    /// Bytes of blocks that the memory file occupies.
    allocated_bytes: u64,
    pub(super) dirty: Option<DirtyBitmap>,
    pub(super) sections: Vec<SectionPayload>,
    pub(super) config: Vec<u8>,
}

impl Inputs {
    pub(super) fn open(import: &Import) -> Result<Self, Failure> {
        let path = &import.memory;
        let refused = |why: String| Failure::usage(why).at(path);
        let file = InputFile::open("memory file", path)?;
        let len_bytes = file.len_bytes;
        let allocated_bytes = file
            .allocated_bytes()
            .map_err(|error| Failure::io("measure the memory file", path, &error))?;
        let regions = match &import.regions {
            Some(regions) => regions.clone(),
            None if len_bytes == 0 || !len_bytes.is_multiple_of(PAGE_BYTES) => {
                return Err(refused(format!(
                    "the memory file has {len_bytes} bytes, which is no multiple of {PAGE_BYTES}"
                ))
                .hint("name the parts that are memory with --regions"));
            }
            None => Regions::whole(len_bytes).map_err(refused)?,
        };
        regions.check_file(len_bytes).map_err(refused)?;
        let memory = RawFile::new(Box::new(file), regions.layout, regions.offsets)
            .map_err(|error| Failure::because(crate::exit::Exit::Usage, &error).at(path))?;
        let page_count = memory.layout().page_count();
        Ok(Self {
            dirty: import
                .dirty
                .as_deref()
                .map(|path| {
                    let limit = page_count.div_ceil(64).saturating_mul(8);
                    let bytes = read_file("bitmap", path, limit)?;
                    DirtyBitmap::from_le_bytes(page_count, &bytes)
                        .map_err(|error| Failure::usage(error.to_string()).at(path))
                })
                .transpose()?,
            sections: match &import.state {
                None => Vec::new(),
                Some(path) => state::sections(path)?,
            },
            config: match &import.config {
                None => Vec::new(),
                Some(path) => read_file("configuration", path, limits::MAX_VM_CONFIG_BYTES as u64)?,
            },
            memory,
            allocated_bytes,
        })
    }

    pub(super) fn layout(&self) -> &MemoryLayout {
        self.memory.layout()
    }

    /// Bytes of the pages in `dirty`, or of all.
    pub(super) fn taken_bytes(&self, dirty: Option<&DirtyBitmap>) -> u64 {
        let pages = dirty.map_or_else(|| self.layout().page_count(), DirtyBitmap::count);
        pages.saturating_mul(PAGE_BYTES)
    }

    /// Bytes of the pages in `dirty`, or of all, as far as the memory file has blocks for them. A
    /// guess at what a snapshot of them stores: blocks may be zero, or compressed.
    pub(super) fn stored_bytes(&self, dirty: Option<&DirtyBitmap>) -> u64 {
        self.taken_bytes(dirty).min(self.allocated_bytes)
    }

    /// Bytes of the pages in `dirty`, or of all, that are not zero. `go_on` is told how many bytes
    /// were read; after a break the number is too small.
    pub(super) fn bytes_not_zero(
        &self,
        dirty: Option<&DirtyBitmap>,
        go_on: &mut dyn FnMut(u64) -> ControlFlow<()>,
    ) -> Result<u64, MemoryError> {
        let all = PageRange::new(0, self.layout().page_count());
        let runs: Box<dyn Iterator<Item = PageRange>> = match dirty {
            Some(dirty) => Box::new(dirty.iter_runs()),
            None => Box::new(std::iter::once(all)),
        };
        let mut buffer = vec![0; CHUNK_PAGES * PAGE];
        let mut pages = 0;
        for run in runs {
            for start in (run.start.0..run.end().0).step_by(CHUNK_PAGES) {
                let count = (run.end().0 - start).min(CHUNK_PAGES as u64);
                let chunk = PageRange::new(start, count);
                let len = usize::try_from(count).map_or(0, |count| count * PAGE);
                let (bytes, _) = buffer.split_at_mut(len);
                self.memory.read_pages(chunk, bytes)?;
                let stored = bytes
                    .chunks(PAGE)
                    .filter(|page| page.iter().any(|&b| b != 0));
                pages += stored.count() as u64;
                if go_on(len as u64).is_break() {
                    return Ok(pages.saturating_mul(PAGE_BYTES));
                }
            }
        }
        Ok(pages.saturating_mul(PAGE_BYTES))
    }
}
