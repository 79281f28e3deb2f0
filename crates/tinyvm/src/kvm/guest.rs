//! A guest that is a KVM machine.

use std::sync::Arc;

use hypervisor_bridge::{
    Answer, Cancel, DeviceRestore, Devices, Machine, Paused, RestoreOutcome, RestoreTarget,
    Selection, SnapshotRequest, StateCapture, StepError, VcpuStop,
};
use hypervisor_kvm::{KernelDevices, KvmMachine, KvmOptions};
use snapshot_format::state::{DeviceState, Fingerprint, VcpuX86};
use snapshot_format::{MemoryLayout, SnapshotRef};
use snapshot_memory::{
    ConsumerId, DirtySource, DirtyTracker, GuestMemorySource, SnapshotSink, VmmWrites, WriteMarker,
};

use super::board::Board;
use super::thread::{Shared, VcpuThreads};
use super::vm::Vm;
use super::{boot, outcome};
use crate::config::GuestConfig;
use crate::error::GuestError;
use crate::guest::{
    Backend, Capture, Guest, GuestSnapshot, Outcome, SnapshotPages, Standing, capture_machine,
};
use crate::memory::{Brought, GuestMemory, Tracking};
use crate::planned::GuestPages;
use crate::proof::Program;
use crate::purpose::Change;
use crate::start::Image;

/// The guest's machine, its vCPUs' threads, and who watches its memory.
///
/// The threads come first: they are joined before anything that they use goes.
pub(crate) struct KvmGuest {
    vcpus: VcpuThreads,
    tracker: DirtyTracker,
    consumer: ConsumerId,
    vm: Vm,
    memory: GuestMemory,
    /// Where pages are marked that the VMM gives back.
    marker: WriteMarker,
    program: Program,
}

impl KvmGuest {
    /// A machine at the start of the program.
    pub(crate) fn boot(config: &GuestConfig) -> Result<Self, GuestError> {
        let memory = GuestMemory::fresh(config)?;
        let (vm, vcpus) = Vm::new(memory.clone(), config.program.vcpu_count())?;
        boot::boot(&vm.kvm, &vcpus, config, memory.mapped())?;
        let vcpus = VcpuThreads::new(vcpus, Board::new(config), memory.clone())?;
        let writes = VmmWrites::new(memory.layout().clone());
        Self::watch(vm, vcpus, memory, writes, config.program, None)
    }

    /// A machine where a snapshot left it.
    pub(crate) fn restore(image: Image<'_, '_>) -> Result<(Self, RestoreOutcome), GuestError> {
        let config = &image.config;
        let (memory, bringer) = image.pages.into_memory(config, Tracking::Hypervisor)?;
        let (vm, vcpus) = Vm::new(memory.clone(), config.program.vcpu_count())?;
        let (writes, marker) = VmmWrites::new(memory.layout().clone());
        let vcpus = VcpuThreads::new(vcpus, Board::new(config), memory.clone())?;
        let mut state = machine(&vm)?;
        let target = RestoreTarget {
            memory: &mut Brought {
                memory: &memory,
                bringer,
            },
            state: &mut state,
            devices: &mut BoardTarget {
                shared: &vcpus.shared,
            },
        };
        let change = Change {
            memory: memory.mapped(),
            dirty: Answer::By(&marker),
            event: Answer::By(&mut vm.generation_line()),
        };
        let restore = image.purpose.restore(change)?;
        let restore = restore.overriding(image.overrides);
        let outcome = restore.run(target, image.sections)?;
        drop(state);
        let (program, base) = (config.program, Some(image.snapshot));
        let guest = Self::watch(vm, vcpus, memory, (writes, marker), program, base)?;
        Ok((guest, outcome))
    }

    fn watch(
        vm: Vm,
        vcpus: VcpuThreads,
        memory: GuestMemory,
        (writes, marker): (VmmWrites, WriteMarker),
        program: Program,
        base: Option<SnapshotRef>,
    ) -> Result<Self, GuestError> {
        // What the VMM itself wrote is what made a clone of the guest, before the log began.
        let mut sources: Vec<Box<dyn DirtySource>> = vec![Box::new(vm.dirty_log()?)];
        sources.push(Box::new(writes));
        sources.extend(memory.discards());
        let tracker = DirtyTracker::new(memory.layout().clone(), sources)?;
        let consumer = tracker.subscribe(base);
        Ok(Self {
            vcpus,
            tracker,
            consumer,
            vm,
            memory,
            marker,
            program,
        })
    }

