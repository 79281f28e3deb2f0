//! Memory that a restore plan puts in place.

use std::any::Any;
use std::fmt;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use hypervisor_bridge::{MemoryRestore, PlannedMemory, StepError};
use snapshot_format::{MemoryLayout, PageRange};
use snapshot_memory::{
    BackgroundCheck, GuestMemorySource, HostRun, MappedMemory, MemoryError, MemoryReport,
    PageServer, RestoreFrom, RestorePlan, RestoredMemory,
};

/// The pages of a snapshot, and the plan by which they come to a guest.
///
/// A plan that checks while the guest runs leaves that to the caller: [`GuestPages::take_check`].
pub struct PlannedPages {
    plan: RestorePlan,
    from: RestoreFrom,
    keeps: Keeps,
}

/// What has to stay as long as the memory: leases.
type Keeps = Box<dyn Any + Send + Sync>;

impl PlannedPages {
    /// Restores by `plan` from `from`; `keeps`, a lease, goes when the memory has gone.
    #[must_use]
    pub fn new(plan: RestorePlan, from: RestoreFrom, keeps: impl Any + Send + Sync) -> Self {
        Self {
            plan,
            from,
            keeps: Box::new(keeps),
        }
    }

    /// The same, with writes tracked by the userfaultfd that serves, if one does.
    pub(crate) fn tracks(mut self, tracks: bool) -> Self {
        self.from.uffd = self.from.uffd.tracks(tracks);
        self
    }

    /// Reads pages, checked, whatever the plan says.
    pub(crate) fn read(
        &self,
        pages: PageRange,
        out: &mut [u8],
    ) -> Result<(), snapshot_memory::ImageError> {
        self.from.image.read_pages(pages, out)
    }

    pub(crate) fn layout(&self) -> &MemoryLayout {
        self.from.image.layout()
    }

    /// Fresh memory for them: they come when the restore is at memory.
    pub(crate) fn into_memory(self, memory: MappedMemory) -> (Arc<GuestPages>, PlannedRestore) {
        let Self { plan, from, keeps } = self;
        let pages = Arc::new(GuestPages {
            memory: Arc::new(memory),
            restored: OnceLock::new(),
            check: Mutex::default(),
            _keeps: keeps,
        });
        let restore = PlannedRestore {
            plan,
            from,
            pages: Arc::clone(&pages),
        };
        (pages, restore)
    }
}

impl fmt::Debug for PlannedPages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PlannedPages")
            .field("plan", &self.plan)
            .finish_non_exhaustive()
    }
}

/// Puts pages in place as their plan says, when the restore is at memory.
pub(crate) struct PlannedRestore {
    plan: RestorePlan,
    from: RestoreFrom,
    pages: Arc<GuestPages>,
}

impl MemoryRestore for PlannedRestore {
    fn restore(&mut self) -> Result<MemoryReport, StepError> {
        let memory = Arc::clone(&self.pages.memory);
        let mut planned = PlannedMemory::new(&self.plan, &self.from, memory);
        let report = planned.restore()?;
        let mut restored = planned.into_restored().ok_or("nothing was restored")?;
        *self.pages.lock_check() = restored.check.take();
        let is_first = self.pages.restored.set(restored).is_ok();
        is_first
            .then_some(report)
            .ok_or_else(|| "memory is there already".into())
    }
}

/// The memory of a guest that a plan restored. Whoever has it keeps it mapped, and what brings its
/// pages alive.
pub struct GuestPages {
    // Dropped in this order: the memory is unmapped before what brings its pages ends.
    memory: Arc<MappedMemory>,
    restored: OnceLock<RestoredMemory>,
    check: Mutex<Option<BackgroundCheck>>,
    _keeps: Keeps,
}

impl GuestPages {
    /// What serves the pages, where they are served.
    #[must_use]
    pub fn server(&self) -> Option<&PageServer> {
        self.restored().and_then(RestoredMemory::server)
    }

    /// The check that the plan promised beside the guest; the first time, where there is one.
    #[must_use]
    pub fn take_check(&self) -> Option<BackgroundCheck> {
        self.lock_check().take()
    }

    /// The mapping.
    pub(crate) fn mapped(&self) -> &MappedMemory {
        &self.memory
    }

    /// What was done; `None` before the restore is at memory.
    pub(crate) fn restored(&self) -> Option<&RestoredMemory> {
        self.restored.get()
    }

    fn lock_check(&self) -> std::sync::MutexGuard<'_, Option<BackgroundCheck>> {
        self.check.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for GuestPages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GuestPages")
            .field("restored", &self.restored)
            .finish_non_exhaustive()
    }
}

impl GuestMemorySource for GuestPages {
    fn layout(&self) -> &MemoryLayout {
        self.memory.layout()
    }

    fn read_pages(&self, pages: PageRange, out: &mut [u8]) -> Result<(), MemoryError> {
        self.memory.read_pages(pages, out)
    }

    fn host_run(&self, pages: PageRange) -> Option<HostRun<'_>> {
        self.memory.host_run(pages)
    }
}

#[cfg(test)]
mod tests;
