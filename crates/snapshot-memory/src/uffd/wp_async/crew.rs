//! Threads that share the scan of the last pages, while the machine waits.

use std::fmt;
use std::fs::File;
use std::num::NonZeroUsize;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use snapshot_format::{PAGE_BYTES, PageRange};

use super::{REGIONS_A_SCAN, scan_range};
use crate::dirty::DirtyBitmap;
use crate::error::DirtyError;
use crate::uffd::abi::PageRegion;
use crate::uffd::ioctl::WrittenScan;
use crate::uffd::served_range::ServedRange;

/// Bytes of memory that are scanned at once: some 10 µs of a clean one.
const PIECE_BYTES: u64 = 32 << 20;

/// How long a helper that was roused waits awake: longer than the state of a machine takes to read.
const AWAKE: Duration = Duration::from_millis(2);

/// Runs of a piece that there is room for before one is found.
const RUNS_A_PIECE: usize = 64;

/// Helping threads, which wait for a scan.
///
/// Nobody ever waits for a helper: whoever asked for the scan does again what one has begun and
/// not done. Scans clear nothing, so that both may.
pub(super) struct ScanCrew {
    shared: Arc<Shared>,
    helpers: Vec<JoinHandle<()>>,
    pagemap: Arc<File>,
    pieces: Arc<[Piece]>,
    scan_for: WrittenScan,
    /// The next scan, with all memory that it takes.
    spare: Option<Spare>,
}

struct Spare {
    job: Arc<Job>,
    /// Which pieces the caller has scanned.
    own: Vec<bool>,
}

/// A part of memory: which segment it is of, and the addresses.
struct Piece {
    segment: usize,
    addresses: Range<u64>,
}

struct Shared {
    work: Mutex<Work>,
    posted: Condvar,
    /// What [`Work::number`] is: for helpers that look for a job without the lock.
    number: AtomicU64,
}

#[derive(Default)]
struct Work {
    job: Option<Arc<Job>>,
    /// Counts jobs: a helper is at each once.
    number: u64,
    /// Counts the times that a job was announced.
    calls: u64,
    is_over: bool,
}

/// One scan of all pieces.
struct Job {
    next: AtomicUsize,
    results: Box<[Done]>,
}

/// What a helper found in a piece.
struct Done {
    is_done: AtomicBool,
    found: Mutex<Vec<PageRegion>>,
}

impl ScanCrew {
    /// Starts helpers, so that there are `threads` with the caller's; `None` where one is enough.
    pub(super) fn start(
        pagemap: &Arc<File>,
        segments: &[ServedRange],
        scan_for: WrittenScan,
        threads: NonZeroUsize,
    ) -> Option<Self> {
        let pieces: Arc<[Piece]> = pieces_of(segments).into();
        let count = threads.get().min(pieces.len());
        if count < 2 {
            return None;
        }
        let mut crew = Self {
            shared: Arc::new(Shared {
                work: Mutex::default(),
                posted: Condvar::new(),
                number: AtomicU64::new(0),
            }),
            spare: Some(Spare::new(pieces.len())),
            helpers: Vec::new(),
            pagemap: pagemap.clone(),
            pieces,
            scan_for,
        };
        for _ in 1..count {
            let (shared, pagemap, pieces) = (
                crew.shared.clone(),
                crew.pagemap.clone(),
                crew.pieces.clone(),
            );
            let thread = thread::Builder::new().name("vmsnap-scan".to_owned());
            match thread.spawn(move || shared.help(&pagemap, &pieces, scan_for)) {
                Ok(helper) => crew.helpers.push(helper),
                Err(error) => tracing::debug!(%error, "a scan has one thread less"),
            }
        }
        Some(crew)
    }

    /// Gets the memory that the next scan takes.
    pub(super) fn refill(&mut self) {
        let pieces = self.pieces.len();
        self.spare.get_or_insert_with(|| Spare::new(pieces));
    }

    /// Whether there is memory for a scan.
    #[cfg(test)]
    pub(super) fn has_spare(&self) -> bool {
        self.spare.is_some()
    }

    /// Has the helpers wait awake for the scan that is about to come.
    pub(super) fn rouse(&self) {
        self.shared.lock().calls += 1;
        self.shared.posted.notify_all();
    }

    /// Sets the bits of all written pages, and leaves them written.
    pub(super) fn scan(
        &mut self,
        segments: &[ServedRange],
        found: &mut [PageRegion],
        into: &DirtyBitmap,
    ) -> Result<(), DirtyError> {
        let spare = self.spare.take();
        let Spare { job, mut own } = spare.unwrap_or_else(|| Spare::new(self.pieces.len()));
        self.shared.post(Some(job.clone()));
        while let Some((index, piece)) = job.claim(&self.pieces) {
            self.scan_piece(piece, segments, found, into)?;
            if let Some(own) = own.get_mut(index) {
                *own = true;
            }
        }
        let theirs = self.pieces.iter().zip(&job.results).zip(own);
        for ((piece, done), _) in theirs.filter(|(_, own)| !own) {
            if done.is_done.load(Ordering::Acquire) {
                let regions = lock(&done.found);
                regions
                    .iter()
                    .for_each(|region| into.set_range(piece.pages(segments, region)));
            } else {
                self.scan_piece(piece, segments, found, into)?;
            }
        }
        self.shared.post(None);
        Ok(())
    }

