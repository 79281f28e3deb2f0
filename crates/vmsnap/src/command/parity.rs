//! `vmsnap parity add REF [--percent N]` and `vmsnap parity remove REF`.

use std::ops::ControlFlow;

use clap::{Args, Subcommand};
use serde::Serialize;
use snapshot_format::SnapshotId;
use snapshot_store::{Access, ParityOptions, ParityReport, Reference};

use crate::answer::Answer;
use crate::command::reference;
use crate::context::Context;
use crate::failure::{Failure, printable};
use crate::pacing::Pacing;
use crate::quantity::{counted, show_bytes};
use crate::view::short;

/// Parity beside a snapshot, from which `repair` brings back what no copy has.
#[derive(Subcommand, Debug)]
pub(crate) enum ParityCommand {
    /// Make the parity of a snapshot, or make it anew
    Add(Add),
    /// Take the parity of a snapshot away
    Remove(Remove),
}

/// Makes the parity of a snapshot, which is verified first.
#[derive(Args, Debug)]
pub(crate) struct Add {
    /// The snapshot
    #[arg(value_name = "REF", value_parser = reference)]
    reference: Reference,

    /// How much of it may be lost and still come back
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u8).range(1..=100))]
    percent: u8,

    #[command(flatten)]
    pacing: Pacing,
}

/// Takes the parity of a snapshot away.
#[derive(Args, Debug)]
pub(crate) struct Remove {
    /// The snapshot
    #[arg(value_name = "REF", value_parser = reference)]
    reference: Reference,
}

#[derive(Serialize)]
struct Removed {
    id: SnapshotId,
    removed: bool,
}

impl ParityCommand {
    pub(crate) fn run(&self, context: &Context) -> Result<Answer, Failure> {
        match self {
            Self::Add(add) => add.run(context),
            Self::Remove(remove) => remove.run(context),
        }
    }
}

impl Add {
    fn run(&self, context: &Context) -> Result<Answer, Failure> {
        self.pacing.begin()?;
        let store = context.open(Access::ReadWrite)?;
        let id = context.resolve(&store, &self.reference)?;
        let progress = context.progress("parity", 0);
        let mut pace = self.pacing.start(context);
        let mut done = 0;
        let mut tell = |bytes| {
            done += bytes;
            progress.set(done, done);
            match pace.spend(bytes) {
                Ok(()) => ControlFlow::Continue(()),
                Err(_) => ControlFlow::Break(()),
            }
        };
        let made = store.add_parity(id, &ParityOptions::percent(self.percent), &mut tell);
        drop(progress);
        let made = made.map_err(|error| context.failure(&error))?;
        context.answer("vmsnap.parity.v1", &made, tell_report)
    }
}

fn tell_report(made: &ParityReport) -> String {
    printable(&format!(
        "{} of parity for {} of snapshot {}, {}",
        show_bytes(made.parity_bytes),
        counted(made.files.len() as u64, "file"),
        short(made.id),
        show_bytes(made.covered_bytes),
    ))
}

impl Remove {
    fn run(&self, context: &Context) -> Result<Answer, Failure> {
        let store = context.open(Access::ReadWrite)?;
        let id = context.resolve(&store, &self.reference)?;
        let removed = store.remove_parity(id);
        let removed = removed.map_err(|error| context.failure(&error))?;
        context.answer(
            "vmsnap.parity-remove.v1",
            &Removed { id, removed },
            |done| {
                let what = if done.removed {
                    "has no parity any more"
                } else {
                    "had no parity"
                };
                format!("snapshot {} {what}", short(done.id))
            },
        )
    }
}
