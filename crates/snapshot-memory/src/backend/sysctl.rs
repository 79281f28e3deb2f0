//! Texts that the kernel of macOS tells by name.

// UNSAFETY: sysctlbyname, which the nix crate does not have.
#![expect(unsafe_code, reason = "calls sysctlbyname")]

use std::ffi::CStr;
use std::io;
use std::ptr;

use nix::errno::Errno;

/// Bytes that a text may have, its NUL included.
const ROOM: usize = 1024;

/// The text that `name` stands for.
pub(super) fn text(name: &CStr) -> io::Result<String> {
    let mut room = [0_u8; ROOM];
    let mut len = room.len();
    // SAFETY:
    // - the name ends with a NUL; nothing is set, so that no new value is read;
    // - the kernel writes at most `len` bytes to `room`, both alive during the call.
    let asked = unsafe {
        libc::sysctlbyname(
            name.as_ptr(),
            room.as_mut_ptr().cast(),
            &raw mut len,
            ptr::null_mut(),
            0,
        )
    };
    Errno::result(asked)?;
    let told = room.get(..len).unwrap_or(&room);
    let text = CStr::from_bytes_until_nul(told).map_err(io::Error::other)?;
    text.to_str().map(str::to_owned).map_err(io::Error::other)
}
