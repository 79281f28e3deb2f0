//! Guests that write, are captured in every way, are interrupted and restored, against a copy of
//! their memory for each snapshot.

use std::num::NonZeroUsize;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use snapshot_format::{
    Arch, GuestAddress, MemoryLayout, MemoryRegion, PAGE_BYTES, PageRange, SnapshotRef, VmName,
};
use snapshot_memory::backend::{Backend, Fault, FaultBackend, MemBackend, RelPath};
use snapshot_memory::{
    Cancel, CaptureControl, CaptureOptions, ConsumerId, Dedup, DirectorySink, DirtyTracker,
    MappedMemory, MappingOptions, MemoryImage, MemoryStats, PublishError, Published,
    PublishedSnapshot, SinkError, SnapshotSink, Stability, VmmWrites, WriteMarker,
};

use super::input::Input;
use crate::Way;

/// Pages of the two regions: more than one buffer of the writer.
const PAGES: [u64; 2] = [540, 70];
const PAGE_COUNT: u64 = PAGES[0] + PAGES[1];

/// Where the second region starts: behind a hole, across the edge of two leaves.
const SECOND_START: u64 = (16_384 * 3 - 33) * PAGE_BYTES;

/// Snapshots of one input at most, those included that fail.
const MAX_ATTEMPTS: usize = 8;

/// Operations of one input at most: longer inputs show nothing new.
const MAX_OPERATIONS: usize = 40;

const PAGE: usize = 4096;
const EIO: i32 = 5;

/// A guest, the directory of its snapshots, and what each of them must hold.
struct Bench {
    tree: MemBackend,
    memory: MappedMemory,
    tracker: DirtyTracker,
    consumer: ConsumerId,
    marker: WriteMarker,
    snapshots: Vec<(SnapshotRef, Vec<u8>)>,
    attempts: usize,
}

/// Writes, captures, cancels, faults, restores.
///
/// # Panics
///
/// If a snapshot holds anything else than its guest held, a failed one leaves anything behind, or
/// an error is none that was provoked.
pub fn fuzz_capture_ops(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let mut bench = Bench::new(MemBackend::new(), None);
    for _ in 0..MAX_OPERATIONS {
        if input.is_empty() {
            break;
        }
        match input.byte() % 8 {
            0..=2 => bench.write(&mut input),
            3 => bench.touch(&mut input),
            4 | 5 => bench.capture(&mut input),
            6 => bench.restore_part(&mut input),
            _ => bench = bench.go_back(&mut input),
        }
    }
    for number in 0..bench.snapshots.len() {
        bench.restore_all(number);
    }
}

impl Bench {
    /// A guest with this memory, that is the one of the snapshot `base`.
    fn new(tree: MemBackend, base: Option<(SnapshotRef, &[u8])>) -> Self {
        let region = |start, pages| MemoryRegion {
            start: GuestAddress(start),
            len_bytes: pages * PAGE_BYTES,
        };
        let regions = vec![region(0, PAGES[0]), region(SECOND_START, PAGES[1])];
        let layout = must(MemoryLayout::new(regions));
        let memory = must(MappedMemory::new(layout.clone(), MappingOptions::default()));
        if let Some((_, image)) = base {
            must(memory.write(0, image));
        }
        let (writes, marker) = VmmWrites::new(layout.clone());
        let tracker = must(DirtyTracker::new(layout, vec![Box::new(writes)]));
        Self {
            consumer: tracker.subscribe(base.map(|(reference, _)| reference)),
            tree,
            memory,
            tracker,
            marker,
            snapshots: Vec::new(),
            attempts: 0,
        }
    }

    /// Lets the guest write a run of pages: zeros, what many pages hold, or what few do.
    fn write(&self, input: &mut Input<'_>) {
        let pages = pages(input);
        let kind = input.byte();
        for page in pages.start.0..pages.end().0 {
            let value = match kind % 4 {
                0 => 0,
                1 => kind,
                _ => kind.wrapping_add(page.to_le_bytes()[0]),
            };
            let mut bytes = [value; PAGE];
            if kind % 4 == 3 {
                // One byte tells the page from a zero one.
                bytes[..PAGE - 1].fill(0);
            }
            must(self.memory.write(page * PAGE_BYTES, &bytes));
        }
        self.marker.mark(pages);
    }

    /// Marks pages that stay as they are.
    fn touch(&self, input: &mut Input<'_>) {
        self.marker.mark(pages(input));
    }

    /// Takes a snapshot in some way, perhaps cancelled or on a disk that fails.
    fn capture(&mut self, input: &mut Input<'_>) {
        if self.attempts == MAX_ATTEMPTS {
            return;
        }
        self.attempts += 1;
        let cancel = Cancel::default();
        let control = CaptureControl::default().cancel(cancel.clone());
        let options = options(input);
        let stability = [Stability::Paused, Stability::Running][usize::from(input.byte() % 2)];
        let disk = FaultBackend::new(&self.tree);
        let how = input.byte();
        let moment = input.below(40);
        let control = match how % 4 {
            1 => {
                let told = AtomicU64::new(0);
                control.progress(move |_| {
                    if told.fetch_add(1, Ordering::Relaxed) == moment % 8 {
                        cancel.ask();
                    }
                })
            }
            _ => control,
        };
        if how % 4 == 2 {
            let number = usize::try_from(moment).unwrap_or(0) + 1;
            disk.fail_at(number, Fault::Errno(EIO));
        }
        if how % 4 == 3 {
            disk.limit_bytes(moment * moment * 2048);
        }
        let before: Vec<PageRange> = self.dirty();
        match self.take(&disk, options.control(control), stability) {
            Ok((published, stats)) => {
                assert_eq!(stats.present + stats.zero + stats.inherited, PAGE_COUNT);
                self.tree = disk.live();
                self.snapshots.push((published.snapshot, self.image()));
            }
            Err(Refused::Uncertain) => assert_eq!(how % 4, 2, "nobody failed a sync"),
            Err(Refused::Not(error)) => {
                let is_provoked = match &error {
                    SinkError::Cancelled => how % 4 == 1,
                    SinkError::File(error) => how % 4 == 2 || how % 4 == 3 && error.is_no_space(),
                    _ => false,
                };
                assert!(is_provoked, "{error:?}");
                assert_eq!(self.dirty(), before, "the bits are back");
                let names = |tree: &MemBackend| must(tree.list(&RelPath::root()));
                assert_eq!(names(&disk.live()), names(&self.tree), "nothing is left");
            }
        }
    }

