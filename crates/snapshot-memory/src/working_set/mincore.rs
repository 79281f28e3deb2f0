//! Which pages of mapped files the page cache has.

// UNSAFETY: mincore, which the nix crate does not have.
#![expect(unsafe_code, reason = "calls mincore")]

use std::io;

use nix::errno::Errno;

use crate::guest_io::HostRun;

/// Whether each page of `run` is in memory; `into` gets a byte for each, of which bit 0 says so.
pub(super) fn residency(run: &HostRun<'_>, into: &mut Vec<u8>) -> io::Result<()> {
    into.clear();
    into.resize(run.len_bytes() / 4096, 0);
    // SAFETY:
    // - the kernel only looks at the addresses, which may be any;
    // - it writes a byte for each page of 4096 bytes of the run, or of a larger host page fewer:
    //   `into` has as many.
    let result = unsafe {
        libc::mincore(
            run.address().cast_mut().cast(),
            into.len() * 4096,
            into.as_mut_ptr(),
        )
    };
    Errno::result(result)?;
    Ok(())
}
