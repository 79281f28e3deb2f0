use snapshot_format::{Arch, PageIndex, VmName};
use vm_memory::{Bytes, GuestRegionMmap, MmapRegion};

use super::*;
use crate::backend::MemBackend;
use crate::dirty::DirtyTracker;
use crate::sink::SnapshotSink;
use crate::source::Stability;
use crate::testing::{DirtyRig, dirty_source_suite};
use crate::{DirectorySink, PublishedSnapshot};

fn at(address: u64) -> vm_memory::GuestAddress {
    vm_memory::GuestAddress(address)
}

/// Two regions with a hole between them.
fn memory() -> Arc<GuestMemoryMmap<AtomicBitmap>> {
    let ranges = [(at(0), 64 << 12), (at(1 << 30), 32 << 12)];
    Arc::new(GuestMemoryMmap::from_ranges(&ranges).unwrap())
}

#[test]
fn a_guest_of_rust_vmm_is_captured_in_full_and_by_its_own_bitmap() {
    let memory = memory();
    let source = RustVmmMemory::new(memory.clone()).unwrap();
    assert_eq!(source.layout().page_count(), 96);
    let writes = RustVmmWrites::new(RustVmmMemory::new(memory.clone()).unwrap()).unwrap();
    let tracker = DirtyTracker::new(source.layout().clone(), vec![Box::new(writes)]).unwrap();
    let consumer = tracker.subscribe(None);
    let backend = Arc::new(MemBackend::new());
    let mut sink = DirectorySink::new(backend.clone(), VmName::new("vm").unwrap(), Arch::host());
    memory.write_slice(b"first", at(5 << 12)).unwrap();
    let mut taken = Vec::new();
    for round in 0..2 {
        let epoch = tracker.epoch(consumer).unwrap();
        let mut staged = sink.begin().unwrap();
        let stats = staged
            .memory(&source, epoch.selection(), Stability::Paused)
            .unwrap();
        let published = staged.seal().unwrap().publish().unwrap();
        epoch.commit(published.snapshot).unwrap();
        let found = PublishedSnapshot::open(&*backend, published.snapshot.id).unwrap();
        let image = found.image(&*backend).unwrap();
        assert_eq!(
            image.differing_pages(&source, None).unwrap().count(),
            0,
            "{round}"
        );
        taken.push((stats.present, stats.inherited));
        // Over the end of a page, and in the other region.
        memory.write_slice(&[1; 8], at((8 << 12) - 4)).unwrap();
        memory
            .write_slice(b"last", at((1 << 30) + (31 << 12)))
            .unwrap();
    }
    assert_eq!(taken, [(1, 0), (3, 93)]);
}

#[test]
fn pages_are_read_across_regions_and_not_beyond_them() {
    let memory = memory();
    memory.write_slice(&[1; 4096], at(63 << 12)).unwrap();
    memory.write_slice(&[2; 4096], at(1 << 30)).unwrap();
    let source = RustVmmMemory::new(memory).unwrap();
    let mut two = [0; 8192];
    source.read_pages(PageRange::new(63, 2), &mut two).unwrap();
    assert_eq!((two[0], two[4095], two[4096], two[8191]), (1, 1, 2, 2));
    assert_eq!(
        source.host_run(PageRange::new(63, 2)).unwrap().len_bytes(),
        4096
    );
    source
        .read_pages(PageRange::new(95, 2), &mut two)
        .unwrap_err();
    assert!(source.host_run(PageRange::new(96, 1)).is_none());
}

/// A VMM that writes through `vm-memory`: 700 pages, a hole, 130 pages.
struct Rig(Arc<GuestMemoryMmap<AtomicBitmap>>);

impl Rig {
    fn write_byte(&self, page: PageIndex, byte: usize) {
        let layout = RustVmmMemory::new(self.0.clone()).unwrap().layout;
        let start = layout.guest_page(page).unwrap().address().unwrap();
        let address = at(start.0 + byte as u64);
        self.0.write_slice(&[7], address).unwrap();
    }
}

impl DirtyRig for Rig {
    fn source(&mut self) -> Box<dyn DirtySource> {
        let memory = RustVmmMemory::new(self.0.clone()).unwrap();
        Box::new(RustVmmWrites::new(memory).unwrap())
    }

    fn write(&mut self, page: PageIndex, byte: usize) {
        self.write_byte(page, byte);
    }

    fn write_during(&mut self, pages: &[PageIndex], harvest: &mut dyn FnMut()) {
        let rig = &*self;
        std::thread::scope(|scope| {
            let write = || pages.iter().for_each(|page| rig.write_byte(*page, 7));
            let writer = scope.spawn(write);
            while !writer.is_finished() {
                harvest();
            }
        });
    }
}

// spec: SRC-03
#[test]
fn writes_through_vm_memory_conform() {
    let ranges = [(at(0), 700 << 12), (at(1000 << 12), 130 << 12)];
    let memory = GuestMemoryMmap::from_ranges(&ranges).unwrap();
    dirty_source_suite(&mut Rig(Arc::new(memory)));
}

/// Memory of one region whose bitmap has bits of `granule` bytes.
fn of_granule(len_bytes: usize, granule: usize) -> Result<RustVmmWrites, DirtyError> {
    let bitmap = AtomicBitmap::new(len_bytes, granule.try_into().unwrap());
    let region = vm_memory::mmap::MmapRegionBuilder::new_with_bitmap(len_bytes, bitmap);
    let region = region
        .with_mmap_prot(libc::PROT_READ | libc::PROT_WRITE)
        .with_mmap_flags(libc::MAP_ANONYMOUS | libc::MAP_PRIVATE);
    let region: MmapRegion<AtomicBitmap> = region.build().unwrap();
    let region = GuestRegionMmap::new(region, at(0)).unwrap();
    let memory = GuestMemoryMmap::from_regions(vec![region]).unwrap();
    RustVmmWrites::new(RustVmmMemory::new(Arc::new(memory)).unwrap())
}

#[test]
fn a_bit_stands_for_as_many_pages_as_the_bitmap_says() {
    let mut writes = of_granule(1 << 20, 64 << 10).unwrap();
    assert_eq!(writes.granule_bytes(), 64 << 10);
    let memory = writes.memory.memory().clone();
    memory.write_slice(b"x", at(17 << 12)).unwrap();
    let dirty = DirtyBitmap::new(256);
    writes.harvest(&dirty).unwrap();
    assert_eq!(
        dirty.iter_runs().collect::<Vec<_>>(),
        [PageRange::new(16, 16)]
    );
    // Taken, and not told again.
    let dirty = DirtyBitmap::new(256);
    writes.harvest(&dirty).unwrap();
    assert_eq!(dirty.count(), 0);
}

#[test]
fn a_granule_that_cannot_be_told_is_refused() {
    for (len_bytes, granule) in [(5 << 12, 2 << 12), (1 << 20, 1 << 10)] {
        let refused = of_granule(len_bytes, granule);
        assert!(
            matches!(refused, Err(DirtyError::BadGranule { .. })),
            "{granule}"
        );
    }
}
