//! The one way in which pages get into served memory.

use std::collections::VecDeque;
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};

use nix::errno::Errno;
use snapshot_format::sabotage::Sabotage;
use snapshot_format::{PAGE_BYTES, PageIndex, PageRange};

use super::addresses::{AddressMap, Part};
use super::bell::Bell;
use super::fill_all::Progress;
use super::flight::Flights;
use super::options::ServeOptions;
use super::origin::Origin;
use super::state::{PageState, PageStates};
use super::stats::{Counter, Counters};
use super::trace::Recorder;
use crate::dirty::DirtyBitmap;
use crate::restore::{FailureCause, MemoryFailure, MemoryReporter};
use crate::uffd::{FillMode, Filled, Message, UffdContext};
use crate::zero::ZERO_PAGES;

/// What threads that serve, fill, prefetch and give up share.
#[derive(Debug)]
pub(super) struct Engine {
    pub(super) context: Arc<UffdContext>,
    pub(super) map: AddressMap,
    pub(super) origin: Origin,
    pub(super) options: ServeOptions,
    pub(super) states: PageStates,
    /// Held shared around each call that puts pages in place, and exclusively while messages are
    /// read and applied: a page that is put there after the kernel took it away would bring back
    /// what was given up.
    gate: RwLock<()>,
    pub(super) flights: Flights,
    /// Faults that were read and not served yet.
    faults: Mutex<VecDeque<PageIndex>>,
    /// Pages that were given back since somebody asked.
    pub(super) discards: Mutex<Option<Arc<DirtyBitmap>>>,
    pub(super) bell: Bell,
    pub(super) is_stopping: AtomicBool,
    pub(super) is_abandoned: AtomicBool,
    pub(super) is_peer_gone: AtomicBool,
    pub(super) counters: Counters,
    pub(super) recorder: Recorder,
    pub(super) progress: Progress,
    pub(super) reporter: MemoryReporter,
}

/// What pages become.
#[derive(Clone, Copy, Debug)]
pub(super) enum Content<'a> {
    /// These bytes, as many as there are pages.
    Bytes(&'a [u8]),
    /// Zero.
    Zero,
    /// What the shared memfd has.
    Cached,
}

/// On whose behalf pages are put in place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Cause {
    /// A thread waits for one of them.
    Demand,
    /// Somebody expects that one will.
    Prefetch,
    /// Everything is to be there in the end.
    Background,
}

/// Pages cannot be put in place.
#[derive(Clone, Copy, Debug)]
pub(super) struct PlaceError {
    pub(super) pages: PageRange,
    pub(super) errno: Errno,
}

impl Engine {
    pub(super) fn new(
        context: Arc<UffdContext>,
        map: AddressMap,
        origin: Origin,
        options: ServeOptions,
        reporter: MemoryReporter,
    ) -> io::Result<Self> {
        let page_count = origin.source().layout().page_count();
        Ok(Self {
            context,
            map,
            origin,
            options,
            states: PageStates::new(page_count),
            gate: RwLock::default(),
            flights: Flights::default(),
            faults: Mutex::default(),
            discards: Mutex::default(),
            bell: Bell::new()?,
            is_stopping: AtomicBool::new(false),
            is_abandoned: AtomicBool::new(false),
            is_peer_gone: AtomicBool::new(false),
            counters: Counters::default(),
            recorder: Recorder::new(options.trace_runs),
            progress: Progress::default(),
            reporter,
        })
    }

    /// Has those pages of `part` that are absent or lost become `content`.
    ///
    /// What is there stays, and what was discarded stays so. Threads that wait for a page of it go
    /// on where `cause` is a demand, or where the page was lost.
    pub(super) fn place(
        &self,
        part: &Part,
        content: Content<'_>,
        cause: Cause,
    ) -> Result<(), PlaceError> {
        let mut done = 0;
        // Neighbours in memory may be of two mappings, which one call refuses to fill.
        let mut one_by_one = false;
        while done < part.pages.count {
            let rest = part.slice(done, part.pages.count - done);
            let gate = self.close_to_messages();
            let (state, alike) = self.states.run(rest.pages);
            let is_wanted = matches!(state, PageState::Absent | PageState::Lost);
            if !is_wanted {
                let settled = rest.slice(0, alike.clamp(1, rest.pages.count));
                if cause == Cause::Demand {
                    // It came, or was given back, in between, and nobody was woken for that.
                    self.wake(&settled.addresses)?;
                }
                done += settled.pages.count;
                continue;
            }
            let gate = open_on_purpose(gate);
            let limit = if one_by_one { 1 } else { MAX_PAGES_A_CALL };
            let step = rest.slice(0, alike.clamp(1, limit));
            let wake = cause == Cause::Demand || state == PageState::Lost;
            let filled = self.put(&step, content.part(done, step.pages.count), wake);
            let count = filled.len_bytes / PAGE_BYTES;
            self.states.fill(step.slice(0, count).pages);
            self.count(content, cause, count);
            done += count;
            match filled.stopped {
                // The call that goes on from here tells why it stopped.
                _ if count > 0 => {}
                None => done += step.pages.count,
                Some(Errno::EEXIST) => {
                    let there = step.slice(0, 1);
                    self.states.fill(there.pages);
                    self.counters.add(Counter::AlreadyThere, 1);
                    self.wake(&there.addresses)?;
                    done += 1;
                }
                Some(Errno::EAGAIN | Errno::EINTR) => {
                    drop(gate);
                    self.catch_up();
                }
                Some(Errno::ENOENT) if step.pages.count > 1 => one_by_one = true,
                Some(Errno::ENOENT) => {
                    self.counters.add(Counter::Unregistered, 1);
                    done += 1;
                }
                Some(errno) => {
                    let pages = step.pages;
                    return Err(PlaceError { pages, errno });
                }
            }
        }
        Ok(())
    }

