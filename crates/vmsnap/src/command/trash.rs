//! `vmsnap trash`.

use clap::Args;
use serde::Serialize;
use snapshot_store::Access;

use crate::answer::Answer;
use crate::context::Context;
use crate::failure::Failure;
use crate::view::{DamagedView, SnapshotView, show_list, views};

/// Lists the deleted snapshots.
#[derive(Args, Debug)]
pub(crate) struct Trash {}

#[derive(Serialize)]
struct Listed {
    snapshots: Vec<SnapshotView>,
    damaged: Vec<DamagedView>,
}

impl Trash {
    #[expect(clippy::unused_self, reason = "every command is run the same way")]
    pub(crate) fn run(&self, context: &Context) -> Result<Answer, Failure> {
        let store = context.open(Access::ReadOnly)?;
        let listing = store.trash().map_err(|error| context.failure(&error))?;
        let (snapshots, damaged) = views(&listing);
        let listed = Listed { snapshots, damaged };
        context.answer("vmsnap.trash.v1", &listed, |listed| {
            show_list(&listed.snapshots, &listed.damaged, None)
        })
    }
}
