//! Guests whose memory is served, against plain bytes: writes, faults, prefetch, discards, snapshots
//! and restores over several generations, at random and at once.
#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "the tests fail by panicking")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use snapshot_format::{
    Arch, GuestAddress, MemoryLayout, MemoryRegion, PAGE_BYTES, PageRange, SnapshotRef, VmName,
};
use snapshot_memory::backend::MemBackend;
use snapshot_memory::skip::skip;
use snapshot_memory::{
    Background, DirectorySink, DirtyTracker, LazyMemory, LazyOptions, MappedMemory, MappingKind,
    MappingOptions, MemoryImage, PageServer, Pages, PublishedSnapshot, ServeError, ServeOptions,
    SharedPages, SnapshotSink, Stability, UffdError,
};

const CASES: u64 = 2000;
const GENERATIONS: u64 = 4;
const PAGE: usize = 4096;

/// Pages of each of the two regions.
const REGION: [u64; 2] = [70, 41];
const PAGES: u64 = REGION[0] + REGION[1];

/// Numbers at random, the same for the same seed: SplitMix64.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    fn one_in(&mut self, count: u64) -> bool {
        self.below(count) == 0
    }

    /// Some pages, mostly few.
    fn pages(&mut self) -> PageRange {
        let start = self.below(PAGES);
        let most = if self.one_in(6) { PAGES } else { 9 };
        PageRange::new(start, 1 + self.below(most.min(PAGES - start)))
    }
}

fn bytes_of(pages: PageRange) -> std::ops::Range<usize> {
    let start = usize::try_from(pages.start.0).unwrap() * PAGE;
    start..start + usize::try_from(pages.count).unwrap() * PAGE
}

fn layout() -> MemoryLayout {
    let region = |start, pages| MemoryRegion {
        start: GuestAddress(start),
        len_bytes: pages * PAGE_BYTES,
    };
    MemoryLayout::new(vec![region(0, REGION[0]), region(1 << 32, REGION[1])]).unwrap()
}

/// A chain of snapshots, and what the last of them must hold.
struct Chain {
    backend: Arc<MemBackend>,
    last: SnapshotRef,
    model: Vec<u8>,
}

impl Chain {
    /// A first snapshot of memory with runs of bytes and runs of zero.
    fn new(numbers: &mut Numbers) -> Self {
        let mut model = vec![0; bytes_of(PageRange::new(0, PAGES)).end];
        for _ in 0..8 {
            let range = bytes_of(numbers.pages());
            let fill = u8::try_from(numbers.below(256)).unwrap();
            model[range].fill(fill);
        }
        let memory = MappedMemory::new(layout(), MappingOptions::default()).unwrap();
        memory.write(0, &model).unwrap();
        let backend = Arc::new(MemBackend::new());
        let mut staged = sink(&backend).begin().unwrap();
        staged
            .memory(&memory, Pages::Full, Stability::Paused)
            .unwrap();
        let last = staged.seal().unwrap().publish().unwrap().snapshot;
        Self {
            backend,
            last,
            model,
        }
    }

    fn image(&self) -> Arc<MemoryImage> {
        let found = PublishedSnapshot::open(&*self.backend, self.last.id).unwrap();
        Arc::new(found.image(&*self.backend).unwrap())
    }

    /// Every byte of the last snapshot.
    fn check(&self, memory: &MappedMemory, what: &str) {
        let mut bytes = vec![0; self.model.len()];
        memory.read(0, &mut bytes).unwrap();
        self.compare(&bytes, what);
        self.image()
            .read_pages(PageRange::new(0, PAGES), &mut bytes)
            .unwrap();
        self.compare(&bytes, "the snapshot");
    }

    fn compare(&self, bytes: &[u8], what: &str) {
        let differs = bytes.iter().zip(&self.model).position(|(a, b)| a != b);
        if let Some(at) = differs {
            let (found, expected) = (bytes[at], self.model[at]);
            let page = at / PAGE;
            assert_eq!(found, expected, "{what}, byte {at} of page {page}");
        }
    }
}

fn sink(backend: &Arc<MemBackend>) -> DirectorySink {
    DirectorySink::new(backend.clone(), VmName::new("vm").unwrap(), Arch::host())
}

/// Memory of `image`, of any kind.
fn restore(
    image: Arc<MemoryImage>,
    numbers: &mut Numbers,
) -> Result<(LazyMemory, bool), ServeError> {
    let threads = usize::try_from(1 + numbers.below(2)).unwrap();
    let mut serve = ServeOptions::new(threads).window_bytes(PAGE_BYTES << numbers.below(6));
    if numbers.one_in(2) {
        serve = serve.background(Background::default());
    }
    if numbers.one_in(4) {
        serve = serve.spin(Duration::from_micros(50));
    }
    let tracks = !numbers.one_in(3);
    let options = LazyOptions::new(serve).tracks(tracks);
    let memory = match numbers.below(3) {
        0 => LazyMemory::share(SharedPages::new(image)?, options)?,
        1 if !tracks => {
            let memfd = MappingOptions::default().kind(MappingKind::Memfd);
            LazyMemory::restore(image, options.mapping(memfd))?
        }
        _ => LazyMemory::restore(image, options)?,
    };
    Ok((memory, tracks))
}

