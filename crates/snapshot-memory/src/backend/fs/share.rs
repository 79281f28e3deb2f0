//! Files that share blocks.

// UNSAFETY: the ioctl that makes a file share blocks of another.
#![expect(unsafe_code, reason = "a raw ioctl on two descriptors")]

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use nix::errno::Errno;

/// `struct file_clone_range` of `linux/fs.h`.
#[repr(C)]
struct FileCloneRange {
    src_fd: i64,
    src_offset: u64,
    src_length: u64,
    dest_offset: u64,
}

nix::ioctl_write_ptr!(ficlonerange, 0x94, 13, FileCloneRange);

/// Makes `len_bytes` bytes at `offset` of `target` share the blocks of `source` at `from`; whether
/// these two files can.
pub(super) fn share(
    target: &File,
    offset: u64,
    source: BorrowedFd<'_>,
    from: u64,
    len_bytes: u64,
) -> io::Result<bool> {
    if len_bytes == 0 {
        // The system takes it for all that follows.
        return Ok(true);
    }
    let range = FileCloneRange {
        src_fd: source.as_raw_fd().into(),
        src_offset: from,
        src_length: len_bytes,
        dest_offset: offset,
    };
    loop {
        // SAFETY: both descriptors are borrowed for the call, and the kernel reads one structure,
        // which lives longer.
        match unsafe { ficlonerange(target.as_raw_fd(), &raw const range) } {
            Ok(_) => return Ok(true),
            Err(Errno::EINTR) => {}
            Err(errno) if is_refusal(errno) => return Ok(false),
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// Whether it will never work for these files: the file system shares nothing, has larger blocks
/// or is another one, or a filter refuses the call.
fn is_refusal(errno: Errno) -> bool {
    matches!(
        errno,
        Errno::EOPNOTSUPP
            | Errno::ENOTTY
            | Errno::ENOSYS
            | Errno::EXDEV
            | Errno::EINVAL
            | Errno::EPERM
            | Errno::EACCES
            | Errno::ETXTBSY
    )
}
