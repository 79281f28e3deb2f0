//! What a caller may choose about writing memory.

use std::num::NonZeroUsize;
use std::sync::OnceLock;
use std::thread;

use super::CaptureControl;
use crate::direct::QueueMode;

/// How memory is written. The default chooses by itself, and starts no thread.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct CaptureOptions {
    /// How present pages lie in the data file.
    pub layout: LayoutChoice,
    /// How they get there.
    pub engine: EngineChoice,
    /// Dirty pages that hold what the parent holds.
    pub dedup: Dedup,
    /// Threads that copy and digest, the caller's included: one unless more are allowed. Those that
    /// the capture starts end with it. See [`best_threads`](Self::best_threads).
    pub threads: NonZeroUsize,
    /// Whether guest memory is on huge pages; `None`: the kernel is asked, by `/proc/self/pagemap`,
    /// where that decides how memory is written.
    pub huge_pages: Option<bool>,
    /// Being told how far the work is, breaking it off, slowing it down.
    pub control: CaptureControl,
}

/// How present pages lie in the data file.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub enum LayoutChoice {
    /// By the cost model of `specs/10-capture-choices.md`, from the number of dirty pages, the
    /// number of their runs, and the file system.
    #[default]
    Auto,
    /// Each page at its offset in the raw image.
    Sparse,
    /// Present pages back to back.
    Packed,
}

/// How pages get to the data file.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub enum EngineChoice {
    /// Direct where the file takes it, else through buffers.
    #[default]
    Auto,
    /// `pwritev` straight from guest memory through the page cache; buffered where memory runs or is
    /// not mapped. Sparse data only.
    Vectored,
    /// Gathered in buffers and written through the page cache.
    Buffered,
    /// Written past the page cache, by io_uring with several writes under way at once where the
    /// host allows it: straight from memory on huge pages, gathered in buffers on huge pages
    /// otherwise. Refused where the file system takes no such writes.
    Direct,
}

/// Which dirty pages are found to hold what the parent holds, and are inherited.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub enum Dedup {
    /// None: every dirty page is stored.
    #[default]
    Off,
    /// Those whose digest is the parent's. Pages of which the parent has no digest of their own,
    /// because it digests larger units, are stored.
    Digest,
    /// Those whose bytes are the parent's, which are read where the digest does not decide.
    Compare,
}

/// The engine that wrote a data file.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub enum Engine {
    /// `pwritev` straight from guest memory.
    #[default]
    Vectored,
    /// io_uring past the page cache.
    Direct,
    /// `pwrite` past the page cache, one at a time: for hosts that allow no io_uring.
    DirectSync,
    /// `pwrite` through the page cache, from buffers.
    Buffered,
}

impl Default for CaptureOptions {
    fn default() -> Self {
        Self {
            layout: LayoutChoice::default(),
            engine: EngineChoice::default(),
            dedup: Dedup::default(),
            threads: NonZeroUsize::MIN,
            huge_pages: None,
            control: CaptureControl::default(),
        }
    }
}

impl CaptureOptions {
    /// As many threads as a capture gains from here: two, or one where this process may use one
    /// CPU only. Found out once; the answer is read from several files of the system.
    #[must_use]
    pub fn best_threads() -> NonZeroUsize {
        static FOUND: OnceLock<NonZeroUsize> = OnceLock::new();
        *FOUND.get_or_init(|| {
            let cpus = thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
            cpus.min(NonZeroUsize::MIN.saturating_add(1))
        })
    }

    /// Sets [`layout`](Self::layout).
    #[must_use]
    pub fn layout(mut self, layout: LayoutChoice) -> Self {
        self.layout = layout;
        self
    }

    /// Sets [`engine`](Self::engine).
    #[must_use]
    pub fn engine(mut self, engine: EngineChoice) -> Self {
        self.engine = engine;
        self
    }

    /// Sets [`dedup`](Self::dedup).
    #[must_use]
    pub fn dedup(mut self, dedup: Dedup) -> Self {
        self.dedup = dedup;
        self
    }

    /// Sets [`threads`](Self::threads).
    #[must_use]
    pub fn threads(mut self, threads: NonZeroUsize) -> Self {
        self.threads = threads;
        self
    }

    /// Sets [`huge_pages`](Self::huge_pages).
    #[must_use]
    pub fn huge_pages(mut self, are_huge: bool) -> Self {
        self.huge_pages = Some(are_huge);
        self
    }

    /// Sets [`control`](Self::control).
    #[must_use]
    pub fn control(mut self, control: CaptureControl) -> Self {
        self.control = control;
        self
    }
}

impl EngineChoice {
    /// How the writes of this engine go.
    pub(super) fn queue_mode(self) -> QueueMode {
        match self {
            Self::Auto => QueueMode::PreferDirect,
            Self::Direct => QueueMode::Direct,
            Self::Vectored | Self::Buffered => QueueMode::Buffered,
        }
    }
}

impl Engine {
    /// A short name for reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Vectored => "vectored",
            Self::Direct => "direct",
            Self::DirectSync => "direct-sync",
            Self::Buffered => "buffered",
        }
    }
}
