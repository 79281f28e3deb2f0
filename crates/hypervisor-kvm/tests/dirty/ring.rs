//! Dirty rings, as small as the kernel takes them.

use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use hypervisor_bridge::testing::{DirtyRig, dirty_source_suite};
use hypervisor_kvm::VcpuRings;
use snapshot_format::{MemoryLayout, PageIndex};
use snapshot_memory::{DirtyBitmap, DirtySource};

use super::machine::{Machine, enable_rings, kvm, other_layouts};
use super::memory::Backing;

struct RingRig {
    machine: Machine,
    rings: VcpuRings,
    /// How often a ring was full.
    full: Arc<AtomicU64>,
}

impl RingRig {
    /// `None` without KVM, or without rings.
    fn new(backing: Backing) -> Option<Self> {
        let mut enabled = None;
        let machine = Machine::new(&kvm()?, backing, |vm| enabled = enable_rings(vm));
        let rings = machine.map_rings(enabled?);
        Some(Self {
            machine,
            rings,
            full: Arc::default(),
        })
    }

    /// What the thread of a vCPU does about a full ring.
    fn on_full(&self) -> impl FnMut() + Send + use<> {
        let (rings, full) = (self.rings.clone(), self.full.clone());
        move || {
            full.fetch_add(1, Ordering::Relaxed);
            rings.on_full().unwrap();
        }
    }
}

impl DirtyRig for RingRig {
    fn source(&mut self) -> Box<dyn DirtySource> {
        Box::new(self.rings.source())
    }

    fn write(&mut self, page: PageIndex, byte: usize) {
        let mut on_full = self.on_full();
        self.machine.write(page, byte, &mut on_full);
    }

    fn write_during(&mut self, pages: &[PageIndex], harvest: &mut dyn FnMut()) {
        let mut on_full = self.on_full();
        self.machine.write_during(pages, &mut on_full, harvest);
    }

    fn layouts(&self) -> Vec<MemoryLayout> {
        other_layouts()
    }

    fn change(&mut self, layout: &MemoryLayout) -> Result<(), Box<dyn Error + Send + Sync>> {
        self.machine.change_for(layout, &self.rings.slots());
        Ok(())
    }
}

// spec: SRC-03
// spec: SRC-10
#[test]
fn dirty_rings_conform_on_memory_of_every_kind() {
    for backing in Backing::EVERY {
        if let Some(mut rig) = RingRig::new(backing) {
            dirty_source_suite(&mut rig);
        }
    }
}

// spec: SRC-07
#[test]
fn a_guest_that_writes_more_pages_than_its_ring_holds_loses_none() {
    let Some(mut rig) = RingRig::new(Backing::Copied) else {
        return;
    };
    let mut source = rig.source();
    source.start().unwrap();
    let count = source.layout().page_count();
    for round in 1..=3 {
        for page in 0..count {
            rig.write(PageIndex(page), 9);
        }
        let full = rig.full.load(Ordering::Relaxed);
        assert!(full >= 2 * round, "the ring was full {full} times only");
        let found = DirtyBitmap::new(count);
        source.harvest(&found).unwrap();
        assert_eq!(found.count(), count);
    }
    source.stop().unwrap();
}
