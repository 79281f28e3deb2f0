//! Live snapshots of a vCPU that never stops writing, by each dirty source.

use hypervisor_bridge::testing::live_image_suite;
use hypervisor_kvm::DirtyLogMode;
use snapshot_format::PageIndex;
use snapshot_memory::skip::skip;
use snapshot_memory::{DirtySource, WpAsyncSource};

use super::machine::{Machine, enable_rings, kvm};
use super::memory::Backing;

/// Snapshots of each source.
const SNAPSHOTS: u32 = 100;

/// Has the vCPU write bytes all over its memory while snapshots are taken.
fn check(mut machine: Machine, source: Box<dyn DirtySource>, on_full: &mut (dyn FnMut() + Send)) {
    let memory = machine.memory();
    let page_count = machine.layout.page_count();
    let mut write = |random: u64| {
        let byte = usize::try_from(random >> 52).unwrap();
        machine.write(PageIndex(random % page_count), byte, on_full);
    };
    live_image_suite(&*memory, source, SNAPSHOTS, &mut write).unwrap();
}

// spec: LIV-01
#[test]
fn images_of_a_vcpu_under_load_are_memory_at_the_pause_by_the_log() {
    for mode in [
        DirtyLogMode::GetAndClear,
        DirtyLogMode::ManualProtect,
        DirtyLogMode::InitiallySet,
    ] {
        let Some(kvm) = kvm() else {
            return;
        };
        let machine = Machine::new(&kvm, Backing::Copied, |_| ());
        let log = machine.dirty_log(mode);
        check(machine, Box::new(log), &mut || ());
    }
}

// spec: LIV-01
#[test]
fn images_of_a_vcpu_under_load_are_memory_at_the_pause_by_rings() {
    let Some(kvm) = kvm() else {
        return;
    };
    let mut enabled = None;
    let machine = Machine::new(&kvm, Backing::Copied, |vm| enabled = enable_rings(vm));
    let Some(enabled) = enabled else {
        return;
    };
    let rings = machine.map_rings(enabled);
    let source = rings.source();
    let mut on_full = move || rings.on_full().unwrap();
    check(machine, Box::new(source), &mut on_full);
}

// spec: LIV-01
#[test]
fn images_of_a_vcpu_under_load_are_memory_at_the_pause_by_write_protection() {
    for backing in [Backing::Copied, Backing::FilePrivate] {
        let Some(kvm) = kvm() else {
            return;
        };
        let machine = Machine::new(&kvm, backing, |_| ());
        match WpAsyncSource::new(machine.memory()) {
            Ok(source) => check(machine, Box::new(source), &mut || ()),
            Err(error) => return skip("uffd", &error.to_string()),
        }
    }
}
