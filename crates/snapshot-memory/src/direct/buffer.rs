//! Memory that the device reads while this process fills the next piece of it.

use std::fmt;
use std::io;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use memmap2::{Advice, MmapMut};

use crate::guest_io::HostRun;

/// A buffer of 2 MiB, on a huge page where the kernel gives one.
///
/// One segment instead of 512 is what makes a direct write from it cheap; see the measurements in
/// `benches/README.md`.
pub struct DirectBuffer(MmapMut);

impl DirectBuffer {
    /// The length of every buffer in bytes.
    pub const LEN_BYTES: usize = 2 << 20;

    /// A zeroed buffer.
    pub fn new() -> io::Result<Self> {
        // The kernel aligns an anonymous mapping of a huge page's length to it since Linux 6.7.
        let map = MmapMut::map_anon(Self::LEN_BYTES)?;
        // Advice: without huge pages the buffer is slower and no less right.
        if let Err(error) = map.advise(Advice::HugePage) {
            tracing::debug!(%error, "no huge pages for buffers");
        }
        Ok(Self(map))
    }
}

impl Deref for DirectBuffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl DerefMut for DirectBuffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.0
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
