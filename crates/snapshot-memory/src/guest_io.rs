//! The accesses to guest memory: word by word, or by the kernel, never through a reference.

// UNSAFETY: raw pointers to memory that guests write; copied by relaxed atomic words and handed to
// the kernel, so that no Rust reference to it ever exists.
#![expect(
    unsafe_code,
    reason = "guest memory is reached through raw pointers only"
)]

use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use nix::errno::Errno;

/// Runs that one `pwritev` takes: `IOV_MAX` of Linux.
const MAX_VECTORS: usize = 1024;

const WORD_BYTES: usize = size_of::<u64>();

/// A run of guest memory in this process's address space, to be handed to the kernel.
///
/// It gives out no reference: vCPUs and devices may write the memory at any time.
#[derive(Clone, Copy, Debug)]
pub struct HostRun<'a> {
    address: *const u8,
    len_bytes: usize,
    mapping: PhantomData<&'a [u8]>,
}

// SAFETY:
// - the run is an address that is only read, word by word or by the kernel;
// - `new` demands that the mapping lives for 'a on every thread.
unsafe impl Send for HostRun<'_> {}

// SAFETY: as for Send; no method writes.
unsafe impl Sync for HostRun<'_> {}

impl<'a> HostRun<'a> {
    /// The run that is `bytes`, which nobody writes while they are borrowed.
    #[cfg(any(target_os = "linux", test, feature = "testing"))]
    pub(crate) fn of_bytes(bytes: &'a [u8]) -> Self {
        Self {
            address: bytes.as_ptr(),
            len_bytes: bytes.len(),
            mapping: PhantomData,
        }
    }

    /// The run of `len_bytes` bytes at `address`.
    ///
    /// # Safety
    ///
    /// - For all of the lifetime, `address..address + len_bytes` is mapped and readable in this
    ///   process, in one mapping or in several.
    /// - `address` is aligned to 8 bytes.
    /// - No Rust reference to those bytes is used meanwhile; threads of this process write them by
    ///   atomic or volatile accesses only.
    #[must_use]
    pub unsafe fn new(address: *const u8, len_bytes: usize) -> Self {
        debug_assert!(address.addr().is_multiple_of(WORD_BYTES));
        Self {
            address,
            len_bytes,
            mapping: PhantomData,
        }
    }

    /// The first byte.
    #[must_use]
    pub fn address(&self) -> *const u8 {
        self.address
    }

    /// The length in bytes; a multiple of the page.
    #[must_use]
    pub fn len_bytes(&self) -> usize {
        self.len_bytes
    }

    /// The first `len_bytes` bytes of the run, or all of it where it is shorter.
    #[must_use]
    pub fn prefix(&self, len_bytes: usize) -> Self {
        Self {
            len_bytes: self.len_bytes.min(len_bytes),
            ..*self
        }
    }

    /// The part of `len_bytes` bytes from `start`, cut to the run.
    #[cfg(any(target_os = "linux", test, feature = "testing"))]
    pub(crate) fn part(&self, start: usize, len_bytes: usize) -> Self {
        let start = start.min(self.len_bytes);
        Self {
            address: self.address.wrapping_add(start),
            len_bytes: len_bytes.min(self.len_bytes - start),
            ..*self
        }
    }

    /// Copies the bytes from `offset_bytes` to `out`, each read exactly once.
    ///
    /// # Panics
    ///
    /// Where `offset_bytes + out.len()` exceeds the run.
    pub fn copy_to(&self, offset_bytes: usize, out: &mut [u8]) {
        let end = offset_bytes.checked_add(out.len());
        assert!(
            end.is_some_and(|end| end <= self.len_bytes),
            "copy beyond the run"
        );
        // SAFETY: `offset_bytes` is within the run, which is mapped as `new` demands.
        let from = unsafe { self.address.add(offset_bytes) };
        // SAFETY: `out.len()` bytes from there are within the run and mapped as `new` demands.
        unsafe { load(from, out) };
    }
}

/// Copies mapped memory to `out`, aligned words by one relaxed load each.
///
/// # Safety
///
/// `from..from + out.len()` is mapped, readable, and not written by non-atomic accesses of Rust.
pub(crate) unsafe fn load(from: *const u8, out: &mut [u8]) {
    let head = from.align_offset(WORD_BYTES).min(out.len());
    let (edge, rest) = out.split_at_mut(head);
    for (i, byte) in edge.iter_mut().enumerate() {
        // SAFETY: `i` is below the length that the caller vouches for.
        *byte = unsafe { load_byte(from.wrapping_add(i)) };
    }
    let mut at = from.wrapping_add(head);
    let (words, tail) = rest.as_chunks_mut::<WORD_BYTES>();
    for word in words {
        // SAFETY: aligned after `head`, and within the length that the caller vouches for.
        let value = unsafe { AtomicU64::from_ptr(at.cast_mut().cast()) };
        // A copy of memory, not a value of a file.
        #[expect(clippy::host_endian_bytes, reason = "a word is moved, not interpreted")]
        let bytes = value.load(Ordering::Relaxed).to_ne_bytes();
        *word = bytes;
        at = at.wrapping_add(WORD_BYTES);
    }
    for (i, byte) in tail.iter_mut().enumerate() {
        // SAFETY: as above.
        *byte = unsafe { load_byte(at.wrapping_add(i)) };
    }
}

