//! What a plan is made from: the memory of a snapshot, and where it is to go.

use std::io;

use serde::{Deserialize, Serialize};
use snapshot_format::{LEAF_PAGES, PAGE_BYTES};

use super::mappings::{MAX_MAPPINGS, Mappable};
use super::wanted::Wanted;
use crate::backend::ReadFile;
use crate::image::{ImageError, MemoryImage};

/// What is known of the memory of a snapshot.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub struct MemoryFacts {
    /// Bytes of guest memory.
    pub memory_bytes: u64,
    /// At most so many of them are not zero, by the table of the flattened map alone.
    pub data_bytes_at_most: u64,
    /// Data files of the chain.
    pub data_files: u64,
    /// Leaves of the page map that have to be read to map the data files.
    pub map_leaves: u64,
    /// How many mappings of data files make up the memory.
    pub mappings: MappingCount,
    /// Whether the kernel checks every data file on reading: fs-verity.
    pub data_verity: bool,
    /// The one raw file that holds all of the memory, where there is one in the cache.
    pub raw_image: Option<RawImageFacts>,
    /// Bytes of the recorded working set, where there is one.
    pub working_set_bytes: Option<u64>,
}

/// A raw image of the memory: page n at n * 4096.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub struct RawImageFacts {
    /// Whether the kernel checks it on reading: fs-verity.
    pub verity: bool,
}

impl RawImageFacts {
    /// What is known of a raw image that is open.
    #[cfg(target_os = "linux")]
    pub fn of(file: &dyn ReadFile) -> io::Result<Self> {
        let verity = file.as_fd().map_or(Ok(false), super::verity::has_verity)?;
        Ok(Self { verity })
    }

    /// What is known of a raw image that is open.
    #[cfg(not(target_os = "linux"))]
    pub fn of(_file: &dyn ReadFile) -> io::Result<Self> {
        Ok(Self { verity: false })
    }
}

/// How many mappings of data files make up a memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "is", deny_unknown_fields)]
pub enum MappingCount {
    /// Nobody asked for what would need it, and counting reads the page map.
    NotCounted,
    /// So many.
    Counted {
        /// Calls of `mmap`.
        mappings: u64,
    },
    /// More than [`MAX_MAPPINGS`]; counting stopped there.
    TooMany,
    /// Pages lie compressed in this data file, counted from 1.
    Compressed {
        /// The data file.
        file: u16,
    },
}

/// What the memory of the guest is made of, and who made it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TargetKind {
    /// Private anonymous memory that other mappings may take the place of.
    Anonymous,
    /// A range of the caller's, private and anonymous, whose mapping stays as it is: it is
    /// registered elsewhere, pinned, or of huge pages that were reserved.
    Reservation,
    /// A memfd of the caller's, mapped shared: other processes see the same pages.
    Memfd,
}

impl TargetKind {
    /// Every kind.
    pub const ALL: [Self; 3] = [Self::Anonymous, Self::Reservation, Self::Memfd];

    /// The name in reports and on command lines.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Anonymous => "anonymous",
            Self::Reservation => "reservation",
            Self::Memfd => "memfd",
        }
    }
}

/// Where the memory is to go.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub struct TargetFacts {
    /// What it is made of.
    pub kind: TargetKind,
    /// Whether it is on huge pages, which are to be kept.
    pub huge_pages: bool,
    /// Whether other guests of the same snapshot run on this host, so that pages should be shared.
    pub shared: bool,
    /// Threads that the caller allows, its own included; at least 1.
    pub threads: u32,
    /// Whether pages are given back while the guest runs, and what is then expected of them.
    #[serde(default, skip_serializing_if = "Discards::is_none")]
    pub discards: Discards,
    /// What the kernel can do.
    pub kernel: KernelFacts,
}

/// Whether pages of the guest are given back by plain `madvise` while it runs (a balloon, free page
/// reporting, [`MappedMemory::discard`](crate::MappedMemory::discard)), and what the guest may then
/// read there.
///
/// [`RestoredMemory::discard`](crate::RestoredMemory::discard) makes them zero by any plan: a VMM
/// that gives pages back by it alone says [`None`](Self::None). It gives the host nothing back where
/// files are mapped; [`MustBeZero`](Self::MustBeZero) has a plan that does.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Discards {
    /// None is. If one is all the same, it reads as
    /// [`RestoreMethod::given_back`](super::RestoreMethod::given_back) says.
    #[default]
    None,
    /// They must read as zero: whatever cannot promise that is refused.
    MustBeZero,
    /// They may read as in the snapshot again, which the caller accepts.
    MayBeOld,
}

impl Discards {
    /// Whether no pages are given back.
    #[must_use]
    pub fn is_none(&self) -> bool {
        *self == Self::None
    }
}

