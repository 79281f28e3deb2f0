//! `vmsnap undelete REF`.

use clap::Args;
use serde::Serialize;
use snapshot_format::SnapshotId;
use snapshot_store::Reference;

use crate::answer::Answer;
use crate::command::reference;
use crate::context::Context;
use crate::failure::Failure;

/// Brings a snapshot back from the trash.
#[derive(Args, Debug)]
pub(crate) struct Undelete {
    /// The snapshot
    #[arg(value_name = "REF", value_parser = reference)]
    reference: Reference,

    /// Show what would be done, and do nothing
    #[arg(long)]
    dry_run: bool,
}

#[derive(Serialize)]
struct Undeleted {
    dry_run: bool,
    id: SnapshotId,
}

impl Undelete {
    /// Whether the store is changed.
    pub(crate) fn changes(&self) -> bool {
        !self.dry_run
    }

    pub(crate) fn run(&self, context: &Context) -> Result<Answer, Failure> {
        let store = context.open_to(self.changes())?;
        let id = store
            .resolve_in_trash(&self.reference)
            .map_err(|error| context.failure(&error))?;
        if !self.dry_run {
            store
                .undelete(id)
                .map_err(|error| context.failure(&error))?;
        }
        let undeleted = Undeleted {
            dry_run: self.dry_run,
            id,
        };
        context.answer("vmsnap.undelete.v1", &undeleted, |done| {
            let verb = if done.dry_run {
                "would bring"
            } else {
                "brought"
            };
            format!("{verb} snapshot {} back", done.id)
        })
    }
}