    fn scan_piece(
        &self,
        piece: &Piece,
        segments: &[ServedRange],
        found: &mut [PageRegion],
        into: &DirtyBitmap,
    ) -> Result<(), DirtyError> {
        let addresses = &piece.addresses;
        scan_range(
            &self.pagemap,
            addresses,
            self.scan_for,
            found,
            &mut |region| into.set_range(piece.pages(segments, region)),
        )
    }
}

impl Drop for ScanCrew {
    fn drop(&mut self) {
        self.shared.lock().is_over = true;
        self.shared.posted.notify_all();
        for helper in self.helpers.drain(..) {
            // A helper that panicked has told so; nothing that it did is missing.
            let _ = helper.join();
        }
    }
}

impl Shared {
    /// The life of a helper.
    fn help(&self, pagemap: &File, pieces: &[Piece], scan_for: WrittenScan) {
        let mut found = vec![PageRegion::default(); REGIONS_A_SCAN];
        let (mut last, mut calls) = (0, 0);
        while let Some(job) = self.next_job(&mut last, &mut calls) {
            while let Some((index, piece)) = job.claim(pieces) {
                let Some(done) = job.results.get(index) else {
                    break;
                };
                // Only this helper has the piece, and who asked does not look before it is done.
                let mut regions = lock(&done.found);
                let mut keep = |region: &PageRegion| regions.push(*region);
                let scanned =
                    scan_range(pagemap, &piece.addresses, scan_for, &mut found, &mut keep);
                // Who asked scans it again, and meets the same error.
                if scanned.is_ok() {
                    done.is_done.store(true, Ordering::Release);
                }
            }
        }
    }

    /// The next job; `last` and `calls` are what the helper has seen of both.
    fn next_job(&self, last: &mut u64, calls: &mut u64) -> Option<Arc<Job>> {
        let mut work = self.lock();
        loop {
            if work.is_over {
                return None;
            }
            if let Some(job) = work.job.clone().filter(|_| work.number > *last) {
                *last = work.number;
                return Some(job);
            }
            if work.calls > *calls {
                *calls = work.calls;
                drop(work);
                self.wait_awake(*last);
                work = self.lock();
                continue;
            }
            let waited = self.posted.wait(work);
            work = waited.unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Waits for a job after `last`, for a while.
    fn wait_awake(&self, last: u64) {
        let until = Instant::now() + AWAKE;
        while self.number.load(Ordering::Relaxed) <= last && Instant::now() < until {
            std::hint::spin_loop();
        }
    }

    fn post(&self, job: Option<Arc<Job>>) {
        let mut work = self.lock();
        work.number += u64::from(job.is_some());
        self.number.store(work.number, Ordering::Relaxed);
        let is_work = job.is_some();
        work.job = job;
        drop(work);
        if is_work {
            self.posted.notify_all();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Work> {
        lock(&self.work)
    }
}

impl Spare {
    /// A scan of so many pieces.
    fn new(pieces: usize) -> Self {
        let done = || Done {
            is_done: AtomicBool::new(false),
            found: Mutex::new(Vec::with_capacity(RUNS_A_PIECE)),
        };
        let job = Job {
            next: AtomicUsize::new(0),
            results: (0..pieces).map(|_| done()).collect(),
        };
        Self {
            job: Arc::new(job),
            own: vec![false; pieces],
        }
    }
}

impl Job {
    /// A piece that nobody has begun.
    fn claim<'p>(&self, pieces: &'p [Piece]) -> Option<(usize, &'p Piece)> {
        let index = self.next.fetch_add(1, Ordering::Relaxed);
        pieces.get(index).map(|piece| (index, piece))
    }
}

impl Piece {
    /// The image pages of a run of addresses in it.
    fn pages(&self, segments: &[ServedRange], region: &PageRegion) -> PageRange {
        let segment = segments.get(self.segment);
        segment.map_or(PageRange::new(0, 0), |segment| {
            segment.pages_at(&(region.start..region.end))
        })
    }
}

impl fmt::Debug for ScanCrew {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ScanCrew")
            .field("helpers", &self.helpers.len())
            .field("pieces", &self.pieces.len())
            .finish_non_exhaustive()
    }
}

fn pieces_of(segments: &[ServedRange]) -> Vec<Piece> {
    const _: () = assert!(PIECE_BYTES.is_multiple_of(PAGE_BYTES));
    let segments = segments.iter().enumerate();
    let pieces = segments.flat_map(|(segment, of)| {
        let Range { start, end } = of.addresses;
        let starts = (start..end).step_by(usize::try_from(PIECE_BYTES).unwrap_or(usize::MAX));
        starts.map(move |from| Piece {
            segment,
            addresses: from..end.min(from + PIECE_BYTES),
        })
    });
    pieces.collect()
}

/// Nobody who holds one of these locks panics half way.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
