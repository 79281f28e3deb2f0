//! What a file demands of direct writes.

// UNSAFETY: statx, which the nix crate does not have.
#![expect(unsafe_code, reason = "calls statx")]

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd};

use nix::errno::Errno;

/// What addresses, and lengths and offsets, of direct writes are multiples of, in bytes. 0: the
/// file takes no direct writes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Alignment {
    pub(super) memory_bytes: u32,
    pub(super) offset_bytes: u32,
}

/// What `file` demands; `None` where the kernel (before 6.1) or the file system does not say.
pub(super) fn of(file: BorrowedFd<'_>) -> io::Result<Option<Alignment>> {
    let mut stat = MaybeUninit::<libc::statx>::zeroed();
    // SAFETY:
    // - the path is a string that ends with a NUL, the descriptor is borrowed and so open;
    // - `stat` is room for the structure that the call fills, alive during it.
    let result = unsafe {
        libc::statx(
            file.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            libc::STATX_DIOALIGN,
            stat.as_mut_ptr(),
        )
    };
    Errno::result(result)?;
    // SAFETY: integers only, zeroed at first and then filled by the kernel.
    let stat = unsafe { stat.assume_init() };
    let is_known = stat.stx_mask & libc::STATX_DIOALIGN != 0;
    Ok(is_known.then_some(Alignment {
        memory_bytes: stat.stx_dio_mem_align,
        offset_bytes: stat.stx_dio_offset_align,
    }))
}
