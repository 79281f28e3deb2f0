//! How memory is served.

use std::num::NonZeroU64;
use std::time::Duration;

use snapshot_format::PAGE_BYTES;

/// How a [`PageServer`](super::PageServer) goes about it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ServeOptions {
    pub(super) threads: usize,
    pub(super) window_pages: u64,
    pub(super) background: Option<Background>,
    pub(super) trace_runs: usize,
    pub(super) spin: Duration,
    pub(super) huge_pages: bool,
}

/// Filling memory that nobody has asked for yet.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Background {
    /// How many bytes a second at most; `None`: as fast as it goes.
    pub bytes_a_second: Option<NonZeroU64>,
}

impl ServeOptions {
    /// Served by `threads` threads, which the server starts and joins. 0: it starts none, and
    /// nothing is served until the caller lends a thread to
    /// [`PageServer::run`](super::PageServer::run).
    ///
    /// Windows are 64 KiB, nothing is filled in the background, and the first 65536 runs are
    /// traced.
    #[must_use]
    pub fn new(threads: usize) -> Self {
        Self {
            threads,
            window_pages: 16,
            background: None,
            trace_runs: 1 << 16,
            spin: Duration::ZERO,
            huge_pages: false,
        }
    }

    /// The same, with the pages around a fault that are put in place with it: a power of two from
    /// 4 KiB to 2 MiB, to which other values are rounded up.
    ///
    /// A window lies on a multiple of its size in the image. Wide ones suit guests that read on,
    /// and images whose digests are of 64 KiB; one page alone makes an exact trace.
    #[must_use]
    pub fn window_bytes(self, bytes: u64) -> Self {
        let pages = bytes.div_ceil(PAGE_BYTES).clamp(1, MAX_WINDOW_PAGES);
        Self {
            window_pages: pages.next_power_of_two(),
            ..self
        }
    }

    /// The same, with all of memory filled while nobody waits for a page.
    ///
    /// With two threads or more the last of them does it, at a low priority. A single thread does
    /// it between faults, which then wait for up to one window longer.
    #[must_use]
    pub fn background(self, background: Background) -> Self {
        Self {
            background: Some(background),
            ..self
        }
    }

    /// The same, with as many runs traced; 0: none.
    #[must_use]
    pub fn trace_runs(self, trace_runs: usize) -> Self {
        Self { trace_runs, ..self }
    }

    /// The same, with windows of 2 MiB that become huge pages, where the memory is anonymous, of this
    /// process, on addresses that allow it, and not tracked, the kernel is Linux 6.8 or later, and
    /// no page of the window is zero in the snapshot or there already. Others become small pages.
    ///
    /// A fault then reads and checks 2 MiB, and waits for the kernel to find a huge page for the next
    /// one: milliseconds, and many of them on a busy host. Where huge pages matter more than the
    /// first read, filling all of memory before the guest runs gives them for less.
    #[must_use]
    pub fn huge_pages(self, huge_pages: bool) -> Self {
        Self {
            huge_pages,
            window_pages: if huge_pages {
                MAX_WINDOW_PAGES
            } else {
                self.window_pages
            },
            ..self
        }
    }

    /// The same, with a thread that looks for the next fault for as long before it sleeps.
    ///
    /// It takes the processor meanwhile. Where there are more of those than vCPUs, faults that
    /// follow each other are answered in a third of the time.
    #[must_use]
    pub fn spin(self, spin: Duration) -> Self {
        Self { spin, ..self }
    }
}

/// 2 MiB.
pub(super) const MAX_WINDOW_PAGES: u64 = 512;
