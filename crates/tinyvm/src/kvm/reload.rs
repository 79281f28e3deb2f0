//! A machine that is restored only to be captured again.

use hypervisor_bridge::{
    Answer, CopiedMemory, DeviceRestore, Devices, Paused, ReloadReport, ReloadTarget, StepError,
    VcpuStop, compare_memory, reload,
};
use hypervisor_kvm::MOVING_FIELDS;
use snapshot_format::state::DeviceState;
use snapshot_memory::{GuestMemorySource, VmmWrites};

use super::board::Board;
use super::guest::machine;
use super::thread::{Shared, VcpuThreads};
use super::vm::Vm;
use crate::error::GuestError;
use crate::load::map;
use crate::purpose::Change;
use crate::start::Image;

/// Restores an image, captures the machine, which has not run, and compares all of it.
pub(crate) fn reload_image(image: Image<'_, '_>) -> Result<ReloadReport, GuestError> {
    let config = &image.config;
    let memory = map(config)?;
    let (vm, vcpus) = Vm::new(memory.clone(), config.program.vcpu_count())?;
    let mut vcpus = VcpuThreads::new(vcpus, Board::new(config))?;
    let paused = vcpus.stop().map_err(GuestError::State)?;
    let (_, marker) = VmmWrites::new(memory.layout().clone());
    let change = Change {
        memory: &memory,
        dirty: Answer::By(&marker),
        event: Answer::By(&mut vm.generation_line()),
    };
    let restore = image.purpose.restore(change)?;
    let target = ReloadTarget {
        memory: &mut CopiedMemory {
            memory: &memory,
            read: &mut *image.pages,
        },
        state: &mut machine(&vm)?,
        devices: &mut BoardReload(&vcpus.shared),
        paused: &paused,
    };
    let restore = restore.overriding(image.overrides);
    let mut report = reload(restore, target, image.sections, MOVING_FIELDS)?;
    compare_memory(&mut report, &*memory, image.pages)?;
    Ok(report)
}

/// The devices, to be written and read.
struct BoardReload<'a>(&'a Shared);

impl DeviceRestore for BoardReload<'_> {
    fn restore(&mut self, devices: Vec<DeviceState>) -> Result<(), StepError> {
        Ok(self.0.with_board(|board| board.restore(&devices))?)
    }
}

impl Devices for BoardReload<'_> {
    fn quiesce(&mut self, _: &Paused) -> Result<(), StepError> {
        // Nothing is ever in flight.
        Ok(())
    }

    fn capture(&mut self, _: &Paused) -> Result<Vec<DeviceState>, StepError> {
        Ok(self.0.board().save())
    }

    fn resume(&mut self) -> Result<(), StepError> {
        Ok(())
    }
}
