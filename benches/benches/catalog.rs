//! A store of many snapshots: what a list costs with its index, and without.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use snapshot_format::{Description, Manifest, MemoryLayout, SnapshotId, Tag, VmName};
use snapshot_memory::backend::{Backend, FsBackend, RelPath};
use snapshot_memory::{Pages, RawFile, Stability};
use snapshot_store::{Filter, Index, Location, NewSnapshot, OpenOptions, Store};
use tempfile::TempDir;

/// Snapshots of the store.
const SNAPSHOTS: u64 = 10_000;

/// Machines that they are of.
const MACHINES: u64 = 100;

type Failed = Box<dyn std::error::Error>;

/// A store whose snapshots have a manifest, a description and a tag each. One has memory: a
/// list reads none.
fn store(directory: &TempDir) -> Result<Store, Failed> {
    let root = directory.path().join("store");
    let backend = FsBackend::create(&root)?;
    let store = Store::create(Arc::new(backend), &OpenOptions::default())?;
    let files = FsBackend::create(&directory.path().join("guest"))?;
    let guest = RelPath::root().join("memory")?;
    files.create(&guest)?.write_all_at(0, &[1; 4096])?;
    let source = RawFile::image(files.open(&guest)?, MemoryLayout::single(4096)?)?;
    let mut stage = store.sink(NewSnapshot::of(VmName::new("vm-0")?)).stage()?;
    stage.memory(&source, Pages::Full, Stability::Paused)?;
    let first = stage.seal()?.publish()?.snapshot.id;
    let folder = |id: SnapshotId| root.join("snapshots").join(id.to_string());
    let bytes = std::fs::read(folder(first).join("manifest.vms"))?;
    // Publishing each would read all that are there already.
    for number in 1..SNAPSHOTS {
        let mut manifest = Manifest::parse(&bytes)?;
        manifest.id = SnapshotId((u128::from(number) << 64 | 1).to_le_bytes());
        manifest.seq = number / MACHINES + 2;
        manifest.vm = VmName::new(format!("vm-{}", number % MACHINES))?;
        std::fs::create_dir(folder(manifest.id))?;
        std::fs::write(folder(manifest.id).join("manifest.vms"), manifest.encode())?;
        let (text, tag) = (
            Description::new(format!("number {number}"))?,
            Tag::new("nightly")?,
        );
        store.change_metadata(manifest.id, |metadata| {
            metadata.description = text;
            metadata.tags.insert(tag);
            metadata.protected = false;
        })?;
    }
    Ok(store)
}

/// What `vmsnap list` does: the index is opened and held against the directories each time.
fn count(store: &Store, place: Option<&Path>) -> Option<u64> {
    let listing = Index::open(store, place).list(Location::Live, &Filter::default());
    Some(listing.ok()?.snapshots.len() as u64)
}

fn list(criterion: &mut Criterion) {
    if let Err(error) = try_list(criterion) {
        eprintln!("list-10000: {error}");
    }
}

fn try_list(criterion: &mut Criterion) -> Result<(), Failed> {
    let directory = tempfile::tempdir()?;
    let store = store(&directory)?;
    let place = tempfile::tempdir()?;
    // Stamps are kept once they are two seconds old.
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(count(&store, Some(place.path())), Some(SNAPSHOTS));
    let mut group = criterion.benchmark_group("list-10000");
    group.sample_size(20);
    group.throughput(Throughput::Elements(SNAPSHOTS));
    for (name, place) in [("index", Some(place.path())), ("files", None)] {
        group.bench_function(name, |bencher| bencher.iter(|| count(&store, place)));
    }
    group.finish();
    Ok(())
}

criterion_group!(benches, list);
criterion_main!(benches);
