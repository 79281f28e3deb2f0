//! A guest that is a thread of this process.

use std::sync::Arc;

use hypervisor_bridge::{
    Answer, Cancel, Machine, RestoreOutcome, RestoreTarget, Selection, SnapshotRequest, VcpuStop,
};
use snapshot_format::state::Fingerprint;
use snapshot_format::{MemoryLayout, SnapshotRef};
use snapshot_memory::{
    ConsumerId, DirtyError, DirtySource, DirtyTracker, GuestMemorySource, SnapshotSink, VmmWrites,
    WriteMarker,
};

use super::cpu::CpuThread;
use super::state::{Port, PortTarget, Source, Target, fingerprint};
use crate::config::GuestConfig;
use crate::device::PortDevice;
use crate::error::GuestError;
use crate::guest::{
    Backend, Capture, Guest, GuestSnapshot, Outcome, SnapshotPages, Standing, capture_machine,
};
use crate::memory::{Brought, GuestMemory, Tracking};
use crate::model::{Model, ModelMemory};
use crate::planned::GuestPages;
use crate::program;
use crate::purpose::Change;
use crate::start::Image;

/// The guest's thread, and who watches its memory.
pub(crate) struct ProcessGuest {
    cpu: CpuThread,
    tracker: DirtyTracker,
    consumer: ConsumerId,
    memory: GuestMemory,
    /// Where pages are marked that the VMM gives back.
    marker: WriteMarker,
}

impl ProcessGuest {
    /// A guest at the start of the program.
    pub(crate) fn boot(config: &GuestConfig) -> Result<Self, GuestError> {
        let memory = GuestMemory::fresh(config)?;
        program::load(config, memory.mapped())?;
        let device = PortDevice::new(config.seed);
        let writes = VmmWrites::new(memory.layout().clone());
        Self::watch(Model::new(config), device, memory, writes, None)
    }

    /// A guest where a snapshot left it.
    pub(crate) fn restore(image: Image<'_, '_>) -> Result<(Self, RestoreOutcome), GuestError> {
        let config = &image.config;
        let (memory, bringer) = image.pages.into_memory(config, Tracking::Userfaultfd)?;
        let (writes, marker) = VmmWrites::new(memory.layout().clone());
        let mut state = Target::default();
        let mut port = PortTarget::default();
        let target = RestoreTarget {
            memory: &mut Brought {
                memory: &memory,
                bringer,
            },
            state: &mut state,
            devices: &mut port,
        };
        let change = Change {
            memory: memory.mapped(),
            dirty: Answer::By(&marker),
            event: Answer::waive("its program takes no interrupts, and nothing could raise one"),
        };
        let restore = image.purpose.restore(change)?;
        let restore = restore.overriding(image.overrides);
        let outcome = restore.run(target, image.sections)?;
        let wanted = "process";
        let restored = state.registers.zip(port.device);
        let (registers, device) = restored.ok_or(GuestError::ForeignState { wanted })?;
        let model = Model { registers };
        let base = Some(image.snapshot);
        let guest = Self::watch(model, device, memory, (writes, marker), base)?;
        Ok((guest, outcome))
    }

    fn watch(
        model: Model,
        device: PortDevice,
        memory: GuestMemory,
        (writes, marker): (VmmWrites, WriteMarker),
        base: Option<SnapshotRef>,
    ) -> Result<Self, GuestError> {
        let mut sources: Vec<Box<dyn DirtySource>> = vec![Box::new(writes)];
        sources.extend(memory.discards());
        // The kernel's write protection where it has it; else the guest marks its own writes.
        let own_marker = match memory.watch_writes() {
            Ok(source) => {
                sources.push(Box::new(source));
                None
            }
            Err(DirtyError::Unsupported { .. }) => Some(marker.clone()),
            Err(error) => return Err(error.into()),
        };
        let tracker = DirtyTracker::new(memory.layout().clone(), sources)?;
        let consumer = tracker.subscribe(base);
        let written = ModelMemory {
            memory: memory.clone(),
            marker: own_marker,
        };
        Ok(Self {
            cpu: CpuThread::new(model, device, written)?,
            tracker,
            consumer,
            memory,
            marker,
        })
    }
}

impl Guest for ProcessGuest {
    fn backend(&self) -> Backend {
        Backend::Process
    }

    fn layout(&self) -> &MemoryLayout {
        self.memory.layout()
    }

    fn fingerprint(&mut self) -> Result<Fingerprint, GuestError> {
        Ok(fingerprint())
    }

    fn run(&mut self, steps: u64) -> Result<u64, GuestError> {
        let target = self.cpu.cpu()?.device.steps.saturating_add(steps);
        self.cpu.start();
        let cpu = self
            .cpu
            .wait_until(|cpu| cpu.device.steps >= target || cpu.model.is_done())?;
        Ok(cpu.device.steps)
    }

    fn run_to_exit(&mut self, _: u64) -> Result<bool, GuestError> {
        Ok(false)
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
        let shared = &self.cpu.shared;
        let mut state = Source {
            shared: shared.clone(),
        };
        let mut port = Port {
            shared: shared.clone(),
            steps: 0,
            ended: false,
        };
        let captured = capture_machine(
            capture,
            Machine {
                vcpus: &mut self.cpu,
                devices: &mut port,
                state: &mut state,
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
            steps: port.steps,
            ended: port.ended,
        })
    }

    fn look(&mut self, see: &mut dyn FnMut(&Standing<'_>)) -> Result<(), GuestError> {
        self.cpu.stop().map_err(GuestError::State)?;
        let registers = self.cpu.shared.lock().model.registers;
        see(&Standing {
            memory: &self.memory,
            registers: &registers,
            marker: &self.marker,
        });
        self.cpu.resume().map_err(GuestError::State)
    }

    fn planned(&self) -> Option<Arc<GuestPages>> {
        self.memory.planned().cloned()
    }

    fn base(&self) -> Option<SnapshotRef> {
        self.tracker.base(self.consumer).ok().flatten()
    }

    fn finish(mut self: Box<Self>) -> Result<Outcome, GuestError> {
        self.cpu.start();
        self.cpu.wait_until(|cpu| cpu.model.is_done())?;
        self.cpu.stop().map_err(GuestError::State)?;
        let cpu = self.cpu.shared.lock().clone();
        Outcome::new(&self.memory, &cpu.model.registers, &cpu.device)
    }
}
