//! Times how a working set of scattered pages comes back, and what of that is what.
//!
//! `cargo run --release -p snapshot-memory --example working_set -- FOLDER [MIB [PAGES [ROUNDS]]]`
//!
//! Takes a snapshot of random memory in `FOLDER`, which must lie on a disk, with a working set of
//! random pages in random order, and replays it: into nothing, on one and on two threads; into fresh
//! memory; into memory that is served. `benches/` has the figures against peers.

use std::error::Error;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use snapshot_format::{Arch, MemoryLayout, PAGE_BYTES, PageRange, VmName, WorkingSetOrigin};
use snapshot_memory::backend::{Backend, FsBackend, RelPath};
use snapshot_memory::{
    DirectBuffer, DirectorySink, FreshMemory, LazyMemory, LazyOptions, MappedMemory,
    MappingOptions, PageTarget, Pages, PublishedSnapshot, ReplayOptions, ServeOptions,
    SnapshotSink, Stability, StagedFile, TouchedPages, WorkingSet, WorkingSetOptions,
    write_working_set,
};

type Fallible<T> = Result<T, Box<dyn Error>>;

/// One timed way of bringing the pages back.
type Case = dyn Fn(&Rig) -> Fallible<Duration>;

fn main() -> Fallible<()> {
    let mut arguments = std::env::args().skip(1);
    let folder = arguments.next().ok_or("which folder?")?;
    let mut number = |otherwise: u64| arguments.next().map_or(Ok(otherwise), |text| text.parse());
    let (mib, pages, rounds) = (number(1024)?, number(16_384)?, number(7)?);
    let rig = Rig::new(Path::new(&folder), mib << 20, pages)?;
    println!("{pages} pages of {mib} MiB; milliseconds, one column a round");
    let cases: [(&str, &Case); 7] = [
        ("one O_DIRECT read", &Rig::one_read),
        ("open", &Rig::open_only),
        ("into nothing, 1 thread", &|rig| rig.nowhere(1)),
        ("into nothing, 2 threads", &|rig| rig.nowhere(2)),
        ("into fresh memory, 2 threads", &Rig::fresh),
        ("served, 1 thread", &|rig| rig.served(1)),
        ("served, 2 threads", &|rig| rig.served(2)),
    ];
    let mut results = vec![Vec::new(); cases.len()];
    for _ in 0..rounds {
        for ((_, case), results) in cases.iter().zip(&mut results) {
            results.push(case(&rig)?.as_secs_f64() * 1e3);
        }
    }
    for ((name, _), results) in cases.iter().zip(&mut results) {
        results.sort_by(f64::total_cmp);
        let median = results.get(results.len() / 2).copied().unwrap_or_default();
        println!("{name:30} median {median:7.1}  {results:7.1?}");
    }
    Ok(())
}

struct Rig {
    backend: Arc<FsBackend>,
    snapshot: PublishedSnapshot,
    file: std::path::PathBuf,
    path: RelPath,
    touched: TouchedPages,
    data_offset: u64,
}

/// Takes pages and does nothing with them.
struct Nowhere(u64);

impl PageTarget for Nowhere {
    fn page_count(&self) -> u64 {
        self.0
    }

    fn put(&self, _: PageRange, _: &[u8]) -> Result<(), Box<dyn Error + Send + Sync>> {
        Ok(())
    }

    fn put_zero(&self, _: PageRange) -> Result<(), Box<dyn Error + Send + Sync>> {
        Ok(())
    }
}

