//! The system calls that make a userfaultfd, register memory with it and track writes, each behind
//! a safe function.

// UNSAFETY: the ioctls of userfaultfd and of /proc/self/pagemap, and the call that opens the former.
#![expect(unsafe_code, reason = "raw ioctls on two descriptors")]

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::errno::Errno;

use super::abi::{
    self, PageRegion, PmScanArg, UffdioApi, UffdioRange, UffdioRegister, UffdioWriteprotect,
};
use super::served_range::ServedRange;
use crate::source::GuestMemorySource;

nix::ioctl_readwrite!(uffdio_api, 0xAA, 0x3F, UffdioApi);
nix::ioctl_readwrite!(uffdio_register, 0xAA, 0x00, UffdioRegister);
nix::ioctl_read!(uffdio_unregister, 0xAA, 0x01, UffdioRange);
nix::ioctl_readwrite!(uffdio_writeprotect, 0xAA, 0x06, UffdioWriteprotect);
nix::ioctl_write_int_bad!(userfaultfd_ioc_new, nix::request_code_none!(0xAA, 0x00));
nix::ioctl_readwrite!(pagemap_scan, b'f', 16, PmScanArg);

/// Opens a userfaultfd for the faults of user space, closed on exec, and agrees on `features` with
/// the kernel.
///
/// `Ok(None)`: the kernel lacks one of the features.
pub(super) fn open(features: u64) -> io::Result<Option<OwnedFd>> {
    let fd = userfaultfd(abi::USER_MODE_ONLY)?;
    match agree(fd.as_fd(), features) {
        Ok(found) if found & features == features => Ok(Some(fd)),
        Ok(_) | Err(Errno::EINVAL) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

/// A userfaultfd that has agreed on nothing yet, by the system call.
pub(super) fn userfaultfd(flags: i32) -> Result<OwnedFd, Errno> {
    let flags = libc::O_CLOEXEC | libc::O_NONBLOCK | flags;
    // SAFETY: the call takes one integer and touches no memory of ours.
    let fd = unsafe { libc::syscall(libc::SYS_userfaultfd, flags) };
    let fd = i32::try_from(Errno::result(fd)?).map_err(|_| Errno::EBADF)?;
    // SAFETY: the kernel has just given us this descriptor; nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// The same, from `device`, which is `/dev/userfaultfd`: whoever may open that may have one.
pub(super) fn userfaultfd_of(device: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
    let flags = libc::O_CLOEXEC | libc::O_NONBLOCK;
    // SAFETY: the call takes one integer and touches no memory of ours.
    let fd = unsafe { userfaultfd_ioc_new(device.as_raw_fd(), flags) }?;
    // SAFETY: the kernel has just given us this descriptor; nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Agrees on `features`; gives those that the kernel has. `EINVAL` where it lacks one of them, or
/// where the descriptor has agreed before.
pub(super) fn agree(uffd: BorrowedFd<'_>, features: u64) -> Result<u64, Errno> {
    let mut api = UffdioApi {
        api: abi::API,
        features,
        ioctls: 0,
    };
    // SAFETY: `api` is the structure that UFFDIO_API reads and writes, alive during the call.
    unsafe { uffdio_api(uffd.as_raw_fd(), &raw mut api) }?;
    Ok(api.features)
}

/// Registers `range`, page aligned addresses of mapped memory, in the modes `mode`.
///
/// # Safety
///
/// Where `mode` has missing or minor faults: what is in the memory is not relied on while it is
/// registered, as pages of it will hold what the owner of the descriptor puts there. Write
/// protection alone changes no content.
unsafe fn register(uffd: BorrowedFd<'_>, range: &Range<u64>, mode: u64) -> io::Result<()> {
    let mut argument = UffdioRegister {
        range: uffdio_range(range),
        mode,
        ioctls: 0,
    };
    // SAFETY:
    // - `argument` is the structure that UFFDIO_REGISTER reads and writes, alive during the call;
    // - the caller vouches for what comes of the memory.
    unsafe { uffdio_register(uffd.as_raw_fd(), &raw mut argument) }?;
    Ok(())
}

/// Registers all of `memory` in the modes `mode`; gives where it is. `Ok(None)`: it is not mapped.
pub(super) fn register_memory(
    uffd: BorrowedFd<'_>,
    memory: &dyn GuestMemorySource,
    mode: u64,
) -> io::Result<Option<Vec<ServedRange>>> {
    let Some(ranges) = ServedRange::of(memory) else {
        return Ok(None);
    };
    for range in &ranges {
        // SAFETY: memory that a source hands out runs of may be written by a guest or a device at
        // any time, so that nobody relies on what is in it.
        unsafe { register(uffd, &range.addresses, mode) }?;
    }
    Ok(Some(ranges))
}

/// Registers `range` for write protection, which changes how faults are handled and never what
/// memory holds.
pub(super) fn register_writes(uffd: BorrowedFd<'_>, range: &Range<u64>) -> io::Result<()> {
    // SAFETY: no content changes by this mode.
    unsafe { register(uffd, range, abi::REGISTER_MODE_WP) }
}

/// Ends the registration of `range`; every protection of it is lifted.
pub(super) fn unregister(uffd: BorrowedFd<'_>, range: &Range<u64>) -> io::Result<()> {
    let mut argument = uffdio_range(range);
    // SAFETY: `argument` is the structure that UFFDIO_UNREGISTER reads, alive during the call.
    unsafe { uffdio_unregister(uffd.as_raw_fd(), &raw mut argument) }?;
    Ok(())
}

/// Protects all of `range` against writing; the first write to a page lifts it for that page.
pub(super) fn write_protect(uffd: BorrowedFd<'_>, range: &Range<u64>) -> io::Result<()> {
    let mode = abi::WRITEPROTECT_MODE_WP;
    loop {
        let mut argument = UffdioWriteprotect {
            range: uffdio_range(range),
            mode,
        };
        // SAFETY:
        // - `argument` is the structure that UFFDIO_WRITEPROTECT reads, alive during the call;
        // - the registration is asynchronous, so that no writer is ever left waiting.
        match unsafe { uffdio_writeprotect(uffd.as_raw_fd(), &raw mut argument) } {
            Ok(_) => return Ok(()),
            // The address space is changing under the call; the manual says: again.
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// What a scan for written pages does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct WrittenScan {
    /// Whether pages that are found are protected again, in the same step.
    pub(super) protects: bool,
    /// Whether the memory is served: pages that are not there yet are then neither named nor
    /// protected, though nothing protects them.
    pub(super) is_served: bool,
}

/// Finds the written pages of `range`, and puts them as runs of addresses into `found`.
///
/// Gives the number of runs and the address where the next call goes on.
pub(super) fn find_written(
    pagemap: &File,
    range: &Range<u64>,
    scan_for: WrittenScan,
    found: &mut [PageRegion],
) -> io::Result<(usize, u64)> {
    let protect = if scan_for.protects {
        abi::SCAN_WP_MATCHING
    } else {
        0
    };
    let there = if scan_for.is_served {
        abi::PAGE_IS_PRESENT | abi::PAGE_IS_SWAPPED
    } else {
        0
    };
    let written = PmScanArg {
        flags: protect | abi::SCAN_CHECK_WPASYNC,
        category_mask: abi::PAGE_IS_WRITTEN,
        category_anyof_mask: there,
        return_mask: abi::PAGE_IS_WRITTEN,
        ..PmScanArg::default()
    };
    scan(pagemap, range, &written, found)
}

/// Puts the pages of `range` that are present into `found`, as runs of addresses of which all or
/// none are on huge pages. Gives the number of runs and the address where the next call goes on.
pub(super) fn find_present(
    pagemap: &File,
    range: &Range<u64>,
    found: &mut [PageRegion],
) -> io::Result<(usize, u64)> {
    let present = PmScanArg {
        category_mask: abi::PAGE_IS_PRESENT,
        return_mask: abi::PAGE_IS_PRESENT | abi::PAGE_IS_HUGE,
        ..PmScanArg::default()
    };
    scan(pagemap, range, &present, found)
}

/// Scans `range` for what `wanted` says, into `found`.
fn scan(
    pagemap: &File,
    range: &Range<u64>,
    wanted: &PmScanArg,
    found: &mut [PageRegion],
) -> io::Result<(usize, u64)> {
    let mut argument = PmScanArg {
        size: size_of::<PmScanArg>() as u64,
        start: range.start,
        end: range.end,
        vec: found.as_mut_ptr().addr() as u64,
        vec_len: found.len() as u64,
        flags: wanted.flags,
        category_mask: wanted.category_mask,
        category_anyof_mask: wanted.category_anyof_mask,
        return_mask: wanted.return_mask,
        ..PmScanArg::default()
    };
    found.as_mut_ptr().expose_provenance();
    // SAFETY:
    // - `argument` is the structure that PAGEMAP_SCAN reads and writes, alive during the call;
    // - `vec` and `vec_len` name `found`, which we hold exclusively, and any bytes are a valid
    //   `PageRegion`;
    // - what the scan may do to `range` is to protect pages that this crate protects already.
    let count = unsafe { pagemap_scan(pagemap.as_raw_fd(), &raw mut argument) }?;
    let count = usize::try_from(count).map_err(|_| Errno::EOVERFLOW)?;
    Ok((count.min(found.len()), argument.walk_end))
}

pub(super) fn uffdio_range(range: &Range<u64>) -> UffdioRange {
    UffdioRange {
        start: range.start,
        len: range.end.saturating_sub(range.start),
    }
}
