//! Small pieces in a tight loop: for finding where a suite's time goes, not for claims.

use std::hint::black_box;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use snapshot_format::{Digest, PAGE_BYTES, PageIndex};
use snapshot_memory::DirtyBitmap;

/// 4 GiB of guest memory.
const PAGES: u64 = 1 << 20;

/// A worse figure slows the harvest at every snapshot.
fn bitmap(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("bitmap");
    group.throughput(Throughput::Elements(PAGES));
    for percent in [1, 10, 50] {
        let bitmap = DirtyBitmap::new(PAGES);
        let mut rng = fastrand::Rng::with_seed(percent);
        for _ in 0..PAGES * percent / 100 {
            bitmap.set(PageIndex(rng.u64(..PAGES)));
        }
        group.bench_function(format!("runs/{percent}pct"), |bencher| {
            bencher.iter(|| {
                black_box(&bitmap)
                    .iter_runs()
                    .map(|run| run.count)
                    .sum::<u64>()
            });
        });
        group.bench_function(format!("take/{percent}pct"), |bencher| {
            let full = || {
                let copy = DirtyBitmap::new(PAGES);
                copy.or_from(&bitmap);
                copy
            };
            bencher.iter_batched(full, |copy| copy.take(), BatchSize::LargeInput);
        });
    }
    group.finish();
}

/// A worse figure slows every full and every diff: memory is digested as it is written.
fn digest(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("digest");
    for pages in [1, 16] {
        let len = pages * PAGE_BYTES;
        let mut unit = vec![0; usize::try_from(len).unwrap_or_default()];
        fastrand::Rng::with_seed(pages).fill(&mut unit);
        group.throughput(Throughput::Bytes(len));
        group.bench_function(format!("unit/{pages}"), |bencher| {
            bencher.iter(|| Digest::of(black_box(&unit)));
        });
    }
    group.finish();
}

criterion_group!(benches, bitmap, digest);
criterion_main!(benches);
