//! Guest memory that this process maps itself.

// UNSAFETY: mmap, madvise and munmap of anonymous memory and memfds, and the pointers into them.
#![expect(unsafe_code, reason = "maps memory and hands out addresses in it")]

use std::io;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;

use nix::errno::Errno;
#[cfg(target_os = "linux")]
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::mman::{MapFlags, ProtFlags, mmap, mmap_anonymous, munmap};
#[cfg(target_os = "linux")]
use nix::sys::mman::{MmapAdvise, madvise};
use snapshot_format::{MemoryLayout, PAGE_BYTES, PageIndex, PageRange};

use crate::error::MemoryError;
use crate::guest_io::{self, HostRun};
use crate::source::GuestMemorySource;

/// Bytes of a huge page on every host that is supported.
const HUGE_BYTES: usize = 2 << 20;

/// What a mapping is made of.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub enum MappingKind {
    /// Private anonymous memory.
    #[default]
    Anonymous,
    /// A shared mapping of a new memfd, which other processes may map as well. Linux only: elsewhere
    /// making the mapping fails with `Unsupported`.
    Memfd,
}

/// How a mapping is made.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct MappingOptions {
    /// What it is made of.
    pub kind: MappingKind,
    /// Whether the kernel is asked for huge pages: `None` leaves the system's default. Advice, which
    /// systems without huge pages have no use for.
    pub huge_pages: Option<bool>,
}

impl MappingOptions {
    /// The same, made of `kind`.
    #[must_use]
    pub fn kind(self, kind: MappingKind) -> Self {
        Self { kind, ..self }
    }

    /// The same, with huge pages asked for or asked not for.
    #[must_use]
    pub fn huge_pages(self, wanted: bool) -> Self {
        Self {
            huge_pages: Some(wanted),
            ..self
        }
    }
}

/// Guest memory in one mapping of this process: the regions of a layout back to back, zero at
/// first.
///
/// Reads and writes go word by word with relaxed atomics, so that threads that play vCPUs may
/// share it.
#[derive(Debug)]
pub struct MappedMemory {
    layout: MemoryLayout,
    /// What is unmapped in the end: start and length. `None`: it is the VMM's.
    reservation: Option<(NonNull<u8>, NonZeroUsize)>,
    /// The first byte of guest memory: aligned to a huge page within the reservation.
    base: NonNull<u8>,
    len_bytes: usize,
    memfd: Option<OwnedFd>,
}

// SAFETY:
// - the mapping is not bound to a thread;
// - all accesses are atomic.
unsafe impl Send for MappedMemory {}

// SAFETY: as for Send.
unsafe impl Sync for MappedMemory {}

impl MappedMemory {
    /// Maps zeroed memory for `layout`.
    pub fn new(layout: MemoryLayout, options: MappingOptions) -> io::Result<Self> {
        let mut memory = Self::reserve(layout)?;
        memory.populate(options)?;
        Ok(memory)
    }

    /// Addresses for the memory of `layout`, without memory.
    fn reserve(layout: MemoryLayout) -> io::Result<Self> {
        let len_bytes = usize::try_from(layout.len_bytes()).map_err(|_| Errno::ENOMEM)?;
        let reserved_bytes = len_bytes
            .checked_next_multiple_of(HUGE_BYTES)
            .and_then(|len| len.checked_add(HUGE_BYTES))
            .and_then(NonZeroUsize::new)
            .ok_or(Errno::ENOMEM)?;
        let reserve_flags = MapFlags::MAP_PRIVATE | MapFlags::MAP_NORESERVE;
        // SAFETY: a fresh anonymous mapping where the kernel likes; it replaces nothing.
        let reservation =
            unsafe { mmap_anonymous(None, reserved_bytes, ProtFlags::PROT_NONE, reserve_flags) }?
                .cast::<u8>();
        // From here on dropping `memory` unmaps.
        let mut memory = Self {
            layout,
            reservation: Some((reservation, reserved_bytes)),
            base: reservation,
            len_bytes,
            memfd: None,
        };
        let pad = reservation.as_ptr().align_offset(HUGE_BYTES);
        // SAFETY: `pad` is less than HUGE_BYTES, by which the reservation exceeds `len_bytes`.
        memory.base = unsafe { reservation.add(pad) };
        Ok(memory)
    }

    /// Maps the file behind `file`, at least as long as the memory of `layout`, so that what is
    /// written stays in this mapping.
    ///
    /// The file is to keep its bytes: pages that were not written here are as they are there.
    #[cfg(target_os = "linux")]
    pub fn private(layout: MemoryLayout, file: BorrowedFd<'_>) -> io::Result<Self> {
        let memory = Self::reserve(layout)?;
        let len = NonZeroUsize::new(memory.len_bytes).ok_or(Errno::EINVAL)?;
        let at = Some(memory.base.addr());
        let access = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        let flags = MapFlags::MAP_PRIVATE | MapFlags::MAP_NORESERVE | MapFlags::MAP_FIXED;
        // SAFETY: `base..base + len` lies in the reservation, which is ours and unused, so
        // MAP_FIXED replaces nothing else.
        unsafe { mmap(at, len, access, flags, file, 0) }?;
        Ok(memory)
    }