/// Copies `bytes` to mapped memory, aligned words by one relaxed store each.
///
/// # Safety
///
/// `to..to + bytes.len()` is mapped, writable, and reached by atomic accesses only.
pub(crate) unsafe fn store(to: *mut u8, bytes: &[u8]) {
    let head = to.align_offset(WORD_BYTES).min(bytes.len());
    let (edge, rest) = bytes.split_at(head);
    for (i, &byte) in edge.iter().enumerate() {
        // SAFETY: `i` is below the length that the caller vouches for.
        unsafe { store_byte(to.wrapping_add(i), byte) };
    }
    let mut at = to.wrapping_add(head);
    let (words, tail) = rest.as_chunks::<WORD_BYTES>();
    for &word in words {
        // SAFETY: aligned after `head`, and within the length that the caller vouches for.
        let target = unsafe { AtomicU64::from_ptr(at.cast()) };
        #[expect(clippy::host_endian_bytes, reason = "a word is moved, not interpreted")]
        target.store(u64::from_ne_bytes(word), Ordering::Relaxed);
        at = at.wrapping_add(WORD_BYTES);
    }
    for (i, &byte) in tail.iter().enumerate() {
        // SAFETY: as above.
        unsafe { store_byte(at.wrapping_add(i), byte) };
    }
}

/// # Safety
///
/// `from` is mapped and readable.
unsafe fn load_byte(from: *const u8) -> u8 {
    // SAFETY: the caller vouches for the address; a byte is always aligned.
    let byte = unsafe { AtomicU8::from_ptr(from.cast_mut()) };
    byte.load(Ordering::Relaxed)
}

/// # Safety
///
/// `to` is mapped and writable.
unsafe fn store_byte(to: *mut u8, value: u8) {
    // SAFETY: the caller vouches for the address; a byte is always aligned.
    let byte = unsafe { AtomicU8::from_ptr(to) };
    byte.store(value, Ordering::Relaxed);
}

/// Writes `runs` back to back at `offset`, as often as it takes.
pub(crate) fn write_runs_at(
    fd: BorrowedFd<'_>,
    mut offset: u64,
    runs: &[HostRun<'_>],
) -> io::Result<()> {
    let mut vectors: Vec<libc::iovec> = runs
        .iter()
        .filter(|run| run.len_bytes > 0)
        .map(|run| libc::iovec {
            iov_base: run.address.cast_mut().cast(),
            iov_len: run.len_bytes,
        })
        .collect();
    let mut next = 0;
    while let Some(rest) = vectors.get(next..).filter(|rest| !rest.is_empty()) {
        let count = rest.len().min(MAX_VECTORS);
        let written = pwritev(fd, rest.get(..count).unwrap_or(rest), offset)?;
        if written == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        offset = offset
            .checked_add(u64::try_from(written).map_err(io::Error::other)?)
            .ok_or(Errno::EFBIG)?;
        next += advance(vectors.get_mut(next..).unwrap_or_default(), written);
    }
    Ok(())
}

/// Takes `written` bytes off the front of `vectors`; how many of them are used up.
fn advance(vectors: &mut [libc::iovec], mut written: usize) -> usize {
    let mut used_up = 0;
    for vector in vectors {
        if written < vector.iov_len {
            vector.iov_base = vector.iov_base.wrapping_byte_add(written);
            vector.iov_len -= written;
            break;
        }
        written -= vector.iov_len;
        used_up += 1;
    }
    used_up
}

fn pwritev(fd: BorrowedFd<'_>, vectors: &[libc::iovec], offset: u64) -> io::Result<usize> {
    let count = libc::c_int::try_from(vectors.len()).map_err(io::Error::other)?;
    let offset = libc::off_t::try_from(offset).map_err(|_| Errno::EFBIG)?;
    loop {
        // SAFETY:
        // - `vectors` holds `count` descriptions of memory that `HostRun::new` vouches for as
        //   mapped and readable; the kernel only reads it;
        // - `fd` is borrowed, so it is open.
        let written = unsafe { libc::pwritev(fd.as_raw_fd(), vectors.as_ptr(), count, offset) };
        match Errno::result(written) {
            Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
            Ok(written) => return usize::try_from(written).map_err(io::Error::other),
        }
    }
}

/// Writes as much of `run` at `offset` as one call does.
#[cfg(target_os = "linux")]
pub(crate) fn write_once_at(
    fd: BorrowedFd<'_>,
    offset: u64,
    run: &HostRun<'_>,
) -> io::Result<usize> {
    let offset = libc::off_t::try_from(offset).map_err(|_| Errno::EFBIG)?;
    // SAFETY:
    // - the run is mapped and readable as `HostRun` vouches for; the kernel only reads it;
    // - `fd` is borrowed, so it is open.
    let written =
        unsafe { libc::pwrite(fd.as_raw_fd(), run.address.cast(), run.len_bytes, offset) };
    usize::try_from(Errno::result(written)?).map_err(io::Error::other)
}

#[cfg(test)]
mod tests;
