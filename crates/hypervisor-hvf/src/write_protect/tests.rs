use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use hypervisor_bridge::testing::{DirtyRig, dirty_source_suite};
use proptest::prelude::*;
use snapshot_format::{GuestAddress, MemoryLayout, MemoryRegion, PAGE_BYTES, PageIndex};
use snapshot_memory::{DirtyBitmap, DirtySource};

use super::stripe::{BLOCK_BYTES, GRANULE_BYTES, STRIPE_BYTES};
use super::{WriteFaults, WriteProtect, WriteProtectOptions};
use crate::abort::Syndrome;
use crate::error::HvfError;
use crate::fake::{FakeHv, GuestStep};
use crate::hv::{Hv, Protection, RawExit, Register, VcpuHandle, VmConfig};
use crate::refusal::HvCode;

/// Two regions with a hole: more than a stripe, and an odd number of granules.
fn layout() -> MemoryLayout {
    let region = |start, len_bytes| MemoryRegion {
        start: GuestAddress(start),
        len_bytes,
    };
    let regions = vec![
        region(0x4000_0000, STRIPE_BYTES + BLOCK_BYTES),
        region(0x8000_4000, BLOCK_BYTES + 3 * GRANULE_BYTES),
    ];
    MemoryLayout::new(regions).unwrap()
}

/// A machine of the fake whose memory is watched.
struct Rig {
    hv: FakeHv,
    layout: MemoryLayout,
    source: WriteProtect,
    faults: WriteFaults,
}

impl Rig {
    fn new(split_after: u32) -> Self {
        let layout = layout();
        let hv = FakeHv::new(FakeHv::host_with_everything());
        hv.create_vm(VmConfig::default()).unwrap();
        for region in layout.regions() {
            hv.map(region.start.0, region.len_bytes, Protection::ALL)
                .unwrap();
        }
        let options = WriteProtectOptions {
            split_after,
            ..WriteProtectOptions::default()
        };
        let (source, faults) =
            WriteProtect::new(Arc::new(hv.clone()), layout.clone(), options).unwrap();
        Self {
            hv,
            layout,
            source,
            faults,
        }
    }

    fn address(&self, page: u64) -> u64 {
        let guest = self.layout.guest_page(PageIndex(page)).unwrap();
        guest.0 * PAGE_BYTES
    }

    fn harvest(&mut self) -> DirtyBitmap {
        let into = DirtyBitmap::new(self.layout.page_count());
        self.source.harvest(&into).unwrap();
        into
    }
}

/// Runs a guest that stores to each address in turn, as a VMM's thread does.
fn store(hv: &FakeHv, faults: &WriteFaults, vcpu: VcpuHandle, addresses: &[u64]) {
    let mut steps: Vec<_> = addresses
        .iter()
        .map(|&address| GuestStep::Store { address })
        .collect();
    steps.push(GuestStep::Call);
    hv.load(vcpu, steps).unwrap();
    hv.set_register(vcpu, Register::PC, 0).unwrap();
    loop {
        let RawExit::Exception {
            syndrome,
            physical_address,
            ..
        } = hv.run_vcpu(vcpu).unwrap()
        else {
            unreachable!("nobody asks the vCPU to leave");
        };
        match Syndrome::of(syndrome) {
            Syndrome::Call => return,
            Syndrome::Abort { may_write, .. } => {
                assert!(may_write);
                assert!(faults.grant(physical_address).unwrap());
            }
            other => unreachable!("{other:?}"),
        }
    }
}

/// The machine as the conformance suite uses it.
struct Suite {
    rig: Rig,
    options: WriteProtectOptions,
    vcpu: VcpuHandle,
}

impl Suite {
    fn new(split_after: u32) -> Self {
        let rig = Rig::new(split_after);
        let vcpu = rig.hv.create_vcpu().unwrap();
        let options = WriteProtectOptions {
            split_after,
            ..WriteProtectOptions::default()
        };
        Self { rig, options, vcpu }
    }
}

impl DirtyRig for Suite {
    fn source(&mut self) -> Box<dyn DirtySource> {
        let hv = Arc::new(self.rig.hv.clone());
        let layout = self.rig.layout.clone();
        let (source, faults) = WriteProtect::new(hv, layout, self.options).unwrap();
        self.rig.faults = faults;
        Box::new(source)
    }

    fn write(&mut self, page: PageIndex, byte: usize) {
        let address = self.rig.address(page.0) + u64::try_from(byte).unwrap();
        store(&self.rig.hv, &self.rig.faults, self.vcpu, &[address]);
    }

