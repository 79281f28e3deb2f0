//! `vmsnap audit`.

use std::collections::VecDeque;

use clap::Args;
use serde::Serialize;
use snapshot_format::Digest;
use snapshot_store::{Access, AuditEntry, AuditEvent, AuditReport};

use crate::answer::Answer;
use crate::context::Context;
use crate::exit::Exit;
use crate::failure::{Failure, printable};
use crate::quantity::counted;
use crate::view::show_local_time;

/// Shows who changed the store, and checks that the log of it is whole.
#[derive(Args, Debug)]
pub(crate) struct Audit {
    /// Check only, and show no entries
    #[arg(long)]
    verify: bool,

    /// A head that was told before: it must still be in the log
    #[arg(long, value_name = "DIGEST")]
    head: Option<Digest>,

    /// How many entries to show
    #[arg(
        long,
        value_name = "N",
        default_value_t = 20,
        conflicts_with = "verify"
    )]
    last: usize,
}

#[derive(Serialize)]
struct Audited {
    #[serde(flatten)]
    report: AuditReport,
    last: VecDeque<AuditEntry>,
}

/// Entries that are shown at most.
const MAX_SHOWN: usize = 10_000;

impl Audit {
    pub(crate) fn run(&self, context: &Context) -> Result<Answer, Failure> {
        let store = context.open(Access::ReadOnly)?;
        let wanted = if self.verify {
            0
        } else {
            self.last.min(MAX_SHOWN)
        };
        let mut last = VecDeque::new();
        let report = store.read_audit(self.head, &mut |entry, _| {
            last.push_back(entry.clone());
            if last.len() > wanted {
                last.pop_front();
            }
        });
        let report = report.map_err(|error| context.failure(&error))?;
        let exit = if report.ok { Exit::Done } else { Exit::Corrupt };
        let answer = context.answer("vmsnap.audit.v1", &Audited { report, last }, tell)?;
        Ok(answer.ending(exit))
    }
}

fn tell(audited: &Audited) -> String {
    let report = &audited.report;
    let mut lines: Vec<String> = audited.last.iter().map(tell_entry).collect();
    for one in &report.unfinished {
        lines.push(format!("{}: {} has no outcome", one.seq, one.command));
    }
    for one in &report.problems {
        lines.push(format!("damaged at byte {}: {}", one.offset, one.problem));
    }
    if report.torn_bytes > 0 {
        lines.push(format!(
            "the end is cut short: {} of no entry",
            counted(report.torn_bytes, "byte")
        ));
    }
    if report.head_found == Some(false) {
        lines.push("the head is not in this log".to_owned());
    }
    let entries = match report.entries {
        1 => "1 entry".to_owned(),
        count => format!("{count} entries"),
    };
    let damage = match report.problem_count {
        0 => String::new(),
        count => format!(", {count} damaged"),
    };
    lines.push(format!("{entries}{damage}, head {}", report.head));
    lines.iter().map(|line| printable(line) + "\n").collect()
}

fn tell_entry(entry: &AuditEntry) -> String {
    let what = match &entry.event {
        AuditEvent::Intent { arguments, .. } => arguments.join(" "),
        AuditEvent::Outcome {
            of,
            result,
            message,
        } => format!("{of} ended: {result} {message}"),
        _ => "an event of a later version".to_owned(),
    };
    let actor = &entry.actor;
    format!(
        "{}  {}  {}/{}/{}  {}",
        entry.seq,
        show_local_time(entry.at_unix_ms),
        actor.host,
        actor.uid,
        actor.pid,
        what.trim_end()
    )
}
