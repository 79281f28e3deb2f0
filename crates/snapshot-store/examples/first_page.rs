//! Times from opening a store to the first checked page, at depth 1 and 64 of a chain.
//!
//! `cargo run --release -p snapshot-store --example first_page -- DIRECTORY [MIB]` makes the chain
//! in an empty directory, or measures the one that is there. Each level changes 1 % of the pages,
//! at random. Every sample is a process of its own.

use std::error::Error;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Instant;

use snapshot_format::{MemoryLayout, PAGE_BYTES, PageIndex, PageRange, SnapshotRef, VmName};
use snapshot_memory::backend::FsBackend;
use snapshot_memory::{DirtyBitmap, MappedMemory, MappingOptions, Pages, Stability};
use snapshot_store::{Access, NewSnapshot, OpenOptions, Reference, Store};

const DEPTHS: [usize; 2] = [1, 64];
const SAMPLES: usize = 41;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["sample", directory, name, page] => sample(Path::new(directory), name, page.parse()?),
        [directory] => measure(Path::new(directory), 256),
        [directory, mib] => measure(Path::new(directory), mib.parse()?),
        _ => Err("usage: first_page DIRECTORY [MIB]".into()),
    }
}

fn measure(directory: &Path, mib: u64) -> Result<(), Box<dyn Error>> {
    let backend = Arc::new(FsBackend::create(directory)?);
    let store = Store::open_or_create(backend, &OpenOptions::default())?;
    if store.list(None)?.snapshots.is_empty() {
        build(&store, mib << 20)?;
    }
    drop(store);
    let pages = (mib << 20) / PAGE_BYTES;
    let mut random = Random(5);
    let mut times = DEPTHS.map(|_| Vec::new());
    for _ in 0..SAMPLES {
        for (depth, times) in DEPTHS.iter().zip(&mut times) {
            let page = random.below(pages).to_string();
            let output = Command::new(std::env::current_exe()?)
                .arg("sample")
                .arg(directory)
                .args([&format!("chain/{depth}"), &page])
                .output()?;
            let text = String::from_utf8(output.stdout)?;
            times.push(text.trim().parse::<u64>()?);
        }
    }
    for (depth, times) in DEPTHS.iter().zip(&mut times) {
        times.sort_unstable();
        let [least, median] = [0, SAMPLES / 2].map(|at| times.get(at).copied().unwrap_or(0));
        println!("depth {depth}: median {median} us, least {least} us");
    }
    Ok(())
}

/// Prints microseconds.
fn sample(directory: &Path, name: &str, page: u64) -> Result<(), Box<dyn Error>> {
    let reference: Reference = name.parse()?;
    let options = OpenOptions::default().access(Access::ReadWrite);
    let backend = Arc::new(FsBackend::open(directory)?);
    // By name every manifest is read: the identity is looked up before.
    let id = Store::open(backend.clone(), &options)?.resolve(&reference)?;
    let mut bytes = [0; 4096];
    let since = Instant::now();
    let store = Store::open(backend, &options)?;
    let stored = store.image(id)?;
    let pages = PageRange::new(page, 1);
    stored.image().read_pages(pages, &mut bytes)?;
    println!("{}", since.elapsed().as_micros());
    Ok(())
}

fn build(store: &Store, bytes: u64) -> Result<(), Box<dyn Error>> {
    let pages = bytes / PAGE_BYTES;
    let guest = MappedMemory::new(MemoryLayout::single(bytes)?, MappingOptions::default())?;
    let mut random = Random(1);
    let mut fill = |page: u64| {
        let noise: Vec<u8> = (0..512).flat_map(|_| random.next().to_le_bytes()).collect();
        guest.write(page * PAGE_BYTES, &noise)
    };
    for page in 0..pages {
        fill(page)?;
    }
    let mut places = Random(2);
    let mut parent: Option<SnapshotRef> = None;
    for depth in 1..=DEPTHS[1] {
        let dirty = DirtyBitmap::new(pages);
        if parent.is_some() {
            for _ in 0..pages / 100 {
                let page = places.below(pages);
                dirty.set(PageIndex(page));
                fill(page)?;
            }
        }
        let new = NewSnapshot::of(VmName::new("chain")?).parent(parent);
        let mut stage = store.sink(new.name(depth.to_string().parse()?)).stage()?;
        let taken = parent.map_or(Pages::Full, |base| Pages::Since {
            base,
            dirty: &dirty,
        });
        stage.memory(&guest, taken, Stability::Paused)?;
        parent = Some(stage.seal()?.publish()?.snapshot);
    }
    Ok(())
}

/// `SplitMix64`.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}
