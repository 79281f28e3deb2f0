//! The ioctls by which a userfaultfd puts pages into memory, each behind a safe function.

// UNSAFETY: ioctls of userfaultfd that read memory of this process and fill registered memory.
#![expect(unsafe_code, reason = "raw ioctls that move pages")]

use std::ops::Range;
use std::os::fd::{AsRawFd, BorrowedFd};

use nix::errno::Errno;

use super::abi::{self, UffdioCopy, UffdioFill, UffdioRange};
use super::ioctl::uffdio_range;

nix::ioctl_read!(uffdio_wake, 0xAA, 0x02, UffdioRange);
nix::ioctl_readwrite!(uffdio_copy, 0xAA, 0x03, UffdioCopy);
nix::ioctl_readwrite!(uffdio_zeropage, 0xAA, 0x04, UffdioFill);
nix::ioctl_readwrite!(uffdio_move, 0xAA, 0x05, UffdioCopy);
nix::ioctl_readwrite!(uffdio_continue, 0xAA, 0x07, UffdioFill);

/// What one call put in place: a prefix of what was asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Filled {
    /// Bytes that are there now.
    pub(crate) len_bytes: u64,
    /// Why no more are; `None`: all of them are.
    pub(crate) stopped: Option<Errno>,
}

/// How a page is put in place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct FillMode {
    /// Whether threads that wait for a page of the range go on.
    pub(crate) wake: bool,
    /// Whether the page is protected against writing from its first moment on, so that it does not
    /// count as written.
    pub(crate) protect: bool,
}

impl FillMode {
    fn bits(self) -> u64 {
        let wake = if self.wake { 0 } else { abi::MODE_DONTWAKE };
        let protect = if self.protect { abi::MODE_WP } else { 0 };
        wake | protect
    }
}

/// `UFFDIO_COPY`: pages at `to`, none of which is there, become `bytes`.
///
/// What is there already is never written: the call stops before it with `EEXIST`. `EAGAIN` without
/// a byte: the address space is changing, and a message about that waits to be read.
pub(super) fn copy(uffd: BorrowedFd<'_>, to: u64, bytes: &[u8], mode: FillMode) -> Filled {
    let len = bytes.len() as u64;
    let mut argument = UffdioCopy {
        dst: to,
        src: bytes.as_ptr().expose_provenance() as u64,
        len,
        mode: mode.bits(),
        done: 0,
    };
    // SAFETY:
    // - `argument` is the structure that UFFDIO_COPY reads and writes, alive during the call, and
    //   `src` and `len` in it name `bytes`, which the kernel reads;
    // - the kernel fills missing pages of registered memory only, for which whoever registered it
    //   vouched.
    let result = unsafe { uffdio_copy(uffd.as_raw_fd(), &raw mut argument) };
    filled(result, argument.done, len)
}

/// `UFFDIO_ZEROPAGE`: the missing pages of `range` become zero without memory of their own.
///
/// `EEXIST` also for a page that is missing and has a mark of write protection: tracked memory takes
/// [`copy`].
pub(super) fn zero(uffd: BorrowedFd<'_>, range: &Range<u64>, wake: bool) -> Filled {
    let mode = FillMode {
        wake,
        protect: false,
    };
    let mut argument = fill_argument(range, mode);
    // SAFETY: as for `copy`; the kernel reads no memory of ours.
    let result = unsafe { uffdio_zeropage(uffd.as_raw_fd(), &raw mut argument) };
    filled(result, argument.done, argument.range.len)
}

/// `UFFDIO_CONTINUE`: the pages of `range` are mapped as the memfd has them.
pub(super) fn map_cached(uffd: BorrowedFd<'_>, range: &Range<u64>, mode: FillMode) -> Filled {
    let mut argument = fill_argument(range, mode);
    // SAFETY: as for `copy`; the kernel reads no memory of ours.
    let result = unsafe { uffdio_continue(uffd.as_raw_fd(), &raw mut argument) };
    filled(result, argument.done, argument.range.len)
}

/// `UFFDIO_MOVE`: the pages of `from` go to `to`, huge ones whole, and are missing in `from` then.
///
/// Both are of this process; `from` reads as zero afterwards.
pub(super) fn move_pages(uffd: BorrowedFd<'_>, to: u64, from: &mut [u8], wake: bool) -> Filled {
    let len = from.len() as u64;
    let mode = FillMode {
        wake,
        protect: false,
    };
    let mut argument = UffdioCopy {
        dst: to,
        src: from.as_mut_ptr().expose_provenance() as u64,
        len,
        mode: mode.bits(),
        done: 0,
    };
    // SAFETY:
    // - `argument` is the structure that UFFDIO_MOVE reads and writes, alive during the call;
    // - `from` is borrowed exclusively; its pages become zero pages, which are bytes as any;
    // - what they become part of is registered memory, for which whoever registered it vouched.
    let result = unsafe { uffdio_move(uffd.as_raw_fd(), &raw mut argument) };
    filled(result, argument.done, len)
}

/// `UFFDIO_WAKE`: threads that wait for a page of `range` look again.
pub(super) fn wake(uffd: BorrowedFd<'_>, range: &Range<u64>) -> Result<(), Errno> {
    let mut argument = uffdio_range(range);
    // SAFETY: `argument` is the structure that UFFDIO_WAKE reads, alive during the call.
    unsafe { uffdio_wake(uffd.as_raw_fd(), &raw mut argument) }.map(drop)
}

fn fill_argument(range: &Range<u64>, mode: FillMode) -> UffdioFill {
    UffdioFill {
        range: uffdio_range(range),
        mode: mode.bits(),
        done: 0,
    }
}

/// The kernel's answer: a part of the work is told as `EAGAIN` with the bytes done, and none of it
/// by the error number.
fn filled(result: Result<i32, Errno>, done: i64, len: u64) -> Filled {
    match result {
        Ok(_) => Filled {
            len_bytes: len,
            stopped: None,
        },
        Err(errno) => Filled {
            len_bytes: u64::try_from(done).unwrap_or(0).min(len),
            stopped: Some(errno),
        },
    }
}
