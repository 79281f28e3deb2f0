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
use crate::memory::GuestMemory;
use crate::purpose::Change;
use crate::start::Image;

/// Restores an image, captures the machine, which has not run, and compares all of it.
pub(crate) fn reload_image(image: Image<'_, '_>) -> Result<ReloadReport, GuestError> {
    let Image {
        config,
        pages,
        sections,
        purpose,
        overrides,
        ..
    } = image;
    let config = &config;
    let memory = GuestMemory::fresh(config)?;
    let (vm, vcpus) = Vm::new(memory.clone(), config.program.vcpu_count())?;
    let mut vcpus = VcpuThreads::new(vcpus, Board::new(config), memory.clone())?;
    let paused = vcpus.stop().map_err(GuestError::State)?;
    let (_, marker) = VmmWrites::new(memory.layout().clone());
    let change = Change {
        memory: memory.mapped(),
        dirty: Answer::By(&marker),
        event: Answer::By(&mut vm.generation_line()),
    };
    let restore = purpose.restore(change)?;
    let restore = restore.overriding(overrides);
    let mut state = machine(&vm)?;
    pages.read(|pages| {
        let target = ReloadTarget {
            memory: &mut CopiedMemory {
                memory: memory.mapped(),
                read: &mut *pages,
            },
            state: &mut state,
            devices: &mut BoardReload(&vcpus.shared),
            paused: &paused,
        };
        let mut report = reload(restore, target, sections, MOVING_FIELDS)?;
        compare_memory(&mut report, &memory, pages)?;
        Ok(report)
    })
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
