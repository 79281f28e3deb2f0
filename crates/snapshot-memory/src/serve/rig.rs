//! What the tests of this folder have in common.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use snapshot_format::{MemoryLayout, PAGE_BYTES, PageIndex, PageRange};

use super::{LazyMemory, LazyOptions, ServeError};
use crate::restore::{PageRun, PageSource, SourceError};
use crate::uffd::UffdError;

/// Pages that tell their number, every fifth run of 7 of them zero; some of them damaged, and all of
/// them held back while the test wants it.
pub(super) struct Numbered {
    layout: MemoryLayout,
    has_zero: bool,
    /// Pages of one piece; a run is one where this is 0.
    piece_pages: u64,
    damaged: Mutex<BTreeSet<u64>>,
    /// Pages whose reads wait.
    held: Mutex<Range<u64>>,
    released: Condvar,
    pub(super) reads: AtomicU64,
    pub(super) waiting: AtomicU64,
}

impl Numbered {
    pub(super) fn new(pages: u64) -> Arc<Self> {
        Self::with(pages, true, 0)
    }

    /// The same, no page of them zero.
    pub(super) fn without_zero(pages: u64) -> Arc<Self> {
        Self::with(pages, false, 0)
    }

    /// No page of them zero, and pieces that end at multiples of `piece_pages`.
    pub(super) fn in_pieces(pages: u64, piece_pages: u64) -> Arc<Self> {
        Self::with(pages, false, piece_pages)
    }

    fn with(pages: u64, has_zero: bool, piece_pages: u64) -> Arc<Self> {
        Arc::new(Self {
            layout: MemoryLayout::single(pages * PAGE_BYTES).unwrap(),
            has_zero,
            piece_pages,
            damaged: Mutex::default(),
            held: Mutex::default(),
            released: Condvar::new(),
            reads: AtomicU64::new(0),
            waiting: AtomicU64::new(0),
        })
    }

    pub(super) fn is_zero(page: u64) -> bool {
        page / 7 % 5 == 4
    }

    /// What the first 8 bytes of a page hold.
    pub(super) fn word(page: u64) -> u64 {
        if Self::is_zero(page) { 0 } else { page + 1 }
    }

    pub(super) fn damage(&self, page: u64) {
        self.damaged.lock().unwrap().insert(page);
    }

    /// Has reads wait, or those that wait go on.
    pub(super) fn hold(&self, held: bool) {
        self.hold_pages(if held { 0..u64::MAX } else { 0..0 });
    }

    /// Has reads of these pages wait, and all others go on.
    pub(super) fn hold_pages(&self, pages: Range<u64>) {
        *self.held.lock().unwrap() = pages;
        self.released.notify_all();
    }

    pub(super) fn bytes(pages: PageRange) -> Vec<u8> {
        let words = (pages.start.0..pages.end().0).flat_map(|page| [Self::word(page); 512]);
        words.flat_map(u64::to_le_bytes).collect()
    }
}

impl PageSource for Numbered {
    fn layout(&self) -> &MemoryLayout {
        &self.layout
    }

    fn run(&self, pages: PageRange) -> Result<PageRun, SourceError> {
        let is_zero = |page| self.has_zero && Self::is_zero(page);
        let first = is_zero(pages.start.0);
        let alike = (pages.start.0..pages.end().0).take_while(|page| is_zero(*page) == first);
        Ok(PageRun {
            count: alike.count() as u64,
            is_zero: first,
        })
    }

    fn piece(&self, pages: PageRange) -> Result<PageRun, SourceError> {
        let mut run = self.run(pages)?;
        if self.piece_pages > 0 {
            let left = self.piece_pages - pages.start.0 % self.piece_pages;
            run.count = run.count.min(left);
        }
        Ok(run)
    }

    fn read_pages(&self, pages: PageRange, out: &mut [u8]) -> Result<(), SourceError> {
        self.reads.fetch_add(1, Ordering::SeqCst);
        self.waiting.fetch_add(1, Ordering::SeqCst);
        let held = self.held.lock().unwrap();
        let is_held =
            |held: &mut Range<u64>| held.start < pages.end().0 && pages.start.0 < held.end;
        drop(self.released.wait_while(held, is_held).unwrap());
        self.waiting.fetch_sub(1, Ordering::SeqCst);
        let damaged = self.damaged.lock().unwrap();
        if let Some(page) = damaged.range(pages.start.0..pages.end().0).next() {
            return Err(SourceError::Other(format!("page {page} is damaged").into()));
        }
        let bytes = if self.has_zero {
            Self::bytes(pages)
        } else {
            let words = (pages.start.0..pages.end().0).flat_map(|page| [page + 1; 512]);
            words.flat_map(u64::to_le_bytes).collect()
        };
        out.copy_from_slice(&bytes);
        Ok(())
    }
}

/// Memory of `source`; `None`, and said so, where this host cannot serve it.
pub(super) fn lazy(source: Arc<dyn PageSource>, options: LazyOptions) -> Option<LazyMemory> {
    unless_skipped(LazyMemory::restore(source, options))
}

/// What was made; `None`, and said so, where this host cannot serve memory.
pub(super) fn unless_skipped<T>(made: Result<T, ServeError>) -> Option<T> {
    if let Err(ServeError::Uffd(error @ (UffdError::Lacks { .. } | UffdError::NotPermitted))) =
        &made
    {
        crate::skip::skip("uffd", &error.to_string());
        return None;
    }
    Some(made.unwrap())
}

/// The first 8 bytes of a page, which may have to be waited for.
pub(super) fn word(memory: &LazyMemory, page: u64) -> u64 {
    let mut word = [0; 8];
    memory
        .memory()
        .read(page * PAGE_BYTES + 8, &mut word)
        .unwrap();
    u64::from_le_bytes(word)
}

/// Waits until `condition` is true.
///
/// # Panics
///
/// If it is not within a minute.
pub(super) fn until(mut condition: impl FnMut() -> bool) {
    let came = (0..60_000).any(|_| {
        std::thread::sleep(Duration::from_millis(1));
        condition()
    });
    assert!(came, "it did not come about within a minute");
}

/// Runs `test` on a thread of its own, so that a fault that nobody serves fails it.
///
/// # Panics
///
/// If it does, or is not done within a minute.
pub(super) fn watched(test: impl FnOnce() + Send + 'static) {
    let thread = std::thread::spawn(test);
    until(|| thread.is_finished());
    thread.join().unwrap();
}

/// A range of one page.
pub(super) fn single(page: u64) -> PageRange {
    PageRange {
        start: PageIndex(page),
        count: 1,
    }
}