    /// Gives `pages` back: they are zero afterwards, or what a file has that is
    /// [mapped](Self::private).
    ///
    /// A server of the memory hears of it first, and this waits until it has.
    #[cfg(target_os = "linux")]
    pub fn discard(&self, pages: PageRange) -> Result<(), MemoryError> {
        let offset = pages.start.image_offset().unwrap_or(u64::MAX);
        let len = pages.len_bytes().and_then(|len| usize::try_from(len).ok());
        let len = len.unwrap_or(usize::MAX);
        let start = self.locate(offset, len)?;
        let advice = match &self.memfd {
            Some(_) => MmapAdvise::MADV_REMOVE,
            None => MmapAdvise::MADV_DONTNEED,
        };
        let start = NonNull::new(start).unwrap_or(self.base);
        // SAFETY: `locate` checked that the range lies in the mapping; all accesses are atomic, and
        // whoever shares the memory expects it to change.
        let discarded = unsafe { madvise(start.cast(), len, advice) };
        discarded.map_err(|errno| MemoryError::Discard {
            range: pages,
            source: errno.into(),
        })
    }

    fn populate(&mut self, options: MappingOptions) -> io::Result<()> {
        let len = NonZeroUsize::new(self.len_bytes).ok_or(Errno::EINVAL)?;
        let at = Some(self.base.addr());
        let access = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        match options.kind {
            MappingKind::Anonymous => {
                let flags = MapFlags::MAP_PRIVATE | MapFlags::MAP_NORESERVE | MapFlags::MAP_FIXED;
                // SAFETY: `base..base + len` lies in the reservation, which is ours and unused, so
                // MAP_FIXED replaces nothing else.
                unsafe { mmap_anonymous(at, len, access, flags) }?;
            }
            MappingKind::Memfd => {
                let memfd = new_memfd(self.len_bytes)?;
                let flags = MapFlags::MAP_SHARED | MapFlags::MAP_FIXED;
                // SAFETY: as above; the memfd is as long as the mapping.
                unsafe { mmap(at, len, access, flags, &memfd, 0) }?;
                self.memfd = Some(memfd);
            }
        }
        options
            .huge_pages
            .map_or(Ok(()), |wanted| self.advise(wanted))
    }

