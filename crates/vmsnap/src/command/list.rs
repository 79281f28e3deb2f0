//! `vmsnap list [VM]`.

use clap::Args;
use serde::Serialize;
use snapshot_format::{BranchName, LabelKey, LabelValue, Tag, VmName};
use snapshot_store::{CATEGORY, ErrorKind, Filter, Index, NamePattern, SearchText, Store};

use crate::answer::Answer;
use crate::context::Context;
use crate::failure::Failure;
use crate::view::{DamagedView, Kind, Sizes, SnapshotView, State, show_list, views};

/// Lists snapshots, oldest first within each virtual machine.
#[derive(Args, Debug)]
pub(crate) struct List {
    /// Only those of this virtual machine
    vm: Option<VmName>,

    /// Only those with this tag; given more than once: with all of them
    #[arg(long, value_name = "TAG")]
    tag: Vec<Tag>,

    /// Only those with this label, or with this value of it
    #[arg(long, value_name = "KEY[=VALUE]", value_parser = wanted_label)]
    label: Vec<(LabelKey, Option<LabelValue>)>,

    /// Only those of this category: those with the label `category` of this value
    #[arg(long, value_name = "C")]
    category: Option<LabelValue>,

    /// Only those that were taken on this branch
    #[arg(long, value_name = "B")]
    branch: Option<BranchName>,

    /// Only those whose name fits: `*` is any characters, `?` is one
    #[arg(long, value_name = "PATTERN")]
    name: Option<NamePattern>,

    /// Only those with this text in name, description, tags, labels or id
    #[arg(long, value_name = "TEXT")]
    search: Option<SearchText>,

    /// Only full snapshots, or only those with a parent
    #[arg(long = "type", value_name = "TYPE")]
    kind: Option<Kind>,

    /// Those in use, or those in the trash
    #[arg(long, value_name = "STATE", default_value = "live")]
    state: State,

    /// Show how much space each takes, and all together
    #[arg(long)]
    size: bool,
}

#[derive(Serialize)]
struct Listed {
    snapshots: Vec<SnapshotView>,
    damaged: Vec<DamagedView>,
    sizes: Option<Sizes>,
}

impl List {
    pub(crate) fn run(&self, context: &Context) -> Result<Answer, Failure> {
        let store = context.open_to_list()?;
        let place = context.index_place(&store)?;
        let mut index = Index::open(&store, place.as_deref());
        let listing = index.list(self.state.into(), &self.filter()?);
        let (snapshots, damaged) = views(&listing.map_err(|error| context.failure(&error))?);
        let sizes = self.size.then(|| self.sizes(context, &store, &snapshots));
        let listed = Listed {
            snapshots,
            damaged,
            sizes: sizes.transpose()?,
        };
        context.answer("vmsnap.list.v1", &listed, |listed| {
            show_list(&listed.snapshots, &listed.damaged, listed.sizes.as_ref())
        })
    }

    fn filter(&self) -> Result<Filter, Failure> {
        let mut filter = Filter::default();
        filter.vm.clone_from(&self.vm);
        filter.branch.clone_from(&self.branch);
        filter.tags.clone_from(&self.tag);
        filter.labels.clone_from(&self.label);
        if let Some(category) = &self.category {
            let key = LabelKey::new(CATEGORY).map_err(|error| Failure::usage(error.to_string()))?;
            filter.labels.push((key, Some(category.clone())));
        }
        filter.has_parent = self.kind.map(|kind| kind == Kind::Diff);
        filter.name.clone_from(&self.name);
        filter.text.clone_from(&self.search);
        Ok(filter)
    }

    fn sizes(
        &self,
        context: &Context,
        store: &Store,
        snapshots: &[SnapshotView],
    ) -> Result<Sizes, Failure> {
        let mut sizes = Sizes::default();
        for one in snapshots {
            let bytes = match store.allocated_bytes(self.state.into(), one.id) {
                // Deleted or brought back since it was listed.
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                bytes => bytes.map_err(|error| context.failure(&error))?,
            };
            sizes.total_bytes = sizes.total_bytes.saturating_add(bytes);
            sizes.snapshots.insert(one.id.to_string(), bytes);
        }
        Ok(sizes)
    }
}

/// Reads `KEY` or `KEY=VALUE`.
fn wanted_label(text: &str) -> Result<(LabelKey, Option<LabelValue>), String> {
    let (key, value) = match text.split_once('=') {
        Some((key, value)) => (key, Some(value)),
        None => (text, None),
    };
    let key = LabelKey::new(key).map_err(|error| error.to_string())?;
    let value = value.map(LabelValue::new).transpose();
    Ok((key, value.map_err(|error| error.to_string())?))
}
