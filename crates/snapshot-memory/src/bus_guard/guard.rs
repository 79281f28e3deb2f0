//! Which mappings are watched, found by a signal handler without a lock.

// UNSAFETY: the pointers by which the signal handler finds what is watched.
#![expect(unsafe_code, reason = "a table that a signal handler reads")]

use std::ops::Range;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread;

use super::watched::{MappedRun, Watched};
use super::{BusGuardError, calls, signal};
use crate::restore::{MemoryReporter, NotedFailures};

/// Turns reads of mapped files that have no bytes any more into events.
///
/// Installed when a VMM asks for it, never otherwise. Signals that are not about watched memory go
/// to whoever handled SIGBUS before; poisoned memory (`BUS_MCEERR_AR`) does, too.
#[derive(Clone, Copy, Debug)]
pub struct BusGuard(());

/// Watches the mappings of one guest for as long as it lives.
///
/// Drop it before the memory is unmapped and after the threads of the guest have ended: one that
/// is still held goes on over a zero page.
#[derive(Debug)]
pub struct BusWatch {
    slot: &'static Slot,
    watched: Arc<Watched>,
}

impl BusGuard {
    /// Takes SIGBUS for this process, for good, if that has not been done yet.
    ///
    /// A handler that is installed later must hand on what it does not know.
    pub fn install() -> Result<Self, BusGuardError> {
        signal::install()?;
        Ok(Self(()))
    }

    /// Watches `runs`, in any order, and reports what is lost of them to `reporter`.
    ///
    /// A thread that reads a lost page is held until [`BusWatch::abandon`]: whoever waits for the
    /// events must not be one that reads guest memory.
    ///
    /// # Safety
    ///
    /// For as long as the watch lives, the runs must be mapped, and reached by raw pointers only:
    /// a page of them that has no bytes becomes a zero page once the guest is abandoned.
    pub unsafe fn watch(
        &self,
        runs: Vec<MappedRun>,
        reporter: &MemoryReporter,
    ) -> Result<BusWatch, BusGuardError> {
        let watched = Arc::new(Watched::new(runs, reporter.clone())?);
        let noted: Arc<dyn NotedFailures> = Arc::<Watched>::clone(&watched);
        reporter.attach(&noted);
        let slot = Slot::take();
        let place = Arc::as_ptr(&watched).cast_mut();
        slot.watched.store(place, Ordering::SeqCst);
        Ok(BusWatch { slot, watched })
    }
}

impl BusWatch {
    /// Lets threads that are held go on, over zero pages, and holds none from now on.
    ///
    /// For a guest that has been stopped and will not run again: its threads can then end.
    pub fn abandon(&self) {
        self.watched.abandon();
    }

    /// Looks for pages that have no bytes, reports each run of them, and says how many there are.
    ///
    /// For a VMM whose KVM_RUN failed with EFAULT, which tells neither address nor reason, or ended
    /// with an MMIO exit at an address that is memory. It costs little where a file was cut; where
    /// it was not, everything is read. Needs Linux 5.14.
    pub fn look(&self) -> Result<u64, BusGuardError> {
        let mut pages = 0;
        for run in self.watched.runs() {
            let lost = lost_of(run).map_err(BusGuardError::system("read mapped pages in"))?;
            if let Some(addresses) = lost {
                let failure = run.failure(addresses);
                pages += failure.pages.count;
                self.watched.reporter().report(failure);
            }
        }
        Ok(pages)
    }
}

impl Drop for BusWatch {
    fn drop(&mut self) {
        self.watched.abandon();
        self.slot.give_back();
        let mut untold = Vec::new();
        self.watched.drain(&mut untold);
        for failure in untold {
            self.watched.reporter().report(failure);
        }
    }
}

/// Bytes of a step in which a run is read in that was not cut.
const STEP_BYTES: u64 = 2 << 20;

