use std::sync::Arc;

use proptest::prelude::*;
use snapshot_format::{Arch, FileKind, GuestAddress, MemoryRegion, PageIndex, VmName};

use super::*;
use crate::backend::{Backend, MemBackend, RelPath};
use crate::capture::{CaptureControl, EngineChoice};
use crate::directory::{DirectorySink, PublishedSnapshot};
use crate::mapping::{MappedMemory, MappingOptions};
use crate::sink::SnapshotSink;

const PAGE: usize = 4096;

fn layout_of(regions: &[(u64, u64)]) -> MemoryLayout {
    let region = |&(start, pages): &(u64, u64)| MemoryRegion {
        start: GuestAddress(start * PAGE_BYTES),
        len_bytes: pages * PAGE_BYTES,
    };
    MemoryLayout::new(regions.iter().map(region).collect()).unwrap()
}

/// Regions that end within a leaf, with one that spans the end of one.
fn layout() -> MemoryLayout {
    layout_of(&[(3, 40), (16_380, 30), (40_000, 17)])
}

fn mapped(layout: &MemoryLayout) -> MappedMemory {
    MappedMemory::new(layout.clone(), MappingOptions::default()).unwrap()
}

fn bytes_of(memory: &MappedMemory) -> Vec<u8> {
    let mut bytes = vec![0; memory.len_bytes()];
    memory.read(0, &mut bytes).unwrap();
    bytes
}

fn fill(memory: &MappedMemory, page: u64, value: u8) {
    memory.write(page * PAGE_BYTES, &[value; PAGE]).unwrap();
}

fn sink(backend: &Arc<dyn Backend>, options: CaptureOptions) -> DirectorySink {
    let vm = VmName::new("vm").unwrap();
    DirectorySink::new(backend.clone(), vm, Arch::host()).with_capture(options)
}

fn plan(layout: &MemoryLayout, base: Option<SnapshotRef>) -> LivePlan<'_> {
    LivePlan {
        layout,
        base,
        aside_bytes: 1,
        bytes_per_second: None,
    }
}

fn bits(layout: &MemoryLayout, pages: impl IntoIterator<Item = u64>) -> DirtyBitmap {
    let bits = DirtyBitmap::new(layout.page_count());
    pages.into_iter().for_each(|page| bits.set(PageIndex(page)));
    bits
}

fn image_of(backend: &Arc<dyn Backend>, snapshot: SnapshotRef) -> Vec<u8> {
    let published = PublishedSnapshot::open(&**backend, snapshot.id).unwrap();
    let image = published.image(&**backend).unwrap();
    let mut bytes = vec![0; image.layout().len_bytes() as usize];
    let all = PageRange::new(0, image.layout().page_count());
    image.read_pages(all, &mut bytes).unwrap();
    bytes
}

fn raw_data(backend: &Arc<dyn Backend>, snapshot: SnapshotRef) -> Vec<u8> {
    let folder = RelPath::root().join(&snapshot.id.to_string()).unwrap();
    let path = folder.join(&FileKind::MemoryData.file_name(0)).unwrap();
    let file = backend.open(&path).unwrap();
    let mut bytes = vec![0; file.len().unwrap() as usize];
    file.read_exact_at(0, &mut bytes).unwrap();
    bytes
}

