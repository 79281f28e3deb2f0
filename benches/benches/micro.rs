//! Small pieces in a tight loop: for finding where a suite's time goes, not for claims.

use std::hint::black_box;

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use snapshot_format::page_map::{
    IndexLeaf, IndexLeafBuilder, LEAF_PAGES, LeafError, OwnerLeaf, flatten,
};
use snapshot_format::{Digest, PAGE_BYTES, PageIndex};
use snapshot_memory::{DirtyBitmap, is_zero};

/// 4 and 64 GiB of guest memory.
const PAGES: [u64; 2] = [1 << 20, 16 << 20];

/// Snapshots in a chain.
const LEVELS: u16 = 64;

fn dirty(pages: u64, percent: u64) -> DirtyBitmap {
    let bitmap = DirtyBitmap::new(pages);
    let mut rng = fastrand::Rng::with_seed(percent);
    for _ in 0..pages * percent / 100 {
        bitmap.set(PageIndex(rng.u64(..pages)));
    }
    bitmap
}

/// A worse figure slows every write that the VMM marks, and the harvest at every snapshot.
fn bitmap(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("bitmap");
    group.sample_size(20);
    for pages in PAGES {
        let of = |what: &str| BenchmarkId::new(what.to_owned(), format!("{}m", pages >> 20));
        let one_percent = dirty(pages, 1);
        let mut rng = fastrand::Rng::with_seed(7);
        let order: Vec<PageIndex> = (0..1 << 16).map(|_| PageIndex(rng.u64(..pages))).collect();
        group.throughput(Throughput::Elements(order.len() as u64));
        group.bench_function(of("set"), |bencher| {
            bencher.iter(|| order.iter().for_each(|&page| one_percent.set(page)));
        });
        group.throughput(Throughput::Elements(pages));
        for percent in [1, 10, 50] {
            let bitmap = dirty(pages, percent);
            group.bench_function(of(&format!("iterate-{percent}pct")), |bencher| {
                bencher.iter(|| {
                    let runs = black_box(&bitmap).iter_runs();
                    runs.map(|run| run.count).sum::<u64>()
                });
            });
        }
        let harvested = dirty(pages, 1);
        group.bench_function(of("harvest-1pct"), |bencher| {
            let full = || {
                let copy = DirtyBitmap::new(pages);
                copy.or_from(&harvested);
                copy
            };
            bencher.iter_batched(full, |copy| copy.take(), BatchSize::LargeInput);
        });
        let into = DirtyBitmap::new(pages);
        group.bench_function(of("merge-1pct"), |bencher| {
            bencher.iter(|| into.or_from(black_box(&harvested)));
        });
    }
    group.finish();
}

/// A leaf in which a percentage of the pages are present, at random.
fn leaf(percent: u8, seed: u64) -> Result<IndexLeaf, LeafError> {
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut builder = IndexLeafBuilder::new(0, 1)?;
    for page in 0..LEAF_PAGES {
        if rng.u8(..100) < percent {
            builder.present().insert(page, 1);
            builder.digest(Digest([percent; 32]));
        }
    }
    builder.finish(0)
}

/// A worse figure lengthens the end of every snapshot, its merging into the parent's map, and every
/// first read of a restored guest.
fn page_map(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("page-map");
    group.bench_function("build/10pct", |bencher| {
        bencher.iter(|| leaf(black_box(10), 1));
    });
    let Ok(index) = leaf(10, 1) else {
        return;
    };
    let bytes = index.encode();
    group.throughput(Throughput::Bytes(bytes.len() as u64));
    group.bench_function("encode/10pct", |bencher| bencher.iter(|| index.encode()));
    group.bench_function("parse/10pct", |bencher| {
        bencher.iter(|| IndexLeaf::parse(black_box(&bytes), 0));
    });
    let levels: Vec<IndexLeaf> = (0..LEVELS)
        .filter_map(|level| leaf(1, level.into()).ok())
        .collect();
    let flat = || {
        let steps = (1..).zip(&levels);
        steps.fold(None, |below: Option<OwnerLeaf>, (file, level)| {
            Some(flatten(below.as_ref(), level, file))
        })
    };
    group.throughput(Throughput::Elements(levels.len() as u64));
    group.bench_function("flatten/64-levels", |bencher| bencher.iter(flat));
    let Some(owners) = flat() else {
        return;
    };
    let mut rng = fastrand::Rng::with_seed(3);
    let pages: Vec<usize> = (0..4096).map(|_| rng.usize(..LEAF_PAGES)).collect();
    group.throughput(Throughput::Elements(pages.len() as u64));
    group.bench_function("lookup/64-levels", |bencher| {
        let place = |&page: &usize| {
            let owner = owners.owner(page);
            let level = levels.get(usize::from(owner).wrapping_sub(1))?;
            level.packed_offset(page)
        };
        bencher.iter(|| pages.iter().filter_map(place).sum::<u64>());
    });
    group.finish();
}

fn noise(pages: u64) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(pages * PAGE_BYTES).unwrap_or_default()];
    fastrand::Rng::with_seed(pages).fill(&mut bytes);
    bytes
}

/// A worse figure slows every full and every diff: each page is looked at before it is stored.
fn zero(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("zero");
    group.throughput(Throughput::Bytes(PAGE_BYTES));
    let zeros = vec![0; noise(1).len()];
    let mut late = zeros.clone();
    if let Some(last) = late.last_mut() {
        *last = 1;
    }
    for (name, page) in [("zero", &zeros), ("late", &late), ("noise", &noise(1))] {
        group.bench_function(format!("page/{name}"), |bencher| {
            bencher.iter(|| is_zero(black_box(page)));
        });
    }
    group.finish();
}

/// A worse figure slows every full and every diff: memory is digested as it is written.
fn digest(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("digest");
    for pages in [1, 16] {
        let unit = noise(pages);
        group.throughput(Throughput::Bytes(unit.len() as u64));
        group.bench_function(format!("{}k", unit.len() >> 10), |bencher| {
            bencher.iter(|| Digest::of(black_box(&unit)));
        });
    }
    group.finish();
}

criterion_group!(benches, bitmap, page_map, zero, digest);
criterion_main!(benches);
