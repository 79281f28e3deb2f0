//! A store of many snapshots: what a list costs with its index, and without.

use std::sync::Arc;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use snapshot_format::{Description, Manifest, SnapshotId, Tag, VmName};
use snapshot_memory::backend::FsBackend;
use snapshot_store::{Filter, Index, Location, NewSnapshot, OpenOptions, Store};
use tempfile::TempDir;

/// Snapshots of the store.
const SNAPSHOTS: u64 = 10_000;

/// Machines that they are of.
const MACHINES: u64 = 100;

type Failed = Box<dyn std::error::Error>;

/// A store whose snapshots have a manifest, a description and a tag each. They have no memory: a list
/// reads none.
fn store(directory: &TempDir) -> Result<Store, Failed> {
    let root = directory.path().join("store");
    let backend = FsBackend::create(&root)?;
    let store = Store::create(Arc::new(backend), &OpenOptions::default())?;
    let stage = store.sink(NewSnapshot::of(VmName::new("vm-0")?)).stage()?;
    let first = stage.seal()?.publish()?.snapshot.id;
    let folder = |id: SnapshotId| root.join("snapshots").join(id.to_string());
    let bytes = std::fs::read(folder(first).join("manifest.vms"))?;
    // Publishing each would read all that are there already.
    for number in 1..SNAPSHOTS {
        let mut manifest = Manifest::parse(&bytes)?;
        manifest.id = SnapshotId((u128::from(number) << 64 | 1).to_be_bytes());
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

fn count(index: &mut Index) -> Result<usize, Failed> {
    let listing = index.list(Location::Live, &Filter::default())?;
    Ok(listing.snapshots.len())
}

/// What `vmsnap list` does, with the store opened and the index opened and checked each time.
fn list(criterion: &mut Criterion) {
    let directory = tempfile::tempdir().expect("a directory");
    let store = store(&directory).expect("a store");
    let place = tempfile::tempdir().expect("a directory");
    // Stamps are kept once they are two seconds old.
    std::thread::sleep(std::time::Duration::from_secs(3));
    let run = |place| count(&mut Index::open(&store, place)).expect("a list");
    assert_eq!(run(Some(place.path())) as u64, SNAPSHOTS);
    let mut group = criterion.benchmark_group("list-10000");
    group
        .sample_size(20)
        .throughput(Throughput::Elements(SNAPSHOTS));
    group.bench_function("index", |bencher| bencher.iter(|| run(Some(place.path()))));
    group.bench_function("files", |bencher| bencher.iter(|| run(None)));
    group.finish();
}

criterion_group!(benches, list);
criterion_main!(benches);