/// What the kernel can do for a restore; by default nothing, which any way but `eager` needs.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub struct KernelFacts {
    /// Bytes of a page of the host.
    pub page_bytes: u64,
    /// Whether userfaultfd fills anonymous memory.
    pub missing: bool,
    /// Whether it fills memfds.
    pub missing_memfd: bool,
    /// Whether it maps pages that a memfd has already.
    pub minor_memfd: bool,
}

impl MemoryFacts {
    /// What is known of `image`, as far as a plan for what is `wanted` may need it.
    ///
    /// Where it may be served, nothing but what the open image holds already is looked at: the cost
    /// does not grow with the memory or its chain. Where it may be mapped, the page map is read
    /// until it is known, or until there are too many mappings.
    pub fn of(image: &MemoryImage, wanted: Wanted) -> Result<Self, ImageError> {
        Self::gather(image, wanted, None)
    }

    /// The same of an image of which there is a raw image in the cache.
    ///
    /// Mapping that takes one call whatever the depth of the chain, and so the page map is not read,
    /// unless the kernel checks the data files and not the raw image.
    pub fn of_cached(
        image: &MemoryImage,
        wanted: Wanted,
        raw: RawImageFacts,
    ) -> Result<Self, ImageError> {
        Self::gather(image, wanted, Some(raw))
    }

    fn gather(
        image: &MemoryImage,
        wanted: Wanted,
        raw_image: Option<RawImageFacts>,
    ) -> Result<Self, ImageError> {
        let memory_bytes = image.layout().len_bytes();
        let leaves = image.table().refs().len() as u64;
        let data_verity = is_checked_by_kernel(image)?;
        let is_better = raw_image.is_some_and(|raw| raw.verity || !data_verity);
        let mappings = if wanted.may_be_mapped(data_verity) && !is_better {
            MappingCount::of(&Mappable::of(image, MAX_MAPPINGS)?)
        } else {
            MappingCount::NotCounted
        };
        Ok(Self {
            memory_bytes,
            data_bytes_at_most: memory_bytes.min(leaves * LEAF_PAGES as u64 * PAGE_BYTES),
            data_files: image.references().len() as u64,
            map_leaves: if Mappable::needs_map(image)? {
                leaves
            } else {
                0
            },
            mappings,
            data_verity,
            raw_image,
            working_set_bytes: None,
        })
    }

    /// The same, with a raw image in the cache.
    #[must_use]
    pub fn raw_image(self, facts: RawImageFacts) -> Self {
        Self {
            raw_image: Some(facts),
            ..self
        }
    }

    /// The same, with a recorded working set.
    #[must_use]
    pub fn working_set(self, len_bytes: u64) -> Self {
        Self {
            working_set_bytes: Some(len_bytes),
            ..self
        }
    }
}

#[cfg(target_os = "linux")]
fn is_checked_by_kernel(image: &MemoryImage) -> Result<bool, ImageError> {
    super::verity::has_all(image)
}

#[cfg(not(target_os = "linux"))]
#[expect(clippy::unnecessary_wraps, reason = "as on Linux")]
fn is_checked_by_kernel(_image: &MemoryImage) -> Result<bool, ImageError> {
    Ok(false)
}

impl MappingCount {
    pub(super) fn of(found: &Mappable) -> Self {
        match found {
            Mappable::Runs(runs) => Self::Counted {
                mappings: runs.len() as u64,
            },
            Mappable::TooMany => Self::TooMany,
            Mappable::Compressed { file } => Self::Compressed { file: *file },
        }
    }
}

impl TargetFacts {
    /// Memory of `kind` on a host whose kernel can do `kernel`; one thread, small pages, not
    /// shared, and no page of it is given back.
    #[must_use]
    pub fn new(kind: TargetKind, kernel: KernelFacts) -> Self {
        Self {
            kind,
            huge_pages: false,
            shared: false,
            threads: 1,
            discards: Discards::None,
            kernel,
        }
    }

    /// The same, where pages are given back while the guest runs.
    #[must_use]
    pub fn discards(self, discards: Discards) -> Self {
        Self { discards, ..self }
    }

    /// The same, on huge pages or not.
    #[must_use]
    pub fn huge_pages(self, huge_pages: bool) -> Self {
        Self { huge_pages, ..self }
    }

    /// The same, with pages to be shared or not.
    #[must_use]
    pub fn shared(self, shared: bool) -> Self {
        Self { shared, ..self }
    }

    /// The same, with so many threads.
    #[must_use]
    pub fn threads(self, threads: u32) -> Self {
        Self { threads, ..self }
    }
}

#[cfg(test)]
mod tests;
