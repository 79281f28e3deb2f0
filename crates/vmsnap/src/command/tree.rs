//! `vmsnap tree VM`.

use clap::Args;
use serde::Serialize;
use snapshot_format::VmName;
use snapshot_store::{Access, ParentLink};

use crate::answer::Answer;
use crate::context::Context;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::view::{SnapshotView, short};

/// Draws the snapshots of a virtual machine, each below its parent.
#[derive(Args, Debug)]
pub(crate) struct Tree {
    /// The virtual machine
    vm: VmName,
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
        let entries = store
            .tree(Some(&self.vm))
            .map_err(|error| context.failure(&error))?;
        if entries.is_empty() {
            return Err(
                Failure::new(Exit::NotFound, format!("VM {} has no snapshot", self.vm))
                    .hint("see `vmsnap list`"),
            );
        }
        let drawn = Drawn {
            vm: self.vm.to_string(),
            entries: entries
                .iter()
                .map(|entry| Entry {
                    depth: entry.depth,
                    parent_link: entry.parent,
                    snapshot: SnapshotView::from(&entry.record),
                })
                .collect(),
        };
        context.answer("vmsnap.tree.v1", &drawn, |drawn| draw(&drawn.entries))
    }
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
