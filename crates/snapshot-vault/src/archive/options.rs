//! How snapshots are archived.

use std::num::NonZeroUsize;
use std::sync::Arc;

use snapshot_memory::{Cancel, FrameCodec};

/// How a snapshot is archived.
#[derive(Clone)]
#[non_exhaustive]
pub struct ArchiveOptions {
    /// How chunks are compressed.
    pub codec: FrameCodec,
    /// Threads that read, hash and compress, beside the caller's, which then stores; without any
    /// the caller's does everything.
    pub threads: usize,
    /// Breaks the work off between two of its steps.
    pub cancel: Cancel,
    /// Is told how far the work is, for each batch of chunks.
    pub tell: Option<Arc<dyn Fn(ArchiveProgress) + Send + Sync>>,
}

/// How far an archive is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ArchiveProgress {
    /// Bytes of memory that were looked at.
    pub taken_bytes: u64,
    /// Bytes of memory in all.
    pub total_bytes: u64,
    /// Bytes of packs that were put.
    pub stored_bytes: u64,
}

impl ArchiveOptions {
    /// Zstandard at its fastest level: at 64 KiB it makes a chunk smaller than LZ4 does by a sixth,
    /// and two cores of it outrun what they read from.
    pub const CODEC: FrameCodec = FrameCodec::Zstd { level: 1 };

    /// Sets [`codec`](Self::codec).
    #[must_use]
    pub fn codec(mut self, codec: FrameCodec) -> Self {
        self.codec = codec;
        self
    }

    /// Sets [`threads`](Self::threads).
    #[must_use]
    pub const fn threads(mut self, threads: usize) -> Self {
        self.threads = threads;
        self
    }

    /// Sets [`cancel`](Self::cancel).
    #[must_use]
    pub fn cancel(mut self, cancel: Cancel) -> Self {
        self.cancel = cancel;
        self
    }

    /// As many threads as there are cores.
    #[must_use]
    pub fn all_cores(self) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
        self.threads(cores)
    }

    pub(crate) fn check(&self) -> Result<(), crate::VaultError> {
        if self.cancel.is_asked() {
            return Err(crate::VaultError::Interrupted);
        }
        Ok(())
    }

    pub(crate) fn tell(&self, progress: ArchiveProgress) {
        if let Some(tell) = &self.tell {
            tell(progress);
        }
    }
}

impl Default for ArchiveOptions {
    fn default() -> Self {
        Self {
            codec: Self::CODEC,
            threads: 0,
            cancel: Cancel::default(),
            tell: None,
        }
    }
}

impl std::fmt::Debug for ArchiveOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut debug = f.debug_struct("ArchiveOptions");
        debug.field("codec", &self.codec);
        debug.field("threads", &self.threads);
        debug.finish_non_exhaustive()
    }
}
