//! The part of the demo that runs in a process of its own: a restored guest shares nothing with the
//! one that was snapshotted.

use std::process::{Child, Command, Stdio};
use std::time::Instant;

use clap::Args;
use hypervisor_bridge::GenerationId;
use serde::{Deserialize, Serialize};
use snapshot_format::SnapshotId;
use snapshot_store::Reference;
use tinyvm::{Backend, Outcome, SnapshotPages};

use super::machine::{self, Brought, Taken, Wanted};
use super::{Choice, open};
use crate::answer::Answer;
use crate::command::reference;
use crate::context::Context;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::gate::Overriding;

/// Restores a snapshot, lets the guest finish, and says how it ended.
#[derive(Args, Debug)]
pub(crate) struct DemoRestore {
    #[arg(value_name = "REF", value_parser = reference)]
    reference: Reference,

    #[arg(long, value_enum)]
    backend: Choice,

    #[arg(long)]
    branch: Option<String>,

    #[arg(long)]
    live: bool,

    #[command(flatten)]
    overriding: Overriding,
}

/// What the process says.
#[derive(Serialize, Deserialize, Debug)]
pub(super) struct Back {
    /// From the call of the command until the guest reported its first step.
    pub(super) first_instruction_ns: u64,
    /// How the guest ended: compared as it is.
    pub(super) outcome: serde_json::Value,
    /// The generation id that the clone was given.
    pub(super) generation: String,
    /// Whether it had that one at its end.
    pub(super) kept_generation: bool,
    /// How its memory came, and when it was verified.
    pub(super) memory: String,
    pub(super) verification: String,
    /// The [`Metrics`](hypervisor_bridge::Metrics) of the restore.
    pub(super) metrics: serde_json::Value,
    /// The snapshot of the branch, if one was asked for.
    pub(super) branched: Option<Taken>,
}

impl Back {
    /// Whether it ended as a guest does that nobody stopped, with an identity of its own.
    pub(super) fn ended_as(&self, expected: &serde_json::Value) -> bool {
        self.outcome == *expected && self.kept_generation
    }
}

impl DemoRestore {
    pub(crate) fn run(&self, context: &Context) -> Result<Answer, Failure> {
        let started = Instant::now();
        let backend = match self.backend {
            Choice::Process => Backend::Process,
            Choice::Auto | Choice::Kvm => Backend::Kvm,
        };
        let store = open(context)?;
        let id = context.resolve(&store, &self.reference)?;
        let generation = GenerationId::random()
            .map_err(|error| Failure::new(Exit::Failed, format!("no random numbers: {error}")))?;
        let Brought {
            restored,
            config,
            memory,
            verification,
        } = machine::restore(context, &store, backend, id, generation, &self.overriding)?;
        let metrics = as_json(&restored.outcome.metrics)?;
        let mut guest = restored.guest;
        let failed = |error| machine::failure(&error);
        guest.run(1).map_err(failed)?;
        let first_instruction = started.elapsed();
        let branched = match &self.branch {
            None => None,
            Some(branch) => {
                let steps = config.steps / 16;
                guest.run(steps).map_err(failed)?;
                let guest = guest.as_mut();
                let wanted = Wanted {
                    pages: SnapshotPages::Diff,
                    is_live: self.live,
                    branch,
                };
                Some(machine::snapshot(context, &store, guest, &config, wanted)?)
            }
        };
        let outcome: Outcome = guest.finish().map_err(failed)?;
        let back = Back {
            first_instruction_ns: u64::try_from(first_instruction.as_nanos()).unwrap_or(u64::MAX),
            outcome: as_json(&outcome)?,
            generation: generation.to_string(),
            kept_generation: outcome.generation == generation,
            memory: memory.name().to_owned(),
            verification: verification.name().to_owned(),
            metrics,
            branched,
        };
        context.answer("vmsnap.demo-restore.v1", &back, |back| format!("{back:?}"))
    }
}

/// A branch that a restored guest begins by a snapshot.
#[derive(Clone, Copy, Debug)]
pub(super) struct Branch<'b> {
    pub(super) name: &'b str,
    pub(super) is_live: bool,
}

/// A process that restores a snapshot.
#[derive(Debug)]
pub(super) struct Restoring {
    id: SnapshotId,
    process: Child,
}

impl Restoring {
    /// Restores the snapshot `id` in a new process, as a clone.
    pub(super) fn start(
        context: &Context,
        backend: Backend,
        id: SnapshotId,
        branch: Option<Branch<'_>>,
        overriding: &Overriding,
    ) -> Result<Self, Failure> {
        let program = std::env::current_exe().map_err(|error| failed("find", id, &error))?;
        let mut command = Command::new(program);
        command
            .arg("demo-restore")
            .arg(id.to_string())
            .arg("--store")
            .arg(context.store_path()?)
            .args(["--json", "--backend"])
            .arg(match backend {
                Backend::Process => "process",
                _ => "kvm",
            })
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit());
        command.args(overriding.as_arguments());
        if let Some(branch) = branch {
            command.args(["--branch", branch.name]);
            if branch.is_live {
                command.arg("--live");
            }
        }
        let process = command
            .spawn()
            .map_err(|error| failed("start", id, &error))?;
        Ok(Self { id, process })
    }

    /// Waits for its end.
    pub(super) fn wait(self) -> Result<Back, Failure> {
        let Self { id, process } = self;
        let output = process
            .wait_with_output()
            .map_err(|error| failed("wait for", id, &error))?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stdout);
            let why = format!("{}: {}", output.status, said.trim());
            return Err(failed("wait for", id, &why));
        }
        serde_json::from_slice(&output.stdout).map_err(|error| failed("understand", id, &error))
    }
}

fn failed(what: &str, id: SnapshotId, why: &dyn std::fmt::Display) -> Failure {
    Failure::new(
        Exit::Failed,
        format!("{what} the process that restores {id}: {why}"),
    )
}

/// How a guest ended, or what was measured, in the form in which it crosses from one process to
/// another.
pub(super) fn as_json(told: &impl Serialize) -> Result<serde_json::Value, Failure> {
    serde_json::to_value(told).map_err(|error| Failure::because(Exit::Failed, &error))
}