    fn write_during(&mut self, pages: &[PageIndex], harvest: &mut dyn FnMut()) {
        let addresses: Vec<_> = pages.iter().map(|page| self.rig.address(page.0)).collect();
        let (hv, faults) = (&self.rig.hv, &self.rig.faults);
        std::thread::scope(|scope| {
            let writer = scope.spawn(|| {
                let vcpu = hv.create_vcpu().unwrap();
                store(hv, faults, vcpu, &addresses);
                hv.destroy_vcpu(vcpu).unwrap();
            });
            while !writer.is_finished() {
                harvest();
            }
        });
    }

    fn break_next_harvest(&mut self) -> bool {
        let (hv, code) = (&self.rig.hv, HvCode::NoResources);
        hv.refuse_once("hv_vm_protect", code);
        true
    }
}

// spec: HVF-14
#[test]
fn the_source_conforms_by_blocks_and_by_granules() {
    for split_after in [0, 1, 2, 1000] {
        let mut suite = Suite::new(split_after);
        dirty_source_suite(&mut suite);
    }
}

#[test]
fn a_guest_may_write_everywhere_when_the_source_is_stopped() {
    let mut rig = Rig::new(2);
    let every = |rig: &Rig| {
        let starts = rig.layout.regions().iter().map(|region| region.start.0);
        starts
            .map(|start| rig.hv.protection(start))
            .collect::<Vec<_>>()
    };
    rig.source.start().unwrap();
    assert_eq!(every(&rig), [Some(Protection(5)); 2]);
    rig.source.stop().unwrap();
    assert_eq!(every(&rig), [Some(Protection::ALL); 2]);
    // A fault that was on its way when the source stopped.
    assert_eq!(rig.faults.grant(0x4000_0000), Ok(true));
    assert!(rig.harvest().is_clean());
}

// spec: HVF-14
#[test]
fn a_hot_block_is_split_and_names_granules_from_then_on() {
    let mut rig = Rig::new(2);
    rig.source.start().unwrap();
    let vcpu = rig.hv.create_vcpu().unwrap();
    let address = rig.address(5);
    let block = BLOCK_BYTES / PAGE_BYTES;
    for expected in [block, block, 4, 4] {
        store(&rig.hv, &rig.faults, vcpu, &[address, address]);
        let found = rig.harvest();
        assert_eq!(found.count(), expected);
        assert!(found.is_set(PageIndex(5)));
    }
    assert_eq!((rig.faults.split_blocks(), rig.faults.count()), (1, 4));
    // Nobody wrote: a harvest leaves nothing behind, and a block stays split.
    assert!(rig.harvest().is_clean());
    store(&rig.hv, &rig.faults, vcpu, &[address]);
    assert_eq!(rig.harvest().count(), 4);
}

// spec: HVF-14
#[test]
fn what_cannot_be_protected_stays_dirty_and_what_cannot_be_granted_too() {
    let mut rig = Rig::new(0);
    rig.source.start().unwrap();
    let vcpu = rig.hv.create_vcpu().unwrap();
    let address = rig.address(9);
    store(&rig.hv, &rig.faults, vcpu, &[address]);
    rig.hv.refuse("hv_vm_protect", HvCode::NoResources);
    let into = DirtyBitmap::new(rig.layout.page_count());
    rig.source.harvest(&into).unwrap_err();
    rig.faults.grant(rig.address(200)).unwrap_err();
    rig.source.start().unwrap_err();
    rig.hv.refuse_nothing();
    // The block of 200 as a whole: nobody knows what the refused call did.
    let found = rig.harvest();
    assert!(found.is_set(PageIndex(9)) && found.is_set(PageIndex(511)));
    assert!(rig.harvest().is_clean());
}

#[test]
fn only_memory_in_pages_of_the_host_can_be_watched_and_devices_are_none() {
    let odd = MemoryLayout::single(GRANULE_BYTES + PAGE_BYTES).unwrap();
    let hv = Arc::new(FakeHv::new(FakeHv::host_with_everything()));
    let refused = WriteProtect::new(hv, odd, WriteProtectOptions::default());
    assert!(matches!(refused, Err(HvfError::Region { .. })));
    let rig = Rig::new(2);
    let calls = rig.hv.calls().len();
    for device in [0, 0x3fff_ffff, 0x8000_0000, u64::MAX] {
        assert_eq!(rig.faults.grant(device), Ok(false), "{device:#x}");
    }
    assert_eq!(rig.hv.calls().len(), calls);
}

/// What a test does with a source.
#[derive(Clone, Debug)]
enum Op {
    Store(u64),
    Harvest,
    Restart,
}

