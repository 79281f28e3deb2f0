use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use proptest::prelude::*;
use snapshot_format::{Digest, GuestAddress, MemoryRegion, PAGE_BYTES};
use snapshot_format::{PageIndex, PageRange};

use super::*;
use crate::backend::{Backend, Fault, FaultBackend, MemBackend, RelPath};
use crate::capture::{Cancel, CaptureControl, LayoutChoice};
use crate::dirty::DirtyBitmap;
use crate::error::MemoryError;
use crate::image::DataFileNames;
use crate::mapping::{MappedMemory, MappingOptions};
use crate::source::HostRun;

const PAGE: usize = PAGE_BYTES as usize;

fn layout(regions: &[(u64, u64)]) -> MemoryLayout {
    let region = |&(start, pages): &(u64, u64)| MemoryRegion {
        start: GuestAddress(start * PAGE_BYTES),
        len_bytes: pages * PAGE_BYTES,
    };
    MemoryLayout::new(regions.iter().map(region).collect()).unwrap()
}

fn mapped(layout: &MemoryLayout) -> MappedMemory {
    MappedMemory::new(layout.clone(), MappingOptions::default()).unwrap()
}

fn bytes_of(source: &dyn GuestMemorySource) -> Vec<u8> {
    let mut bytes = vec![0; source.layout().len_bytes() as usize];
    let all = PageRange::new(0, source.layout().page_count());
    source.read_pages(all, &mut bytes).unwrap();
    bytes
}

/// A chain of snapshots in one directory.
struct Chain {
    backend: Arc<dyn Backend>,
    options: CaptureOptions,
    written: Vec<WrittenMemory>,
}

impl Chain {
    fn new(backend: Arc<dyn Backend>) -> Self {
        Self {
            backend,
            options: CaptureOptions::default(),
            written: Vec::new(),
        }
    }

    fn id(n: usize) -> SnapshotId {
        SnapshotId(((n + 1) as u128).to_le_bytes())
    }

    fn reference(n: usize) -> SnapshotRef {
        SnapshotRef {
            id: Self::id(n),
            digest: Digest::of(&[n as u8]),
        }
    }

    fn path(n: usize, what: &str) -> RelPath {
        RelPath::root().join(&format!("{n}.{what}")).unwrap()
    }

    fn take(
        &mut self,
        source: &dyn GuestMemorySource,
        dirty: Option<&DirtyBitmap>,
        stability: Stability,
    ) -> Result<&WrittenMemory, SinkError> {
        let n = self.written.len();
        let create = |what| StagedFile::create(&*self.backend, Self::path(n, what));
        let (mut data, mut map) = (create("img")?, create("map")?);
        let parent = n.checked_sub(1).map(|parent| self.image(parent));
        let mut writer = MemoryWriter::new(Self::id(n), stability).options(self.options.clone());
        if n > 0 {
            writer = writer.parent(Self::reference(n - 1), parent.as_ref());
        }
        let pages = dirty.map_or(Pages::Full, |dirty| Pages::Since {
            base: Self::reference(n - 1),
            dirty,
        });
        let written = writer.write(source, pages, &mut data, &mut map)?;
        data.seal()?;
        map.seal()?;
        self.written.push(written);
        Ok(&self.written[n])
    }

    fn image(&self, n: usize) -> MemoryImage {
        let written = &self.written[n];
        let open = |data: &DataFileRef| {
            let n = data.snapshot.0[0] as usize - 1;
            let names = DataFileNames {
                map: Self::path(n, "map").to_string(),
                data: Self::path(n, "img").to_string(),
            };
            let file = |what| self.backend.open(&Self::path(n, what)).unwrap();
            DataFile::open(file("map"), file("img"), names, data).unwrap()
        };
        let files = written.dependencies.iter().map(open).collect();
        MemoryImage::new(written.layout.clone(), written.flattened.clone(), files).unwrap()
    }

    fn assert_sound(&self) {
        let last = self.image(self.written.len() - 1);
        for file in last.files() {
            let mut damages = Vec::new();
            file.check(&mut |error| damages.push(error.to_string()), &mut |_| {
                std::ops::ControlFlow::Continue(())
            });
            assert_eq!(damages, [""; 0]);
        }
    }
}

#[derive(Clone, Debug)]
struct Round {
    /// Pages written, with the value that all their bytes get: 0 makes a zero page.
    writes: Vec<(u64, u8)>,
    /// Pages that count as dirty without a write.
    touched: Vec<u64>,
    paused: bool,
    full: bool,
    options: CaptureOptions,
}

