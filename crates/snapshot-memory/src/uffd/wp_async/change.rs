//! Asynchronous write protection of memory that changes.

use std::ops::Range;
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, PoisonError};

use snapshot_format::{MemoryLayout, PAGE_BYTES};

use super::{NAME, ServedRange, Watch, WpAsyncSource, register, segments_of, system};
use crate::dirty::DirtyBitmap;
use crate::error::DirtyError;
use crate::source::GuestMemorySource;
use crate::uffd::ioctl;

/// Tells a [`WpAsyncSource`] which memory it is to watch after the next change of the layout.
#[derive(Clone)]
pub struct WpAsyncMemory {
    next: Arc<Mutex<Option<Arc<dyn GuestMemorySource>>>>,
}

impl WpAsyncMemory {
    pub(super) fn new() -> Self {
        Self {
            next: Arc::default(),
        }
    }

    /// Names the memory as it is from now on. To be called within
    /// [`DirtyTracker::change_layout`](crate::DirtyTracker::change_layout).
    ///
    /// Pages that stay are to be mapped where they were: those that are not count as written.
    pub fn replace(&self, memory: Arc<dyn GuestMemorySource>) {
        *self.next.lock().unwrap_or_else(PoisonError::into_inner) = Some(memory);
    }

    fn take(&self) -> Option<Arc<dyn GuestMemorySource>> {
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        next.take()
    }
}

impl std::fmt::Debug for WpAsyncMemory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WpAsyncMemory").finish_non_exhaustive()
    }
}

impl WpAsyncSource {
    pub(super) fn follow(
        &mut self,
        layout: &MemoryLayout,
        changed: &DirtyBitmap,
    ) -> Result<(), DirtyError> {
        let memory = self.handle.take();
        let memory = memory.filter(|memory| memory.layout() == layout);
        let memory = memory.ok_or(DirtyError::LayoutDiffers { name: NAME })?;
        let segments = segments_of(&*memory)?;
        // Memory that is served is registered by whoever serves it.
        if let Watch::Own(Some(uffd)) = &self.watch {
            let (old, new) = (addresses_of(&self.segments), addresses_of(&segments));
            for added in without(&new, &old) {
                register(uffd.as_fd(), &added)?;
            }
            for gone in without(&old, &new) {
                ioctl::unregister(uffd.as_fd(), &gone)
                    .map_err(system("unregister the memory from userfaultfd"))?;
            }
        }
        for run in self.memory.layout().shared_runs(layout) {
            for page in 0..run.pages.count {
                let at = run.other.0 + page;
                let before = address_of(&self.segments, run.pages.start.0 + page);
                if before != address_of(&segments, at) {
                    changed.set(snapshot_format::PageIndex(at));
                }
            }
        }
        self.memory = memory;
        self.segments = segments;
        // It scans the old ones.
        self.crew = None;
        Ok(())
    }
}

/// Where an image page is mapped.
fn address_of(segments: &[ServedRange], page: u64) -> Option<u64> {
    let place = segments.partition_point(|segment| segment.first.0 <= page);
    let segment = segments.get(place.checked_sub(1)?)?;
    Some(segment.addresses.start + (page - segment.first.0) * PAGE_BYTES)
}

/// The addresses of segments, ascending.
fn addresses_of(segments: &[ServedRange]) -> Vec<Range<u64>> {
    let mut ranges: Vec<_> = segments.iter().map(|s| s.addresses.clone()).collect();
    ranges.sort_by_key(|range| range.start);
    ranges
}

/// What of `ranges` lies in none of `others`; both ascending.
fn without(ranges: &[Range<u64>], others: &[Range<u64>]) -> Vec<Range<u64>> {
    let mut left = Vec::new();
    for range in ranges {
        let mut from = range.start;
        for other in others {
            if other.end <= from || other.start >= range.end {
                continue;
            }
            if other.start > from {
                left.push(from..other.start);
            }
            from = other.end;
        }
        if from < range.end {
            left.push(from..range.end);
        }
    }
    left
}

#[cfg(test)]
mod tests {
    use super::without;

    #[test]
    fn ranges_lose_what_others_cover() {
        let ranges = [0..10, 20..30];
        assert_eq!(without(&ranges, &[]), ranges);
        assert_eq!(
            without(&ranges, &[2..4, 8..22, 29..40]),
            [0..2, 4..8, 22..29]
        );
        assert_eq!(without(&ranges, &[0..12, 12..30]), []);
    }
}
