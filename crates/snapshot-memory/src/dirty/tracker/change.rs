//! Dirty bits when memory is plugged, unplugged, resized or moved.

use std::error::Error;
use std::sync::Arc;

use snapshot_format::MemoryLayout;

use super::{Consumer, DirtyTracker, State};
use crate::dirty::DirtyBitmap;
use crate::error::DirtyError;

impl DirtyTracker {
    /// Follows a change of the memory to `layout`, which `change` makes.
    ///
    /// The sources are harvested first, so that no bit goes away with a slot. Then `change` does
    /// what the VMM has to do: it deletes and adds slots, and tells the sources that need to know,
    /// by their handles. Bits follow their guest pages. Pages that were no memory, or for which
    /// other host memory stands now, are dirty for every consumer; bits of pages that are gone
    /// are dropped.
    ///
    /// Nobody may write to memory that goes away, is resized or is moved while this runs; writers
    /// of all other memory may go on.
    ///
    /// # Errors
    ///
    /// Bits are never lost. Where `change` fails, the tracker stays with the old layout and all
    /// pages are dirty; a panic of it counts as that too. Where a source fails, or cannot follow,
    /// the tracker has the new layout, and all pages are dirty in every epoch until that source
    /// has followed a later change.
    pub fn change_layout(
        &self,
        layout: MemoryLayout,
        change: impl FnOnce() -> Result<(), Box<dyn Error + Send + Sync>>,
    ) -> Result<(), DirtyError> {
        let mut state = self.shared.lock();
        // A failure has marked all pages, which the next epoch says as well.
        for failure in state.harvest_all() {
            tracing::warn!(error = %failure, "a dirty source failed before the memory changed");
        }
        let mut marking = MarkUnlessDone {
            state: &mut state,
            armed: true,
        };
        let changed = change();
        marking.armed = changed.is_err();
        drop(marking);
        changed.map_err(|source| DirtyError::Change { source })?;
        state.move_to(&Arc::new(layout))
    }
}

impl State {
    /// Moves all bits to the pages of `layout`, and has the sources follow.
    fn move_to(&mut self, layout: &Arc<MemoryLayout>) -> Result<(), DirtyError> {
        let old = std::mem::replace(&mut self.layout, layout.clone());
        for consumer in self.consumers.values_mut() {
            consumer.move_to(&old, layout);
        }
        let changed = DirtyBitmap::new(layout.page_count());
        // Until the last source has followed, and for good where one has not.
        let mut marking = MarkUnlessDone {
            state: self,
            armed: true,
        };
        let mut failed = None;
        for source in &mut marking.state.sources {
            if let Err(error) = source.change_layout(layout, &changed) {
                failed = failed.or(Some(error));
            }
        }
        marking.armed = failed.is_some();
        drop(marking);
        for consumer in self.consumers.values() {
            consumer.active.or_from(&changed);
        }
        failed.map_or(Ok(()), Err)
    }
}

impl Consumer {
    fn move_to(&mut self, old: &MemoryLayout, new: &MemoryLayout) {
        let shared = old.shared_runs(new);
        let moved = |bits: &DirtyBitmap| {
            let to = DirtyBitmap::new(new.page_count());
            for run in &shared {
                to.or_moved(bits, run.pages, run.other);
            }
            to
        };
        for round in &mut self.rounds {
            round.bits = moved(&round.bits);
        }
        self.active = moved(&self.active);
        // In the open round: an epoch that was closed before does not hold them.
        for pages in new.pages_not_in(old) {
            self.active.set_range(pages);
        }
    }
}

/// Marks all pages of all consumers when it is dropped armed: after an error or in a panic.
struct MarkUnlessDone<'a> {
    state: &'a mut State,
    armed: bool,
}

impl Drop for MarkUnlessDone<'_> {
    fn drop(&mut self) {
        if self.armed {
            for consumer in self.state.consumers.values() {
                consumer.active.set_all();
            }
        }
    }
}

#[cfg(test)]
mod tests;