fn options() -> impl Strategy<Value = CaptureOptions> {
    let layouts = [
        LayoutChoice::Auto,
        LayoutChoice::Sparse,
        LayoutChoice::Packed,
    ];
    let engines = [
        EngineChoice::Auto,
        EngineChoice::Vectored,
        EngineChoice::Buffered,
        EngineChoice::Direct,
    ];
    let one_of = (
        prop::sample::select(layouts.to_vec()),
        prop::sample::select(engines.to_vec()),
        1..4usize,
    );
    one_of.prop_map(|(layout, engine, threads)| {
        let layout = match engine {
            EngineChoice::Vectored => LayoutChoice::Sparse,
            _ => layout,
        };
        let options = CaptureOptions::default().layout(layout).engine(engine);
        options.threads(threads.try_into().unwrap())
    })
}

fn rounds() -> impl Strategy<Value = Vec<Round>> {
    let round = (
        prop::collection::vec((0..600u64, 0..4u8), 0..60),
        prop::collection::vec(0..600u64, 0..10),
        any::<bool>(),
        prop::bool::weighted(0.15),
        options(),
    );
    let round = round.prop_map(|(writes, touched, paused, full, options)| Round {
        writes,
        touched,
        paused,
        full,
        options,
    });
    prop::collection::vec(round, 1..8)
}

fn layouts() -> impl Strategy<Value = MemoryLayout> {
    // Around the borders of units and leaves, below and above 4 GiB, with gaps within a unit.
    prop::sample::select(vec![
        layout(&[(0, 600)]),
        layout(&[(3, 7), (12, 2), (40, 591)]),
        layout(&[(16_384 - 300, 600)]),
        layout(&[
            (0, 1),
            (2, 1),
            (4, 1),
            (16_383, 1),
            (16_384, 500),
            (1 << 20, 96),
        ]),
        layout(&[((3 << 18) - 16, 16), (1 << 20, 584)]),
    ])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    // spec: MEM-01
    // spec: MEM-02
    #[test]
    fn a_chain_of_any_depth_gives_back_every_instant(layout in layouts(), rounds in rounds()) {
        let memory = mapped(&layout);
        let mut chain = Chain::new(Arc::new(MemBackend::new()));
        let mut instants = Vec::new();
        for (n, round) in rounds.iter().enumerate() {
            let dirty = DirtyBitmap::new(layout.page_count());
            for &(page, value) in &round.writes {
                let page = page % layout.page_count();
                memory.write(page * PAGE_BYTES, &[value; PAGE]).unwrap();
                dirty.set(PageIndex(page));
            }
            round.touched.iter().for_each(|&page| dirty.set(PageIndex(page)));
            let stability = [Stability::Running, Stability::Paused][usize::from(round.paused)];
            let full = n == 0 || round.full;
            chain.options = round.options.clone();
            let written = chain.take(&memory, (!full).then_some(&dirty), stability).unwrap();
            let stats = written.stats;
            let image = bytes_of(&memory);
            let zero = |page: u64| crate::zero::is_zero(&image[page as usize * PAGE..][..PAGE]);
            let taken: Vec<u64> = (0..layout.page_count())
                .filter(|&page| full || dirty.is_set(PageIndex(page)))
                .collect();
            let zeros = taken.iter().filter(|&&page| zero(page)).count() as u64;
            let expected = (taken.len() as u64 - zeros, zeros);
            prop_assert_eq!((stats.present, stats.zero), expected);
            prop_assert_eq!(stats.present + stats.zero + stats.inherited, layout.page_count());
            prop_assert_eq!(stats.allocated_bytes, stats.present * PAGE_BYTES);
            prop_assert!(!full || written.dependencies.len() == 1);
            instants.push(image);
        }
        for (n, instant) in instants.iter().enumerate() {
            prop_assert!(bytes_of(&chain.image(n)) == *instant, "snapshot {n} differs");
        }
        chain.assert_sound();
    }
}

// spec: MEM-08
#[test]
fn the_number_of_threads_changes_no_call() {
    let layout = layout(&[(0, 5000), (1 << 20, 3000)]);
    let memory = mapped(&layout);
    for page in (0..8000).filter(|page| page % 3 != 0) {
        memory
            .write(page * PAGE_BYTES, &[page as u8 | 1; PAGE])
            .unwrap();
    }
    let calls = |threads: usize, layout| {
        let backend = Arc::new(FaultBackend::new(&MemBackend::new()));
        let mut chain = Chain::new(backend.clone());
        chain.options = CaptureOptions::default()
            .layout(layout)
            .threads(threads.try_into().unwrap());
        let full = chain.take(&memory, None, Stability::Paused).unwrap();
        let root = full.map_root;
        let calls: Vec<String> = backend
            .calls()
            .iter()
            .map(|call| format!("{call:?}"))
            .collect();
        (root, calls)
    };
    for layout in [LayoutChoice::Sparse, LayoutChoice::Packed] {
        let alone = calls(1, layout);
        (2..5).for_each(|threads| assert_eq!(calls(threads, layout), alone));
    }
}

