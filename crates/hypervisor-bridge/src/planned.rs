//! Putting guest memory in place as a plan says.

use std::sync::Arc;

use snapshot_memory::{MappedMemory, MemoryReport, RestoreFrom, RestorePlan, RestoredMemory};

use crate::error::StepError;
use crate::target::MemoryRestore;

/// Memory that is mapped, served or filled by a [`RestorePlan`].
///
/// The memory exists before the machine that has it, the pages come when the restore is at them.
/// Afterwards [`into_restored`](Self::into_restored) gives what has to live as long as the guest.
///
/// A working set that `from` names is brought in, by a plan that serves. Once the guest is warm,
/// [`RestoredMemory::refresh_working_set`] hands what it touched to whoever keeps that set.
#[derive(Debug)]
pub struct PlannedMemory<'p> {
    plan: &'p RestorePlan,
    from: &'p RestoreFrom,
    memory: Arc<MappedMemory>,
    restored: Option<RestoredMemory>,
}

impl<'p> PlannedMemory<'p> {
    /// Fresh `memory`, to be brought back from `from` as `plan` says.
    #[must_use]
    pub fn new(plan: &'p RestorePlan, from: &'p RestoreFrom, memory: Arc<MappedMemory>) -> Self {
        Self {
            plan,
            from,
            memory,
            restored: None,
        }
    }

    /// What brings pages, checks them and tells of lost ones; `None` before the restore was at
    /// memory.
    #[must_use]
    pub fn into_restored(self) -> Option<RestoredMemory> {
        self.restored
    }
}

impl MemoryRestore for PlannedMemory<'_> {
    fn restore(&mut self) -> Result<MemoryReport, StepError> {
        let restored = self.plan.run(&self.memory, self.from)?;
        let report = restored.report;
        self.restored = Some(restored);
        Ok(report)
    }
}
