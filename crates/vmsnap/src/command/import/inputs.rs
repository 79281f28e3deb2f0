//! The files of an import, opened and found usable before anything is written.

use snapshot_format::{MemoryLayout, PAGE_BYTES, SectionPayload, limits};
use snapshot_memory::{DirtyBitmap, GuestMemorySource, RawFile};

use super::Import;
use super::state;
use crate::failure::Failure;
use crate::input::{InputFile, read_file};
use crate::regions::Regions;

/// Everything that an import reads.
#[derive(Debug)]
pub(super) struct Inputs {
    pub(super) memory: RawFile,
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
}
