//! What a demo or a test does with a guest, whatever runs it.

use std::collections::BTreeMap;
use std::sync::Arc;

use hypervisor_bridge::{
    Cancel, Captured, GenerationId, LiveOptions, LiveRequest, Machine, Metrics, PauseBreakdown,
    SnapshotError, SnapshotRequest, live_snapshot, snapshot,
};
use serde::Serialize;
use snapshot_format::state::{Fingerprint, Registers};
use snapshot_format::{Digest, MemoryLayout, PageRange, SnapshotRef};
use snapshot_memory::{GuestMemorySource, MemoryStats, Published, SnapshotSink, WriteMarker};

use crate::device::PortDevice;
use crate::digest::{digest_of, generation_of};
use crate::error::GuestError;
use crate::memory::GuestMemory;
use crate::planned::GuestPages;

/// Who runs the guest.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Backend {
    /// KVM: a real virtual machine.
    Kvm,
    /// A thread of this process that does what the guest's program would do.
    Process,
}

/// Which pages a snapshot takes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum SnapshotPages {
    /// All.
    Full,
    /// Those written since the last snapshot of this guest, or since it was restored.
    Diff,
}

/// When a snapshot writes memory.
#[derive(Debug)]
#[non_exhaustive]
pub enum Capture<'r> {
    /// In the pause.
    Paused,
    /// While the guest runs; the pause is for what it wrote last.
    Live(LiveOptions<'r>),
}

/// A guest that stands still, for a look at it.
#[derive(Debug)]
pub struct Standing<'a> {
    pub(crate) memory: &'a GuestMemory,
    pub(crate) registers: &'a Registers,
    pub(crate) marker: &'a WriteMarker,
}

impl Standing<'_> {
    /// Its memory.
    #[must_use]
    pub fn memory(&self) -> &dyn GuestMemorySource {
        self.memory
    }

    /// The registers of its first vCPU.
    #[must_use]
    pub fn registers(&self) -> &Registers {
        self.registers
    }

    /// Gives pages back to the host, as for a balloon: they are zero from now on.
    pub fn discard(&self, pages: PageRange) -> Result<(), GuestError> {
        self.memory.discard(pages)?;
        // After it is done: a page that was marked before might be harvested with its old bytes.
        self.marker.mark(pages);
        Ok(())
    }
}

/// What a snapshot did.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct GuestSnapshot {
    /// What a later diff names as its parent.
    pub published: Published,
    /// What was written.
    pub memory: MemoryStats,
    /// Where the time went.
    pub time: PauseBreakdown,
    /// All that and more in one value that can be written as JSON.
    pub metrics: Metrics,
    /// Steps of the program that were done at the pause, as far as the guest had reported.
    pub steps: u64,
    /// Whether the program had ended before the pause.
    pub ended: bool,
}

/// How a guest ended.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[non_exhaustive]
pub struct Outcome {
    /// BLAKE3 of the raw image of memory, with zeros in place of the generation id.
    pub memory_digest: Digest,
    /// The generation id: zero, or what it was cloned with. It is no part of how a guest ended.
    #[serde(skip)]
    pub generation: GenerationId,
    /// Registers by name, as `0x…`; those of further vCPUs as `vcpu1.rax`.
    pub registers: BTreeMap<String, String>,
    /// What the guest wrote to its port at the end; of several vCPUs, a sum of it.
    pub checksum: u32,
    /// Steps of the program that were done.
    pub steps: u64,
    /// Timer interrupts that came once more, the most of any vCPU. Nothing but a restore may
    /// repeat one, each restore one: it starts a timer anew that had expired, as nothing says
    /// whether its interrupt was delivered. It is no part of how a guest ended.
    #[serde(skip)]
    pub repeated: u32,
}

/// A guest.
///
/// It does nothing between calls: [`run`](Self::run) and [`finish`](Self::finish) let it go, and
/// [`snapshot`](Self::snapshot) stops it wherever it is.
pub trait Guest: Send {
    /// Who runs it.
    fn backend(&self) -> Backend;

    /// Which guest physical addresses are memory.
    fn layout(&self) -> &MemoryLayout;

    /// What it needs of a host: for the manifest of its snapshots.
    fn fingerprint(&mut self) -> Result<Fingerprint, GuestError>;

    /// Starts it, and returns once it has reported `steps` more steps, or its end. It runs on
    /// meanwhile, until a snapshot stops it.
    ///
    /// Returns how many steps it has reported in all.
    fn run(&mut self, steps: u64) -> Result<u64, GuestError>;

    /// Starts it, and returns once its machine has left the guest `exits` more times, for a device
    /// each. From there on, a vCPU that does stands still with its exit pending, through any
    /// snapshot, until [`run`](Self::run) or [`finish`](Self::finish); the others run on.
    ///
    /// Returns whether it came so far before its end. A guest of the process backend has no exits,
    /// and stays where it is.
    fn run_to_exit(&mut self, exits: u64) -> Result<bool, GuestError>;

    /// Takes a snapshot of the running guest, which stands still while memory is written and runs
    /// on afterwards.
    ///
    /// A diff is relative to [`base`](Self::base), which the sink must have as its parent.
    fn snapshot(
        &mut self,
        pages: SnapshotPages,
        sink: &mut dyn SnapshotSink,
        cancel: &Cancel,
    ) -> Result<GuestSnapshot, GuestError> {
        self.capture(Capture::Paused, pages, sink, cancel)
    }

    /// The same; `capture` says when memory is written.
    fn capture<'r>(
        &'r mut self,
        capture: Capture<'r>,
        pages: SnapshotPages,
        sink: &'r mut dyn SnapshotSink,
        cancel: &'r Cancel,
    ) -> Result<GuestSnapshot, GuestError>;

    /// Stops it where it is, shows it, and lets it go on.
    fn look(&mut self, see: &mut dyn FnMut(&Standing<'_>)) -> Result<(), GuestError>;

    /// Its memory, where a plan restored it.
    fn planned(&self) -> Option<Arc<GuestPages>>;

    /// What the next diff is relative to; `None` before the first snapshot.
    fn base(&self) -> Option<SnapshotRef>;

    /// Lets it run to its end.
    fn finish(self: Box<Self>) -> Result<Outcome, GuestError>;
}

/// Takes a snapshot of `machine` in one way or the other.
pub(crate) fn capture_machine<'r>(
    capture: Capture<'r>,
    machine: Machine<'_>,
    request: SnapshotRequest<'r>,
) -> Result<Captured, SnapshotError> {
    let options = match capture {
        Capture::Paused => return snapshot(machine, request),
        Capture::Live(options) => options,
    };
    let SnapshotRequest {
        sink,
        selection,
        cancel,
        room_bytes,
    } = request;
    let request = LiveRequest {
        sink,
        selection,
        cancel,
        room_bytes,
        options,
    };
    live_snapshot(machine, request)
}

impl Outcome {
    /// How a guest with these registers ended.
    pub(crate) fn new(
        memory: &dyn GuestMemorySource,
        registers: &Registers,
        device: &PortDevice,
    ) -> Result<Self, GuestError> {
        Ok(Self {
            memory_digest: digest_of(memory)?,
            generation: generation_of(memory)?,
            registers: named("", registers).collect(),
            checksum: device.checksum.unwrap_or_default(),
            steps: registers.rcx,
            repeated: 0,
        })
    }
}

/// Registers as an outcome lists them.
pub(crate) fn named(prefix: &str, registers: &Registers) -> impl Iterator<Item = (String, String)> {
    let named = registers.named().into_iter();
    named.map(move |(name, value)| (format!("{prefix}{name}"), format!("{value:#x}")))
}