/// The addresses of `run` from the first on that has no bytes; all behind it, where a file was cut.
fn lost_of(run: &MappedRun) -> std::io::Result<Option<Range<u64>>> {
    let page = calls::host_page_bytes()?;
    let Range { start, end } = run.addresses;
    if !calls::has_bytes(&(end - page..end))? {
        // A cut loses all that is behind it: the first lost page is found by halving.
        let (mut there, mut lost) = (start, end - page);
        while there < lost {
            let middle = there + (lost - there) / page / 2 * page;
            if calls::has_bytes(&(middle..middle + page))? {
                there = middle + page;
            } else {
                lost = middle;
            }
        }
        return Ok(Some(lost..end));
    }
    let mut at = start;
    while at < end {
        let step = at..(at + STEP_BYTES).min(end);
        if !calls::has_bytes(&step)? {
            return first_page_lost(&step, page);
        }
        at = step.end;
    }
    Ok(None)
}

fn first_page_lost(step: &Range<u64>, page: u64) -> std::io::Result<Option<Range<u64>>> {
    let mut at = step.start;
    while at < step.end {
        if !calls::has_bytes(&(at..at + page))? {
            return Ok(Some(at..at + page));
        }
        at += page;
    }
    Ok(None)
}

/// What a thread does that found no bytes at `address`. Whether the address is watched, and the
/// thread may go on.
///
/// Runs in a signal handler.
pub(super) fn lose(address: u64) -> bool {
    let mut chunk = SLOTS.get();
    while let Some(slots) = chunk {
        for slot in &slots.slots {
            if let Some(goes_on) = slot.lose(address) {
                return goes_on;
            }
        }
        chunk = slots.more.get();
    }
    false
}

/// Places for what is watched. They are made when needed and never freed, so that the signal
/// handler can walk them without a lock.
#[derive(Debug)]
struct Chunk {
    slots: [Slot; 64],
    more: OnceLock<Box<Chunk>>,
}

static SLOTS: OnceLock<Box<Chunk>> = OnceLock::new();

#[derive(Debug)]
struct Slot {
    is_taken: AtomicBool,
    watched: AtomicPtr<Watched>,
    /// Signal handlers that may use `watched`.
    inside: AtomicU32,
}

impl Slot {
    const fn new() -> Self {
        Self {
            is_taken: AtomicBool::new(false),
            watched: AtomicPtr::new(ptr::null_mut()),
            inside: AtomicU32::new(0),
        }
    }

    fn take() -> &'static Self {
        let mut place = &SLOTS;
        loop {
            let chunk = place.get_or_init(|| {
                Box::new(Chunk {
                    slots: [const { Self::new() }; 64],
                    more: OnceLock::new(),
                })
            });
            let free = chunk.slots.iter().find(|slot| slot.take_if_free());
            if let Some(slot) = free {
                return slot;
            }
            place = &chunk.more;
        }
    }

    fn take_if_free(&self) -> bool {
        !self.is_taken.swap(true, Ordering::AcqRel)
    }

    /// Returns when no signal handler uses what was watched.
    fn give_back(&self) {
        self.watched.store(ptr::null_mut(), Ordering::SeqCst);
        while self.inside.load(Ordering::SeqCst) > 0 {
            thread::yield_now();
        }
        self.is_taken.store(false, Ordering::Release);
    }

    /// `None` if `address` is not watched here.
    fn lose(&self, address: u64) -> Option<bool> {
        self.inside.fetch_add(1, Ordering::SeqCst);
        let watched = self.watched.load(Ordering::SeqCst);
        // SAFETY: a pointer that is not null is that of a live `Arc`: its owner takes the pointer
        // back and then waits for `inside`, which was counted before the pointer was read.
        let watched = unsafe { watched.as_ref() };
        let outcome = watched.and_then(|watched| {
            watched.run_at(address)?;
            Some(watched.lose(address))
        });
        self.inside.fetch_sub(1, Ordering::SeqCst);
        outcome
    }
}
