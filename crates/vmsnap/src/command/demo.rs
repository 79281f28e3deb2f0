//! `vmsnap demo`: a real guest, frozen mid-run and brought back, every byte compared.

mod child;
mod home;
mod machine;
mod report;

use clap::{Args, ValueEnum};
use snapshot_format::SnapshotId;
use snapshot_store::{Access, Selection, Store, VerifyOptions};
use tinyvm::{Backend, GuestConfig};

use crate::answer::Answer;
use crate::command::verify;
use crate::context::Context;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::gate::Overriding;
use crate::pacing::Pacing;
use crate::quantity::parse_bytes;
use child::{Branch, Restoring};
use home::Home;
use machine::Taken;
use report::{CloneRow, Report, Row, tell};

pub(crate) use child::DemoRestore;
pub(crate) use machine::failure;

/// Runs a guest, snapshots it mid-run, restores it in new processes, and compares everything with a
/// run that was never interrupted.
#[derive(Args, Debug)]
pub(crate) struct Demo {
    /// Who runs the guest
    #[arg(long, value_enum, default_value = "auto")]
    backend: Choice,

    /// The guest's memory: a power of two
    #[arg(long, value_name = "SIZE", value_parser = parse_bytes, default_value = "64M")]
    mem: u64,

    /// How many diffs to take after the full snapshot
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=64), default_value = "3")]
    rounds: u32,

    /// Write memory while the guest runs, and stop it only for what it wrote last
    #[arg(long)]
    live: bool,

    /// How many clones of the last snapshot to run at the same time
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(0..=256), default_value = "2")]
    clones: u32,

    #[command(flatten)]
    overriding: Overriding,
}

/// Who runs the guest, as it is asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Choice {
    /// KVM if this host has it, else a process
    Auto,
    /// A KVM machine
    Kvm,
    /// A thread of a process, which does what the guest would do
    Process,
}

impl Demo {
    pub(crate) fn run(&self, context: &Context) -> Result<Answer, Failure> {
        let config = GuestConfig {
            memory_bytes: self.mem,
            // Beside a live snapshot the guest gets on: it is not to end before the last one.
            steps: GuestConfig::default().steps * if self.live { 4 } else { 1 },
            ..GuestConfig::default()
        };
        config
            .check()
            .map_err(|error| Failure::usage(error.to_string()))?;
        let backend = self.backend(context);
        let home = Home::choose(context)?;
        let context = &Context {
            store: Some(home.path().to_owned()),
            ..context.clone()
        };
        context.note("running the guest once without a break");
        let expected = child::as_json(&machine::uninterrupted(backend, &config)?)?;
        let store = context.open_or_create()?;
        let taken = machine::take(context, &store, backend, &config, self.rounds, self.live)?;
        let last = taken.last().map(|last| last.id);
        let rows = self.bring_back(context, backend, taken, &expected)?;
        let clones = match last {
            Some(last) => self.fan_out(context, backend, last, &expected)?,
            None => Vec::new(),
        };
        context.note("verifying every snapshot");
        let checked = verify::check(
            context,
            &store,
            &VerifyOptions::of(Selection::All),
            Pacing::default(),
        )?;
        let report = Report::new(
            backend,
            self.rounds,
            self.mem,
            home.kept(),
            (rows, clones),
            checked.ok,
        );
        let exit = if report.verified {
            Exit::Done
        } else {
            Exit::Corrupt
        };
        home.leave()?;
        Ok(context
            .answer("vmsnap.demo.v1", &report, tell)?
            .ending(exit))
    }

    /// Restores each snapshot in a process of its own and lets it finish; the middle one also becomes
    /// the base of a second branch, whose snapshot is restored as well.
    fn bring_back(
        &self,
        context: &Context,
        backend: Backend,
        taken: Vec<Taken>,
        expected: &serde_json::Value,
    ) -> Result<Vec<Row>, Failure> {
        let overriding = &self.overriding;
        let middle = taken.len() / 2;
        let mut rows = Vec::with_capacity(taken.len() + 1);
        let mut branched = None;
        for (at, one) in taken.into_iter().enumerate() {
            context.check_interrupt()?;
            context.note(&format!("restoring snapshot {} in a new process", one.id));
            let branch = (at == middle).then_some(Branch {
                name: "second",
                is_live: self.live,
            });
            let back = Restoring::start(context, backend, one.id, branch, overriding)?.wait()?;
            branched = branched.or_else(|| back.branched.clone());
            rows.push(Row::new(one, &back, expected));
        }
        let branched = branched.ok_or_else(|| {
            Failure::new(
                Exit::Failed,
                "the restored guest took no snapshot of its branch",
            )
        })?;
        let back = Restoring::start(context, backend, branched.id, None, overriding)?.wait()?;
        rows.push(Row::new(branched, &back, expected));
        Ok(rows)
    }

    /// Restores one snapshot in several processes at the same time.
    fn fan_out(
        &self,
        context: &Context,
        backend: Backend,
        id: SnapshotId,
        expected: &serde_json::Value,
    ) -> Result<Vec<CloneRow>, Failure> {
        context.check_interrupt()?;
        context.note(&format!("restoring {} clones of {id} at once", self.clones));
        let started: Vec<_> = (0..self.clones)
            .map(|_| Restoring::start(context, backend, id, None, &self.overriding))
            .collect();
        let ended = started.into_iter().map(|started| started?.wait());
        // Each is waited for, also after one that failed.
        let ended: Vec<_> = ended.collect();
        let rows = ended
            .into_iter()
            .map(|back| Ok(CloneRow::new(back?, expected)));
        rows.collect()
    }

    fn backend(&self, context: &Context) -> Backend {
        match self.backend {
            Choice::Process => Backend::Process,
            Choice::Kvm => Backend::Kvm,
            Choice::Auto => {
                if let Err(error) = tinyvm::kvm_available() {
                    context.note(&format!(
                        "KVM cannot be used here ({error}): the guest is hosted by a process"
                    ));
                }
                Backend::detect()
            }
        }
    }
}

/// Opens the store of a demo that runs already.
fn open(context: &Context) -> Result<Store, Failure> {
    context.open(Access::ReadWrite)
}
