//! `vmsnap list [VM]`.

use clap::Args;
use serde::Serialize;
use snapshot_format::VmName;
use snapshot_store::Access;

use crate::answer::Answer;
use crate::context::Context;
use crate::failure::Failure;
use crate::view::{DamagedView, Kind, SnapshotView, State, show_list, views};

/// Lists snapshots, oldest first within each virtual machine.
#[derive(Args, Debug)]
pub(crate) struct List {
    /// Only those of this virtual machine
    vm: Option<VmName>,

    /// Only those with this tag; given more than once: with all of them
    #[arg(long, value_name = "TAG")]
    tag: Vec<String>,

    /// Only those with this label, or with this value of it
    #[arg(long, value_name = "KEY[=VALUE]")]
    label: Vec<String>,

    /// Only full snapshots, or only those with a parent
    #[arg(long = "type", value_name = "TYPE")]
    kind: Option<Kind>,

    /// Those in use, or those in the trash
    #[arg(long, value_name = "STATE", default_value = "live")]
    state: State,
}

#[derive(Serialize)]
struct Listed {
    snapshots: Vec<SnapshotView>,
    damaged: Vec<DamagedView>,
}

impl List {
    pub(crate) fn run(&self, context: &Context) -> Result<Answer, Failure> {
        let store = context.open(Access::ReadOnly)?;
        let listing = match self.state {
            State::Live => store.list(self.vm.as_ref()),
            State::Trash => store.trash(),
        };
        let listing = listing.map_err(|error| context.failure(&error))?;
        let (mut snapshots, damaged) = views(&listing);
        snapshots.retain(|view| self.selects(view));
        let listed = Listed { snapshots, damaged };
        context.answer("vmsnap.list.v1", &listed, |listed| {
            show_list(&listed.snapshots, &listed.damaged)
        })
    }

    fn selects(&self, view: &SnapshotView) -> bool {
        let labelled = |wanted: &String| match wanted.split_once('=') {
            Some((key, value)) => view.labels.get(key).is_some_and(|found| found == value),
            None => view.labels.contains_key(wanted),
        };
        let of_vm = |vm: &VmName| vm.as_str().eq_ignore_ascii_case(&view.vm);
        self.vm.as_ref().is_none_or(of_vm)
            && self.tag.iter().all(|tag| view.tags.contains(tag))
            && self.label.iter().all(labelled)
            && self.kind.is_none_or(|kind| kind == view.kind)
    }
}
