//! What every dirty source must do.

mod changes;
mod promise;
mod rig;
#[cfg(test)]
mod tests;
mod writes;

use snapshot_format::{Digest, SnapshotId, SnapshotRef};

pub use rig::DirtyRig;

use self::promise::Promise;
use crate::dirty::{ConsumerId, DirtyBitmap, DirtyEpoch, DirtyTracker};

/// Runs the sources of `rig` through everything that a tracker, and so every diff, relies on:
///
/// - writes at every kind of boundary: first and last byte of a page, first and last page of a
///   region, around words of 64 pages, granules, huge pages and 64 MiB;
/// - an exact source names every page of the granules that were written and no other; a superset
///   at least those;
/// - a harvest clears what it gave and arms the source for the next write to the same page, ORs
///   into what is there, and misses nothing that is written while it runs;
/// - a peek names what was written since, and takes nothing from the harvest that follows;
/// - a source can be stopped and started again;
/// - a harvest that fails makes every page dirty, and only until the next epoch;
/// - memory is plugged, unplugged, resized and moved between harvests, if the rig can.
///
/// # Panics
///
/// Where a source breaks a promise; the message names it.
pub fn dirty_source_suite(rig: &mut dyn DirtyRig) {
    let mut source = rig.source();
    writes::check(&mut *source, rig);
    drop(source);
    changes::check_failure(rig);
    changes::check_layouts(rig);
}

/// A tracker with one consumer, whose epochs are committed one after the other.
struct Tracked {
    tracker: DirtyTracker,
    consumer: ConsumerId,
    promise: Promise,
    commits: u128,
}

impl Tracked {
    /// Tracks with a source of the rig. What was written before is left behind.
    fn start(rig: &mut dyn DirtyRig) -> Self {
        let source = rig.source();
        let (promise, layout) = (Promise::of(&*source), source.layout().clone());
        let tracker = DirtyTracker::new(layout, vec![source]);
        let tracker = match tracker {
            Ok(tracker) => tracker,
            Err(error) => broken(promise.name, "starts", &error),
        };
        let consumer = tracker.subscribe(Some(reference(0)));
        let mut tracked = Self {
            tracker,
            consumer,
            promise,
            commits: 0,
        };
        tracked.commit();
        tracked
    }

    fn epoch(&self) -> DirtyEpoch {
        match self.tracker.epoch(self.consumer) {
            Ok(epoch) => epoch,
            Err(error) => broken(self.promise.name, "gives an epoch", &error),
        }
    }

    /// Closes an epoch without failures, commits it, and gives its pages.
    fn commit(&mut self) -> DirtyBitmap {
        let epoch = self.epoch();
        assert!(
            epoch.failures().is_empty(),
            "{}: harvest failed: {:?}",
            self.promise.name,
            epoch.failures()
        );
        self.commit_epoch(epoch)
    }

    fn commit_epoch(&mut self, epoch: DirtyEpoch) -> DirtyBitmap {
        self.commits += 1;
        let pages = epoch.pages().clone();
        let committed = epoch.commit(reference(self.commits));
        assert!(committed.is_ok(), "{}: {committed:?}", self.promise.name);
        pages
    }
}

fn reference(number: u128) -> SnapshotRef {
    let id = SnapshotId((number + 1).to_le_bytes());
    SnapshotRef {
        id,
        digest: Digest::of(&id.0),
    }
}

#[expect(clippy::panic, reason = "a suite fails by panicking, as any test does")]
fn broken(name: &str, what: &str, error: &dyn std::error::Error) -> ! {
    panic!("{name}: a source that conforms {what}, and it did not: {error}")
}
