//! A guest that is a KVM machine.

use std::sync::Arc;

use hypervisor_bridge::{
    Answer, Cancel, DeviceRestore, Devices, Machine, Paused, RestoreOutcome, RestoreTarget,
    Selection, SnapshotRequest, StepError, VcpuStop, snapshot,
};
use hypervisor_kvm::{KernelDevices, KvmMachine, KvmOptions};
use snapshot_format::state::{DeviceState, Fingerprint, Registers};
use snapshot_format::{MemoryLayout, SnapshotRef};
use snapshot_memory::{
    ConsumerId, DirtyTracker, GuestMemorySource, MappedMemory, SnapshotSink, VmmWrites,
};

use super::thread::{Shared, VcpuThread};
use super::vm::Vm;
use crate::config::GuestConfig;
use crate::device::PortDevice;
use crate::error::GuestError;
use crate::guest::{Backend, Guest, GuestSnapshot, Outcome, SnapshotPages};
use crate::load::{ImageLoader, map};
use crate::program;
use crate::purpose::Change;
use crate::start::Image;

/// The guest's machine, its vCPU's thread, and who watches its memory.
///
/// The thread comes first: it is joined before anything that it uses goes.
pub(crate) struct KvmGuest {
    vcpu: VcpuThread,
    tracker: DirtyTracker,
    consumer: ConsumerId,
    vm: Vm,
    memory: Arc<MappedMemory>,
}

impl KvmGuest {
    /// A machine at the start of the program.
    pub(crate) fn boot(config: &GuestConfig) -> Result<Self, GuestError> {
        let memory = map(config)?;
        program::load(config, &memory)?;
        let (vm, vcpu) = Vm::new(memory.clone())?;
        vm.boot(&vcpu, config)?;
        let vcpu = VcpuThread::new(vcpu, PortDevice::new(config.seed))?;
        let (writes, _) = VmmWrites::new(memory.layout().clone());
        Self::watch(vm, vcpu, memory, writes, None)
    }

    /// A machine where a snapshot left it.
    pub(crate) fn restore(image: Image<'_, '_>) -> Result<(Self, RestoreOutcome), GuestError> {
        let config = &image.config;
        let memory = map(config)?;
        let (vm, vcpu) = Vm::new(memory.clone())?;
        let (writes, marker) = VmmWrites::new(memory.layout().clone());
        let vcpu = VcpuThread::new(vcpu, PortDevice::new(config.seed))?;
        let mut state = machine(&vm)?;
        let target = RestoreTarget {
            memory: &mut ImageLoader {
                memory: &memory,
                read: image.pages,
            },
            state: &mut state,
            devices: &mut PortTarget {
                shared: &vcpu.shared,
            },
        };
        let change = Change {
            memory: &memory,
            dirty: Answer::By(&marker),
            event: Answer::By(&mut vm.generation_line()),
        };
        let restore = image.purpose.restore(change)?;
        let restore = restore.overriding(image.overrides);
        let outcome = restore.run(target, image.sections)?;
        drop(state);
        let base = Some(image.snapshot);
        let guest = Self::watch(vm, vcpu, memory, writes, base)?;
        Ok((guest, outcome))
    }

    fn watch(
        vm: Vm,
        vcpu: VcpuThread,
        memory: Arc<MappedMemory>,
        writes: VmmWrites,
        base: Option<SnapshotRef>,
    ) -> Result<Self, GuestError> {
        // What the VMM itself wrote is what made a clone of the guest, before the log began.
        let log = Box::new(vm.dirty_log()?);
        let tracker = DirtyTracker::new(memory.layout().clone(), vec![log, Box::new(writes)])?;
        let consumer = tracker.subscribe(base);
        Ok(Self {
            vcpu,
            tracker,
            consumer,
            vm,
            memory,
        })
    }