    #[cfg(target_os = "linux")]
    fn advise(&self, huge_pages: bool) -> io::Result<()> {
        let advice = if huge_pages {
            MmapAdvise::MADV_HUGEPAGE
        } else {
            MmapAdvise::MADV_NOHUGEPAGE
        };
        // SAFETY: the range is mapped; this advice changes no content.
        match unsafe { madvise(self.base.cast(), self.len_bytes, advice) } {
            // A kernel without huge pages has none to avoid or to give.
            Ok(()) | Err(Errno::EINVAL) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    #[cfg(not(target_os = "linux"))]
    #[expect(clippy::unused_self, clippy::unnecessary_wraps, reason = "as on Linux")]
    fn advise(&self, _huge_pages: bool) -> io::Result<()> {
        Ok(())
    }

    /// Takes memory of the VMM's for `layout`: it stays mapped as it is when this is dropped.
    ///
    /// # Safety
    ///
    /// - The bytes of the layout, from `base` on, are one range that is mapped, readable and
    ///   writable for as long as the value lives, and may be mapped over.
    /// - `base` is aligned to 4096 bytes.
    /// - No Rust reference to those bytes is used meanwhile; threads of this process reach them by
    ///   atomic or volatile accesses only.
    pub unsafe fn borrowed(layout: MemoryLayout, base: NonNull<u8>) -> io::Result<Self> {
        let len_bytes = usize::try_from(layout.len_bytes()).map_err(|_| Errno::ENOMEM)?;
        Ok(Self {
            layout,
            reservation: None,
            base,
            len_bytes,
            memfd: None,
        })
    }

    /// Maps `pages` privately from `offset` of a file on, in the place of what is there.
    ///
    /// The caller keeps the file from being cut, or has a `BusGuard`: touching a page that the file
    /// no longer has is a signal. A memory that is made of a memfd refuses: other processes would
    /// not see it.
    #[cfg(target_os = "linux")]
    pub(crate) fn map_file(
        &self,
        pages: PageRange,
        file: BorrowedFd<'_>,
        offset: u64,
    ) -> io::Result<()> {
        if self.memfd.is_some() {
            return Err(io::ErrorKind::Unsupported.into());
        }
        let len_bytes = pages.len_bytes().and_then(|len| usize::try_from(len).ok());
        let start = pages.start.image_offset();
        let run = len_bytes.zip(start).filter(|(len, _)| *len > 0);
        let (len_bytes, start) = run.ok_or(Errno::EINVAL)?;
        let at = self.locate(start, len_bytes).map_err(io::Error::other)?;
        let at = NonZeroUsize::new(at.addr());
        let len = NonZeroUsize::new(len_bytes).ok_or(Errno::EINVAL)?;
        let offset = i64::try_from(offset).map_err(|_| Errno::EOVERFLOW)?;
        let access = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        let flags = MapFlags::MAP_PRIVATE | MapFlags::MAP_NORESERVE | MapFlags::MAP_FIXED;
        // SAFETY:
        // - the range lies in the memory, which is ours or given to us to be mapped over;
        // - it stays mapped, readable and writable, and all accesses are atomic: what is borrowed
        //   from `self` stays valid.
        let mapped = unsafe { mmap(at, len, access, flags, file, offset) }?;
        // Read-ahead of a cold file brings megabytes for a page; a warm one gains nothing by it.
        // SAFETY: the range was just mapped; this advice changes no content.
        unsafe { madvise(mapped, len_bytes, MmapAdvise::MADV_RANDOM) }?;
        Ok(())
    }

    /// The first byte of the mapping; page `n` of the image is at `n * 4096`.
    #[must_use]
    pub fn base(&self) -> NonNull<u8> {
        self.base
    }

    /// The length in bytes.
    #[must_use]
    pub fn len_bytes(&self) -> usize {
        self.len_bytes
    }

    /// The memfd behind the mapping, where it was made of one.
    #[must_use]
    pub fn memfd(&self) -> Option<BorrowedFd<'_>> {
        self.memfd.as_ref().map(AsFd::as_fd)
    }

    /// Copies `bytes` to the image offset `offset_bytes`.
    pub fn write(&self, offset_bytes: u64, bytes: &[u8]) -> Result<(), MemoryError> {
        let to = self.locate(offset_bytes, bytes.len())?;
        // SAFETY: `locate` checked that the range lies in the mapping; all accesses are atomic.
        unsafe { guest_io::store(to, bytes) };
        Ok(())
    }

    /// Copies the bytes at the image offset `offset_bytes` to `out`.
    pub fn read(&self, offset_bytes: u64, out: &mut [u8]) -> Result<(), MemoryError> {
        let from = self.locate(offset_bytes, out.len())?;
        // SAFETY: `locate` checked that the range lies in the mapping; all accesses are atomic.
        unsafe { guest_io::load(from, out) };
        Ok(())
    }

    fn locate(&self, offset_bytes: u64, len: usize) -> Result<*mut u8, MemoryError> {
        let fits = usize::try_from(offset_bytes).ok().filter(|offset| {
            offset
                .checked_add(len)
                .is_some_and(|end| end <= self.len_bytes)
        });
        match fits {
            Some(offset) => Ok(self.base.as_ptr().wrapping_add(offset)),
            None => Err(MemoryError::OutOfRange {
                range: covering(offset_bytes, len),
                page_count: self.layout.page_count(),
            }),
        }
    }
}

/// A new memfd of `len_bytes` bytes.
#[cfg(target_os = "linux")]
fn new_memfd(len_bytes: usize) -> io::Result<OwnedFd> {
    let memfd = memfd_create(c"guest-memory", MFdFlags::MFD_CLOEXEC)?;
    let len_bytes = i64::try_from(len_bytes).map_err(|_| Errno::ENOMEM)?;
    nix::unistd::ftruncate(&memfd, len_bytes)?;
    Ok(memfd)
}

#[cfg(not(target_os = "linux"))]
fn new_memfd(_len_bytes: usize) -> io::Result<OwnedFd> {
    Err(io::Error::new(
        io::ErrorKind::Unsupported,
        "only Linux has memfds",
    ))
}

/// The pages that hold `len` bytes at `offset_bytes`.
fn covering(offset_bytes: u64, len: usize) -> PageRange {
    let end = offset_bytes.saturating_add(u64::try_from(len).unwrap_or(u64::MAX));
    let start = offset_bytes / PAGE_BYTES;
    PageRange {
        start: PageIndex(start),
        count: end.div_ceil(PAGE_BYTES).saturating_sub(start),
    }
}

impl GuestMemorySource for MappedMemory {
    fn layout(&self) -> &MemoryLayout {
        &self.layout
    }

    fn read_pages(&self, pages: PageRange, out: &mut [u8]) -> Result<(), MemoryError> {
        MemoryError::check_buffer(pages, out.len())?;
        let offset = pages.start.image_offset().unwrap_or(u64::MAX);
        self.read(offset, out)
    }

    fn host_run(&self, pages: PageRange) -> Option<HostRun<'_>> {
        let len_bytes = usize::try_from(pages.len_bytes()?).ok()?;
        let address = self.locate(pages.start.image_offset()?, len_bytes).ok()?;
        // SAFETY: `locate` checked that the range lies in the mapping, which lives as long as
        // `self` and is reached atomically only; pages are aligned.
        Some(unsafe { HostRun::new(address, len_bytes) })
    }
}

impl Drop for MappedMemory {
    fn drop(&mut self) {
        let Some((reservation, len_bytes)) = self.reservation else {
            return;
        };
        // SAFETY: the reservation is ours, with all that was mapped over it, and nothing that was
        // borrowed from `self` is left.
        let unmapped = unsafe { munmap(reservation.cast(), len_bytes.get()) };
        debug_assert!(unmapped.is_ok(), "munmap of our own mapping: {unmapped:?}");
    }
}

#[cfg(test)]
mod tests;
