//! Memory that the device reads while this process fills the next piece of it.

use std::fmt;
use std::io;
use std::ops::{Deref, DerefMut};
use std::sync::{Mutex, MutexGuard, PoisonError};

use memmap2::MmapMut;

/// A buffer of 2 MiB, on a huge page where the kernel gives one.
///
/// One segment instead of 512 is what makes a direct write from it cheap; see the measurements in
/// `benches/README.md`.
///
/// Up to 16 MiB of them stay with the process when they are dropped, and serve again: to get and
/// zero a huge page takes a host that is busy up to milliseconds, and a small capture is not
/// longer. They hold what was written last, guest memory for one; [`release_buffers`] unmaps them.
pub struct DirectBuffer(Option<MmapMut>);

/// Buffers that are kept at most: what two threads use.
const MAX_IDLE: usize = 8;

/// Those of this process.
static IDLE: IdleBuffers = IdleBuffers::new();

/// Buffers that nobody uses.
struct IdleBuffers(Mutex<Vec<MmapMut>>);

impl IdleBuffers {
    const fn new() -> Self {
        Self(Mutex::new(Vec::new()))
    }

    /// One of them, if there is one.
    fn take(&self) -> Option<MmapMut> {
        self.lock().pop()
    }

    /// Keeps a buffer, or unmaps it where there are enough.
    fn leave(&self, buffer: MmapMut) {
        let mut kept = self.lock();
        if kept.len() < MAX_IDLE {
            kept.push(buffer);
        }
    }

    fn release(&self) {
        drop(std::mem::take(&mut *self.lock()));
    }

    fn lock(&self) -> MutexGuard<'_, Vec<MmapMut>> {
        // A list of mappings is whole after any panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Gives back the memory of buffers that captures have left for later ones.
pub fn release_buffers() {
    IDLE.release();
}

impl DirectBuffer {
    /// The length of every buffer in bytes.
    pub const LEN_BYTES: usize = 2 << 20;

    /// A buffer: what it holds is not told.
    pub fn new() -> io::Result<Self> {
        if let Some(map) = IDLE.take() {
            return Ok(Self(Some(map)));
        }
        // The kernel aligns an anonymous mapping of a huge page's length to it since Linux 6.7.
        let map = MmapMut::map_anon(Self::LEN_BYTES)?;
        // Advice: without huge pages the buffer is slower and no less right.
        #[cfg(target_os = "linux")]
        if let Err(error) = map.advise(memmap2::Advice::HugePage) {
            tracing::debug!(%error, "no huge pages for buffers");
        }
        Ok(Self(Some(map)))
    }
}

impl Drop for DirectBuffer {
    fn drop(&mut self) {
        if let Some(map) = self.0.take() {
            IDLE.leave(map);
        }
    }
}

impl Deref for DirectBuffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.0.as_deref().unwrap_or_default()
    }
}

impl DerefMut for DirectBuffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        self.0.as_deref_mut().unwrap_or_default()
    }
}

impl fmt::Debug for DirectBuffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DirectBuffer").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page() -> MmapMut {
        MmapMut::map_anon(4096).unwrap()
    }

    #[test]
    fn a_buffer_that_was_left_is_given_out_again() {
        let idle = IdleBuffers::new();
        assert!(idle.take().is_none());
        let mut left = page();
        left[0] = 7;
        idle.leave(left);
        assert_eq!(idle.take().unwrap()[0], 7);
        assert!(idle.take().is_none());
    }

    #[test]
    fn no_more_buffers_stay_than_two_threads_use_and_none_after_a_release() {
        let idle = IdleBuffers::new();
        for _ in 0..MAX_IDLE + 4 {
            idle.leave(page());
        }
        assert_eq!(idle.lock().len(), MAX_IDLE);
        idle.release();
        assert!(idle.take().is_none());
    }

    #[test]
    fn every_buffer_has_the_one_length() {
        for _ in 0..2 {
            assert_eq!(DirectBuffer::new().unwrap().len(), DirectBuffer::LEN_BYTES);
            release_buffers();
        }
    }
}
