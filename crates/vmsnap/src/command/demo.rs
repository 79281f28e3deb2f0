//! `vmsnap demo`: a real guest, frozen mid-run and brought back, every byte compared.

mod child;
mod machine;
mod report;

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use snapshot_store::{Access, Selection, Store};
use tempfile::TempDir;
use tinyvm::{Backend, GuestConfig};

use crate::answer::Answer;
use crate::command::verify;
use crate::context::Context;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::quantity::parse_bytes;
use machine::Taken;
use report::{Report, Row, tell};

pub(crate) use child::DemoRestore;

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

/// Where the snapshots go.
enum Home {
    Given,
    Temporary(TempDir),
}

impl Demo {
    pub(crate) fn run(&self, context: &Context) -> Result<Answer, Failure> {
        let config = GuestConfig {
            memory_bytes: self.mem,
            ..GuestConfig::default()
        };
        config
            .check()
            .map_err(|error| Failure::usage(error.to_string()))?;
        let backend = self.backend(context);
        let (home, path) = home(context)?;
        let context = &Context {
            store: Some(path.clone()),
            ..context.clone()
        };
        context.note("running the guest once without a break");
        let expected = child::as_json(&machine::uninterrupted(backend, &config)?)?;
        let store = context.open_or_create()?;
        let taken = machine::take(context, &store, backend, &config, self.rounds)?;
        let rows = bring_back(context, backend, taken, &expected)?;
        context.note("verifying every snapshot");
        let checked = verify::check(context, &store, Selection::All)?;
        let report = Report::new(
            backend,
            self.rounds,
            self.mem,
            matches!(home, Home::Given).then_some(path),
            rows,
            checked.ok,
        );
        let exit = if report.verified {
            Exit::Done
        } else {
            Exit::Corrupt
        };
        if let Home::Temporary(directory) = home {
            let path = directory.path().to_owned();
            directory
                .close()
                .map_err(|error| Failure::io("remove the temporary store", &path, &error))?;
        }
        Ok(context
            .answer("vmsnap.demo.v1", &report, tell)?
            .ending(exit))
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

/// The store that was named, or one that goes when the demo is over.
fn home(context: &Context) -> Result<(Home, PathBuf), Failure> {
    if let Some(path) = &context.store {
        return Ok((Home::Given, path.clone()));
    }
    let directory = tempfile::Builder::new()
        .prefix("vmsnap-demo-")
        .tempdir()
        .map_err(|error| Failure::io("make a store", &std::env::temp_dir(), &error))?;
    let path = directory.path().join("store");
    Ok((Home::Temporary(directory), path))
}

/// Restores each snapshot in a process of its own and lets it finish; the middle one also becomes
/// the base of a second branch, whose snapshot is restored as well.
fn bring_back(
    context: &Context,
    backend: Backend,
    taken: Vec<Taken>,
    expected: &serde_json::Value,
) -> Result<Vec<Row>, Failure> {
    let middle = taken.len() / 2;
    let mut rows = Vec::with_capacity(taken.len() + 1);
    let mut branched = None;
    for (at, one) in taken.into_iter().enumerate() {
        context.check_interrupt()?;
        context.note(&format!("restoring snapshot {} in a new process", one.id));
        let branch = (at == middle).then_some("second");
        let back = child::restore(context, backend, one.id, branch)?;
        branched = branched.or_else(|| back.branched.clone());
        rows.push(Row::new(one, &back, expected));
    }
    let branched = branched.ok_or_else(|| {
        Failure::new(
            Exit::Failed,
            "the restored guest took no snapshot of its branch",
        )
    })?;
    let back = child::restore(context, backend, branched.id, None)?;
    rows.push(Row::new(branched, &back, expected));
    Ok(rows)
}

/// Opens the store of a demo that runs already.
fn open(context: &Context) -> Result<Store, Failure> {
    context.open(Access::ReadWrite)
}
