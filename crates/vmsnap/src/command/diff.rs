//! `vmsnap diff A B`.

use clap::Args;
use snapshot_format::PAGE_BYTES;
use snapshot_store::{Access, MemoryDifference, PageCountsBy, Reference, SnapshotDifference};

use crate::answer::Answer;
use crate::command::reference;
use crate::context::Context;
use crate::failure::{Failure, printable};
use crate::quantity::{counted, show_bytes};
use crate::table::{draw, table};

/// Compares two snapshots: memory by region, machine state, and what is attached to them.
#[derive(Args, Debug)]
pub(crate) struct Diff {
    /// The one before
    #[arg(value_name = "A", value_parser = reference)]
    before: Reference,

    /// The one after
    #[arg(value_name = "B", value_parser = reference)]
    after: Reference,
}

impl Diff {
    pub(crate) fn run(&self, context: &Context) -> Result<Answer, Failure> {
        let store = context.open(Access::Auto)?;
        let before = context.resolve(&store, &self.before)?;
        let after = context.resolve(&store, &self.after)?;
        let failed = |error| context.failure(&error);
        let bytes = store.snapshot(after).map_err(failed)?.layout.len_bytes();
        let progress = context.progress("compare", bytes);
        let found = store.difference(before, after, &mut |pages| {
            progress.add(pages.saturating_mul(PAGE_BYTES));
            context.interrupt.flow()
        });
        let found = found.map_err(failed)?;
        drop(progress);
        context.answer("vmsnap.diff.v1", &found, tell)
    }
}

fn tell(found: &SnapshotDifference) -> String {
    let mut text = match &found.memory {
        None => "one of them has no memory\n".to_owned(),
        Some(memory) => tell_memory(memory),
    };
    let state = &found.state;
    let sections = [
        ("changed", &state.changed),
        ("added", &state.added),
        ("removed", &state.removed),
    ];
    let same = counted(state.same, "section");
    text.extend(["state: ", &same, " the same\n"]);
    for (word, sections) in sections {
        for section in sections {
            let line = format!("state: {} {} {word}\n", section.kind, section.instance);
            text.push_str(&line);
        }
    }
    if found.config_changed {
        text.push_str("the configuration differs\n");
    }
    for one in &found.attached {
        let value = |value: &Option<String>| value.clone().unwrap_or_else(|| "-".to_owned());
        let line = format!(
            "{}: {} -> {}",
            one.key,
            value(&one.before),
            value(&one.after)
        );
        text.push_str(&printable(&line));
        text.push('\n');
    }
    text
}

fn tell_memory(memory: &MemoryDifference) -> String {
    let mut rows = table(&[
        "REGION",
        ">SIZE",
        ">SAME",
        ">CHANGED",
        ">TO ZERO",
        ">FROM ZERO",
        ">ADDED",
        ">REMOVED",
    ]);
    let cells = |place: String, pages: u64, counts: &PageCountsBy| {
        [
            place,
            show_bytes(pages.saturating_mul(PAGE_BYTES)),
            counts.same.to_string(),
            counts.changed.to_string(),
            counts.became_zero.to_string(),
            counts.became_data.to_string(),
            counts.added.to_string(),
            counts.removed.to_string(),
        ]
    };
    for region in &memory.regions {
        let place = format!("{:#x}", region.start.0);
        rows.add_row(cells(place, region.pages, &region.counts));
    }
    let pages = memory.regions.iter().map(|region| region.pages).sum();
    rows.add_row(cells("all".to_owned(), pages, &memory.counts));
    format!(
        "{}{} differ, {} had to be read\n",
        draw(&rows),
        counted(memory.differing_bytes, "byte"),
        counted(memory.compared_pages, "page")
    )
}
