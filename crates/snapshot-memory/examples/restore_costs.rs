//! Measures what a restore plan is chosen by (`RestoreCosts`), on this machine, and prints it.
//!
//! `cargo run --release -p snapshot-memory --example restore_costs [DIRECTORY]`: the directory is
//! where a snapshot of 256 MiB and a chain of two are written, by default a temporary one. All files
//! are in the page cache. Each figure is the median of seven.

use std::error::Error;

#[cfg(target_os = "linux")]
fn main() -> Result<(), Box<dyn Error>> {
    linux::main()
}

#[cfg(not(target_os = "linux"))]
fn main() -> Result<(), Box<dyn Error>> {
    Err("memory is served and mapped on Linux".into())
}

#[cfg(target_os = "linux")]
mod linux {
    use std::error::Error;
    use std::hint::black_box;
    use std::path::PathBuf;
    use std::sync::Arc;
    use std::time::Instant;

    use snapshot_format::{Arch, MemoryLayout, PAGE_BYTES, PageRange, SnapshotRef, VmName};
    use snapshot_memory::backend::FsBackend;
    use snapshot_memory::{
        CaptureOptions, DirectorySink, DirtyBitmap, FillOptions, KernelFacts, LayoutChoice,
        Mappable, MappedMemory, MappingOptions, MemoryFacts, MemoryImage, MethodKind, Pages,
        PublishedSnapshot, RestoreCosts, RestoreFrom, RestorePlan, SealedMemory, SnapshotSink,
        Stability, TargetFacts, TargetKind, UffdOptions, Verification, Wanted, fill_memory,
    };

    type Outcome<T> = Result<T, Box<dyn Error>>;

    const PAGE_COUNT: u64 = (256 << 20) / PAGE_BYTES;
    const RUNS: usize = 7;

    pub(super) fn main() -> Outcome<()> {
        let temporary = tempfile::tempdir()?;
        let folder = std::env::args_os().nth(1).map(PathBuf::from);
        let folder = folder.unwrap_or_else(|| temporary.path().to_owned());
        let backend = Arc::new(FsBackend::open(&folder)?);
        let layout = MemoryLayout::single(PAGE_COUNT * PAGE_BYTES)?;
        let memory = MappedMemory::new(layout, MappingOptions::default())?;
        let mut page = [0; 4096];
        for number in 0..PAGE_COUNT {
            noise(number + 1, &mut page);
            memory.write(number * PAGE_BYTES, &page)?;
        }
        let base = take(&backend, &memory, None, LayoutChoice::Sparse)?;
        // 128 runs, so that a mapped restore is of 257 pieces.
        let dirty = DirtyBitmap::new(PAGE_COUNT);
        for run in 0..100 {
            dirty.set_range(PageRange::new(run * 600, 100));
        }
        let diff = take(
            &backend,
            &memory,
            Some((base, &dirty)),
            LayoutChoice::Packed,
        )?;
        let open = |id: SnapshotRef| -> Outcome<Arc<MemoryImage>> {
            let found = PublishedSnapshot::open(&*backend, id.id)?;
            Ok(Arc::new(found.image(&*backend)?))
        };
        let (base, diff) = (open(base)?, open(diff)?);
        whole(&base)?;
        mapped(&base, &diff, || open_again(&backend, &diff))?;
        served(&base)?;
        println!("{:#?}", RestoreCosts::default());
        Ok(())
    }

    fn open_again(backend: &FsBackend, image: &MemoryImage) -> Outcome<MemoryImage> {
        let newest = image.files().next_back().ok_or("a chain has files")??;
        Ok(PublishedSnapshot::open(backend, newest.root().id)?.image(backend)?)
    }