    /// Stops the vCPU for a look at its state.
    fn look<T>(
        &mut self,
        look: impl FnOnce(&mut KvmMachine<'_>, &Paused) -> Result<T, GuestError>,
    ) -> Result<T, GuestError> {
        let mut state = machine(&self.vm)?;
        let seen = match self.vcpu.stop() {
            Ok(paused) => look(&mut state, &paused),
            Err(error) => Err(GuestError::State(error)),
        };
        self.vcpu.resume().map_err(GuestError::State)?;
        seen
    }

    fn registers(&mut self) -> Result<Registers, GuestError> {
        self.look(|state, paused| {
            let saved = state.save_vcpu(0, paused);
            Ok(saved
                .map_err(|error| GuestError::State(error.into()))?
                .registers)
        })
    }

    /// Runs to the exit of question number `questions`, and stands still with it pending.
    #[cfg(test)]
    pub(super) fn run_to_question(&mut self, questions: u64) -> Result<(), GuestError> {
        self.vcpu.hold_after(Some(questions));
        self.vcpu.start();
        self.vcpu.wait_until(|device| device.asked >= questions)?;
        Ok(())
    }
}

impl Guest for KvmGuest {
    fn backend(&self) -> Backend {
        Backend::Kvm
    }

    fn layout(&self) -> &MemoryLayout {
        self.memory.layout()
    }

    fn fingerprint(&mut self) -> Result<Fingerprint, GuestError> {
        self.look(|state, paused| {
            let fingerprint = state.fingerprint(paused);
            fingerprint.map_err(|error| GuestError::State(error.into()))
        })
    }

    fn run(&mut self, steps: u64) -> Result<u64, GuestError> {
        let target = self.vcpu.shared.device().steps.saturating_add(steps);
        self.vcpu.start();
        let device = self
            .vcpu
            .wait_until(|device| device.steps >= target || device.checksum.is_some())?;
        Ok(device.steps)
    }

    fn snapshot(
        &mut self,
        pages: SnapshotPages,
        sink: &mut dyn SnapshotSink,
        cancel: &Cancel,
    ) -> Result<GuestSnapshot, GuestError> {
        let (tracker, consumer) = (&self.tracker, self.consumer);
        let selection = match pages {
            SnapshotPages::Full => Selection::FullTracked { tracker, consumer },
            SnapshotPages::Diff => Selection::Diff { tracker, consumer },
        };
        let mut devices = PortSource {
            shared: self.vcpu.shared.clone(),
            steps: 0,
        };
        let captured = snapshot(
            Machine {
                vcpus: &mut self.vcpu,
                devices: &mut devices,
                state: &mut machine(&self.vm)?,
                memory: &*self.memory,
            },
            SnapshotRequest {
                sink,
                selection,
                cancel,
                room_bytes: None,
            },
        )?;
        Ok(GuestSnapshot {
            published: captured.published,
            memory: captured.memory,
            time: captured.time,
            steps: devices.steps,
        })
    }

    fn base(&self) -> Option<SnapshotRef> {
        self.tracker.base(self.consumer).ok().flatten()
    }

    fn finish(mut self: Box<Self>) -> Result<Outcome, GuestError> {
        self.vcpu.hold_after(None);
        self.vcpu.start();
        let device = self.vcpu.wait_until(|device| device.checksum.is_some())?;
        let registers = self.registers()?;
        Outcome::new(&*self.memory, &registers, &device)
    }
}

fn machine(vm: &Vm) -> Result<KvmMachine<'_>, GuestError> {
    let options = KvmOptions::new(KernelDevices::ALL);
    KvmMachine::new(vm.handles(), options).map_err(|error| GuestError::State(error.into()))
}

/// The port as a snapshot sees it: it has nothing in flight.
struct PortSource {
    shared: Arc<Shared>,
    /// How far the guest was when the port was read.
    steps: u64,
}

impl Devices for PortSource {
    fn quiesce(&mut self, _: &Paused) -> Result<(), StepError> {
        Ok(())
    }

    fn capture(&mut self, _: &Paused) -> Result<Vec<DeviceState>, StepError> {
        let device = self.shared.device();
        self.steps = device.steps;
        Ok(vec![device.save()])
    }

    fn resume(&mut self) -> Result<(), StepError> {
        Ok(())
    }
}

/// The port as a restore sees it.
struct PortTarget<'a> {
    shared: &'a Shared,
}

impl DeviceRestore for PortTarget<'_> {
    fn restore(&mut self, devices: Vec<DeviceState>) -> Result<(), StepError> {
        let [saved] = devices.as_slice() else {
            let wanted = crate::device::KIND;
            return Err(GuestError::ForeignState { wanted }.into());
        };
        self.shared.set_device(PortDevice::restore(saved)?);
        Ok(())
    }
}