    /// Has one page that is missing though it is not absent become zero, or what the shared memfd
    /// has, and wakes who waits for it. A page that is there stays.
    pub(super) fn place_again(
        &self,
        page: &Part,
        mut content: Content<'_>,
    ) -> Result<(), PlaceError> {
        loop {
            let gate = self.close_to_messages();
            let (now, protect) = match (content, self.states.get(page.pages.start)) {
                // What was taken away without a word, or was given back, if only in between: it
                // counts as written.
                (Content::Cached, PageState::Discarded) | (Content::Zero, _) => {
                    (Content::Zero, false)
                }
                (other, _) => (other, self.context.is_tracking()),
            };
            let mode = FillMode {
                wake: true,
                protect,
            };
            let filled = self.put_as(page, now, mode);
            match filled.stopped {
                None => return Ok(()),
                // The memfd does not have it: it is zero in the snapshot.
                Some(Errno::EFAULT) if matches!(now, Content::Cached) => content = Content::Zero,
                Some(Errno::EEXIST | Errno::ENOENT) => return self.wake(&page.addresses),
                Some(Errno::EAGAIN | Errno::EINTR) => {
                    drop(gate);
                    self.catch_up();
                }
                Some(errno) => {
                    let pages = page.pages;
                    return Err(PlaceError { pages, errno });
                }
            }
        }
    }

    fn put(&self, part: &Part, content: Content<'_>, wake: bool) -> Filled {
        let protect = self.context.is_tracking();
        self.put_as(part, content, FillMode { wake, protect })
    }

    fn put_as(&self, part: &Part, content: Content<'_>, mode: FillMode) -> Filled {
        let to = part.addresses.start;
        match content {
            Content::Bytes(bytes) => self.context.copy(to, bytes, mode),
            Content::Cached => self.context.map_cached(&part.addresses, mode),
            // The kernel's zero page cannot be put there protected, nor over a mark of protection.
            Content::Zero if self.context.is_tracking() => {
                let len = part.addresses.end - to;
                let len = usize::try_from(len).unwrap_or(ZERO_PAGES.len());
                let zero = ZERO_PAGES.get(..len).unwrap_or(ZERO_PAGES);
                self.context.copy(to, zero, mode)
            }
            Content::Zero => self.context.zero(&part.addresses, mode.wake),
        }
    }

    pub(super) fn wake(&self, addresses: &Range<u64>) -> Result<(), PlaceError> {
        self.context.wake(addresses).map_err(|errno| PlaceError {
            pages: PageRange::new(0, 0),
            errno,
        })
    }

    fn count(&self, content: Content<'_>, cause: Cause, count: u64) {
        let counter = match (content, cause) {
            (Content::Zero, _) => Counter::Zero,
            (_, Cause::Demand) => Counter::Demand,
            (_, Cause::Prefetch) => Counter::Prefetch,
            (_, Cause::Background) => Counter::Background,
        };
        self.counters.add(counter, count);
    }

    /// The address space is changing: hears of it, so that it can go on.
    fn catch_up(&self) {
        self.counters.add(Counter::TriedAgain, 1);
        match self.hear(&mut Vec::new()) {
            Ok(0) => std::thread::yield_now(),
            // Whoever sleeps may not have seen them.
            Ok(_) => self.bell.ring(),
            // The thread that serves meets the same error, and tells of it.
            Err(errno) => tracing::debug!(%errno, "messages of the userfaultfd cannot be read"),
        }
    }