    /// Reading, checking and copying all pages.
    fn whole(base: &Arc<MemoryImage>) -> Outcome<()> {
        let mut buffer = vec![0; 256 << 10];
        let check = median(|| {
            for first in (0..PAGE_COUNT).step_by(64) {
                base.read_pages(PageRange::new(first, 64), &mut buffer)?;
            }
            Ok(())
        })?;
        tell("check_page_ns", check, PAGE_COUNT);
        for (name, huge) in [("copy_page_ns", false), ("copy_huge_page_ns", true)] {
            let fresh = || {
                let options = MappingOptions::default().huge_pages(huge);
                MappedMemory::new(base.layout().clone(), options)
            };
            let copy = median_of(fresh, |memory| {
                fill_memory(&**base, &memory?, &FillOptions::default())?;
                Ok(())
            })?;
            tell(name, copy, PAGE_COUNT);
        }
        let fill = median(|| {
            SealedMemory::fill(&**base, &FillOptions::default())?;
            Ok(())
        })?;
        tell("fill_page_ns", fill, PAGE_COUNT);
        Ok(())
    }

    /// Mapping files, and touching their pages.
    fn mapped(
        base: &Arc<MemoryImage>,
        diff: &Arc<MemoryImage>,
        again: impl Fn() -> Outcome<MemoryImage>,
    ) -> Outcome<()> {
        let leaves = diff.table().refs().len() as u64;
        let read = median_of(&again, |image| {
            black_box(Mappable::of(&image?, usize::MAX)?);
            Ok(())
        })?;
        tell("map_leaf_ns", read, leaves);
        let wanted = Wanted::default()
            .method(MethodKind::Mapped)
            .verification(Verification::Trusted);
        let plan = plan(diff, wanted)?;
        let Mappable::Runs(runs) = Mappable::of(diff, usize::MAX)? else {
            return Err("the chain can be mapped".into());
        };
        let from = RestoreFrom::new(Arc::clone(diff));
        let fresh = || MappedMemory::new(diff.layout().clone(), MappingOptions::default());
        let map = median_of(fresh, |memory| {
            drop(plan.run(&Arc::new(memory?), &from)?);
            Ok(())
        })?;
        tell("map_run_ns", map, runs.len() as u64);

        let plan = self::plan(base, wanted)?;
        let from = RestoreFrom::new(Arc::clone(base));
        let fresh = || -> Outcome<_> {
            let memory = MappedMemory::new(base.layout().clone(), MappingOptions::default())?;
            Ok(plan.run(&Arc::new(memory), &from)?)
        };
        let touch = median_of(fresh, |restored| touch(restored?.memory()))?;
        tell("map_touch_ns", touch, TOUCHED);
        Ok(())
    }

    /// Answering faults, in windows of one page and of sixteen.
    fn served(base: &Arc<MemoryImage>) -> Outcome<()> {
        let plan = plan(base, Wanted::default().method(MethodKind::Served))?;
        let run = |window_bytes| -> Outcome<_> {
            let memory = MappedMemory::new(base.layout().clone(), MappingOptions::default())?;
            let serve = snapshot_memory::ServeOptions::new(1).window_bytes(window_bytes);
            let from = RestoreFrom::new(Arc::clone(base)).serve(serve);
            Ok(plan.run(&Arc::new(memory), &from)?)
        };
        let mut start = Vec::new();
        for _ in 0..RUNS {
            let began = Instant::now();
            let restored = run(65536)?;
            start.push(began.elapsed().as_nanos());
            drop(restored);
        }
        start.sort_unstable();
        println!(
            "serve_start_ns: {}",
            start.get(RUNS / 2).ok_or("there are runs")?
        );
        // Each touch is one fault where the window is one page.
        let mut per_fault = Vec::new();
        for pages in [1, 16, 64] {
            let fresh = || run(pages * PAGE_BYTES);
            let all = median_of(fresh, |restored| {
                let restored = restored?;
                let mut byte = [0];
                for fault in 0..FAULTS {
                    let page = fault * 37 % (PAGE_COUNT / 64) * 64;
                    restored.memory().read(page * PAGE_BYTES, &mut byte)?;
                }
                Ok(())
            })?;
            println!(
                "fault with a window of {pages} pages: {} ns",
                all / u128::from(FAULTS)
            );
            per_fault.push((pages, all / u128::from(FAULTS)));
        }
        if let [(few, one), .., (many, last)] = per_fault[..] {
            let page = last.saturating_sub(one) / u128::from(many - few);
            println!("serve_page_ns: {page}");
            println!("serve_fault_ns: {}", one.saturating_sub(page));
        }
        let mut bytes = vec![0; 1 << 20];
        let fresh = || run(65536);
        let replay = median_of(fresh, |restored| {
            let restored = restored?;
            let server = restored.server().ok_or("it is served")?;
            for first in (0..PAGE_COUNT / 4).step_by(256) {
                let pages = PageRange::new(first, 256);
                base.read_pages(pages, &mut bytes)?;
                server.prefetch(pages, &bytes)?;
            }
            Ok(())
        })?;
        tell("replay_page_ns", replay, PAGE_COUNT / 4);
        Ok(())
    }

