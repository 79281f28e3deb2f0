//! `vmsnap gc [--grace AGE]`.

use clap::Args;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde::Serialize;
use snapshot_store::retention::Age;
use snapshot_store::{GarbageOptions, GarbageReport};

use crate::answer::Answer;
use crate::context::Context;
use crate::exit::Exit;
use crate::failure::{Failure, printable};
use crate::quantity::{counted, show_bytes};
use crate::view::short;

/// Removes for good what is in the trash and nobody needs, and files that newer ones superseded.
#[derive(Args, Debug)]
pub(crate) struct Gc {
    /// Leave what was first seen deleted less than this ago: 36h, 7d
    #[arg(long, value_name = "AGE")]
    grace: Option<Age>,

    /// Show what would be done, and do nothing
    #[arg(long)]
    dry_run: bool,
}

#[derive(Serialize)]
struct Done {
    dry_run: bool,
    #[serde(flatten)]
    report: GarbageReport,
}

impl Gc {
    /// Whether it changes the store.
    pub(crate) fn changes(&self) -> bool {
        !self.dry_run
    }

    pub(crate) fn run(&self, context: &Context) -> Result<Answer, Failure> {
        let store = context.open_to(self.changes())?;
        let options = self.options();
        let report = if self.dry_run {
            store.plan_collect(&options)
        } else {
            store.collect(&options)
        };
        let report = report.map_err(|error| context.failure(&error))?;
        let exit = if report.is_complete() {
            Exit::Done
        } else {
            Exit::PartlyDone
        };
        let dry_run = self.dry_run;
        let answer = context.answer("vmsnap.gc.v1", &Done { dry_run, report }, tell)?;
        Ok(answer.ending(exit))
    }

    fn options(&self) -> GarbageOptions {
        let now = Timestamp::now();
        let since = self.grace.map_or(now, |grace| {
            let now = now.to_zoned(TimeZone::UTC);
            now.saturating_sub(grace.span()).timestamp()
        });
        let ms = |time: Timestamp| u64::try_from(time.as_millisecond()).unwrap_or(0);
        GarbageOptions::default().grace(ms(now) - ms(since).min(ms(now)), ms(now))
    }
}

fn tell(done: &Done) -> String {
    let report = &done.report;
    let mut text = String::new();
    let would = if done.dry_run { "would " } else { "" };
    let removed = if done.dry_run { "remove" } else { "removed" };
    for one in &report.collected {
        let line = format!(
            "{would}{removed} snapshot {}: {}\n",
            short(one.id),
            show_bytes(one.allocated_bytes)
        );
        text.push_str(&line);
    }
    for one in &report.trimmed {
        let line = format!(
            "{would}{removed} {} of snapshot {}: {}\n",
            counted(one.files.len() as u64, "superseded file"),
            short(one.id),
            show_bytes(one.allocated_bytes)
        );
        text.push_str(&line);
    }
    for one in &report.problems {
        text.push_str(&printable(&format!("{}: {}", short(one.id), one.problem)));
        text.push('\n');
    }
    let freed = if done.dry_run { "free" } else { "freed" };
    let kept = counted(report.kept.len() as u64, "deleted snapshot");
    let bytes = show_bytes(report.freed_bytes);
    text + &format!("{would}{freed} {bytes}; {kept} stay in the trash\n")
}