/// Takes a live snapshot: each round copies pages, then the guest writes.
fn take(
    sink: &mut DirectorySink,
    memory: &MappedMemory,
    base: Option<SnapshotRef>,
    first: &DirtyBitmap,
    rounds: &[Vec<(u64, u8)>],
) -> (SnapshotRef, MemoryStats) {
    let layout = memory.layout();
    let mut staged = sink.begin().unwrap();
    let mut live = staged.live(plan(layout, base)).unwrap();
    let mut due = first.clone();
    for writes in rounds {
        live.round(memory, &due, Stability::Running).unwrap();
        for &(page, value) in writes {
            fill(memory, page, value);
        }
        due = bits(layout, writes.iter().map(|(page, _)| *page));
    }
    let aside = live.set_aside(memory, &due).unwrap();
    assert_eq!(aside, due.count());
    // The machine goes on, and nothing of it is in the image.
    let before = bytes_of(memory);
    memory.write(0, &vec![0xEE; before.len()]).unwrap();
    let stats = live.finish().unwrap();
    memory.write(0, &before).unwrap();
    let published = staged.seal().unwrap().publish().unwrap();
    (published.snapshot, stats)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    // spec: LIV-01
    // spec: LIV-06
    // spec: LIV-07
    #[test]
    fn the_image_is_memory_at_the_pause_whatever_was_written_when(
        rounds in proptest::collection::vec(
            proptest::collection::vec((0u64..87, 0u8..3), 0..40), 1..5),
        more in proptest::collection::vec(
            proptest::collection::vec((0u64..87, 0u8..3), 0..40), 1..4),
        threads in 1usize..3,
    ) {
        let backend: Arc<dyn Backend> = Arc::new(MemBackend::new());
        let memory = mapped(&layout());
        for page in (0..87).step_by(2) { fill(&memory, page, 9); }
        let threads = std::num::NonZeroUsize::new(threads).unwrap();
        let mut sink = sink(&backend, CaptureOptions::default().threads(threads));
        let all = DirtyBitmap::all_set(87);
        let (full, stats) = take(&mut sink, &memory, None, &all, &rounds);
        prop_assert_eq!(stats.present + stats.zero, 87);
        let expected = bytes_of(&memory);
        prop_assert!(image_of(&backend, full) == expected);
        // The data file is the raw image too: what became zero is zero in it.
        prop_assert!(raw_data(&backend, full) == expected);
        let zero = expected.chunks(PAGE).filter(|page| page.iter().all(|byte| *byte == 0)).count();
        prop_assert_eq!(stats.zero, zero as u64);
        // A diff over it: pages that no round names are the parent's.
        let first: Vec<u64> = more.first().into_iter().flatten().map(|(page, _)| *page).collect();
        for &page in &first { fill(&memory, page, 7); }
        let first = bits(memory.layout(), first);
        let (diff, stats) = take(&mut sink, &memory, Some(full), &first, &more);
        prop_assert_eq!(stats.present + stats.zero + stats.inherited, 87);
        prop_assert!(image_of(&backend, diff) == bytes_of(&memory));
    }
}

// spec: LIV-08
#[test]
fn pages_that_do_not_fit_aside_are_refused_and_can_be_written_in_the_pause() {
    let layout = layout_of(&[(0, 700)]);
    let backend: Arc<dyn Backend> = Arc::new(MemBackend::new());
    let memory = mapped(&layout);
    let mut sink = sink(&backend, CaptureOptions::default());
    let mut staged = sink.begin().unwrap();
    let mut live = staged.live(plan(&layout, None)).unwrap();
    let all = DirtyBitmap::all_set(700);
    live.round(&memory, &all, Stability::Running).unwrap();
    for page in 0..700 {
        fill(&memory, page, 1 + (page % 250) as u8);
    }
    let refused = live.set_aside(&memory, &all).unwrap_err();
    let SinkError::AsideFull {
        needed_bytes,
        room_bytes,
    } = refused
    else {
        unreachable!("{refused}");
    };
    assert_eq!((needed_bytes, room_bytes), (700 * PAGE_BYTES, 2 << 20));
    live.round(&memory, &all, Stability::Paused).unwrap();
    // What was copied before there was no more room is not in the way.
    fill(&memory, 5, 0);
    assert_eq!(live.set_aside(&memory, &bits(&layout, [5])).unwrap(), 1);
    live.finish().unwrap();
    let published = staged.seal().unwrap().publish().unwrap();
    assert!(image_of(&backend, published.snapshot) == bytes_of(&memory));
}

// spec: LIV-09
#[test]
fn what_cannot_be_written_live_is_refused_before_a_page_is_read() {
    let layout = layout();
    let backend: Arc<dyn Backend> = Arc::new(MemBackend::new());
    for options in [
        CaptureOptions::default().layout(LayoutChoice::Packed),
        CaptureOptions::default().dedup(Dedup::Digest),
        CaptureOptions::default().dedup(Dedup::Compare),
    ] {
        let mut staged = sink(&backend, options).begin().unwrap();
        let refused = staged.live(plan(&layout, None)).err().unwrap();
        assert!(
            matches!(refused, SinkError::LiveRefused { .. }),
            "{refused}"
        );
    }
    let other = SnapshotRef {
        id: SnapshotId([1; 16]),
        digest: snapshot_format::Digest::of(b"other"),
    };
    let mut staged = sink(&backend, CaptureOptions::default()).begin().unwrap();
    let refused = staged.live(plan(&layout, Some(other))).err().unwrap();
    assert!(
        matches!(refused, SinkError::WrongParent { .. }),
        "{refused}"
    );
}