    const TOUCHED: u64 = 16384;
    const FAULTS: u64 = 512;

    /// Reads a byte of many pages in no order.
    fn touch(memory: &MappedMemory) -> Outcome<()> {
        let mut byte = [0];
        for number in 0..TOUCHED {
            // A prime step, so that no page comes twice.
            memory.read(number * 40_503 % PAGE_COUNT * PAGE_BYTES, &mut byte)?;
        }
        Ok(())
    }

    fn plan(image: &MemoryImage, wanted: Wanted) -> Outcome<RestorePlan> {
        let kernel = KernelFacts::of_host(UffdOptions::default());
        let target = TargetFacts::new(TargetKind::Anonymous, kernel);
        let facts = MemoryFacts::of(image, wanted)?;
        Ok(RestorePlan::choose(
            &facts,
            &target,
            wanted,
            &RestoreCosts::default(),
        )?)
    }

    fn take(
        backend: &Arc<FsBackend>,
        memory: &MappedMemory,
        since: Option<(SnapshotRef, &DirtyBitmap)>,
        layout: LayoutChoice,
    ) -> Outcome<SnapshotRef> {
        let shared: Arc<FsBackend> = Arc::clone(backend);
        let sink = DirectorySink::new(shared, VmName::new("vm")?, Arch::host());
        let sink = sink.with_capture(CaptureOptions::default().layout(layout));
        let mut sink = match since {
            Some((base, _)) => sink.with_parent(base.id)?,
            None => sink,
        };
        let mut staged = sink.begin()?;
        let pages = since.map_or(Pages::Full, |(base, dirty)| Pages::Since { base, dirty });
        staged.memory(memory, pages, Stability::Paused)?;
        Ok(staged.seal()?.publish()?.snapshot)
    }

    fn median(mut work: impl FnMut() -> Outcome<()>) -> Outcome<u128> {
        median_of(|| (), |()| work())
    }

    /// The median time of `work` on what `prepare` makes, after one run that is not counted.
    fn median_of<T>(
        mut prepare: impl FnMut() -> T,
        mut work: impl FnMut(T) -> Outcome<()>,
    ) -> Outcome<u128> {
        let mut times = Vec::with_capacity(RUNS);
        for run in 0..=RUNS {
            let prepared = prepare();
            let began = Instant::now();
            work(prepared)?;
            if run > 0 {
                times.push(began.elapsed().as_nanos());
            }
        }
        times.sort_unstable();
        Ok(times.get(RUNS / 2).copied().ok_or("there are runs")?)
    }

    fn tell(name: &str, all_ns: u128, count: u64) {
        println!("{name}: {}", all_ns / u128::from(count.max(1)));
    }

    fn noise(seed: u64, page: &mut [u8; 4096]) {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        for word in page.as_chunks_mut::<8>().0 {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            *word = state.to_le_bytes();
        }
    }
}
