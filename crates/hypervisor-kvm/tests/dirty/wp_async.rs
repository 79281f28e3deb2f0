//! Asynchronous write protection, with a vCPU that writes.

use std::error::Error;

use hypervisor_bridge::testing::{DirtyRig, dirty_source_suite};
use snapshot_format::{MemoryLayout, PageIndex};
use snapshot_memory::skip::skip;
use snapshot_memory::{DirtySource, WpAsyncMemory, WpAsyncSource};

use super::machine::{Machine, kvm, other_layouts};
use super::memory::Backing;

struct WpRig {
    machine: Machine,
    handle: Option<WpAsyncMemory>,
}

impl DirtyRig for WpRig {
    fn source(&mut self) -> Box<dyn DirtySource> {
        let source = WpAsyncSource::new(self.machine.memory()).unwrap();
        self.handle = Some(source.handle());
        Box::new(source)
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
        self.machine.change(layout);
        let handle = self.handle.as_ref().ok_or("no source")?;
        handle.replace(self.machine.memory());
        Ok(())
    }
}

// spec: SRC-03
// spec: SRC-10
#[test]
fn write_protection_sees_what_vcpus_write_to_memory_of_every_kind() {
    for backing in Backing::EVERY {
        let Some(kvm) = kvm() else {
            return;
        };
        let machine = Machine::new(&kvm, backing, |_| ());
        if let Err(error) = WpAsyncSource::new(machine.memory()) {
            skip("uffd", &error.to_string());
            return;
        }
        dirty_source_suite(&mut WpRig {
            machine,
            handle: None,
        });
    }
}
