//! `vmsnap check REF`.

use std::path::PathBuf;

use clap::Args;
use serde::Serialize;
use snapshot_format::SnapshotId;
use snapshot_format::state::{Fingerprint, Reason};
use snapshot_store::{Access, Reference};
use tinyvm::Backend;

use crate::answer::Answer;
use crate::command::reference;
use crate::context::Context;
use crate::exit::Exit;
use crate::failure::{Failure, printable};
use crate::gate::{self, Overriding};
use crate::host_file::{self, HostFile};

/// Says whether a host can run a snapshot, and every reason why not.
#[derive(Args, Debug)]
pub(crate) struct Check {
    /// The snapshot
    #[arg(
        value_name = "REF",
        value_parser = reference,
        required_unless_present = "print_host",
        conflicts_with = "print_host"
    )]
    reference: Option<Reference>,

    /// The host that wrote FILE, instead of this one
    #[arg(long, value_name = "FILE", conflicts_with = "print_host")]
    host: Option<PathBuf>,

    /// Print what this host offers, for --host elsewhere
    #[arg(long)]
    print_host: bool,

    #[command(flatten)]
    overriding: Overriding,
}

#[derive(Serialize)]
struct Checked {
    id: SnapshotId,
    /// Whether it runs, with what is overridden.
    compatible: bool,
    /// The file that describes the host; `None` for this one.
    host: Option<PathBuf>,
    reasons: Vec<Found>,
    /// What would have to be overridden; `None` where nothing is in the way, or nothing helps.
    override_with: Option<String>,
}

#[derive(Serialize)]
struct Found {
    kind: &'static str,
    message: String,
    can_be_overridden: bool,
    overridden: bool,
    detail: Reason,
}

impl Check {
    pub(crate) fn run(&self, context: &Context) -> Result<Answer, Failure> {
        let Some(reference) = &self.reference else {
            return print_host(context);
        };
        let store = context.open(Access::ReadOnly)?;
        let id = context.resolve(&store, reference)?;
        let saved = gate::needs(context, &store, id)?;
        let host = match &self.host {
            Some(path) => host_file::read(path)?,
            None => gate::this_host(&saved)?,
        };
        let checked = self.compare(id, &saved, &host);
        let exit = if checked.compatible {
            Exit::Done
        } else {
            Exit::Incompatible
        };
        let answer = context.answer("vmsnap.check.v1", &checked, tell)?;
        Ok(answer.ending(exit))
    }

    fn compare(&self, id: SnapshotId, saved: &Fingerprint, host: &Fingerprint) -> Checked {
        let overrides = self.overriding.overrides();
        let reasons = saved.check(host);
        let left: Vec<Reason> = reasons
            .iter()
            .filter(|reason| !overrides.covers(reason))
            .cloned()
            .collect();
        Checked {
            id,
            compatible: left.is_empty(),
            host: self.host.clone(),
            override_with: gate::override_with(&left),
            reasons: reasons
                .into_iter()
                .map(|reason| Found {
                    kind: reason.kind().name(),
                    message: reason.to_string(),
                    can_be_overridden: reason.kind().can_be_overridden(),
                    overridden: overrides.covers(&reason),
                    detail: reason,
                })
                .collect(),
        }
    }
}

/// A document in any case: it is for another program.
fn print_host(context: &Context) -> Result<Answer, Failure> {
    let host = gate::ask(Backend::Kvm)?;
    let context = Context {
        json: true,
        ..context.clone()
    };
    context.answer(host_file::SCHEMA, &HostFile::new(&host), |_| String::new())
}

fn tell(checked: &Checked) -> String {
    let host = match &checked.host {
        Some(path) => format!("the host of {}", path.display()),
        None => "this host".to_owned(),
    };
    let verdict = match (checked.compatible, checked.reasons.as_slice()) {
        (true, []) => "can run",
        (true, _) => "can run, with what is overridden,",
        (false, _) => "cannot run",
    };
    let mut lines = vec![format!("{host} {verdict} {}", checked.id)];
    for reason in &checked.reasons {
        let mark = match (reason.overridden, reason.can_be_overridden) {
            (true, _) => ", overridden",
            (false, true) => "",
            (false, false) => ", cannot be overridden",
        };
        lines.push(format!("  {}{mark}: {}", reason.kind, reason.message));
    }
    if let Some(kinds) = &checked.override_with {
        lines.push(format!("to go on in spite of it, give --override {kinds}"));
    }
    lines.iter().map(|line| printable(line) + "\n").collect()
}