    /// Stops the vCPUs for a look at their state.
    fn stopped<T>(
        &mut self,
        look: impl FnOnce(&mut KvmMachine<'_>, &Paused) -> Result<T, GuestError>,
    ) -> Result<T, GuestError> {
        let mut state = machine(&self.vm)?;
        let seen = match self.vcpus.stop() {
            Ok(paused) => look(&mut state, &paused),
            Err(error) => Err(GuestError::State(error)),
        };
        self.vcpus.resume().map_err(GuestError::State)?;
        seen
    }

    /// The state of every vCPU.
    fn states(&mut self) -> Result<Vec<VcpuX86>, GuestError> {
        self.stopped(|state, paused| {
            let saved = (0..StateCapture::vcpu_count(state)).map(|vcpu| {
                let saved = state.save_vcpu(vcpu, paused);
                saved.map_err(|error| GuestError::State(error.into()))
            });
            saved.collect()
        })
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
        self.stopped(|state, paused| {
            let fingerprint = state.fingerprint(paused);
            fingerprint.map_err(|error| GuestError::State(error.into()))
        })
    }

    fn run(&mut self, steps: u64) -> Result<u64, GuestError> {
        let target = self.vcpus.shared.board().port.steps.saturating_add(steps);
        self.vcpus.hold_at(None);
        self.vcpus.start();
        let board = self
            .vcpus
            .wait_until(|board| board.port.steps >= target || board.has_ended())?;
        Ok(board.port.steps)
    }

    fn run_to_exit(&mut self, exits: u64) -> Result<bool, GuestError> {
        let target = self.vcpus.shared.board().exits.saturating_add(exits);
        self.vcpus.hold_at(Some(target));
        self.vcpus.start();
        let board = self
            .vcpus
            .wait_until(|board| board.exits >= target || board.has_ended())?;
        Ok(board.exits >= target)
    }

    fn capture<'r>(
        &'r mut self,
        capture: Capture<'r>,
        pages: SnapshotPages,
        sink: &'r mut dyn SnapshotSink,
        cancel: &'r Cancel,
    ) -> Result<GuestSnapshot, GuestError> {
        let (tracker, consumer) = (&self.tracker, self.consumer);
        let selection = match pages {
            SnapshotPages::Full => Selection::FullTracked { tracker, consumer },
            SnapshotPages::Diff => Selection::Diff { tracker, consumer },
        };
        let mut devices = BoardSource {
            shared: self.vcpus.shared.clone(),
            steps: 0,
            ended: false,
        };
        let captured = capture_machine(
            capture,
            Machine {
                vcpus: &mut self.vcpus,
                devices: &mut devices,
                state: &mut machine(&self.vm)?,
                memory: &self.memory,
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
            metrics: captured.metrics,
            steps: devices.steps,
            ended: devices.ended,
        })
    }

    fn look(&mut self, see: &mut dyn FnMut(&Standing<'_>)) -> Result<(), GuestError> {
        let (memory, marker) = (self.memory.clone(), self.marker.clone());
        self.stopped(|state, paused| {
            let first = state.save_vcpu(0, paused);
            let first = first.map_err(|error| GuestError::State(error.into()))?;
            see(&Standing {
                memory: &memory,
                registers: &first.registers,
                marker: &marker,
            });
            Ok(())
        })
    }

    fn planned(&self) -> Option<Arc<GuestPages>> {
        self.memory.planned().cloned()
    }

    fn base(&self) -> Option<SnapshotRef> {
        self.tracker.base(self.consumer).ok().flatten()
    }

    fn finish(mut self: Box<Self>) -> Result<Outcome, GuestError> {
        self.vcpus.hold_at(None);
        self.vcpus.start();
        let board = self.vcpus.wait_until(Board::has_ended)?;
        let states = self.states()?;
        outcome::of(self.program, &self.memory, &states, &board)
    }
}

pub(super) fn machine(vm: &Vm) -> Result<KvmMachine<'_>, GuestError> {
    let options = KvmOptions::new(KernelDevices::ALL);
    KvmMachine::new(vm.handles(), options).map_err(|error| GuestError::State(error.into()))
}

/// The devices as a snapshot sees them: they have nothing in flight.
struct BoardSource {
    shared: Arc<Shared>,
    /// How far the guest was when they were read.
    steps: u64,
    ended: bool,
}

impl Devices for BoardSource {
    fn quiesce(&mut self, _: &Paused) -> Result<(), StepError> {
        Ok(())
    }

    fn capture(&mut self, _: &Paused) -> Result<Vec<DeviceState>, StepError> {
        let board = self.shared.board();
        self.steps = board.port.steps;
        self.ended = board.has_ended();
        Ok(board.save())
    }

    fn resume(&mut self) -> Result<(), StepError> {
        Ok(())
    }
}

/// The devices as a restore sees them.
struct BoardTarget<'a> {
    shared: &'a Shared,
}

impl DeviceRestore for BoardTarget<'_> {
    fn restore(&mut self, devices: Vec<DeviceState>) -> Result<(), StepError> {
        Ok(self.shared.with_board(|board| board.restore(&devices))?)
    }
}
