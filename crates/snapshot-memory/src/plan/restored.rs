//! Memory that is in place, and what has to live as long as it is used.

use std::sync::Arc;

use snapshot_format::{PAGE_BYTES, PageRange};

use super::background::BackgroundCheck;
use super::method::MethodKind;
use super::replay::WorkingSetReplay;
use super::report::MemoryReport;
use super::sealed::SealedMemory;
use super::watch::GuardedMemory;
use crate::bus_guard::BusWatch;
use crate::error::MemoryError;
use crate::mapping::MappedMemory;
use crate::restore::MemoryEvents;
use crate::serve::{PageServer, SharedPages};
use crate::working_set::{TouchedPages, WorkingSetKeeper};
use crate::zero::ZERO_PAGES;

/// Memory that is in place, and what has to live as long as it is used.
///
/// A served memory whose pages are not all there must be unmapped before its server ends, since
/// missing pages would then be zero. So this holds the memory, too, and lets go of it first: keep
/// it until the guest has ended, and hand the memory itself to nobody who stays longer.
#[derive(Debug)]
#[must_use = "dropping it ends what brings pages to a running guest"]
pub struct RestoredMemory {
    /// What was done.
    pub report: MemoryReport,
    /// The check that is promised, to be run beside the guest: there is one under
    /// [`Verification::Background`](crate::Verification::Background) only.
    pub check: Option<BackgroundCheck>,
    /// The memfd that other guests of the snapshot can be restored from.
    pub sealed: Option<Arc<SealedMemory>>,
    /// The pages that other clones of the snapshot can share.
    pub shared: Option<Arc<SharedPages>>,
    /// Keeps the working set of the snapshot.
    pub(super) keeper: Option<Arc<dyn WorkingSetKeeper>>,
    /// What the page cache had of mapped files, for those who observe the guest.
    pub(super) resident_before: Option<TouchedPages>,
    // Dropped in this order.
    pub(super) replay: Option<WorkingSetReplay>,
    pub(super) guarded: Option<GuardedMemory>,
    pub(super) memory: Arc<MappedMemory>,
    pub(super) server: Option<PageServer>,
    pub(super) events: Option<MemoryEvents>,
}

impl RestoredMemory {
    /// Memory of which everything is there.
    pub(super) fn new(memory: &Arc<MappedMemory>, report: MemoryReport) -> Self {
        Self {
            report,
            check: None,
            sealed: None,
            shared: None,
            keeper: None,
            resident_before: None,
            replay: None,
            guarded: None,
            memory: Arc::clone(memory),
            server: None,
            events: None,
        }
    }

    /// The memory.
    #[must_use]
    pub fn memory(&self) -> &Arc<MappedMemory> {
        &self.memory
    }

    /// What is lost of the memory while the guest runs; `None` where nothing can be any more.
    #[must_use]
    pub fn events(&self) -> Option<&MemoryEvents> {
        self.events
            .as_ref()
            .or_else(|| self.server.as_ref().map(PageServer::events))
    }

    /// What serves the memory, where it is served.
    #[must_use]
    pub fn server(&self) -> Option<&PageServer> {
        self.server.as_ref()
    }

    /// The same, to finish or to stop it.
    pub fn server_mut(&mut self) -> Option<&mut PageServer> {
        self.server.as_mut()
    }

    /// The working set on its way, where the plan has one: what came of it, and the event that it
    /// did not come.
    #[must_use]
    pub fn replay(&self) -> Option<&WorkingSetReplay> {
        self.replay.as_ref()
    }

    /// What watches the mapped files, where a guard was given.
    #[must_use]
    pub fn watch(&self) -> Option<&BusWatch> {
        self.guarded.as_ref().map(GuardedMemory::watch)
    }

    /// Gives `pages` back, as for a balloon: they are zero from then on, as written by the VMM.
    ///
    /// Where files are mapped, or the pages that clones share and nobody serves them any more, the
    /// host gets nothing back: the kernel would show the bytes of the file again, so zeros are
    /// written over them. [`MemoryReport::given_back`] is about those who call `madvise` instead.
    pub fn discard(&self, pages: PageRange) -> Result<(), MemoryError> {
        if !self.shows_files() {
            return self.memory.discard(pages);
        }
        let end = pages.end().0;
        let mut next = pages.start.0;
        while next < end {
            let count = (end - next).min(ZERO_PAGES.len() as u64 / PAGE_BYTES);
            let len = usize::try_from(count * PAGE_BYTES).unwrap_or(usize::MAX);
            let zeros = ZERO_PAGES.get(..len).unwrap_or_default();
            self.memory.write(next.saturating_mul(PAGE_BYTES), zeros)?;
            next += count;
        }
        Ok(())
    }

    /// Whether the kernel itself shows the bytes of a file where pages were dropped.
    fn shows_files(&self) -> bool {
        let is_finished = self.server.as_ref().is_some_and(PageServer::is_finished);
        self.report.method.kind() == MethodKind::Mapped || (is_finished && self.shared.is_some())
    }

    /// Lets threads of a guest that was stopped, and will not run again, go on over zero pages, so
    /// that they can end.
    pub fn abandon(&self) {
        if let Some(replay) = &self.replay {
            replay.cancel();
        }
        if let Some(server) = &self.server {
            server.abandon();
        }
        if let Some(watch) = self.watch() {
            watch.abandon();
        }
    }
}
