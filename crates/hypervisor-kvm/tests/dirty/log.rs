//! The dirty log, in each of its modes.

use hypervisor_bridge::testing::{DirtyRig, dirty_source_suite};
use hypervisor_kvm::DirtyLogMode;
use kvm_bindings::{KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, kvm_enable_cap};
use snapshot_format::PageIndex;
use snapshot_memory::DirtySource;
use snapshot_memory::skip::skip;

use super::machine::{Machine, kvm, layout};

struct LogRig {
    machine: Machine,
    mode: DirtyLogMode,
}

impl LogRig {
    /// Two regions with a hole between; neither a multiple of 64 pages.
    fn new(mode: DirtyLogMode) -> Option<Self> {
        let layout = layout(&[(0, 65), (0x100, 70)]);
        let machine = Machine::new(&kvm()?, &layout, |_| ());
        Some(Self { machine, mode })
    }
}

impl DirtyRig for LogRig {
    fn source(&mut self) -> Box<dyn DirtySource> {
        Box::new(self.machine.dirty_log(self.mode))
    }

    fn write(&mut self, page: PageIndex, byte: usize) {
        self.machine.write(page, byte);
    }

    fn write_during(&mut self, pages: &[PageIndex], harvest: &mut dyn FnMut()) {
        self.machine.write_during(pages, &mut || (), harvest);
    }
}

#[test]
fn the_log_names_exactly_the_pages_that_a_vcpu_wrote() {
    if let Some(mut rig) = LogRig::new(DirtyLogMode::GetAndClear) {
        dirty_source_suite(&mut rig);
    }
}

#[test]
fn so_does_a_log_that_is_cleared_by_hand() {
    let Some(mut rig) = LogRig::new(DirtyLogMode::ManualProtect) else {
        return;
    };
    let mut manual = kvm_enable_cap {
        cap: KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2,
        ..Default::default()
    };
    manual.args[0] = 1;
    match rig.machine.vm.enable_cap(&manual) {
        Ok(()) => dirty_source_suite(&mut rig),
        Err(error) => skip("kvm", &format!("no manual dirty log protection: {error}")),
    }
}