fn op() -> impl Strategy<Value = Op> {
    let pages = layout().page_count();
    // Mostly few pages, so that blocks get hot.
    let page = prop_oneof![0..24_u64, 500..540_u64, 0..pages];
    prop_oneof![
        6 => page.prop_map(Op::Store),
        3 => Just(Op::Harvest),
        1 => Just(Op::Restart),
    ]
}

proptest! {
    // spec: HVF-14
    #[test]
    fn no_store_is_lost_and_no_block_is_named_without_one(
        ops in proptest::collection::vec(op(), 1..60),
        split_after in 0..4_u32,
    ) {
        let mut rig = Rig::new(split_after);
        rig.source.start().unwrap();
        let vcpu = rig.hv.create_vcpu().unwrap();
        let mut written = BTreeSet::new();
        for op in ops {
            match op {
                Op::Store(page) => {
                    let address = rig.address(page);
                    store(&rig.hv, &rig.faults, vcpu, &[address]);
                    written.insert(page);
                }
                Op::Harvest => {
                    let found = rig.harvest();
                    for page in &written {
                        prop_assert!(found.is_set(PageIndex(*page)), "page {} is lost", page);
                    }
                    let block = BLOCK_BYTES / PAGE_BYTES;
                    // Blocks count from the start of their region.
                    let first = STRIPE_BYTES / PAGE_BYTES + block;
                    let name = |page: u64| (page < first, page.checked_sub(first).unwrap_or(page) / block);
                    let near: BTreeSet<_> = written.iter().copied().map(name).collect();
                    for run in found.iter_runs() {
                        for page in run.start.0..run.end().0 {
                            prop_assert!(near.contains(&name(page)), "page {} was not written", page);
                        }
                    }
                    written.clear();
                }
                Op::Restart => {
                    rig.source.stop().unwrap();
                    rig.source.start().unwrap();
                    written.clear();
                }
            }
        }
    }
}

/// A harvest of a running machine, and how many stores there were when it began and returned.
struct Round {
    began: usize,
    returned: usize,
    found: DirtyBitmap,
}

/// Lets a vCPU for each list store to its pages in turn, and harvests until all have; the last
/// harvest is after the last store.
fn harvest_during(rig: &mut Rig, lists: &[Vec<u64>]) -> Vec<Round> {
    let left = AtomicUsize::new(lists.len());
    let mut harvests = Vec::new();
    std::thread::scope(|scope| {
        for list in lists {
            let addresses: Vec<_> = list.iter().map(|page| rig.address(*page)).collect();
            let (hv, faults, left) = (rig.hv.clone(), rig.faults.clone(), &left);
            scope.spawn(move || {
                let vcpu = hv.create_vcpu().unwrap();
                for some in addresses.chunks(7) {
                    store(&hv, &faults, vcpu, some);
                }
                left.fetch_sub(1, Ordering::SeqCst);
            });
        }
        loop {
            let is_last = left.load(Ordering::SeqCst) == 0;
            let began = rig.hv.stores().len();
            let into = DirtyBitmap::new(rig.layout.page_count());
            rig.source.harvest(&into).unwrap();
            harvests.push(Round {
                began,
                returned: rig.hv.stores().len(),
                found: into,
            });
            if is_last {
                return;
            }
        }
    });
    harvests
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    // spec: HVF-15
    #[test]
    fn no_store_of_running_vcpus_is_lost_by_concurrent_harvests(
        lists in proptest::collection::vec(
            proptest::collection::vec(prop_oneof![0..24_u64, 500..540_u64, 32_700..32_800_u64], 40..120),
            2..5,
        ),
        split_after in 0..4_u32,
    ) {
        let mut rig = Rig::new(split_after);
        rig.source.start().unwrap();
        let harvests = harvest_during(&mut rig, &lists);
        let stores = rig.hv.stores();
        prop_assert_eq!(stores.len(), lists.iter().map(Vec::len).sum::<usize>());
        let page_of = |address: u64| {
            let page = GuestAddress(address).page();
            rig.layout.image_page(page).unwrap()
        };
        let mut from = 0;
        for (number, round) in harvests.iter().enumerate() {
            // Between two harvests: in the later one. During a harvest: in it, or in the next.
            for store in &stores[from..round.began] {
                prop_assert!(round.found.is_set(page_of(*store)));
            }
            for store in &stores[round.began..round.returned] {
                let page = page_of(*store);
                let next = harvests.get(number + 1);
                let in_next = next.is_some_and(|next| next.found.is_set(page));
                prop_assert!(round.found.is_set(page) || in_next, "{:?} is lost", page);
            }
            from = round.returned;
        }
        prop_assert_eq!(from, stores.len());
    }
}
