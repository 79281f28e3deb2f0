//! The system calls behind asynchronous write protection, each behind a safe function.

// UNSAFETY: the ioctls of userfaultfd and of /proc/self/pagemap, and the call that opens the former.
#![expect(unsafe_code, reason = "raw ioctls on two descriptors")]

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::errno::Errno;

use super::abi::{
    self, PageRegion, PmScanArg, UffdioApi, UffdioRange, UffdioRegister, UffdioWriteprotect,
};

nix::ioctl_readwrite!(uffdio_api, 0xAA, 0x3F, UffdioApi);
nix::ioctl_readwrite!(uffdio_register, 0xAA, 0x00, UffdioRegister);
nix::ioctl_read!(uffdio_unregister, 0xAA, 0x01, UffdioRange);
nix::ioctl_readwrite!(uffdio_writeprotect, 0xAA, 0x06, UffdioWriteprotect);
nix::ioctl_readwrite!(pagemap_scan, b'f', 16, PmScanArg);

/// Opens a userfaultfd, closed on exec, and agrees on `features` with the kernel.
///
/// `Ok(None)`: the kernel lacks one of the features.
pub(super) fn open(features: u64) -> io::Result<Option<OwnedFd>> {
    let flags = libc::O_CLOEXEC | libc::O_NONBLOCK | abi::USER_MODE_ONLY;
    // SAFETY: the call takes one integer and touches no memory of ours.
    let fd = unsafe { libc::syscall(libc::SYS_userfaultfd, flags) };
    let fd = Errno::result(fd)?;
    let fd = i32::try_from(fd).map_err(|_| Errno::EBADF)?;
    // SAFETY: the kernel has just given us this descriptor; nobody else owns it.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    let mut api = UffdioApi {
        api: abi::API,
        features,
        ioctls: 0,
    };
    // SAFETY: `api` is the structure that UFFDIO_API reads and writes, alive during the call.
    match unsafe { uffdio_api(fd.as_raw_fd(), &raw mut api) } {
        Ok(_) if api.features & features == features => Ok(Some(fd)),
        Ok(_) | Err(Errno::EINVAL) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

/// Registers `range`, page aligned addresses of mapped memory, for write protection.
pub(super) fn register(uffd: BorrowedFd<'_>, range: &Range<u64>) -> io::Result<()> {
    let mode = abi::REGISTER_MODE_WP;
    let mut argument = UffdioRegister {
        range: uffdio_range(range),
        mode,
        ioctls: 0,
    };
    // SAFETY:
    // - `argument` is the structure that UFFDIO_REGISTER reads and writes, alive during the call;
    // - registering changes how faults are handled, never what memory holds.
    unsafe { uffdio_register(uffd.as_raw_fd(), &raw mut argument) }?;
    Ok(())
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

/// Finds the written pages of `range`, protects them again in the same step, and puts them as
/// runs of addresses into `found`.
///
/// Gives the number of runs and the address where the next call goes on.
pub(super) fn take_written(
    pagemap: &File,
    range: &Range<u64>,
    found: &mut [PageRegion],
) -> io::Result<(usize, u64)> {
    let written = PmScanArg {
        flags: abi::SCAN_WP_MATCHING | abi::SCAN_CHECK_WPASYNC,
        category_mask: abi::PAGE_IS_WRITTEN,
        return_mask: abi::PAGE_IS_WRITTEN,
        ..PmScanArg::default()
    };
    scan(pagemap, range, &written, found)
}

/// Puts the pages of `range` that are present into `found`, as runs of addresses of which all or
/// none are on huge pages. Gives the number of runs.
pub(super) fn find_present(
    pagemap: &File,
    range: &Range<u64>,
    found: &mut [PageRegion],
) -> io::Result<usize> {
    let present = PmScanArg {
        category_mask: abi::PAGE_IS_PRESENT,
        return_mask: abi::PAGE_IS_PRESENT | abi::PAGE_IS_HUGE,
        ..PmScanArg::default()
    };
    scan(pagemap, range, &present, found).map(|(count, _)| count)
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

fn uffdio_range(range: &Range<u64>) -> UffdioRange {
    UffdioRange {
        start: range.start,
        len: range.end.saturating_sub(range.start),
    }
}
