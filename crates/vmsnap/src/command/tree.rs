//! `vmsnap tree [VM]`.

use std::collections::BTreeMap;

use clap::Args;
use serde::Serialize;
use snapshot_format::{SnapshotId, VmName};
use snapshot_store::{Access, Forest, ParentLink, Reference, SnapshotRecord, Store};

use crate::answer::Answer;
use crate::command::reference;
use crate::context::Context;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::view::{SnapshotView, short};

/// Draws the snapshots of a virtual machine, each below its parent.
#[derive(Args, Debug)]
pub(crate) struct Tree {
    /// The virtual machine
    #[arg(required_unless_present_any = ["path", "below", "common"])]
    vm: Option<VmName>,

    /// Only this snapshot and its ancestors
    #[arg(long, value_name = "REF", value_parser = reference)]
    path: Option<Reference>,

    /// Only this snapshot and its descendants
    #[arg(long, value_name = "REF", value_parser = reference, conflicts_with = "path")]
    below: Option<Reference>,

    /// Only the first snapshot that both descend from
    #[arg(
        long, value_names = ["REF", "REF"], num_args = 2, value_parser = reference,
        conflicts_with_all = ["path", "below"]
    )]
    common: Option<Vec<Reference>>,
}

#[derive(Serialize)]
struct Drawn {
    vm: String,
    entries: Vec<Entry>,
}

#[derive(Serialize)]
struct Entry {
    depth: usize,
    parent_link: ParentLink,
    #[serde(flatten)]
    snapshot: SnapshotView,
}

impl Tree {
    pub(crate) fn run(&self, context: &Context) -> Result<Answer, Failure> {
        let store = context.open(Access::ReadOnly)?;
        let entries = match self.related(context, &store)? {
            Some(entries) => entries,
            None => self.whole(context, &store)?,
        };
        let first = entries.first().map(|entry| entry.snapshot.vm.clone());
        let named = self.vm.as_ref().map(ToString::to_string);
        let drawn = Drawn {
            vm: named.or(first).unwrap_or_default(),
            entries,
        };
        context.answer("vmsnap.tree.v1", &drawn, |drawn| draw(&drawn.entries))
    }

    /// All snapshots of the machine.
    fn whole(&self, context: &Context, store: &Store) -> Result<Vec<Entry>, Failure> {
        let entries = store
            .tree(self.vm.as_ref())
            .map_err(|error| context.failure(&error))?;
        if let (true, Some(vm)) = (entries.is_empty(), &self.vm) {
            return Err(
                Failure::new(Exit::NotFound, format!("VM {vm} has no snapshot"))
                    .hint("see `vmsnap list`"),
            );
        }
        let entries = entries.iter().map(|entry| Entry {
            depth: entry.depth,
            parent_link: entry.parent,
            snapshot: SnapshotView::from(&entry.record),
        });
        Ok(entries.collect())
    }

    /// The relatives that are asked for, in the forest of the whole store; `None` if none are.
    fn related(&self, context: &Context, store: &Store) -> Result<Option<Vec<Entry>>, Failure> {
        let wanted: Vec<&Reference> = self
            .path
            .iter()
            .chain(&self.below)
            .chain(self.common.iter().flatten())
            .collect();
        if wanted.is_empty() {
            return Ok(None);
        }
        let ids = wanted.into_iter().map(|text| context.resolve(store, text));
        let ids = ids.collect::<Result<Vec<_>, Failure>>()?;
        let listing = store.list(None).map_err(|error| context.failure(&error))?;
        let forest = Forest::of(&listing.snapshots);
        let shown: Vec<SnapshotId> = match ids.as_slice() {
            [one] if self.path.is_some() => forest.path(*one).into_iter().rev().collect(),
            [one] => [vec![*one], forest.descendants(*one)].concat(),
            [one, other] => {
                let ancestor = forest.common_ancestor(*one, *other);
                vec![ancestor.ok_or_else(|| {
                    let (one, other) = (short(*one), short(*other));
                    let message = format!("{one} and {other} have no common ancestor");
                    Failure::new(Exit::NotFound, message)
                })?]
            }
            _ => Vec::new(),
        };
        Ok(Some(entries(&forest, &listing.snapshots, &shown)))
    }
}

/// A line for each of `shown`, the first of which is above all others.
fn entries(forest: &Forest, records: &[SnapshotRecord], shown: &[SnapshotId]) -> Vec<Entry> {
    let records: BTreeMap<SnapshotId, &SnapshotRecord> =
        records.iter().map(|record| (record.id, record)).collect();
    let above = shown.first().map_or(0, |first| forest.path(*first).len());
    let entries = shown.iter().enumerate().filter_map(|(at, id)| {
        let record = *records.get(id)?;
        Some(Entry {
            depth: forest.path(*id).len().saturating_sub(above),
            parent_link: match record.parent {
                None => ParentLink::None,
                Some(_) if at > 0 => ParentLink::Shown,
                Some(_) => ParentLink::Elsewhere,
            },
            snapshot: SnapshotView::from(record),
        })
    });
    entries.collect()
}

/// One line a snapshot, with branches drawn to the left of it.
fn draw(entries: &[Entry]) -> String {
    let depths: Vec<usize> = entries.iter().map(|entry| entry.depth).collect();
    let lines = entries.iter().enumerate().map(|(at, entry)| {
        let one = &entry.snapshot;
        let missing = match (entry.parent_link, one.parent) {
            (ParentLink::Elsewhere, Some(parent)) => {
                format!("(parent {} is not here)", short(parent))
            }
            _ => String::new(),
        };
        let words = [
            one.title(),
            short(one.id),
            one.local_time(),
            one.marks(),
            missing,
        ];
        let told: Vec<_> = words.into_iter().filter(|word| !word.is_empty()).collect();
        format!("{}{}\n", branches(&depths, at), told.join("  "))
    });
    lines.collect()
}

/// What stands to the left of line `at`: its own branch, and those that pass it by.
fn branches(depths: &[usize], at: usize) -> String {
    let own = depths.get(at).copied().unwrap_or(0);
    let below = depths.get(at + 1..).unwrap_or(&[]);
    // A level goes on if a later line is on it before one that is above it.
    let goes_on = |level: usize| below.iter().find(|&&depth| depth <= level) == Some(&level);
    let mut text = String::new();
    for level in 1..=own {
        text.push_str(match (level == own, goes_on(level)) {
            (true, true) => "├─ ",
            (true, false) => "└─ ",
            (false, true) => "│  ",
            (false, false) => "   ",
        });
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn branches_join_the_lines_of_one_parent() {
        let depths = [0, 1, 2, 2, 1, 2, 0];
        let drawn: Vec<_> = (0..depths.len()).map(|at| branches(&depths, at)).collect();
        assert_eq!(drawn, ["", "├─ ", "│  ├─ ", "│  └─ ", "└─ ", "   └─ ", ""]);
    }
}
