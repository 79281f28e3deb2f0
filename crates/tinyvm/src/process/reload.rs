//! A guest that is restored only to be captured again.

use hypervisor_bridge::{
    Answer, CopiedMemory, Devices, Paused, ReloadReport, ReloadTarget, StateCapture, StepError,
    compare_memory, reload,
};
use snapshot_format::SectionPayload;
use snapshot_format::state::DeviceState;
use snapshot_memory::{GuestMemorySource, VmmWrites};

use super::paused::never_started;
use super::state::{PortTarget, Target, cpu_section, fingerprint};
use crate::device::PortDevice;
use crate::error::GuestError;
use crate::memory::GuestMemory;
use crate::purpose::Change;
use crate::start::Image;

/// Restores an image, captures the guest, which has not run, and compares all of it.
pub(crate) fn reload_image(image: Image<'_, '_>) -> Result<ReloadReport, GuestError> {
    let Image {
        config,
        pages,
        sections,
        purpose,
        overrides,
        ..
    } = image;
    let memory = GuestMemory::fresh(&config)?;
    let (_, marker) = VmmWrites::new(memory.layout().clone());
    let change = Change {
        memory: memory.mapped(),
        dirty: Answer::By(&marker),
        event: Answer::waive("its program takes no interrupts, and nothing could raise one"),
    };
    let restore = purpose.restore(change)?;
    let restore = restore.overriding(overrides);
    pages.read(|pages| {
        let target = ReloadTarget {
            memory: &mut CopiedMemory {
                memory: memory.mapped(),
                read: &mut *pages,
            },
            state: &mut Target::default(),
            devices: &mut PortTarget::default(),
            paused: &never_started(),
        };
        // It has no clock and no counter: nothing moves on its own.
        let mut report = reload(restore, target, sections, &[])?;
        compare_memory(&mut report, &memory, pages)?;
        Ok(report)
    })
}

impl StateCapture for Target {
    fn vcpu_count(&self) -> usize {
        1
    }

    fn notify_paused(&mut self, _: usize, _: &Paused) -> Result<(), StepError> {
        Ok(())
    }

    fn capture_vcpu(&mut self, vcpu: usize, _: &Paused) -> Result<SectionPayload, StepError> {
        let registers = self.registers.ok_or("nothing was restored")?;
        cpu_section(vcpu, &registers)
    }

    fn capture_vm(&mut self, _: &Paused) -> Result<Vec<SectionPayload>, StepError> {
        Ok(vec![SectionPayload::of(0, &fingerprint())])
    }
}

impl Devices for PortTarget {
    fn quiesce(&mut self, _: &Paused) -> Result<(), StepError> {
        Ok(())
    }

    fn capture(&mut self, _: &Paused) -> Result<Vec<DeviceState>, StepError> {
        Ok(self.device.iter().map(PortDevice::save).collect())
    }

    fn resume(&mut self) -> Result<(), StepError> {
        Ok(())
    }
}
