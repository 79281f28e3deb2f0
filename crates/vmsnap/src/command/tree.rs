//! `vmsnap tree [VM]`.

use std::collections::BTreeMap;

use clap::Args;
use serde::Serialize;
use snapshot_format::{SnapshotId, VmName};
use snapshot_store::{
    Access, Forest, Listing, LostSnapshot, ParentLink, Reference, SnapshotRecord, Store,
};

use crate::answer::Answer;
use crate::command::reference;
use crate::context::Context;
use crate::exit::Exit;
use crate::failure::{Failure, printable};
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
    /// Those whose manifests cannot be read, where they have a parent or children among the others.
    lost: Vec<LostSnapshot>,
    /// The lines of the picture where something is lost: its depth, and the place in `entries` or `lost`.
    #[serde(skip)]
    lines: Vec<(usize, Line)>,
}

/// What a line of the picture is of.
#[derive(Clone, Copy, Debug)]
enum Line {
    Entry(usize),
    Lost(usize),
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
        let mut drawn = match self.related(context, &store)? {
            Some(entries) => Drawn::of(entries),
            None => self.whole(context, &store)?,
        };
        let first = drawn.entries.first().map(|entry| entry.snapshot.vm.clone());
        let named = self.vm.as_ref().map(ToString::to_string);
        drawn.vm = named.or(first).unwrap_or_default();
        context.answer("vmsnap.tree.v1", &drawn, draw)
    }

    /// All snapshots of the machine.
    fn whole(&self, context: &Context, store: &Store) -> Result<Drawn, Failure> {
        let listing = store.list(self.vm.as_ref());
        let listing = listing.map_err(|error| context.failure(&error))?;
        let entries = listing.tree();
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
        let mut drawn = Drawn::of(entries.collect());
        if !listing.damaged.is_empty() {
            drawn.add_lost(store, &listing);
        }
        Ok(drawn)
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

impl Drawn {
    fn of(entries: Vec<Entry>) -> Self {
        let lines = entries.iter().enumerate();
        Self {
            vm: String::new(),
            lines: lines
                .map(|(at, entry)| (entry.depth, Line::Entry(at)))
                .collect(),
            entries,
            lost: Vec::new(),
        }
    }

    /// Puts those that are lost where others say that they stand.
    fn add_lost(&mut self, store: &Store, listing: &Listing) {
        let lost = store.lost(listing).into_iter();
        let entries = self.entries.iter().enumerate();
        let shown: BTreeMap<SnapshotId, usize> =
            entries.map(|(at, entry)| (entry.snapshot.id, at)).collect();
        let is_shown = |id: &SnapshotId| shown.contains_key(id);
        self.lost = lost
            .filter(|one| one.parent.as_ref().is_some_and(is_shown) || !one.children.is_empty())
            .collect();
        let lost: BTreeMap<SnapshotId, usize> = self
            .lost
            .iter()
            .enumerate()
            .map(|(at, one)| (one.id, at))
            .collect();
        let lines = Forest::with_lost(listing, &self.lost).lines().into_iter();
        let line = |id| match (shown.get(&id), lost.get(&id)) {
            (Some(at), _) => Some(Line::Entry(*at)),
            (None, Some(at)) => Some(Line::Lost(*at)),
            (None, None) => None,
        };
        self.lines = lines
            .filter_map(|(id, depth)| Some((depth, line(id)?)))
            .collect();
    }

    /// What stands in a line behind the branches.
    fn words(&self, line: Line) -> Option<String> {
        let one = match line {
            Line::Lost(at) => {
                let lost = self.lost.get(at)?;
                let problem = printable(&lost.problem);
                return Some(format!("?  {}  {problem}", short(lost.id)));
            }
            Line::Entry(at) => self.entries.get(at)?,
        };
        let missing = match (one.parent_link, one.snapshot.parent) {
            (ParentLink::Elsewhere, Some(parent))
                if !self.lost.iter().any(|lost| lost.id == parent) =>
            {
                format!("(parent {} is not here)", short(parent))
            }
            _ => String::new(),
        };
        let one = &one.snapshot;
        let words = [
            one.title(),
            short(one.id),
            one.local_time(),
            one.marks(),
            missing,
        ];
        let told: Vec<_> = words.into_iter().filter(|word| !word.is_empty()).collect();
        Some(told.join("  "))
    }
}

/// One line a snapshot, with branches drawn to the left of it.
fn draw(drawn: &Drawn) -> String {
    let depths: Vec<usize> = drawn.lines.iter().map(|(depth, _)| *depth).collect();
    let lines = drawn
        .lines
        .iter()
        .enumerate()
        .filter_map(|(at, (_, line))| {
            let words = drawn.words(*line)?;
            Some(format!("{}{words}\n", branches(&depths, at)))
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
