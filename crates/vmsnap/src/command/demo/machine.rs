//! The guest of the demo: run, snapshot, restore.

use std::sync::Arc;

use hypervisor_bridge::{
    ClockPolicy, GenerationId, LiveOptions, PauseBreakdown, RestoreError, SnapshotError,
};
use serde::{Deserialize, Serialize};
use snapshot_format::{BranchName, PageRange, SnapshotId, VmName};
use snapshot_memory::{CaptureOptions, ServeOptions, SinkError, Verification};
use snapshot_store::{Location, NewSnapshot, Store, StoreError};
use tinyvm::{
    Backend, Capture, Guest, GuestConfig, GuestError, Image, ImagePages, Outcome, Purpose,
    Restored, ServedPages, SnapshotPages,
};

use super::child::as_json;
use crate::command::import::layout_name;
use crate::context::{Context, exit_of};
use crate::exit::Exit;
use crate::failure::{Failure, exit_of_io};
use crate::gate::{self, Overriding};

/// The virtual machine that the snapshots are of.
const VM: &str = "demo";

/// A snapshot that was taken, and where the time went.
#[derive(Clone, Serialize, Deserialize, Debug)]
pub(super) struct Taken {
    pub(super) id: SnapshotId,
    pub(super) parent: Option<SnapshotId>,
    pub(super) branch: String,
    pub(super) steps: u64,
    pub(super) pause_ns: u64,
    pub(super) pause: Pause,
    pub(super) state_ns: u64,
    pub(super) harvest_ns: u64,
    pub(super) write_ns: u64,
    pub(super) sync_ns: u64,
    pub(super) rounds_ns: u64,
    pub(super) finish_ns: u64,
    pub(super) seal_ns: u64,
    pub(super) publish_ns: u64,
    pub(super) present: u64,
    pub(super) zero: u64,
    pub(super) inherited: u64,
    pub(super) bytes_stored: u64,
    pub(super) layout: String,
    pub(super) engine: String,
    /// The [`Metrics`](hypervisor_bridge::Metrics) of the snapshot.
    pub(super) metrics: serde_json::Value,
}

/// The parts of a pause, which follow each other without a gap, in nanoseconds.
#[derive(Clone, Copy, Serialize, Deserialize, Debug)]
pub(super) struct Pause {
    pub(super) stop: u64,
    pub(super) notify: u64,
    pub(super) quiesce: u64,
    pub(super) vcpus: u64,
    pub(super) vm: u64,
    pub(super) devices: u64,
    pub(super) harvest: u64,
    pub(super) memory: u64,
    pub(super) resume: u64,
}

impl From<&PauseBreakdown> for Pause {
    fn from(time: &PauseBreakdown) -> Self {
        Self {
            stop: time.stop_ns - time.notify_ns,
            notify: time.notify_ns,
            quiesce: time.quiesce_ns,
            vcpus: time.vcpus_ns,
            vm: time.vm_ns,
            devices: time.devices_ns,
            harvest: time.harvest_ns,
            memory: time.write_ns,
            resume: time.resume_ns,
        }
    }
}

/// How a guest ends that nobody stops.
pub(super) fn uninterrupted(backend: Backend, config: &GuestConfig) -> Result<Outcome, Failure> {
    tinyvm::start(backend, config)
        .and_then(Guest::finish)
        .map_err(|error| failure(&error))
}

/// Boots a guest and takes a full snapshot and `rounds` diffs while it runs; then kills it.
pub(super) fn take(
    context: &Context,
    store: &Store,
    backend: Backend,
    config: &GuestConfig,
    rounds: u32,
    is_live: bool,
) -> Result<Vec<Taken>, Failure> {
    let mut guest = tinyvm::start(backend, config).map_err(|error| failure(&error))?;
    // The last snapshot leaves the guest something to do.
    let stretch = config.steps / (u64::from(rounds) + 2);
    let mut taken = Vec::new();
    for round in 0..=rounds {
        context.check_interrupt()?;
        guest.run(stretch).map_err(|error| failure(&error))?;
        let pages = if round == 0 {
            SnapshotPages::Full
        } else {
            SnapshotPages::Diff
        };
        taken.push(snapshot(
            context,
            store,
            guest.as_mut(),
            config,
            Wanted {
                pages,
                is_live,
                branch: "main",
            },
        )?);
    }
    Ok(taken)
}

/// Which snapshot to take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted<'b> {
    pub(super) pages: SnapshotPages,
    /// Whether memory is written while the guest runs.
    pub(super) is_live: bool,
    pub(super) branch: &'b str,
}

