//! Guarding mapped files against being cut.

// UNSAFETY: the promise that the mappings live as long as they are watched.
#![expect(unsafe_code, reason = "hands mappings to the guard")]

use std::ops::Range;
use std::sync::Arc;

use snapshot_format::{PAGE_BYTES, PageRange};

use crate::bus_guard::{BusGuard, BusGuardError, BusWatch, MappedRun};
use crate::mapping::MappedMemory;
use crate::restore::MemoryReporter;

/// Pages of a memory that are mapped from a file.
#[derive(Clone, Debug)]
pub(super) struct MappedPart {
    pub(super) pages: PageRange,
    pub(super) file: Arc<str>,
    pub(super) offset: u64,
}

/// A watch, and the memory that it is of.
#[derive(Debug)]
pub(super) struct GuardedMemory {
    // Dropped in this order.
    watch: BusWatch,
    _memory: Arc<MappedMemory>,
}

impl GuardedMemory {
    /// Watches `parts`, which were mapped into `memory`; what is lost is told to `reporter`.
    pub(super) fn new(
        guard: BusGuard,
        memory: &Arc<MappedMemory>,
        parts: &[MappedPart],
        reporter: &MemoryReporter,
    ) -> Result<Self, BusGuardError> {
        let base = memory.base().as_ptr().expose_provenance() as u64;
        let addresses = |pages: PageRange| -> Range<u64> {
            base + pages.start.0 * PAGE_BYTES..base + pages.end().0 * PAGE_BYTES
        };
        let runs = parts.iter().map(|part| MappedRun {
            addresses: addresses(part.pages),
            first: part.pages.start,
            file: Arc::clone(&part.file),
            offset: part.offset,
        });
        // SAFETY:
        // - the parts lie in the memory, which is mapped as long as its value lives, and that lives
        //   as long as the watch;
        // - the memory is reached by raw pointers and atomics only.
        let watch = unsafe { guard.watch(runs.collect(), reporter) }?;
        Ok(Self {
            watch,
            _memory: Arc::clone(memory),
        })
    }

    pub(super) fn watch(&self) -> &BusWatch {
        &self.watch
    }
}
