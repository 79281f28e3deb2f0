//! The dirty log, in each of its modes.

use std::error::Error;

use hypervisor_bridge::testing::{DirtyRig, dirty_source_suite};
use hypervisor_kvm::{DirtyLogMode, KvmSlots};
use snapshot_format::{MemoryLayout, PageIndex};
use snapshot_memory::DirtySource;

use super::machine::{Machine, kvm, other_layouts};
use super::memory::Backing;

struct LogRig {
    machine: Machine,
    mode: DirtyLogMode,
    slots: KvmSlots,
}

impl DirtyRig for LogRig {
    fn source(&mut self) -> Box<dyn DirtySource> {
        let log = self.machine.dirty_log(self.mode);
        self.slots = log.slots();
        Box::new(log)
    }

    fn write(&mut self, page: PageIndex, byte: usize) {
        self.machine.write(page, byte, &mut || ());
    }

    fn write_during(&mut self, pages: &[PageIndex], harvest: &mut dyn FnMut()) {
        self.machine.write_during(pages, &mut || (), harvest);
    }

    fn layouts(&self) -> Vec<MemoryLayout> {
        other_layouts()
    }

    fn change(&mut self, layout: &MemoryLayout) -> Result<(), Box<dyn Error + Send + Sync>> {
        self.machine.change_for(layout, &self.slots);
        Ok(())
    }
}

// spec: SRC-03
// spec: SRC-10
#[test]
fn the_log_conforms_in_each_of_its_modes_on_memory_of_every_kind() {
    let get_and_clear = Backing::EVERY.map(|backing| (DirtyLogMode::GetAndClear, backing));
    let manual = [DirtyLogMode::ManualProtect, DirtyLogMode::InitiallySet];
    let manual = manual.map(|mode| (mode, Backing::Fresh));
    for (mode, backing) in get_and_clear.into_iter().chain(manual) {
        let Some(kvm) = kvm() else {
            return;
        };
        let machine = Machine::new(&kvm, backing, |_| ());
        dirty_source_suite(&mut LogRig {
            machine,
            mode,
            slots: KvmSlots::default(),
        });
    }
}
