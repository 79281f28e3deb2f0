//! `vmsnap warm REF [--drop]`.

use clap::Args;
use serde::Serialize;
use snapshot_format::SnapshotId;
use snapshot_store::{Access, Reference, WarmReport};

use crate::answer::Answer;
use crate::command::reference;
use crate::context::Context;
use crate::failure::{Failure, printable};
use crate::pacing::Pacing;
use crate::quantity::show_bytes;
use crate::view::short;

/// Builds the whole memory of a snapshot as one raw file in `cache/`, for clones to map.
#[derive(Args, Debug)]
pub(crate) struct Warm {
    /// The snapshot
    #[arg(value_name = "REF", value_parser = reference)]
    reference: Reference,

    /// Remove the file instead; clones that have it mapped keep it
    #[arg(long)]
    drop: bool,

    #[command(flatten)]
    pacing: Pacing,
}

#[derive(Serialize)]
struct Dropped {
    id: SnapshotId,
    dropped: bool,
}

impl Warm {
    pub(crate) fn run(&self, context: &Context) -> Result<Answer, Failure> {
        let store = context.open(Access::ReadWrite)?;
        let id = context.resolve(&store, &self.reference)?;
        if self.drop {
            let dropped = store.drop_cached(id);
            let dropped = dropped.map_err(|error| context.failure(&error))?;
            let dropped = Dropped { id, dropped };
            return context.answer("vmsnap.warm-drop.v1", &dropped, tell_dropped);
        }
        self.pacing.begin()?;
        // How much there is to copy is told with the first bytes of it.
        let control = self.pacing.control(context.progress("warm", 0));
        let control = control.cancel(context.interrupt.cancel());
        let report = store.warm_job(id, control).run();
        let report = report.map_err(|error| context.failure(&error))?;
        context.answer("vmsnap.warm.v1", &report, tell)
    }
}

fn tell(report: &WarmReport) -> String {
    let (file, takes) = (&report.file, show_bytes(report.allocated_bytes));
    let ways = if report.built {
        let (shared, copied) = (report.shared_bytes, report.copied_bytes);
        format!(
            " ({} shared, {} copied)",
            show_bytes(shared),
            show_bytes(copied)
        )
    } else {
        String::new()
    };
    printable(&format!(
        "{} snapshot {} as {file}: {} of memory in {takes}{ways}",
        if report.built { "built" } else { "there is" },
        short(report.id),
        show_bytes(report.len_bytes),
    ))
}

fn tell_dropped(done: &Dropped) -> String {
    let verb = if done.dropped {
        "removed the materialised image of"
    } else {
        "there is no materialised image of"
    };
    format!("{verb} snapshot {}", short(done.id))
}
