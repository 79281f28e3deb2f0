//! `vmsnap verify [REF] [--all] [--older-than AGE] [--max-bytes SIZE] [--reload]`.

mod reload;

use std::ops::ControlFlow;
use std::time::Duration;

use clap::Args;
use serde::Serialize;
use snapshot_store::{Access, Reference, Selection, Store, VerifyOptions, VerifyReport};

use crate::answer::Answer;
use crate::command::reference;
use crate::context::{Context, exit_of};
use crate::exit::Exit;
use crate::failure::{Failure, place, printable};
use crate::gate::Overriding;
use crate::pacing::Pacing;
use crate::quantity::{counted, parse_bytes, parse_duration, show_bytes};
use reload::Reloaded;

/// Reads and checks every byte.
#[derive(Args, Debug)]
pub(crate) struct Verify {
    /// The snapshot; without it, all
    #[arg(value_name = "REF", conflicts_with = "all", value_parser = reference)]
    reference: Option<Reference>,

    /// Every snapshot, deleted ones too
    #[arg(long)]
    all: bool,

    /// Only those not checked for so long (90s, 30m, 12h, 7d, 2w), or with damage found last time
    #[arg(long, value_name = "AGE", conflicts_with = "reference", value_parser = parse_duration)]
    older_than: Option<Duration>,

    /// Begin no further snapshot once so many bytes are checked; least recently checked first
    #[arg(long, value_name = "SIZE", conflicts_with = "reference", value_parser = parse_budget)]
    max_bytes: Option<u64>,

    /// Also restore it into a machine that never runs, capture that again, and compare
    #[arg(long, requires = "reference", conflicts_with = "all")]
    reload: bool,

    #[command(flatten)]
    overriding: Overriding,

    #[command(flatten)]
    pacing: Pacing,
}

#[derive(Serialize)]
struct Verified<'a> {
    ok: bool,
    snapshots: u64,
    left: u64,
    bytes: u64,
    unbound_pages: u64,
    errors: Vec<Found<'a>>,
}

/// With `--reload`.
#[derive(Serialize)]
struct VerifiedAndReloaded<'a> {
    #[serde(flatten)]
    verified: Verified<'a>,
    /// `None` where the snapshot is damaged: it is not restored then.
    reload: Option<Reloaded>,
}

#[derive(Serialize)]
struct Found<'a> {
    snapshot: String,
    path: Option<&'a str>,
    offset: Option<u64>,
    kind: &'static str,
    problem: &'a str,
    hint: &'a str,
}

impl Verify {
    pub(crate) fn run(&self, context: &Context) -> Result<Answer, Failure> {
        if !self.reload && !self.overriding.is_empty() {
            return Err(Failure::usage("--override needs --reload"));
        }
        self.pacing.begin()?;
        let store = context.open(Access::Auto)?;
        let selection = match &self.reference {
            None => Selection::All,
            Some(reference) => Selection::One(context.resolve(&store, reference)?),
        };
        let options = VerifyOptions::of(selection)
            .older_than(self.older_than)
            .max_bytes(self.max_bytes);
        let report = check(context, &store, &options, self.pacing)?;
        let mut verified = Verified {
            ok: report.ok,
            snapshots: report.snapshots,
            left: report.left,
            bytes: report.bytes,
            unbound_pages: report.unbound_pages,
            errors: report
                .errors
                .iter()
                .map(|problem| Found {
                    snapshot: problem.snapshot.to_string(),
                    path: problem.file.as_deref(),
                    offset: problem.offset,
                    kind: exit_of(problem.kind).name(),
                    problem: &problem.message,
                    hint: problem.hint,
                })
                .collect(),
        };
        let (true, Selection::One(id)) = (self.reload, selection) else {
            let answer = context.answer("vmsnap.verify.v1", &verified, tell)?;
            return Ok(answer.ending(worst(&report)));
        };
        let reload = if report.ok {
            Some(reload::reload(context, &store, id, &self.overriding)?)
        } else {
            None
        };
        let exact = reload.as_ref().is_none_or(Reloaded::is_exact);
        verified.ok &= exact;
        let exit = if exact { worst(&report) } else { Exit::Corrupt };
        let whole = VerifiedAndReloaded { verified, reload };
        let answer = context.answer("vmsnap.verify-reload.v1", &whole, |whole| {
            let reload = whole.reload.as_ref().map(Reloaded::tell);
            tell(&whole.verified) + &reload.unwrap_or_default()
        })?;
        Ok(answer.ending(exit))
    }
}

/// Checks the selected snapshots, with progress.
pub(crate) fn check(
    context: &Context,
    store: &Store,
    options: &VerifyOptions,
    pacing: Pacing,
) -> Result<VerifyReport, Failure> {
    let expected = match options.selection {
        Selection::All if options.older_than.is_none() => store
            .usage()
            .map_or(0, |usage| usage.live_bytes + usage.trash_bytes),
        _ => 0,
    };
    let expected = options
        .max_bytes
        .map_or(expected, |most| expected.min(most));
    let progress = context.progress("verify", expected);
    let mut pace = pacing.start(context);
    let mut spent = 0;
    let report = store.verify_with(options, &mut |state| {
        progress.set(state.bytes, expected.max(state.bytes));
        let paced = pace.spend(state.bytes - spent);
        spent = state.bytes;
        if paced.is_ok() {
            ControlFlow::Continue(())
        } else {
            ControlFlow::Break(())
        }
    });
    report.map_err(|error| context.failure(&error))
}

/// Damage before a version that cannot be read before anything else.
fn worst(report: &VerifyReport) -> Exit {
    let mut exits: Vec<_> = report
        .errors
        .iter()
        .map(|problem| exit_of(problem.kind))
        .collect();
    exits.sort_by_key(|exit| match exit {
        Exit::Corrupt => 0,
        Exit::TooNew => 1,
        _ => 2,
    });
    exits.first().copied().unwrap_or(Exit::Done)
}

fn tell(verified: &Verified<'_>) -> String {
    let problems = verified.errors.iter().map(|found| {
        let place = place(found.problem, found.offset);
        let separator = if found.hint.is_empty() { "" } else { "; " };
        let (snapshot, problem, hint) = (&found.snapshot, found.problem, found.hint);
        printable(&format!("{snapshot}: {problem}{place}{separator}{hint}")) + "\n"
    });
    let verdict = if verified.ok {
        "every byte is right".to_owned()
    } else {
        counted(verified.errors.len() as u64, "problem")
    };
    let left = match verified.left {
        0 => String::new(),
        left => format!("; {} left for the next time", counted(left, "snapshot")),
    };
    let unbound = match verified.unbound_pages {
        0 => String::new(),
        pages => format!(
            "; for {} of consolidated snapshots no manifest is left",
            counted(pages, "page")
        ),
    };
    format!(
        "{}{}, {} checked: {verdict}{left}{unbound}\n",
        problems.collect::<String>(),
        counted(verified.snapshots, "snapshot"),
        show_bytes(verified.bytes)
    )
}

/// A number of bytes; with none at all nothing is ever checked.
fn parse_budget(text: &str) -> Result<u64, String> {
    match parse_bytes(text)? {
        0 => Err("nothing is ever checked within 0 bytes".to_owned()),
        bytes => Ok(bytes),
    }
}
