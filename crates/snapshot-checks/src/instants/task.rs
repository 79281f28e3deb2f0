//! What the process of one guest does: runs it, takes snapshots on the way, says how it ended.

use std::error::Error;
use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use hypervisor_bridge::{Cancel, ClockPolicy, Overrides};
use serde::{Deserialize, Serialize};
use snapshot_format::state::VcpuX86;
use snapshot_format::{Arch, PageRange, SectionPayload, SnapshotId, VmName};
use snapshot_memory::backend::{Backend as Files, FsBackend};
use snapshot_memory::{DirectorySink, PublishedSnapshot};
use tinyvm::{Backend, Guest, GuestConfig, Image, ImagePages, Program, Purpose, SnapshotPages};

use super::census::Census;
use super::moment::Moment;
use super::options::program;
use crate::random::Random;
use crate::stored_guest::Failure;

/// What a process of its own does with one guest.
#[derive(Args, Clone, Debug)]
pub struct Task {
    /// Where the snapshots lie
    #[arg(long)]
    pub(super) dir: PathBuf,

    /// What the guest runs
    #[arg(long, value_parser = program)]
    pub(super) program: Program,

    /// The snapshot to begin with [default: a new guest]
    #[arg(long)]
    pub(super) from: Option<SnapshotId>,

    /// How many snapshots to take on the way
    #[arg(long)]
    pub(super) snapshots: u64,

    /// Where their instants come from
    #[arg(long)]
    pub(super) seed: u64,
}

/// A snapshot that was taken.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Taken {
    /// Its name.
    pub id: SnapshotId,
    /// How its instant was reached.
    pub moment: Moment,
    /// Whether the guest had ended before: then it proves little.
    pub ended: bool,
    /// What the vCPUs were in.
    pub census: Census,
}

/// What the process says.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Report {
    /// How the guest ended: compared as it is.
    pub outcome: serde_json::Value,
    /// Timer interrupts that came once more.
    pub repeated: u32,
    /// The snapshots on the way.
    pub taken: Vec<Taken>,
}

/// The guest could not be run, snapshotted or restored.
pub type TaskError = Box<dyn Error + Send + Sync>;

/// The configuration of a guest: enough steps for some tens of milliseconds.
pub(super) fn config(program: Program) -> GuestConfig {
    let steps = match program {
        Program::Pattern => 12_000,
        Program::Vectors | Program::Breakpoints => 800,
        Program::Parked => 160,
        Program::Timers | Program::Io => 60,
        _ => 80,
    };
    GuestConfig {
        memory_bytes: 2 << 20,
        steps,
        program,
        ..GuestConfig::default()
    }
}

impl Task {
    /// Does it, and says what came of it: one line of JSON.
    pub(super) fn tell(&self) -> Result<(), Failure> {
        let report = self.run()?;
        println!("{}", serde_json::to_string(&report)?);
        Ok(())
    }

    /// Does it.
    pub fn run(&self) -> Result<Report, TaskError> {
        let files: Arc<dyn Files> = Arc::new(FsBackend::open(&self.dir)?);
        let config = config(self.program);
        let (mut guest, fingerprint) = match self.from {
            None => {
                let mut guest = tinyvm::start(Backend::Kvm, &config)?;
                // Before it runs: to look at it completes what is pending.
                let fingerprint = SectionPayload::of(0, &guest.fingerprint()?);
                (guest, Some(fingerprint))
            }
            Some(id) => restore(&*files, id)?,
        };
        let name = VmName::new("proof")?;
        let mut sink =
            DirectorySink::new(files.clone(), name, Arch::host()).with_vm_config(config.to_bytes());
        if let Some(fingerprint) = fingerprint {
            sink = sink.with_fingerprint(fingerprint);
        }
        if let Some(id) = self.from {
            sink = sink.with_parent(id)?;
        }
        let mut random = Random::new(self.seed);
        let stretch = config.steps / (self.snapshots + 1);
        let mut taken = Vec::new();
        for _ in 0..self.snapshots {
            let moment = Moment::choose(&mut random, stretch);
            taken.push(take(&mut *guest, moment, &mut sink, &*files)?);
        }
        let outcome = guest.finish()?;
        Ok(Report {
            outcome: serde_json::to_value(&outcome)?,
            repeated: outcome.repeated,
            taken,
        })
    }
}

/// A guest as a snapshot left it, and what it needs of a host.
fn restore(
    files: &dyn Files,
    id: SnapshotId,
) -> Result<(Box<dyn Guest>, Option<SectionPayload>), TaskError> {
    let found = PublishedSnapshot::open(files, id)?;
    let image = found.image(files)?;
    let restored = tinyvm::restore(
        Backend::Kvm,
        Image {
            config: GuestConfig::from_bytes(&found.manifest.vm_config)?,
            pages: ImagePages::Copied(&mut |pages: PageRange, out: &mut [u8]| {
                image.read_pages(pages, out).map_err(Into::into)
            }),
            sections: found.state(files)?,
            snapshot: found.reference(),
            purpose: Purpose::Resume(ClockPolicy::Frozen),
            overrides: Overrides::default(),
        },
    )?;
    Ok((restored.guest, found.manifest.fingerprint))
}

fn take(
    guest: &mut dyn Guest,
    moment: Moment,
    sink: &mut DirectorySink,
    files: &dyn Files,
) -> Result<Taken, TaskError> {
    let mut census = Census::default();
    if moment.reach(guest)? {
        census.saw("exit pending");
    }
    let pages = match guest.base() {
        None => SnapshotPages::Full,
        Some(_) => SnapshotPages::Diff,
    };
    let done = guest.snapshot(pages, sink, &Cancel::default())?;
    let id = done.published.snapshot.id;
    let mut sections = PublishedSnapshot::open(files, id)?.state(files)?;
    for (_, vcpu) in sections.take_all::<VcpuX86>()? {
        census.count(&vcpu);
    }
    Ok(Taken {
        id,
        moment,
        ended: done.ended,
        census,
    })
}
