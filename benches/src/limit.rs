//! What the machine can do at best: the same bytes by `O_DIRECT` from huge pages, and one sync.

use std::fs::OpenOptions;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

use memmap2::{Advice, MmapMut};
use nix::fcntl::{FallocateFlags, fallocate};

use crate::error::BenchError;
use crate::peer::Sync;

/// Bytes of a huge page.
const HUGE_BYTES: usize = 2 << 20;

/// Bytes that one call writes. Larger calls, several threads, or both, gain nothing more on the
/// machines this was tried on.
const WRITE_BYTES: usize = 16 << 20;

/// Bytes in huge pages, filled with noise.
#[derive(Debug)]
pub(crate) struct HugeBuffer {
    map: MmapMut,
    start: usize,
    len_bytes: usize,
}

impl HugeBuffer {
    /// A buffer of `len_bytes` bytes that no compressing layer below can make less of.
    pub(crate) fn noise(len_bytes: usize, seed: u64) -> Result<Self, BenchError> {
        let failed = |source| BenchError::Map { len_bytes, source };
        let mut map = MmapMut::map_anon(len_bytes + HUGE_BYTES).map_err(failed)?;
        map.advise(Advice::HugePage).map_err(failed)?;
        let start = map.as_ptr().align_offset(HUGE_BYTES);
        fastrand::Rng::with_seed(seed).fill(&mut map[start..start + len_bytes]);
        Ok(Self {
            map,
            start,
            len_bytes,
        })
    }

    /// The bytes.
    pub(crate) fn bytes(&mut self) -> &mut [u8] {
        &mut self.map[self.start..self.start + self.len_bytes]
    }

    /// Writes `len_bytes` bytes, from its start and over again, to the new file `path`, preallocated, and makes it
    /// as durable as `sync` says; how long that took. `len_bytes` is a multiple of 4096.
    pub(crate) fn write_direct(
        &self,
        path: &Path,
        len_bytes: u64,
        sync: Sync,
    ) -> Result<Duration, BenchError> {
        let start = Instant::now();
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .custom_flags(libc::O_DIRECT)
            .open(path)
            .map_err(BenchError::at("create", path))?;
        let len = i64::try_from(len_bytes).unwrap_or(i64::MAX);
        fallocate(&file, FallocateFlags::empty(), 0, len)
            .map_err(|errno| BenchError::at("allocate", path)(errno.into()))?;
        let bytes = &self.map[self.start..self.start + self.len_bytes];
        let mut offset = 0;
        for chunk in bytes.chunks(WRITE_BYTES).cycle() {
            let left = usize::try_from(len_bytes - offset).unwrap_or(usize::MAX);
            let chunk = &chunk[..chunk.len().min(left)];
            if chunk.is_empty() {
                break;
            }
            file.write_all_at(chunk, offset)
                .map_err(BenchError::at("write", path))?;
            offset += chunk.len() as u64;
        }
        sync.apply(&file, path)?;
        Ok(start.elapsed())
    }
}