/// Brings pages of the snapshot to the guest, until it is told not to.
fn prefetch(server: &PageServer, bytes: &[u8], mut numbers: Numbers, is_over: &AtomicBool) {
    while !is_over.load(Ordering::Relaxed) {
        let pages = numbers.pages();
        if numbers.one_in(2) {
            server.prefetch(pages, &bytes[bytes_of(pages)]).unwrap();
        } else {
            server.fill(pages).unwrap();
        }
    }
}

/// What a guest does, and the same done to the model.
fn play(chain: &mut Chain, memory: &MappedMemory, numbers: &mut Numbers) {
    for _ in 0..numbers.below(24) {
        let pages = numbers.pages();
        let range = bytes_of(pages);
        match numbers.below(8) {
            0..=2 => {
                let from = range.start + usize::try_from(numbers.below(4096)).unwrap();
                let len = 1 + usize::try_from(numbers.below(100)).unwrap();
                let end = (from + len).min(chain.model.len());
                let fill = u8::try_from(numbers.below(256)).unwrap();
                chain.model[from..end].fill(fill);
                let bytes = vec![fill; end - from];
                memory.write(from as u64, &bytes).unwrap();
            }
            3..=5 => {
                let mut bytes = vec![0; range.len()];
                memory.read(range.start as u64, &mut bytes).unwrap();
                assert_eq!(bytes, chain.model[range], "{pages:?}");
            }
            6 => {
                memory.discard(pages).unwrap();
                chain.model[range].fill(0);
            }
            _ => std::thread::yield_now(),
        }
    }
}

/// One generation: restored, played with, captured.
fn generation(chain: &mut Chain, numbers: &mut Numbers) -> Result<(), ServeError> {
    let (memory, tracks) = restore(chain.image(), numbers)?;
    let memory = Arc::new(memory);
    let sources = if tracks {
        let (writes, discards) = LazyMemory::track(&memory).unwrap();
        Some(DirtyTracker::new(layout(), vec![Box::new(writes), Box::new(discards)]).unwrap())
    } else {
        None
    };
    let consumer = sources
        .as_ref()
        .map(|tracker| (tracker, tracker.subscribe(Some(chain.last))));
    let snapshot = chain.model.clone();
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let other = Numbers(numbers.next());
        let server = memory.server();
        let over = &is_over;
        let helper = numbers.one_in(2);
        if helper {
            scope.spawn(move || prefetch(server, &snapshot, other, over));
        }
        play(chain, memory.memory(), numbers);
        let mut sink = sink(&chain.backend);
        if tracks {
            sink = sink.with_parent(chain.last.id).unwrap();
        }
        let mut staged = sink.begin().unwrap();
        if let Some((tracker, consumer)) = consumer {
            let epoch = tracker.epoch(consumer).unwrap();
            staged
                .memory(&*memory, epoch.selection(), Stability::Paused)
                .unwrap();
            chain.last = staged.seal().unwrap().publish().unwrap().snapshot;
            epoch.commit(chain.last).unwrap();
        } else {
            staged
                .memory(&*memory, Pages::Full, Stability::Paused)
                .unwrap();
            chain.last = staged.seal().unwrap().publish().unwrap().snapshot;
        }
        is_over.store(true, Ordering::Relaxed);
    });
    chain.check(memory.memory(), "memory");
    let lost = memory.events().take();
    assert!(lost.is_empty(), "{lost:?}");
    Ok(())
}

fn case(seed: u64) -> Result<(), ServeError> {
    let mut numbers = Numbers(seed);
    let mut chain = Chain::new(&mut numbers);
    for _ in 0..GENERATIONS {
        generation(&mut chain, &mut numbers)?;
    }
    Ok(())
}

/// Switches on the defect that the environment names: `cargo xtask sabotage --prove` wants this test
/// to fail then.
#[cfg(feature = "sabotage")]
fn break_on_purpose() {
    let Some(name) = std::env::var_os("VMSNAP_SABOTAGE") else {
        return;
    };
    let mut defects = snapshot_format::sabotage::Sabotage::ALL.into_iter();
    let defect = defects.find(|defect| name == defect.name());
    defect.unwrap().enable();
}

// spec: SRV-15
#[test]
fn thousands_of_guests_see_what_plain_bytes_would() {
    static AT: AtomicU64 = AtomicU64::new(0);
    #[cfg(feature = "sabotage")]
    break_on_purpose();
    let cases = std::thread::spawn(|| {
        for seed in 0..CASES {
            AT.store(seed, Ordering::Relaxed);
            match case(seed) {
                Err(ServeError::Uffd(
                    error @ (UffdError::Lacks { .. } | UffdError::NotPermitted),
                )) => return skip("uffd", &error.to_string()),
                other => other.unwrap(),
            }
        }
    });
    // A fault that nobody serves would wait for ever.
    let (mut last, mut idle) = (0, 0);
    while !cases.is_finished() && idle < 600 {
        std::thread::sleep(Duration::from_millis(100));
        let at = AT.load(Ordering::Relaxed);
        idle = if at == last { idle + 1 } else { 0 };
        last = at;
    }
    assert!(cases.is_finished(), "case {last} does not come to an end");
    assert!(cases.join().is_ok(), "case {last}");
}
