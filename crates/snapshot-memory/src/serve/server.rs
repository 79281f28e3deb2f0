//! Pages of a snapshot, put in place when somebody touches them.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::Duration;

use snapshot_format::{PAGE_BYTES, PageRange};

use super::ServeError;
use super::addresses::AddressMap;
use super::discards::ServedDiscards;
use super::engine::Engine;
use super::options::ServeOptions;
use super::origin::Origin;
use super::prefetch::Prefetcher;
use super::shared::SharedPages;
use super::stats::ServeStats;
use super::trace::FaultTrace;
use super::worker::{Worker, give_way};
use crate::handler::settle;
use crate::restore::{MemoryEvents, PageSource};
use crate::uffd::{ServedRange, UffdContext};

/// Serves the pages of a snapshot to memory of this or another process, whenever a thread touches
/// one that is missing.
///
/// It reaches the memory by the ioctls of userfaultfd only. A page that is there is never written
/// again, a page that was given back is zero when it is touched next, and no byte is put in place
/// that its source has not handed out as checked.
///
/// A page that the source cannot give keeps its thread waiting, and the [events](Self::events) tell
/// the VMM, which stops the guest and [abandons](Self::abandon) the memory.
///
/// Dropping the server ends its threads. Memory that is not complete must not be used from then on:
/// unmap it first.
pub struct PageServer {
    engine: Arc<Engine>,
    threads: Vec<JoinHandle<()>>,
    events: MemoryEvents,
    is_finished: bool,
}

impl PageServer {
    /// Serves `ranges`, which are registered with `context`, from `source`.
    pub fn start(
        context: Arc<UffdContext>,
        ranges: Vec<ServedRange>,
        source: Arc<dyn PageSource>,
        options: ServeOptions,
    ) -> Result<Self, ServeError> {
        Self::start_from(context, ranges, Origin::Own(source), options)
    }

    /// Serves `ranges`, private mappings of the memfd of `pages` that are registered with `context`
    /// for missing and minor faults, from there.
    pub fn start_shared(
        context: Arc<UffdContext>,
        ranges: Vec<ServedRange>,
        pages: Arc<SharedPages>,
        options: ServeOptions,
    ) -> Result<Self, ServeError> {
        Self::start_from(context, ranges, Origin::Shared(pages), options)
    }

    /// Tables that were made for pages that changed.
    #[cfg(test)]
    pub(super) fn leaf_count(&self) -> usize {
        self.engine.states.leaf_count()
    }

    fn start_from(
        context: Arc<UffdContext>,
        ranges: Vec<ServedRange>,
        origin: Origin,
        options: ServeOptions,
    ) -> Result<Self, ServeError> {
        let map = AddressMap::new(ranges, origin.source().layout().page_count())?;
        let (events, reporter) =
            MemoryEvents::new().map_err(ServeError::system("make an eventfd"))?;
        let engine = Engine::new(context, map, origin, options, reporter)
            .map_err(ServeError::system("make an eventfd"))?;
        let mut server = Self {
            engine: Arc::new(engine),
            threads: Vec::with_capacity(options.threads),
            events,
            is_finished: false,
        };
        for number in 0..options.threads {
            let is_last = number + 1 == options.threads;
            let fills = is_last && options.background.is_some();
            let mut worker = Worker::new(Arc::clone(&server.engine), fills);
            let thread = std::thread::Builder::new().name("page-server".into());
            let run = move || {
                if fills && number > 0 {
                    give_way();
                }
                worker.run();
            };
            let thread = thread
                .spawn(run)
                .map_err(ServeError::system("start a thread"))?;
            server.threads.push(thread);
        }
        Ok(server)
    }

    /// Serves on the calling thread, until the server is [stopped](Self::stop), or the process
    /// whose memory it is has ended.
    pub fn run(&self) {
        let fills = self.threads.is_empty() && self.engine.options.background.is_some();
        Worker::new(Arc::clone(&self.engine), fills).run();
    }

    /// Pages of the image that it serves from.
    #[must_use]
    pub fn page_count(&self) -> u64 {
        self.engine.origin.source().layout().page_count()
    }

    /// What was lost of the memory.
    #[must_use]
    pub fn events(&self) -> &MemoryEvents {
        &self.events
    }

    /// The userfaultfd.
    #[must_use]
    pub fn context(&self) -> &Arc<UffdContext> {
        &self.engine.context
    }

    /// Puts `pages` in place as `bytes`, which are those of the snapshot and were checked, before
    /// anybody touches them. Those that are there, or were given back, stay as they are.
    pub fn prefetch(&self, pages: PageRange, bytes: &[u8]) -> Result<(), ServeError> {
        self.prefetcher().put(pages, bytes)
    }

