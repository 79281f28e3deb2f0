//! One closed round of dirty pages, to be committed once a durable snapshot holds them.

use std::sync::Arc;

use snapshot_format::{MemoryLayout, SnapshotRef};

use super::DirtyBitmap;
use super::tracker::{ConsumerId, Shared};
use crate::error::DirtyError;
use crate::sink::Pages;

/// The pages that a consumer must put into its next snapshot.
///
/// An owned token: it may outlive the pause, move to another thread, or be lost. Only
/// [`commit`](Self::commit) drops bits; dropping or leaking the token gives them to the next epoch.
#[derive(Debug)]
#[must_use = "the pages stay pending until the epoch is committed"]
pub struct DirtyEpoch {
    pub(super) shared: Arc<Shared>,
    pub(super) consumer: ConsumerId,
    pub(super) serial: u64,
    pub(super) base: Option<SnapshotRef>,
    pub(super) layout: Arc<MemoryLayout>,
    pub(super) pages: DirtyBitmap,
    pub(super) failures: Vec<DirtyError>,
}

impl DirtyEpoch {
    /// The pages written since the base; all of them without one.
    #[must_use]
    pub fn pages(&self) -> &DirtyBitmap {
        &self.pages
    }

    /// The memory that the pages are numbered in: that of the instant of the epoch.
    #[must_use]
    pub fn layout(&self) -> &MemoryLayout {
        &self.layout
    }

    /// The snapshot that the pages are relative to; `None` where a full snapshot is due.
    #[must_use]
    pub fn base(&self) -> Option<SnapshotRef> {
        self.base
    }

    /// What a sink is told to take: the dirty pages, or everything without a base.
    #[must_use]
    pub fn selection(&self) -> Pages<'_> {
        match self.base {
            None => Pages::Full,
            Some(base) => Pages::Since {
                base,
                dirty: &self.pages,
            },
        }
    }

    /// Sources that failed, so that all pages had to be marked.
    #[must_use]
    pub fn failures(&self) -> &[DirtyError] {
        &self.failures
    }

    /// Says that `published` is durable and holds the pages: it becomes the base, and the bits of
    /// this epoch are dropped.
    ///
    /// Refused, with all bits kept, where another epoch has moved the base in the meantime.
    pub fn commit(self, published: SnapshotRef) -> Result<(), DirtyError> {
        self.shared
            .commit(self.consumer, self.serial, self.base, published)
    }
}
