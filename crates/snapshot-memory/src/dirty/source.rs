//! The trait of everything that can say which pages were written.

use std::num::NonZeroUsize;

use snapshot_format::MemoryLayout;

use crate::dirty::{BlindSpots, DirtyBitmap};
use crate::error::DirtyError;

/// What a source promises about the pages it names.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum DirtyGuarantee {
    /// Every page written by the named writers, and no other, at the source's granule.
    Exact,
    /// Every page written, and possibly more.
    Superset,
}

impl DirtyGuarantee {
    /// A short name for reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Exact => "exact",
            Self::Superset => "superset",
        }
    }
}

/// Something that records which pages were written: a KVM log, a write-protecting hypervisor,
/// userfaultfd, the VMM's own writes.
pub trait DirtySource: Send {
    /// A short name for reports: `kvm-log`, `wp-async`, `vmm`.
    fn name(&self) -> &'static str;

    /// What is promised, and for whose writes.
    fn guarantee(&self) -> DirtyGuarantee;

    /// Whose writes it does not see. All that is promised is promised of the others.
    fn blind_spots(&self) -> BlindSpots;

    /// The memory that is watched.
    fn layout(&self) -> &MemoryLayout;

    /// Bytes that one bit of the source stands for: a power of two, at least 4096.
    fn granule_bytes(&self) -> u64;

    /// Starts recording. Pages written before may or may not be named by the first harvest.
    fn start(&mut self) -> Result<(), DirtyError>;

    /// ORs every page written since the last harvest into `into` and clears it at the source.
    ///
    /// On an error the caller must take all pages of the layout for dirty.
    fn harvest(&mut self, into: &DirtyBitmap) -> Result<(), DirtyError>;

    /// ORs every page written since the last harvest into `into`, for the last pages of a live
    /// snapshot: asked for while nobody writes, with the machine waiting.
    ///
    /// What it names may stay at the source, to be named by the next harvest again: a source that
    /// is sooner done when it clears nothing overrides this. On an error the caller must take all
    /// pages of the layout for dirty.
    fn peek(&mut self, into: &DirtyBitmap) -> Result<(), DirtyError> {
        self.harvest(into)
    }

    /// Makes ready for peeks, which are to cost as little as they can: gets memory, and may start
    /// threads, so many with the caller's as `threads` says. [`rest`](Self::rest) undoes it.
    fn make_ready(&mut self, threads: NonZeroUsize) -> Result<(), DirtyError> {
        let _ = threads;
        Ok(())
    }

    /// Tells that a peek comes within a millisecond or two: threads that were
    /// [made ready](Self::make_ready) need not be woken then. Called with the machine waiting,
    /// before its state is read.
    fn rouse(&mut self) {}

    /// Gives back what was got ready, and joins every thread.
    fn rest(&mut self) {}

    /// Stops recording.
    fn stop(&mut self) -> Result<(), DirtyError>;

    /// Watches the memory of `layout` from now on, which the VMM has put in place of the old one.
    ///
    /// The source is started, and was harvested before the change. Pages that are memory in both
    /// layouts and may hold other bytes than before, because other host memory backs them, are
    /// ORed into `changed`, a bitmap of the new layout; pages that were no memory before need not
    /// be. On an error the source watches the old layout, or none.
    ///
    /// Most sources are told the new memory by a handle, in the VMM's own terms, before this is
    /// called. A source that cannot follow refuses.
    fn change_layout(
        &mut self,
        layout: &MemoryLayout,
        changed: &DirtyBitmap,
    ) -> Result<(), DirtyError> {
        let _ = (layout, changed);
        Err(DirtyError::FixedLayout { name: self.name() })
    }
}
