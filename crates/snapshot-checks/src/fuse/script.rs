//! The upkeep of a store: what is merged, removed, archived, brought back and repaired.

use std::ffi::OsString;

use crate::block::script::{
    ARCHIVES, BY_BITMAP, BY_COMPARISON, FULL, Inputs, MERGED, Set, Step, VM, chained,
};

/// A step, and what is special about it.
#[derive(Clone, Debug)]
pub(super) struct Move {
    pub(super) step: Step,
    pub(super) sort: Sort,
}

/// How a step goes from the old set of snapshots to the new one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Sort {
    /// At once.
    Whole,
    /// One snapshot after the other.
    OneByOne,
    /// It mends the snapshot of this name, which is damaged before.
    Mends(&'static str),
}

/// Every step: those of [`Inputs`], and upkeep after them.
pub(super) fn moves(inputs: &Inputs) -> Vec<Move> {
    let mut steps = inputs.steps();
    let old = steps.last().map(|step| step.new.clone());
    steps.extend(upkeep(old.unwrap_or_default()));
    let sorted = steps.into_iter().map(|step| Move {
        sort: match step.name {
            PRUNE => Sort::OneByOne,
            REPAIR => Sort::Mends(BY_COMPARISON),
            _ => Sort::Whole,
        },
        step,
    });
    sorted.collect()
}

const PRUNE: &str = "prune";
const REPAIR: &str = "repair";

fn upkeep(old: Set) -> Vec<Step> {
    let line = |words: &[&str]| words.iter().map(OsString::from).collect::<Vec<_>>();
    let named = |name: &str| format!("{VM}/{name}");
    let (bitmap, comparison) = (named(BY_BITMAP), named(BY_COMPARISON));
    let cold = ARCHIVES[0].1;
    let merge = ["merge", VM, "main", "--onto", "side", "--name", MERGED];
    chained(
        old,
        [
            (
                "consolidation",
                line(&["consolidate", &comparison]),
                &[FULL, BY_BITMAP, BY_COMPARISON],
            ),
            (
                "archive",
                line(&["archive", &comparison]),
                &[FULL, BY_BITMAP, BY_COMPARISON, cold],
            ),
            (
                "branch",
                line(&["branch", VM, "side", "--from", &bitmap]),
                &[FULL, BY_BITMAP, BY_COMPARISON, cold],
            ),
            (
                "merge",
                line(&merge),
                &[FULL, BY_BITMAP, BY_COMPARISON, MERGED, cold],
            ),
            (
                "switch",
                line(&["switch", VM, "side"]),
                &[FULL, BY_BITMAP, BY_COMPARISON, MERGED, cold],
            ),
            (
                PRUNE,
                line(&["prune", VM, "--keep-last", "1"]),
                &[BY_COMPARISON, MERGED, cold],
            ),
            (
                "delete of an archived one",
                line(&["delete", &comparison]),
                &[MERGED, cold],
            ),
            ("gc", line(&["gc"]), &[MERGED, cold]),
            (
                "thaw",
                line(&["thaw", &comparison, "--new-id", "--full"]),
                &[BY_COMPARISON, MERGED, cold],
            ),
            (
                REPAIR,
                line(&["repair", &comparison]),
                &[BY_COMPARISON, MERGED, cold],
            ),
            (
                "delete of an archive",
                line(&["vault", "delete", &comparison]),
                &[BY_COMPARISON, MERGED],
            ),
            (
                "gc of the vault",
                line(&["vault", "gc", "--expire"]),
                &[BY_COMPARISON, MERGED],
            ),
        ],
    )
}
