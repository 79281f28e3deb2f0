//! `vmsnap delete REF`.

use clap::Args;
use serde::Serialize;
use snapshot_store::{DeletePlan, Reference};

use crate::answer::Answer;
use crate::command::reference;
use crate::context::Context;
use crate::failure::Failure;
use crate::quantity::show_bytes;
use crate::view::short;

/// Moves a snapshot to the trash; its data stays as long as another snapshot needs it.
#[derive(Args, Debug)]
pub(crate) struct Delete {
    /// The snapshot
    #[arg(value_name = "REF", value_parser = reference)]
    reference: Reference,

    /// Show what would be done, and do nothing
    #[arg(long)]
    dry_run: bool,
}

#[derive(Serialize)]
struct Deleted {
    dry_run: bool,
    #[serde(flatten)]
    plan: DeletePlan,
}

impl Delete {
    /// Whether the store is changed.
    pub(crate) fn changes(&self) -> bool {
        !self.dry_run
    }

    pub(crate) fn run(&self, context: &Context) -> Result<Answer, Failure> {
        let store = context.open_to(self.changes())?;
        let id = context.resolve(&store, &self.reference)?;
        let plan = store
            .plan_delete(id)
            .map_err(|error| context.failure(&error))?;
        if !self.dry_run {
            store
                .delete(&plan)
                .map_err(|error| context.failure(&error))?;
        }
        let deleted = Deleted {
            dry_run: self.dry_run,
            plan,
        };
        context.answer("vmsnap.delete.v1", &deleted, tell)
    }
}

fn tell(deleted: &Deleted) -> String {
    let plan = &deleted.plan;
    let kept_for: Vec<_> = plan.needed_by.iter().map(|&id| short(id)).collect();
    let kept = match kept_for.as_slice() {
        [] => String::new(),
        ids => format!(", kept for {}", ids.join(", ")),
    };
    let refused = plan.refusal.as_ref().map_or_else(String::new, |refusal| {
        format!("; it would be refused: the snapshot is {refusal}")
    });
    format!(
        "{} snapshot {} to the trash: {} in its files{kept}{refused}",
        if deleted.dry_run {
            "would move"
        } else {
            "moved"
        },
        plan.id,
        show_bytes(plan.allocated_bytes)
    )
}
