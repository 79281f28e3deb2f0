//! A guest whose written pages are tracked.

use std::num::NonZeroUsize;

use snapshot_checks::Way;
use snapshot_format::{GuestAddress, MemoryLayout, MemoryRegion, PAGE_BYTES, PageRange, VmName};
use snapshot_memory::{
    CaptureOptions, ConsumerId, DirectorySink, DirtyEpoch, DirtyTracker, GuestMemorySource,
    MappedMemory, MappingOptions, MemoryStats, PublishError, Published, SinkError, SnapshotSink,
    Stability, VmmWrites, WriteMarker,
};

const PAGE: usize = 4096;

/// Where the second region starts: behind a hole, in another leaf of the page map.
const SECOND_START: u64 = 128 << 20;

/// Guest memory in two regions, and who wrote to it.
#[derive(Debug)]
pub(crate) struct Machine {
    pub(crate) memory: MappedMemory,
    tracker: DirtyTracker,
    consumer: ConsumerId,
    marker: WriteMarker,
}

/// How far an attempt came.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Not to the end of writing.
    Sink(SinkError),
    /// Not to the end of publishing.
    Publish(PublishError),
}

impl Machine {
    /// A guest of two regions of so many pages, most of which hold something.
    pub(crate) fn new(pages: [u64; 2]) -> Self {
        let region = |start, pages| MemoryRegion {
            start: GuestAddress(start),
            len_bytes: pages * PAGE_BYTES,
        };
        let regions = vec![region(0, pages[0]), region(SECOND_START, pages[1])];
        let layout = MemoryLayout::new(regions).unwrap();
        let memory = MappedMemory::new(layout.clone(), MappingOptions::default()).unwrap();
        let (writes, marker) = VmmWrites::new(layout.clone());
        let tracker = DirtyTracker::new(layout, vec![Box::new(writes)]).unwrap();
        let machine = Self {
            consumer: tracker.subscribe(None),
            memory,
            tracker,
            marker,
        };
        // Runs of data and of zero pages, some as long as a buffer of the writer.
        machine.run(1, |page| page % 7 != 3 && page % 1024 < 900);
        machine
    }

    /// Lets the guest write to the pages that `wanted` picks.
    pub(crate) fn run(&self, seed: u8, wanted: impl Fn(u64) -> bool) {
        for page in (0..self.memory.layout().page_count()).filter(|page| wanted(*page)) {
            let value = seed.wrapping_mul(31).wrapping_add(page.to_le_bytes()[0]);
            // Some become zero again.
            let value = if page % 13 == u64::from(seed) {
                0
            } else {
                value
            };
            self.memory
                .write(page * PAGE_BYTES, &[value; PAGE])
                .unwrap();
            self.marker.mark(PageRange::new(page, 1));
        }
    }

    /// Lets the guest clear the pages that `wanted` picks.
    pub(crate) fn clear(&self, wanted: impl Fn(u64) -> bool) {
        for page in (0..self.memory.layout().page_count()).filter(|page| wanted(*page)) {
            self.memory.write(page * PAGE_BYTES, &[0; PAGE]).unwrap();
            self.marker.mark(PageRange::new(page, 1));
        }
    }

    /// The pages that the next snapshot must hold. Not committed: they stay.
    pub(crate) fn epoch(&self) -> DirtyEpoch {
        self.tracker.epoch(self.consumer).unwrap()
    }

    /// The runs of dirty pages.
    pub(crate) fn dirty(&self) -> Vec<PageRange> {
        self.epoch().pages().iter_runs().collect()
    }

    /// Takes a snapshot of `epoch`, up to the end or to the first failure.
    pub(crate) fn take(
        &self,
        sink: &mut DirectorySink,
        epoch: &DirtyEpoch,
        stability: Stability,
    ) -> Result<(Published, MemoryStats), Failure> {
        let sealed = (|| {
            let mut staged = sink.begin()?;
            let stats = staged.memory(&self.memory, epoch.selection(), stability)?;
            Ok((staged.seal()?, stats))
        })();
        let (sealed, stats) = sealed.map_err(Failure::Sink)?;
        let published = sealed.publish().map_err(Failure::Publish)?;
        Ok((published, stats))
    }

    /// All of the memory.
    pub(crate) fn image(&self) -> Vec<u8> {
        let mut image = vec![0; self.memory.len_bytes()];
        self.memory.read(0, &mut image).unwrap();
        image
    }
}

impl Failure {
    /// The error and its causes on one line.
    pub(crate) fn text(&self) -> String {
        let mut cause: Option<&dyn std::error::Error> = Some(match self {
            Self::Sink(error) => error,
            Self::Publish(error) => error,
        });
        let mut parts = Vec::new();
        while let Some(error) = cause {
            parts.push(error.to_string());
            cause = error.source();
        }
        parts.join(": ")
    }

    /// What went wrong before anything was visible; `None` if something is.
    pub(crate) fn not_committed(&self) -> Option<&SinkError> {
        match self {
            Self::Sink(error) => Some(error),
            Self::Publish(PublishError::NotCommitted { source, .. }) => Some(source),
            Self::Publish(_) => None,
        }
    }
}

/// The name of the virtual machine.
pub(crate) fn vm() -> VmName {
    VmName::new("vm").unwrap()
}

/// The options of a capture with two threads.
pub(crate) fn two_threads(way: Way) -> CaptureOptions {
    way.options(NonZeroUsize::new(2).unwrap())
}
