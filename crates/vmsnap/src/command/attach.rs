//! `vmsnap tag`, `label`, `describe` and `protect`: what people attach to a snapshot.

use clap::Args;
use snapshot_format::{Description, LabelKey, LabelValue, SnapshotName, Tag};
use snapshot_store::{Access, Metadata, Reference};

use crate::answer::Answer;
use crate::command::{label, reference};
use crate::context::Context;
use crate::failure::{Failure, printable};
use crate::view::{SnapshotView, short};

/// Adds tags to a snapshot, or removes them.
#[derive(Args, Debug)]
pub(crate) struct TagCommand {
    /// The snapshot
    #[arg(value_name = "REF", value_parser = reference)]
    reference: Reference,

    /// Tags to add
    #[arg(value_name = "TAG")]
    add: Vec<Tag>,

    /// A tag to remove; may be given more than once
    #[arg(long, value_name = "TAG")]
    remove: Vec<Tag>,
}

/// Sets labels of a snapshot, or removes them.
#[derive(Args, Debug)]
pub(crate) struct LabelCommand {
    /// The snapshot
    #[arg(value_name = "REF", value_parser = reference)]
    reference: Reference,

    /// Labels to set; `category` is the snapshot's category
    #[arg(value_name = "K=V", value_parser = label)]
    set: Vec<(LabelKey, LabelValue)>,

    /// The key of a label to remove; may be given more than once
    #[arg(long, value_name = "K")]
    remove: Vec<LabelKey>,
}

/// Names a snapshot, or describes it.
#[derive(Args, Debug)]
pub(crate) struct Describe {
    /// The snapshot
    #[arg(value_name = "REF", value_parser = reference)]
    reference: Reference,

    /// Its name from now on, unique in the VM
    #[arg(long, conflicts_with = "no_name")]
    name: Option<SnapshotName>,

    /// Take its name away
    #[arg(long)]
    no_name: bool,

    /// What it is; an empty text takes the description away
    #[arg(long, value_name = "TEXT")]
    description: Option<Description>,
}

/// Keeps a snapshot from being deleted.
#[derive(Args, Debug)]
pub(crate) struct Protect {
    /// The snapshot
    #[arg(value_name = "REF", value_parser = reference)]
    reference: Reference,

    /// Let it be deleted again
    #[arg(long)]
    off: bool,
}

impl TagCommand {
    pub(crate) fn run(&self, context: &Context) -> Result<Answer, Failure> {
        change(context, &self.reference, |metadata| {
            metadata.tags.extend(self.add.iter().cloned());
            metadata.tags.retain(|tag| !self.remove.contains(tag));
        })
    }
}

impl LabelCommand {
    pub(crate) fn run(&self, context: &Context) -> Result<Answer, Failure> {
        change(context, &self.reference, |metadata| {
            metadata.labels.extend(self.set.iter().cloned());
            metadata.labels.retain(|key, _| !self.remove.contains(key));
        })
    }
}

impl Describe {
    pub(crate) fn run(&self, context: &Context) -> Result<Answer, Failure> {
        change(context, &self.reference, |metadata| {
            if self.name.is_some() || self.no_name {
                metadata.name.clone_from(&self.name);
            }
            if let Some(description) = &self.description {
                metadata.description.clone_from(description);
            }
        })
    }
}

impl Protect {
    pub(crate) fn run(&self, context: &Context) -> Result<Answer, Failure> {
        change(context, &self.reference, |metadata| {
            metadata.protected = !self.off;
        })
    }
}

/// Changes what is attached to a snapshot, and answers with it as it is then.
fn change(
    context: &Context,
    reference: &Reference,
    change: impl FnOnce(&mut Metadata),
) -> Result<Answer, Failure> {
    let store = context.open(Access::ReadWrite)?;
    let id = context.resolve(&store, reference)?;
    let failed = |error| context.failure(&error);
    store.change_metadata(id, change).map_err(failed)?;
    let view = SnapshotView::from(&store.snapshot(id).map_err(failed)?);
    context.answer("vmsnap.metadata.v1", &view, |view| {
        let line = format!("{}  {}  {}", view.title(), short(view.id), view.marks());
        printable(line.trim_end())
    })
}
