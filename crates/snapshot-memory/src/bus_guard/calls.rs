//! The system calls of a guard that its signal handler may make, and those that look for loss.

// UNSAFETY: futex, mmap of a zero page in the place of a lost one, madvise that only reads.
#![expect(unsafe_code, reason = "calls the kernel with addresses")]

use std::io;
use std::num::NonZeroUsize;
use std::ops::Range;
use std::sync::atomic::AtomicU32;

use nix::errno::Errno;
use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous};

/// Bytes of a page of the host.
pub(super) fn host_page_bytes() -> io::Result<u64> {
    // SAFETY: takes a number and touches no memory of ours.
    let bytes = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    u64::try_from(bytes).map_err(|_| io::Error::last_os_error())
}

/// Waits while `word` holds `value`, or for less.
pub(super) fn futex_wait(word: &AtomicU32, value: u32) {
    let forever: *const libc::timespec = std::ptr::null();
    let operation = libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG;
    // SAFETY: `word` is aligned and lives as long as the call; the kernel only reads it. Every
    // outcome, an interruption too, has the caller look at the word again.
    unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), operation, value, forever) };
}

/// Wakes everybody who waits for `word`.
pub(super) fn futex_wake_all(word: &AtomicU32) {
    let operation = libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG;
    // SAFETY: `word` is aligned and lives as long as the call; the kernel reads nothing of it.
    unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), operation, i32::MAX) };
}

/// Puts a zero page in the place of the page at `address`, which has no bytes. Whether it did.
///
/// Called for addresses of a [`MappedRun`](super::MappedRun) alone, of which whoever watches it
/// has promised that they are a mapping that is reached by raw pointers.
pub(super) fn zero_page(address: u64, host_page_bytes: u64) -> bool {
    let fixed = MapFlags::MAP_PRIVATE | MapFlags::MAP_NORESERVE | MapFlags::MAP_FIXED;
    let access = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
    let place = usize::try_from(address).ok().and_then(NonZeroUsize::new);
    let len = usize::try_from(host_page_bytes)
        .ok()
        .and_then(NonZeroUsize::new);
    let Some((at, len)) = place.zip(len) else {
        return false;
    };
    // SAFETY: the page is part of a mapping that the promise above covers, and no access to it
    // could succeed, so that no bytes that anybody relies on are replaced.
    unsafe { mmap_anonymous(Some(at), len, access, fixed) }.is_ok()
}

/// Whether every page at `addresses`, which are mapped, has bytes: reads them in, where it must.
pub(super) fn has_bytes(addresses: &Range<u64>) -> io::Result<bool> {
    let start = usize::try_from(addresses.start).map_err(|_| Errno::EINVAL)?;
    let len = usize::try_from(addresses.end.saturating_sub(addresses.start))
        .map_err(|_| Errno::EINVAL)?;
    let place = std::ptr::without_provenance_mut(start);
    loop {
        // SAFETY: the advice reads pages in, as a read of them would; no content changes.
        let outcome = unsafe { libc::madvise(place, len, libc::MADV_POPULATE_READ) };
        match Errno::result(outcome) {
            Ok(_) => return Ok(true),
            // Where a read would raise SIGBUS, or finds a poisoned page.
            Err(Errno::EFAULT | Errno::EHWPOISON) => return Ok(false),
            Err(Errno::EINTR | Errno::EAGAIN) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}