/// Takes one snapshot of a running guest.
pub(super) fn snapshot(
    context: &Context,
    store: &Store,
    guest: &mut dyn Guest,
    config: &GuestConfig,
    wanted: Wanted<'_>,
) -> Result<Taken, Failure> {
    let Wanted {
        pages,
        is_live,
        branch,
    } = wanted;
    let named = |error: snapshot_format::NameError| Failure::because(Exit::Failed, &error);
    let parent = match pages {
        SnapshotPages::Diff => guest.base(),
        _ => None,
    };
    let new = NewSnapshot::of(VmName::new(VM).map_err(named)?)
        .branch(BranchName::new(branch).map_err(named)?)
        .parent(parent)
        .config(config.to_bytes())
        .capture(CaptureOptions::default().threads(CaptureOptions::best_threads()));
    let mut sink = store.sink(new);
    let capture = if is_live {
        Capture::Live(LiveOptions::default())
    } else {
        Capture::Paused
    };
    let done = guest
        .capture(capture, pages, &mut sink, &context.interrupt.cancel())
        .map_err(|error| failure(&error))?;
    let id = done.published.snapshot.id;
    let time = &done.time;
    Ok(Taken {
        id,
        parent: parent.map(|parent| parent.id),
        branch: branch.to_owned(),
        steps: done.steps,
        pause_ns: time.pause_ns(),
        pause: Pause::from(time),
        state_ns: time.stop_ns + time.quiesce_ns + time.state_ns + time.resume_ns,
        harvest_ns: time.harvest_ns,
        write_ns: time.write_ns,
        sync_ns: time.seal_ns + time.publish_ns,
        rounds_ns: time.rounds_ns,
        finish_ns: time.finish_ns,
        seal_ns: time.seal_ns,
        publish_ns: time.publish_ns,
        present: done.memory.present,
        zero: done.memory.zero,
        inherited: done.memory.inherited,
        bytes_stored: store
            .allocated_bytes(Location::Live, id)
            .map_err(|error| context.failure(&error))?,
        layout: layout_name(done.memory.layout).to_owned(),
        engine: done.memory.engine.name().to_owned(),
        metrics: as_json(&done.metrics)?,
    })
}

/// A snapshot in a new guest.
pub(super) struct Brought {
    pub(super) restored: Restored,
    pub(super) config: GuestConfig,
    /// How its memory comes.
    pub(super) memory: BroughtMemory,
    pub(super) verification: Verification,
}

/// How the memory of a restored guest comes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum BroughtMemory {
    /// Each page when it is touched.
    Served,
    /// All of it before the guest runs.
    Copied,
}

impl BroughtMemory {
    /// The name in reports.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Served => "served",
            Self::Copied => "copied",
        }
    }
}

/// Makes a clone of a snapshot. Its pages are brought when it touches them, each verified before;
/// where this host cannot do that, all of them are before it runs.
pub(super) fn restore(
    context: &Context,
    store: &Store,
    backend: Backend,
    id: SnapshotId,
    generation: GenerationId,
    overriding: &Overriding,
) -> Result<Brought, Failure> {
    let failed = |error| context.failure(&error);
    // Decided by the manifest: nothing else is read of a snapshot that cannot run.
    let overrides = overriding.overrides();
    let host = tinyvm::host(backend).map_err(|error| failure(&error))?;
    let mut reasons = gate::needs(context, store, id)?.check(&host);
    reasons.retain(|reason| !overrides.covers(reason));
    if !reasons.is_empty() {
        return Err(gate::refusal(&reasons));
    }
    let record = store.snapshot(id).map_err(failed)?;
    let manifest = store.manifest(id).map_err(failed)?;
    let config = GuestConfig::from_bytes(&manifest.vm_config).map_err(|error| failure(&error))?;
    let stored = Arc::new(store.image(id).map_err(failed)?);
    let mut read = |pages: PageRange, out: &mut [u8]| {
        stored.image().read_pages(pages, out).map_err(Into::into)
    };
    let image = |pages, sections| {
        Image {
            config,
            pages,
            sections,
            snapshot: record.reference(),
            // The original ran on after the snapshot: this is another machine.
            purpose: Purpose::Clone {
                clock: ClockPolicy::Frozen,
                generation,
            },
            overrides: overriding.overrides(),
        }
    };
    let sections = || store.state(id).map_err(failed);
    let served = ServedPages::of(stored.clone(), ServeOptions::new(1));
    let verification = served.verification();
    let brought = |restored, memory, verification| Brought {
        restored,
        config,
        memory,
        verification,
    };
    match tinyvm::restore(backend, image(ImagePages::Served(served), sections()?)) {
        Ok(restored) => Ok(brought(restored, BroughtMemory::Served, verification)),
        Err(error) if error.is_for_want_of_userfaultfd() => {
            let pages = ImagePages::Copied(&mut read);
            let restored = tinyvm::restore(backend, image(pages, sections()?));
            let restored = restored.map_err(|error| failure(&error))?;
            Ok(brought(
                restored,
                BroughtMemory::Copied,
                Verification::Eager,
            ))
        }
        Err(error) => Err(failure(&error)),
    }
}

/// An error of the guest, in the words of the command line.
pub(crate) fn failure(error: &GuestError) -> Failure {
    let exit = match error {
        GuestError::NoKvm { .. } => Exit::Unsupported,
        GuestError::ForeignConfig { .. }
        | GuestError::ForeignState { .. }
        | GuestError::Restore(RestoreError::Incompatible { .. }) => Exit::Incompatible,
        GuestError::Snapshot(SnapshotError::Cancelled { .. }) => Exit::Interrupted,
        GuestError::Snapshot(SnapshotError::Sink { source, .. }) => exit_of_sink(source),
        _ => Exit::Failed,
    };
    Failure::because(exit, error)
}

/// How a run ends that an error of the store below a snapshot stopped.
fn exit_of_sink(error: &SinkError) -> Exit {
    match error {
        SinkError::NoRoom { .. } => Exit::NoSpace,
        SinkError::File(error) => exit_of_io(error.source.kind()),
        SinkError::Catalog(error) => error
            .downcast_ref::<StoreError>()
            .map_or(Exit::Failed, |error| exit_of(error.kind())),
        _ => Exit::Failed,
    }
}