// spec: LIV-05
#[test]
fn pages_of_other_memory_are_refused_in_every_call() {
    let (layout, memory) = (layout(), mapped(&layout()));
    let backend: Arc<dyn Backend> = Arc::new(MemBackend::new());
    let mut staged = sink(&backend, CaptureOptions::default()).begin().unwrap();
    let mut live = staged.live(plan(&layout, None)).unwrap();
    let short = DirtyBitmap::new(86);
    let refused = live.round(&memory, &short, Stability::Running).unwrap_err();
    assert!(
        matches!(refused, SinkError::DirtyPageCount { .. }),
        "{refused}"
    );
    let foreign = DirtyBitmap::of_layout(Arc::new(layout_of(&[(0, 87)])));
    let refused = live.set_aside(&memory, &foreign).unwrap_err();
    assert!(matches!(refused, SinkError::LayoutDiffers), "{refused}");
    let elsewhere = mapped(&layout_of(&[(0, 87)]));
    let all = DirtyBitmap::all_set(87);
    let refused = live.round(&elsewhere, &all, Stability::Running);
    let refused = refused.unwrap_err();
    assert!(matches!(refused, SinkError::LayoutDiffers), "{refused}");
}

// spec: LIV-10
#[test]
fn a_live_snapshot_that_is_not_finished_is_none() {
    let (layout, memory) = (layout(), mapped(&layout()));
    let backend: Arc<dyn Backend> = Arc::new(MemBackend::new());
    let mut sink = sink(&backend, CaptureOptions::default());
    let mut staged = sink.begin().unwrap();
    let mut live = staged.live(plan(&layout, None)).unwrap();
    let all = DirtyBitmap::all_set(87);
    live.round(&memory, &all, Stability::Running).unwrap();
    drop(live);
    let refused = staged.seal().err().unwrap();
    assert!(matches!(refused, SinkError::Missing { .. }), "{refused}");
    assert_eq!(backend.list(&RelPath::root()).unwrap(), []);
}

// spec: LIV-10
#[test]
fn a_cancel_ends_the_round() {
    let (layout, memory) = (layout(), mapped(&layout()));
    let backend: Arc<dyn Backend> = Arc::new(MemBackend::new());
    let control = CaptureControl::default();
    let options = CaptureOptions::default().control(control.clone());
    let mut staged = sink(&backend, options).begin().unwrap();
    let mut live = staged.live(plan(&layout, None)).unwrap();
    control.cancel.ask();
    let all = DirtyBitmap::all_set(87);
    let refused = live.round(&memory, &all, Stability::Running).unwrap_err();
    assert!(matches!(refused, SinkError::Cancelled), "{refused}");
}

// spec: LIV-11
#[test]
fn memory_that_the_parent_does_not_have_is_taken_though_nobody_marked_it() {
    let backend: Arc<dyn Backend> = Arc::new(MemBackend::new());
    let small = mapped(&layout_of(&[(0, 20)]));
    fill(&small, 3, 3);
    let mut sink = sink(&backend, CaptureOptions::default());
    let all = DirtyBitmap::all_set(20);
    let (full, _) = take(&mut sink, &small, None, &all, &[Vec::new()]);
    let large = mapped(&layout_of(&[(0, 10), (20_000, 30)]));
    fill(&large, 3, 3);
    fill(&large, 25, 5);
    let nothing = DirtyBitmap::new(40);
    let (diff, stats) = take(&mut sink, &large, Some(full), &nothing, &[Vec::new()]);
    assert_eq!((stats.present, stats.zero, stats.inherited), (1, 29, 10));
    assert!(image_of(&backend, diff) == bytes_of(&large));
}

#[test]
fn every_engine_writes_the_same_image() {
    let layout = layout();
    for engine in [
        EngineChoice::Auto,
        EngineChoice::Buffered,
        EngineChoice::Vectored,
    ] {
        let backend: Arc<dyn Backend> = Arc::new(MemBackend::new());
        let memory = mapped(&layout);
        fill(&memory, 1, 1);
        let mut sink = sink(&backend, CaptureOptions::default().engine(engine));
        let writes = vec![(1, 2), (40, 4), (86, 6)];
        let all = DirtyBitmap::all_set(87);
        let (full, stats) = take(&mut sink, &memory, None, &all, &[writes]);
        assert!(image_of(&backend, full) == bytes_of(&memory), "{engine:?}");
        assert_eq!((stats.present, stats.zero), (3, 84), "{engine:?}");
    }
}