    /// Reads messages and applies them; gives how many there were.
    pub(super) fn hear(&self, scratch: &mut Vec<Message>) -> Result<usize, Errno> {
        let _gate = self.gate.write().unwrap_or_else(PoisonError::into_inner);
        scratch.clear();
        let result = self.context.read_messages(scratch);
        for message in scratch.drain(..) {
            self.apply(message);
        }
        result
    }

    fn apply(&self, message: Message) {
        match message {
            Message::Fault {
                address,
                is_protected: false,
            } => match self.map.page_at(address) {
                Some(page) => {
                    self.counters.add(Counter::Faults, 1);
                    self.lock_faults().push_back(page);
                }
                None => self.report_misplaced("a page that is waited for is not served", address),
            },
            Message::Fault { address, .. } => {
                self.report_misplaced("a write is waited for, and writes are not served", address);
            }
            Message::Removed(addresses) => self.discard(addresses),
            Message::Unmapped(addresses) | Message::Remapped { from: addresses } => {
                self.discard(addresses);
            }
            // The child's memory is not served: it would be served the pages of this one.
            Message::Forked { descriptor } => drop(nix::unistd::close(descriptor)),
            Message::Unknown(event) => tracing::warn!(event, "an unknown message of userfaultfd"),
        }
    }

    fn discard(&self, addresses: Range<u64>) {
        if Sabotage::IgnoredDiscard.is_on() {
            return;
        }
        let discards = self.lock_discards();
        for pages in self.map.pages_at(addresses) {
            self.states.discard(pages);
            self.counters.add(Counter::Discarded, pages.count);
            if let Some(discards) = &*discards {
                discards.set_range(pages);
            }
        }
    }

    /// Hears all messages that wait, then gives the pages that were given back since the last time.
    pub(super) fn take_discards(&self, into: &DirtyBitmap) -> Result<(), Errno> {
        let mut scratch = Vec::new();
        while self.hear(&mut scratch)? > 0 {
            self.bell.ring();
        }
        if let Some(discards) = &*self.lock_discards() {
            into.or_from(&discards.take());
        }
        Ok(())
    }

    pub(super) fn next_fault(&self) -> Option<PageIndex> {
        self.lock_faults().pop_front()
    }

    /// No message is applied while what this gives is held.
    pub(super) fn close_to_messages(&self) -> RwLockReadGuard<'_, ()> {
        self.gate.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn has_faults(&self) -> bool {
        !self.lock_faults().is_empty()
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.context.as_fd()
    }

    pub(super) fn is_abandoned(&self) -> bool {
        self.is_abandoned.load(Ordering::Acquire)
    }

    pub(super) fn is_peer_gone(&self) -> bool {
        self.is_peer_gone.load(Ordering::Acquire)
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.is_stopping.load(Ordering::Acquire)
    }

    /// Tells the VMM that `pages` cannot be put in place.
    pub(super) fn report_place(&self, error: &PlaceError) {
        if error.errno == Errno::ESRCH {
            // The process whose memory it was has ended: there is nobody to tell.
            self.is_peer_gone.store(true, Ordering::Release);
            return;
        }
        self.reporter.report(MemoryFailure {
            pages: error.pages,
            cause: FailureCause::Place {
                call: "fill pages by userfaultfd",
                source: error.errno.into(),
            },
        });
    }

    fn report_misplaced(&self, call: &'static str, address: u64) {
        let source = io::Error::other(format!("the address is {address:#x}"));
        self.reporter.report(MemoryFailure {
            pages: PageRange::new(0, 0),
            cause: FailureCause::Place { call, source },
        });
    }

    fn lock_faults(&self) -> MutexGuard<'_, VecDeque<PageIndex>> {
        self.faults.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn lock_discards(&self) -> MutexGuard<'_, Option<Arc<DirtyBitmap>>> {
        self.discards.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Content<'_> {
    /// What `count` pages from page `skip` on become.
    fn part(self, skip: u64, count: u64) -> Self {
        let Self::Bytes(bytes) = self else {
            return self;
        };
        let at = |pages: u64| usize::try_from(pages * PAGE_BYTES).unwrap_or(usize::MAX);
        let part = bytes.get(at(skip)..at(skip + count));
        Self::Bytes(part.unwrap_or_default())
    }
}

/// The gate, unless a defect lets messages pass between a look at the states and what follows.
fn open_on_purpose(gate: RwLockReadGuard<'_, ()>) -> Option<RwLockReadGuard<'_, ()>> {
    if Sabotage::SkippedGate.is_on() {
        drop(gate);
        std::thread::yield_now();
        return None;
    }
    Some(gate)
}

/// Pages that one call puts in place at most, so that nobody who waits to hear messages waits long:
/// 256 KiB.
const MAX_PAGES_A_CALL: u64 = 64;
