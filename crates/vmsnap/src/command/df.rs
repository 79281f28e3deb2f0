//! `vmsnap df`.

use clap::Args;
use snapshot_store::{Access, Location, Usage};

use crate::answer::Answer;
use crate::context::Context;
use crate::failure::{Failure, printable};
use crate::quantity::show_bytes;
use crate::table::{draw, table};
use crate::view::short;

/// Shows the space that each snapshot takes, and all together.
#[derive(Args, Debug)]
pub(crate) struct Df {}

impl Df {
    #[expect(clippy::unused_self, reason = "every command is run the same way")]
    pub(crate) fn run(&self, context: &Context) -> Result<Answer, Failure> {
        let store = context.open(Access::ReadOnly)?;
        let usage = store.usage().map_err(|error| context.failure(&error))?;
        context.answer("vmsnap.df.v1", &usage, tell)
    }
}

fn tell(usage: &Usage) -> String {
    let mut rows = table(&["ID", "VM", "STATE", ">LENGTH", ">ON DISK", ">NEEDED BY"]);
    for one in &usage.snapshots {
        rows.add_row([
            short(one.id),
            one.vm
                .as_ref()
                .map_or_else(|| "?".to_owned(), ToString::to_string),
            match one.location {
                Location::Live => "live",
                Location::Trash => "trash",
            }
            .to_owned(),
            show_bytes(one.len_bytes),
            show_bytes(one.allocated_bytes),
            one.needed_by.to_string(),
        ]);
    }
    for one in &usage.cached {
        rows.add_row([
            one.id.map_or_else(|| printable(&one.file), short),
            String::new(),
            "cached".to_owned(),
            show_bytes(one.len_bytes),
            show_bytes(one.allocated_bytes),
            String::new(),
        ]);
    }
    let listed = if usage.snapshots.is_empty() && usage.cached.is_empty() {
        String::new()
    } else {
        draw(&rows)
    };
    format!(
        "{listed}live {}, trash {} (of which {} still needed), cache {}, free {}\n",
        show_bytes(usage.live_bytes),
        show_bytes(usage.trash_bytes),
        show_bytes(usage.trash_needed_bytes),
        show_bytes(usage.cache_bytes),
        show_bytes(usage.free_bytes)
    )
}
