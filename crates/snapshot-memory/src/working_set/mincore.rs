//! Which pages of mapped files the page cache has.

// UNSAFETY: mincore, which the nix crate does not have, and mappings to ask about.
#![expect(unsafe_code, reason = "calls mincore, and maps files to ask about")]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use memmap2::MmapOptions;
use nix::errno::Errno;

use crate::guest_io::HostRun;

/// Whether each page of `run` is in memory; `into` gets a byte for each, of which bit 0 says so.
pub(super) fn residency(run: &HostRun<'_>, into: &mut Vec<u8>) -> io::Result<()> {
    ask(run.address(), run.len_bytes(), into)
}

/// Gives `each` the offset of parts of the first `len_bytes` bytes of `file`, and a byte for each of
/// their pages, of which bit 0 says whether the page cache has it.
pub(super) fn residency_of_file(
    file: BorrowedFd<'_>,
    len_bytes: usize,
    each: &mut dyn FnMut(usize, &[u8]),
) -> io::Result<()> {
    // SAFETY: the mapping is only asked about, and no byte of it is ever read: what others do to
    // the file meanwhile is of no account.
    let map = unsafe {
        MmapOptions::new()
            .len(len_bytes)
            .map_copy_read_only(file.as_raw_fd())
    }?;
    let mut pages = Vec::new();
    for start in (0..len_bytes).step_by(PART_BYTES) {
        let part = PART_BYTES.min(len_bytes - start);
        ask(map.as_ptr().wrapping_add(start), part, &mut pages)?;
        each(start, &pages);
    }
    Ok(())
}

/// Bytes of memory that one call looks at: it gives a byte for each page.
pub(super) const PART_BYTES: usize = 1 << 30;

fn ask(address: *const u8, len_bytes: usize, into: &mut Vec<u8>) -> io::Result<()> {
    into.clear();
    into.resize(len_bytes / 4096, 0);
    // SAFETY:
    // - the kernel only looks at the addresses, which may be any;
    // - it writes a byte for each page of 4096 bytes of them, or of a larger host page fewer:
    //   `into` has as many.
    let result = unsafe {
        libc::mincore(
            address.cast_mut().cast(),
            into.len() * 4096,
            into.as_mut_ptr(),
        )
    };
    Errno::result(result)?;
    Ok(())
}
