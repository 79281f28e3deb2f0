//! A guest that is a thread of this process.

use std::sync::Arc;

use hypervisor_bridge::{
    Cancel, Machine, Overrides, RestoreBreakdown, RestoreTarget, Selection, SnapshotRequest,
    VcpuStop, restore, snapshot,
};
use snapshot_format::state::Fingerprint;
use snapshot_format::{MemoryLayout, SectionOffers, SnapshotRef};
use snapshot_memory::{
    ConsumerId, DirtyError, DirtySource, DirtyTracker, GuestMemorySource, MappedMemory,
    SnapshotSink, VmmWrites, WpAsyncSource, WriteMarker,
};

use super::cpu::CpuThread;
use super::state::{Port, PortTarget, Source, Target, fingerprint};
use crate::config::GuestConfig;
use crate::device::PortDevice;
use crate::error::GuestError;
use crate::guest::{Backend, Guest, GuestSnapshot, Outcome, SnapshotPages};
use crate::load::{ImageLoader, PageReader, map};
use crate::model::{Model, ModelMemory};
use crate::program;

/// The guest's thread, and who watches its memory.
pub(crate) struct ProcessGuest {
    cpu: CpuThread,
    tracker: DirtyTracker,
    consumer: ConsumerId,
    memory: Arc<MappedMemory>,
}

impl ProcessGuest {
    /// A guest at the start of the program.
    pub(crate) fn boot(config: &GuestConfig) -> Result<Self, GuestError> {
        let memory = map(config)?;
        program::load(config, &memory)?;
        let device = PortDevice::new(config.seed);
        Self::watch(Model::new(config), device, memory, None)
    }

    /// A guest where a snapshot left it.
    pub(crate) fn restore(
        config: &GuestConfig,
        read: &mut PageReader<'_>,
        sections: SectionOffers,
        base: SnapshotRef,
        overrides: &Overrides,
    ) -> Result<(Self, RestoreBreakdown), GuestError> {
        let memory = map(config)?;
        let mut state = Target::default();
        let mut port = PortTarget::default();
        let target = RestoreTarget {
            memory: &mut ImageLoader {
                memory: &memory,
                read,
            },
            state: &mut state,
            devices: &mut port,
        };
        let time = restore(target, sections, overrides)?;
        let wanted = "process";
        let restored = state.registers.zip(port.device);
        let (registers, device) = restored.ok_or(GuestError::ForeignState { wanted })?;
        let guest = Self::watch(Model { registers }, device, memory, Some(base))?;
        Ok((guest, time))
    }

    fn watch(
        model: Model,
        device: PortDevice,
        memory: Arc<MappedMemory>,
        base: Option<SnapshotRef>,
    ) -> Result<Self, GuestError> {
        let (source, marker) = dirty_source(&memory)?;
        let tracker = DirtyTracker::new(memory.layout().clone(), vec![source])?;
        let consumer = tracker.subscribe(base);
        let written = ModelMemory {
            memory: memory.clone(),
            marker,
        };
        Ok(Self {
            cpu: CpuThread::new(model, device, written)?,
            tracker,
            consumer,
            memory,
        })
    }
}

/// The kernel's write protection where it has it; else the guest marks its own writes.
fn dirty_source(
    memory: &Arc<MappedMemory>,
) -> Result<(Box<dyn DirtySource>, Option<WriteMarker>), GuestError> {
    match WpAsyncSource::new(memory.clone()) {
        Ok(source) => Ok((Box::new(source), None)),
        Err(DirtyError::Unsupported { .. }) => {
            let (source, marker) = VmmWrites::new(memory.layout().clone());
            Ok((Box::new(source), Some(marker)))
        }
        Err(error) => Err(error.into()),
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
        let target = self.cpu.shared.lock().device.steps.saturating_add(steps);
        self.cpu.start();
        let cpu = self
            .cpu
            .wait_until(|cpu| cpu.device.steps >= target || cpu.model.is_done())?;
        Ok(cpu.device.steps)
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
        let shared = &self.cpu.shared;
        let mut state = Source {
            shared: shared.clone(),
        };
        let mut port = Port {
            shared: shared.clone(),
            steps: 0,
        };
        let captured = snapshot(
            Machine {
                vcpus: &mut self.cpu,
                devices: &mut port,
                state: &mut state,
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
            steps: port.steps,
        })
    }

    fn base(&self) -> Option<SnapshotRef> {
        self.tracker.base(self.consumer).ok().flatten()
    }

    fn finish(mut self: Box<Self>) -> Result<Outcome, GuestError> {
        self.cpu.start();
        self.cpu.wait_until(|cpu| cpu.model.is_done())?;
        self.cpu.stop().map_err(GuestError::State)?;
        let cpu = self.cpu.shared.lock().clone();
        Outcome::new(&*self.memory, &cpu.model.registers, &cpu.device)
    }
}