/// Memory whose reader panics when it comes to a page.
struct Panics(MappedMemory, u64);

impl GuestMemorySource for Panics {
    fn layout(&self) -> &MemoryLayout {
        self.0.layout()
    }

    fn read_pages(&self, pages: PageRange, out: &mut [u8]) -> Result<(), MemoryError> {
        assert!(
            !(pages.start.0..pages.end().0).contains(&self.1),
            "this page cannot be read"
        );
        self.0.read_pages(pages, out)
    }

    fn host_run(&self, _: PageRange) -> Option<HostRun<'_>> {
        None
    }
}

// spec: MEM-09
#[test]
fn a_source_that_panics_ends_the_capture() {
    for (page, threads) in [(0, 1), (0, 3), (4999, 3), (2600, 2)] {
        let source = Panics(mapped(&layout(&[(0, 5000)])), page);
        let mut chain = Chain::new(Arc::new(MemBackend::new()));
        chain.options = CaptureOptions::default().threads(threads.try_into().unwrap());
        let taken = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            chain.take(&source, None, Stability::Running).map(drop)
        }));
        assert!(taken.is_err(), "page {page} on {threads} threads");
    }
}

// spec: MEM-09
#[test]
fn a_capture_ends_when_it_is_asked_to() {
    let memory = mapped(&layout(&[(0, 5000)]));
    memory.write(0, &vec![7; 5000 * PAGE]).unwrap();
    for after in 1..5 {
        let cancel = Cancel::default();
        let (asked, told) = (cancel.clone(), Arc::new(AtomicUsize::new(0)));
        let counted = told.clone();
        let control = CaptureControl::default()
            .cancel(cancel)
            .progress(move |progress| {
                assert!(progress.taken_bytes <= progress.total_bytes);
                if counted.fetch_add(1, Ordering::Relaxed) + 1 == after {
                    asked.ask();
                }
            });
        let mut chain = Chain::new(Arc::new(MemBackend::new()));
        chain.options = CaptureOptions::default().control(control);
        let taken = chain.take(&memory, None, Stability::Paused).map(drop);
        assert!(matches!(taken, Err(SinkError::Cancelled)), "{taken:?}");
        assert_eq!(told.load(Ordering::Relaxed), after);
    }
}

/// Memory that is not mapped, and that changes with every read.
struct Restless(MemoryLayout, std::sync::atomic::AtomicU8);

impl GuestMemorySource for Restless {
    fn layout(&self) -> &MemoryLayout {
        &self.0
    }

    fn read_pages(&self, _: PageRange, out: &mut [u8]) -> Result<(), MemoryError> {
        out.fill(1 + self.1.fetch_add(1, Ordering::Relaxed) % 200);
        Ok(())
    }

    fn host_run(&self, _: PageRange) -> Option<HostRun<'_>> {
        None
    }
}

// spec: MEM-03
#[test]
fn what_is_digested_of_running_memory_is_what_is_written() {
    let source = Restless(layout(&[(0, 1000)]), 0.into());
    let mut chain = Chain::new(Arc::new(MemBackend::new()));
    chain.take(&source, None, Stability::Running).unwrap();
    chain.assert_sound();
}

#[test]
fn a_run_of_dirty_pages_is_one_write() {
    let memory = mapped(&layout(&[(0, 1000)]));
    memory.write(0, &vec![7; 1000 * PAGE]).unwrap();
    let mut chain = Chain::new(Arc::new(MemBackend::new()));
    chain.options = CaptureOptions::default()
        .layout(LayoutChoice::Sparse)
        .engine(EngineChoice::Vectored);
    let full = chain.take(&memory, None, Stability::Paused).unwrap();
    // 1000 pages in chunks of 2 MiB.
    assert_eq!(full.stats.write_calls, 2);
    let dirty = DirtyBitmap::new(1000);
    dirty.set_range(PageRange::new(100, 50));
    dirty.set(PageIndex(700));
    let diff = chain
        .take(&memory, Some(&dirty), Stability::Paused)
        .unwrap();
    assert_eq!(diff.stats.write_calls, 2);
    assert_eq!(diff.stats.inherited, 1000 - 51);
}

