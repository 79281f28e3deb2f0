//! Whether the kernel checks the bytes of a file when it reads them.

// UNSAFETY: statx, which nix does not have.
#![expect(unsafe_code, reason = "one system call")]

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd};

use nix::errno::Errno;

use crate::image::{ImageError, MemoryImage};

/// Whether a file is under fs-verity: its bytes can no longer be changed, and each page is checked
/// against a tree of digests when it is read.
///
/// That the file is the right one is for digests of the snapshot to say, before verity is enabled.
pub fn has_verity(file: BorrowedFd<'_>) -> io::Result<bool> {
    let mut found = MaybeUninit::<libc::statx>::zeroed();
    // SAFETY:
    // - the path is an empty string with its terminator, alive during the call;
    // - `found` is the structure that statx fills, alive during the call.
    let result = unsafe {
        libc::statx(
            file.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            libc::STATX_TYPE,
            found.as_mut_ptr(),
        )
    };
    Errno::result(result)?;
    // SAFETY: all zero is a valid `statx`, and the kernel has filled it.
    let found = unsafe { found.assume_init() };
    let verity = u64::try_from(libc::STATX_ATTR_VERITY).unwrap_or_default();
    Ok(found.stx_attributes & found.stx_attributes_mask & verity != 0)
}

/// Whether every data file of `image` is under fs-verity; the newest is asked first.
pub(super) fn has_all(image: &MemoryImage) -> Result<bool, ImageError> {
    for file in image.files().rev() {
        let file = file?;
        let failed = ImageError::file_at("look at", &file.names().data);
        let has = file.descriptor().map_or(Ok(false), has_verity);
        if !has.map_err(failed)? {
            return Ok(false);
        }
    }
    Ok(!image.references().is_empty())
}
