//! Memory that the device reads while this process fills the next piece of it.

use std::fmt;
use std::io;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use memmap2::{Advice, MmapMut};

use crate::guest_io::HostRun;

/// A buffer of 2 MiB, on a huge page where the kernel gives one.
///
/// One segment instead of 512 is what makes a direct write from it cheap; see the measurements in
/// `benches/README.md`.
///
/// Up to 16 MiB of them stay with the process when they are dropped, and serve again: to get and
/// zero a huge page takes a host that is busy up to milliseconds, and a small capture is not
/// longer. They hold what was written last, guest memory for one; [`release_buffers`] unmaps them.
pub struct DirectBuffer(Option<MmapMut>);

/// Buffers that nobody uses.
static IDLE: Mutex<Vec<MmapMut>> = Mutex::new(Vec::new());

/// Buffers that are kept at most: what two threads use.
const MAX_IDLE: usize = 8;

/// Gives back the memory of buffers that captures have left for later ones.
pub fn release_buffers() {
    drop(std::mem::take(&mut *idle()));
}

fn idle() -> MutexGuard<'static, Vec<MmapMut>> {
    IDLE.lock().unwrap_or_else(PoisonError::into_inner)
}

impl DirectBuffer {
    /// The length of every buffer in bytes.
    pub const LEN_BYTES: usize = 2 << 20;

    /// A buffer: what it holds is not told.
    pub fn new() -> io::Result<Self> {
        if let Some(map) = idle().pop() {
            return Ok(Self(Some(map)));
        }
        // The kernel aligns an anonymous mapping of a huge page's length to it since Linux 6.7.
        let map = MmapMut::map_anon(Self::LEN_BYTES)?;
        // Advice: without huge pages the buffer is slower and no less right.
        if let Err(error) = map.advise(Advice::HugePage) {
            tracing::debug!(%error, "no huge pages for buffers");
        }
        Ok(Self(Some(map)))
    }
}

impl Drop for DirectBuffer {
    fn drop(&mut self) {
        let mut idle = idle();
        if idle.len() < MAX_IDLE {
            idle.extend(self.0.take());
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

/// A buffer that is being written. Nobody can change it until all who lent it gave it back.
#[derive(Clone, Debug)]
pub(crate) struct LentBuffer(Arc<DirectBuffer>);

impl LentBuffer {
    pub(super) fn new(buffer: DirectBuffer) -> Self {
        Self(Arc::new(buffer))
    }

    /// The bytes, for the kernel or a copy.
    pub(super) fn run(&self) -> HostRun<'_> {
        HostRun::of_bytes(&self.0)
    }

    /// The buffer, once this is the last one who holds it.
    pub(super) fn give_back(self) -> Option<DirectBuffer> {
        Arc::into_inner(self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_buffers_stay_than_two_threads_use() {
        let many: Vec<DirectBuffer> = (0..MAX_IDLE + 4)
            .map(|_| DirectBuffer::new().unwrap())
            .collect();
        assert!(
            many.iter()
                .all(|buffer| buffer.len() == DirectBuffer::LEN_BYTES)
        );
        drop(many);
        // Other tests take and leave buffers meanwhile.
        assert!(idle().len() <= MAX_IDLE);
        release_buffers();
        assert_eq!(DirectBuffer::new().unwrap().len(), DirectBuffer::LEN_BYTES);
    }
}