// spec: MEM-04
#[test]
fn a_diff_of_another_parent_is_refused() {
    let memory = mapped(&layout(&[(0, 10)]));
    let mut chain = Chain::new(Arc::new(MemBackend::new()));
    chain.take(&memory, None, Stability::Paused).unwrap();
    let image = chain.image(0);
    let backend = MemBackend::new();
    let refused = |parent, memory: &MappedMemory, dirty: &DirtyBitmap| {
        let create = |name| {
            let path = RelPath::root().join(name).unwrap();
            StagedFile::create(&backend.snapshot(), path).unwrap()
        };
        let pages = Pages::Since {
            base: Chain::reference(0),
            dirty,
        };
        MemoryWriter::new(Chain::id(1), Stability::Paused)
            .parent(parent, Some(&image))
            .write(memory, pages, &mut create("d"), &mut create("m"))
            .unwrap_err()
    };
    let dirty = DirtyBitmap::new(10);
    let error = refused(Chain::reference(5), &memory, &dirty);
    assert!(matches!(error, SinkError::WrongParent { .. }), "{error}");
    let error = refused(Chain::reference(0), &memory, &DirtyBitmap::new(11));
    assert!(matches!(error, SinkError::DirtyPageCount { .. }), "{error}");
    let other = mapped(&layout(&[(5, 10)]));
    let error = refused(Chain::reference(0), &other, &dirty);
    assert!(matches!(error, SinkError::LayoutDiffers), "{error}");
}

// spec: MEM-07
#[test]
fn a_fault_of_any_call_is_an_error() {
    let memory = mapped(&layout(&[(0, 600)]));
    memory.write(5 * PAGE_BYTES, &vec![7; 400 * PAGE]).unwrap();
    let take = |backend: &FaultBackend| {
        let mut chain = Chain::new(Arc::new(backend.clone()));
        chain.take(&memory, None, Stability::Paused).map(|_| ())
    };
    let backend = FaultBackend::new(&MemBackend::new());
    take(&backend).unwrap();
    let calls = backend.call_count();
    assert!(calls > 8, "{calls} calls");
    for number in 1..=calls {
        let backend = FaultBackend::new(&MemBackend::new());
        backend.fail_at(number, Fault::Errno(libc::EIO));
        let error = take(&backend).unwrap_err();
        assert!(
            matches!(error, SinkError::File(_)),
            "call {number}: {error}"
        );
    }
    for bytes in [0, 1, 4096, 1_000_000] {
        let backend = FaultBackend::new(&MemBackend::new());
        backend.limit_bytes(bytes);
        let error = take(&backend).unwrap_err();
        let full = matches!(&error, SinkError::File(error) if error.is_no_space());
        assert!(full, "{bytes} bytes: {error}");
    }
}

// spec: MEM-05
#[test]
fn holes_made_or_filled_by_a_copy_change_nothing() {
    let memory = mapped(&layout(&[(0, 100)]));
    memory.write(10 * PAGE_BYTES, &vec![7; 5 * PAGE]).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let backend = crate::backend::FsBackend::open(dir.path()).unwrap();
    let mut chain = Chain::new(Arc::new(backend));
    chain.take(&memory, None, Stability::Paused).unwrap();
    memory.write(12 * PAGE_BYTES, &[0; PAGE]).unwrap();
    let dirty = DirtyBitmap::new(100);
    dirty.set(PageIndex(12));
    chain
        .take(&memory, Some(&dirty), Stability::Paused)
        .unwrap();
    let expected = bytes_of(&memory);
    for sparse in ["always", "never"] {
        for n in 0..2 {
            let file = dir.path().join(format!("{n}.img"));
            let copy = dir.path().join("copy");
            let how = format!("--sparse={sparse}");
            let status = std::process::Command::new("cp")
                .arg(how)
                .args([&file, &copy])
                .status();
            assert!(status.unwrap().success());
            std::fs::rename(&copy, &file).unwrap();
        }
        assert!(
            bytes_of(&chain.image(1)) == expected,
            "after cp --sparse={sparse}"
        );
    }
}

#[test]
fn a_staged_file_names_itself_in_errors() {
    let backend = FaultBackend::new(&MemBackend::new());
    let mut file = StagedFile::create(&backend, Chain::path(0, "img")).unwrap();
    backend.limit_bytes(0);
    let error = file.write_all_at(0, &[1]).unwrap_err();
    assert_eq!(error.to_string(), "write 0.img");
    assert!(error.is_no_space());
}

#[test]
fn a_chain_that_is_too_long_asks_for_a_full_snapshot() {
    assert_eq!(number_of(limits::MAX_DATA_FILES).unwrap(), 4096);
    let error = number_of(limits::MAX_DATA_FILES + 1).unwrap_err();
    assert!(
        error.to_string().contains("take a full snapshot"),
        "{error}"
    );
}
