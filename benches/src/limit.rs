//! What the machine can do at best: the same bytes by `O_DIRECT` from huge pages, and one sync.

use std::fs::OpenOptions;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

use memmap2::{Advice, MmapMut};
use nix::fcntl::{FallocateFlags, fallocate};

use crate::error::BenchError;

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

    /// Writes the first `len_bytes` bytes to the new file `path`, preallocated, and syncs it; how
    /// long that took. `len_bytes` is a multiple of 4096.
    pub(crate) fn write_direct(&self, path: &Path, len_bytes: u64) -> Result<Duration, BenchError> {
        let len = usize::try_from(len_bytes).map_or(self.len_bytes, |len| len.min(self.len_bytes));
        let bytes = &self.map[self.start..self.start + len];
        let start = Instant::now();
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .custom_flags(libc::O_DIRECT)
            .open(path)
            .map_err(BenchError::at("create", path))?;
        fallocate(&file, FallocateFlags::empty(), 0, len.cast_signed() as i64)
            .map_err(|errno| BenchError::at("allocate", path)(errno.into()))?;
        for (offset, chunk) in (0..).step_by(WRITE_BYTES).zip(bytes.chunks(WRITE_BYTES)) {
            file.write_all_at(chunk, offset)
                .map_err(BenchError::at("write", path))?;
        }
        file.sync_all().map_err(BenchError::at("sync", path))?;
        Ok(start.elapsed())
    }
}