impl Rig {
    fn new(folder: &Path, len_bytes: u64, pages: u64) -> Fallible<Self> {
        let layout = MemoryLayout::single(len_bytes)?;
        let memory = MappedMemory::new(layout, MappingOptions::default())?;
        let mut random = Random(len_bytes | 1);
        let mut page = vec![0; 4096];
        let count = len_bytes / PAGE_BYTES;
        for at in 0..count {
            for word in page.as_chunks_mut::<8>().0 {
                *word = random.next().to_le_bytes();
            }
            memory.write(at * PAGE_BYTES, &page)?;
        }
        let backend = Arc::new(FsBackend::open(folder)?);
        let mut sink = DirectorySink::new(backend.clone(), VmName::new("example")?, Arch::host());
        let mut staged = sink.begin()?;
        staged.memory(&memory, Pages::Full, Stability::Paused)?;
        let published = staged.seal()?.publish()?;
        drop(memory);
        let snapshot = PublishedSnapshot::open(&*backend, published.snapshot.id)?;
        let mut touched = TouchedPages::new(count, WorkingSetOrigin::Trace);
        while touched.pages() < pages.min(count) {
            touched.add(PageRange::new(random.next() % count, 1));
        }
        let path = RelPath::root().join(&format!("working-set.{}", std::process::id()))?;
        let mut file = StagedFile::create(&*backend, path.clone())?;
        let image = snapshot.image(&*backend)?;
        let options = WorkingSetOptions::default();
        write_working_set(&image, published.snapshot, &touched, &options, &mut file)?;
        file.seal()?;
        let mut rig = Self {
            file: folder.join(path.as_str()),
            backend,
            snapshot,
            path,
            touched,
            data_offset: 0,
        };
        rig.data_offset = rig.open()?.index().data_offset();
        Ok(rig)
    }

    fn open(&self) -> Fallible<WorkingSet> {
        let file = self.backend.open(&self.path)?;
        let image = self.snapshot.image(&*self.backend)?;
        let manifest = self.snapshot.reference();
        Ok(WorkingSet::open(
            file,
            self.path.as_str(),
            manifest,
            image.layout(),
        )?)
    }

    /// The data by one call after the other of 2 MiB into one buffer: what the device gives to
    /// whoever waits for each.
    fn one_read(&self) -> Fallible<Duration> {
        let mut options = std::fs::OpenOptions::new();
        let file = options
            .read(true)
            .custom_flags(libc::O_DIRECT)
            .open(&self.file)?;
        let mut buffer = DirectBuffer::new()?;
        let len = self.touched.pages() * PAGE_BYTES;
        let start = Instant::now();
        for at in (0..len).step_by(DirectBuffer::LEN_BYTES) {
            let part = usize::try_from(len - at)?.min(DirectBuffer::LEN_BYTES);
            let out = buffer.get_mut(..part).unwrap_or_default();
            file.read_exact_at(out, self.data_offset + at)?;
        }
        Ok(start.elapsed())
    }

    fn open_only(&self) -> Fallible<Duration> {
        let start = Instant::now();
        self.open()?;
        Ok(start.elapsed())
    }

    fn nowhere(&self, threads: usize) -> Fallible<Duration> {
        let start = Instant::now();
        let mut set = self.open()?;
        let target = Nowhere(set.index().page_count);
        set.replay(&target, &ReplayOptions::new(threads))?;
        Ok(start.elapsed())
    }

    fn fresh(&self) -> Fallible<Duration> {
        let image = self.snapshot.image(&*self.backend)?;
        let memory = MappedMemory::new(image.layout().clone(), MappingOptions::default())?;
        let start = Instant::now();
        let mut set = self.open()?;
        set.replay(&FreshMemory(&memory), &ReplayOptions::new(2))?;
        Ok(start.elapsed())
    }

    fn served(&self, threads: usize) -> Fallible<Duration> {
        let image = Arc::new(self.snapshot.image(&*self.backend)?);
        let memory = LazyMemory::restore(image, LazyOptions::new(ServeOptions::new(1)))?;
        let start = Instant::now();
        let mut set = self.open()?;
        set.replay(memory.server(), &ReplayOptions::new(threads))?;
        let mut word = [0; 8];
        for run in self.touched.runs() {
            memory.memory().read(run.start.0 * PAGE_BYTES, &mut word)?;
        }
        let took = start.elapsed();
        let faults = memory.server().stats();
        if faults.demand_pages > 0 {
            return Err(format!("pages were not there: {faults:?}").into());
        }
        Ok(took)
    }
}

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}
