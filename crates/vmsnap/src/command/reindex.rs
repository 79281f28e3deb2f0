//! `vmsnap reindex`.

use clap::Args;
use serde::Serialize;
use snapshot_store::{Index, IndexUse, Reindexed};

use crate::answer::Answer;
use crate::context::Context;
use crate::failure::{Failure, printable};
use crate::quantity::counted;
use crate::view::DamagedView;

/// Makes the index of the store anew from its files.
#[derive(Args, Debug)]
pub(crate) struct Reindex {}

#[derive(Serialize)]
struct Told {
    index: IndexUse,
    snapshots: u64,
    damaged: Vec<DamagedView>,
}

impl Reindex {
    #[expect(clippy::unused_self, reason = "every command is run the same way")]
    pub(crate) fn run(&self, context: &Context) -> Result<Answer, Failure> {
        let store = context.open_to_list()?;
        let place = context.index_place(&store)?;
        let made = Index::rebuild(&store, place.as_deref());
        let Reindexed {
            index,
            snapshots,
            damaged,
            ..
        } = made.map_err(|error| context.failure(&error))?;
        let told = Told {
            index,
            snapshots,
            damaged: damaged.iter().map(DamagedView::from).collect(),
        };
        context.answer("vmsnap.reindex.v1", &told, |told| {
            let read = counted(told.snapshots, "snapshot");
            let mut text = match told.index {
                IndexUse::None => format!("read {read}; there is no place for an index\n"),
                _ => format!("indexed {read}\n"),
            };
            for one in &told.damaged {
                text.push_str(&printable(&format!("damaged: {}: {}", one.id, one.problem)));
                text.push('\n');
            }
            text
        })
    }
}
