//! One memory for many guests: checked pages in a memfd that can no longer be changed.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;

use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use snapshot_format::{MemoryLayout, PageRange};

use super::fill::{FillError, FillOptions, FillTarget, Filled, fill_memory};
use crate::error::MemoryError;
use crate::mapping::MappedMemory;
use crate::restore::PageSource;
use crate::source::GuestMemorySource;

/// The memory of a snapshot in a sealed memfd: page n of the image at n * 4096.
///
/// Guests map it privately and share all pages that they do not write. Its descriptor can be
/// passed to other processes; nobody can change, shorten or lengthen it.
#[derive(Debug)]
pub struct SealedMemory {
    layout: MemoryLayout,
    file: File,
}

/// A memfd could not be made, filled, sealed, or is not what it must be.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SealedError {
    /// A system call failed.
    #[error("{call} a memfd for memory that guests share")]
    System {
        /// What was tried.
        call: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Pages could not be put into it.
    #[error(transparent)]
    Fill(#[from] FillError),
    /// A descriptor that was handed in is not sealed: somebody could change what guests see.
    #[error("the descriptor is not that of a memfd sealed against writing, shrinking and growing")]
    NotSealed,
    /// A descriptor that was handed in is of another length.
    #[error("the memfd has {found} bytes, and the memory has {expected}")]
    Length {
        /// Bytes of the memory.
        expected: u64,
        /// Bytes of the memfd.
        found: u64,
    },
}

impl SealedError {
    fn system(call: &'static str) -> impl FnOnce(nix::errno::Errno) -> Self {
        move |errno| Self::System {
            call,
            source: errno.into(),
        }
    }
}

impl SealedMemory {
    /// Copies all pages of `source` to a new memfd, each checked, and seals it.
    pub fn fill(
        source: &dyn PageSource,
        options: &FillOptions,
    ) -> Result<(Self, Filled), SealedError> {
        let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
        let memfd = memfd_create(c"shared-guest-memory", flags);
        let file = File::from(memfd.map_err(SealedError::system("make"))?);
        let layout = source.layout().clone();
        let sized = file.set_len(layout.len_bytes());
        sized.map_err(|source| SealedError::System {
            call: "size",
            source,
        })?;
        let filling = Filling {
            layout: &layout,
            file: &file,
        };
        let filled = fill_memory(source, &filling, options)?;
        let sealed = fcntl(&file, FcntlArg::F_ADD_SEALS(seals()));
        sealed.map_err(SealedError::system("seal"))?;
        Ok((Self { layout, file }, filled))
    }

    /// The memory that another process has filled and passed on. That it is of the snapshot, and
    /// checked, is for that process to know.
    pub fn from_fd(layout: MemoryLayout, memfd: OwnedFd) -> Result<Self, SealedError> {
        let file = File::from(memfd);
        let held = match fcntl(&file, FcntlArg::F_GET_SEALS) {
            Ok(bits) => SealFlag::from_bits_retain(bits),
            // A file that is no memfd has no seals.
            Err(nix::errno::Errno::EINVAL) => return Err(SealedError::NotSealed),
            Err(errno) => return Err(SealedError::system("look at")(errno)),
        };
        if !held.contains(seals()) {
            return Err(SealedError::NotSealed);
        }
        let found = file.metadata().map_err(|source| SealedError::System {
            call: "measure",
            source,
        })?;
        let (found, expected) = (found.len(), layout.len_bytes());
        if found != expected {
            return Err(SealedError::Length { expected, found });
        }
        Ok(Self { layout, file })
    }

    /// Which guest physical addresses are memory.
    #[must_use]
    pub fn layout(&self) -> &MemoryLayout {
        &self.layout
    }

    /// Maps all of it privately in the place of `memory`, which has the same layout.
    pub(super) fn map_over(&self, memory: &MappedMemory) -> io::Result<()> {
        let pages = PageRange::new(0, memory.layout().page_count());
        memory.map_file(pages, self.file.as_fd(), 0)
    }
}

impl AsFd for SealedMemory {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// What a memfd must be sealed against. Not against more seals: those harm nobody.
fn seals() -> SealFlag {
    SealFlag::F_SEAL_WRITE | SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW
}

/// A memfd that is being filled.
struct Filling<'f> {
    layout: &'f MemoryLayout,
    file: &'f File,
}

impl FillTarget for Filling<'_> {
    fn memory_layout(&self) -> &MemoryLayout {
        self.layout
    }

    fn write_pages(&self, pages: PageRange, bytes: &[u8]) -> Result<(), MemoryError> {
        MemoryError::check_buffer(pages, bytes.len())?;
        let offset = pages.start.image_offset().unwrap_or(u64::MAX);
        let written = self.file.write_all_at(bytes, offset);
        written.map_err(|source| MemoryError::Write {
            range: pages,
            source,
        })
    }
}

#[cfg(test)]
mod tests;