    fn take(
        &self,
        disk: &FaultBackend,
        options: CaptureOptions,
        stability: Stability,
    ) -> Result<(Published, MemoryStats), Refused> {
        let epoch = must(self.tracker.epoch(self.consumer));
        let vm = must(VmName::new("vm"));
        let sink = DirectorySink::new(Arc::new(disk.clone()), vm, Arch::X86_64);
        let mut sink = sink.with_capture(options);
        if let Some(base) = epoch.base() {
            sink = must(sink.with_parent(base.id));
        }
        let mut staged = sink.begin().map_err(Refused::Not)?;
        let stats = staged.memory(&self.memory, epoch.selection(), stability);
        let stats = stats.map_err(Refused::Not)?;
        let sealed = staged.seal().map_err(Refused::Not)?;
        let published = sealed.publish().map_err(|error| match error {
            PublishError::NotCommitted { source, .. } => Refused::Not(*source),
            _ => Refused::Uncertain,
        })?;
        must(epoch.commit(published.snapshot));
        Ok((published, stats))
    }

    /// Reads some pages of some snapshot.
    fn restore_part(&self, input: &mut Input<'_>) {
        let Some((reference, expected)) = self.pick(input) else {
            return;
        };
        let pages = pages(input);
        let mut found = vec![0; bytes_of(pages.count)];
        must(self.open(*reference).read_pages(pages, &mut found));
        let start = bytes_of(pages.start.0);
        assert!(expected.get(start..start + found.len()) == Some(&found));
    }

    /// Writes a snapshot out as a raw file and compares all of it.
    fn restore_all(&self, number: usize) {
        let Some((reference, expected)) = self.snapshots.get(number) else {
            return;
        };
        let target = MemBackend::new();
        let name = must(RelPath::root().join("raw"));
        let mut file = must(target.create(&name));
        let image = self.open(*reference);
        let mut go_on = |_| ControlFlow::Continue(());
        assert!(must(image.write_raw(&mut *file, "raw", &mut go_on)));
        let mut found = vec![0; expected.len()];
        must(must(target.open(&name)).read_exact_at(0, &mut found));
        assert!(
            found == *expected,
            "snapshot {number} is restored otherwise"
        );
    }

    /// A guest that goes on from some snapshot.
    fn go_back(self, input: &mut Input<'_>) -> Self {
        match self.pick(input) {
            None => self,
            Some((reference, image)) => Self {
                snapshots: self.snapshots.clone(),
                attempts: self.attempts,
                ..Self::new(self.tree.clone(), Some((*reference, image)))
            },
        }
    }

    fn pick(&self, input: &mut Input<'_>) -> Option<&(SnapshotRef, Vec<u8>)> {
        let number = usize::from(input.byte()) % self.snapshots.len().max(1);
        self.snapshots.get(number)
    }

    fn open(&self, reference: SnapshotRef) -> MemoryImage {
        let published = must(PublishedSnapshot::open(&self.tree, reference.id));
        must(published.image(&self.tree))
    }

    fn dirty(&self) -> Vec<PageRange> {
        let epoch = must(self.tracker.epoch(self.consumer));
        epoch.pages().iter_runs().collect()
    }

    fn image(&self) -> Vec<u8> {
        let mut image = vec![0; self.memory.len_bytes()];
        must(self.memory.read(0, &mut image));
        image
    }
}

/// Why there is no snapshot.
enum Refused {
    /// Nothing is visible.
    Not(SinkError),
    /// One is visible that may go away.
    Uncertain,
}

fn options(input: &mut Input<'_>) -> CaptureOptions {
    let way = usize::from(input.byte()) % (Way::ALL.len() + 1);
    let way = Way::ALL.get(way).copied().unwrap_or_default();
    let threads = NonZeroUsize::MIN.saturating_add(usize::from(input.byte() % 3));
    let dedup = [Dedup::Off, Dedup::Digest, Dedup::Compare][usize::from(input.byte() % 3)];
    way.options(threads).dedup(dedup)
}

/// A run of pages: one, a few, or many.
fn pages(input: &mut Input<'_>) -> PageRange {
    let start = input.below(PAGE_COUNT);
    let wanted = match input.byte() {
        few @ 0..=199 => u64::from(few % 20) + 1,
        many => u64::from(many) * 3,
    };
    PageRange::new(start, wanted.min(PAGE_COUNT - start))
}

fn bytes_of(pages: u64) -> usize {
    usize::try_from(pages * PAGE_BYTES).unwrap_or(0)
}

/// What no input can make fail.
#[expect(clippy::panic, reason = "a broken promise is a panic")]
fn must<T, E: std::fmt::Debug>(result: Result<T, E>) -> T {
    result.unwrap_or_else(|error| panic!("{error:?}"))
}