    /// Puts `pages` in place as zero, before anybody touches them: the source says that they are.
    pub fn prefetch_zero(&self, pages: PageRange) -> Result<(), ServeError> {
        self.prefetcher().put_zero(pages)
    }

    /// What a thread needs that puts pages in place beside the server.
    pub(crate) fn prefetcher(&self) -> Prefetcher {
        Prefetcher::new(Arc::clone(&self.engine))
    }

    /// Reads those of `pages` that are not there, on the calling thread. Zero pages are left for
    /// the kernel.
    ///
    /// Stops at the first that cannot be read.
    pub fn fill(&self, pages: PageRange) -> Result<(), ServeError> {
        let len = self.engine.options.window_pages * PAGE_BYTES;
        let mut buffer = vec![0; usize::try_from(len).unwrap_or(usize::MAX)];
        self.engine.fill(pages, &mut buffer).map(drop)
    }

    /// Waits until the background has filled all that it can, at most for `limit`. Gives how many
    /// pages it had to skip, which whoever touches them will hear of; `None`: it is not done.
    #[must_use]
    pub fn wait_filled(&self, limit: Duration) -> Option<u64> {
        self.engine.wait_filled(limit)
    }

    /// Fills all that is not there, ends the registration of the memory and the threads. The memory
    /// is complete then, and costs no more than other memory.
    ///
    /// Where writes are tracked by the same userfaultfd, the registration stays, and so do the
    /// threads: pages that are given back still wait for them. Gives whether it ended.
    ///
    /// Afterwards pages that are given back read as the kernel has it: zero, or for private mappings
    /// of [`SharedPages`], as in the snapshot.
    pub fn finish(&mut self) -> Result<bool, ServeError> {
        for range in self.engine.map.ranges() {
            self.fill(range.pages())?;
        }
        if self.engine.context.is_tracking() {
            return Ok(false);
        }
        self.engine.complete_discards()?;
        let ranges = self.engine.map.ranges();
        self.engine.context.unregister(ranges)?;
        if let Some(range) = ranges.first() {
            // A thread that gives pages back may have begun just before.
            settle(&self.engine.context, range.addresses.start)?;
        }
        self.stop();
        self.is_finished = true;
        Ok(true)
    }

    /// Gives up: every thread that waits goes on, and pages that are missing are zero from now on.
    ///
    /// For a VMM that has stopped the guest and is to unwind: what the guest sees is not its memory.
    pub fn abandon(&self) {
        self.engine.is_abandoned.store(true, Ordering::Release);
        for range in self.engine.map.ranges() {
            if let Err(error) = self.engine.wake(&range.addresses) {
                self.engine.report_place(&error);
            }
        }
        self.engine.bell.ring();
    }

    /// A source of the pages that are given back, for a tracker of dirty pages: they are zero, and
    /// nobody wrote that. One for each server: an earlier one hears no more.
    #[must_use]
    pub fn discards(&self) -> ServedDiscards {
        ServedDiscards::new(&self.engine)
    }

    /// What was brought on demand so far, in order.
    #[must_use]
    pub fn trace(&self) -> FaultTrace {
        self.engine.recorder.trace()
    }

    /// What was done so far.
    #[must_use]
    pub fn stats(&self) -> ServeStats {
        self.engine.counters.stats()
    }

    /// Whether the memory is complete, and like other memory to the kernel.
    pub(crate) fn is_finished(&self) -> bool {
        self.is_finished
    }

    /// Whether pages are put in place that nobody waits for.
    pub(crate) fn fills(&self) -> bool {
        self.engine.options.background.is_some()
    }

    /// Whether its pages are shared with other clones of the snapshot.
    #[must_use]
    pub fn shares_pages(&self) -> bool {
        matches!(self.engine.origin, Origin::Shared(_))
    }

    /// Whether the process whose memory it is has ended; its server does nothing any more.
    #[must_use]
    pub fn is_peer_gone(&self) -> bool {
        self.engine.is_peer_gone()
    }

    /// Where the memory is.
    pub fn ranges(&self) -> impl Iterator<Item = Range<u64>> + '_ {
        let ranges = self.engine.map.ranges().iter();
        ranges.map(|range| range.addresses.clone())
    }

    /// Ends the threads that serve, and lets those come back that callers have lent. What is
    /// missing stays so.
    pub fn stop(&mut self) {
        self.stop_serving();
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a thread that served memory panicked");
            }
        }
    }

    /// As [`stop`](Self::stop), from a thread that only shares the server: waits for nobody.
    pub fn stop_serving(&self) {
        self.engine.is_stopping.store(true, Ordering::Release);
        self.engine.bell.ring();
    }
}

impl Drop for PageServer {
    fn drop(&mut self) {
        self.stop();
    }
}

impl fmt::Debug for PageServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PageServer")
            .field("engine", &self.engine)
            .field("threads", &self.threads.len())
            .finish_non_exhaustive()
    }
}
