//! An operation that was decided on, and all the operations there are.
//!
//! To add one: a function that decides on it, in a module of its own, and its line in [`OPERATIONS`].

use std::fmt;

use snapshot_format::SnapshotId;
use snapshot_store::{Reference, Store, StoreError, StoredImage};
use snapshot_vault::Domain;

use super::model::{Key, Model, name};
use super::{branch, cold, garbage, look, placement, reader, take, trash};
use crate::random::Random;

/// An operation: its name, how often it is chosen, and what decides on it. It decides on nothing
/// where the model has nothing to do it to.
pub(super) struct Operation {
    pub(super) name: &'static str,
    pub(super) weight: u64,
    pub(super) plan: fn(&Model, &mut Random) -> Option<Plan>,
}

/// Every operation. The order is part of what a seed means.
pub(super) const OPERATIONS: &[Operation] = &[
    of("full", 3, take::full),
    of("diff", 14, take::diff),
    of("give-up", 1, take::give_up),
    of(DELETE, 5, trash::delete),
    of("undelete", 3, trash::undelete),
    of("protect", 1, trash::protect),
    of("describe", 1, trash::describe),
    of("relayout", 4, placement::relayout),
    of("consolidate", 3, placement::consolidate),
    of("shorten", 2, placement::shorten),
    of("working-set", 2, placement::working_set),
    of("warm", 2, placement::warm),
    of("cool", 1, placement::cool),
    of("lease", 2, reader::lease),
    of("release", 2, reader::release),
    of("branch", 1, branch::branch),
    of("switch", 1, branch::switch),
    of("merge", 2, branch::merge),
    of("gc", 2, garbage::collect),
    of("prune", 1, garbage::prune),
    of("archive", 2, cold::archive),
    of("verify", 1, look::verify),
    of("restore", 1, look::restore),
    of("keep", 3, cold::keep),
    of("return", 6, cold::bring_back),
];

/// What is done where there is too much.
pub(super) const DELETE: &str = "delete";

const fn of(
    name: &'static str,
    weight: u64,
    plan: fn(&Model, &mut Random) -> Option<Plan>,
) -> Operation {
    Operation { name, weight, plan }
}

/// How an operation that nothing disturbs must end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum End {
    /// Done.
    Done,
    /// Done, or refused because of who uses what.
    MaybeRefused,
    /// Refused.
    Refused,
}

type Perform = Box<dyn FnOnce(&mut Hands<'_>) -> Result<(), StoreError>>;

/// What is to be done, and what comes of it.
pub(super) struct Plan {
    /// In words, with the numbers of snapshots.
    pub(super) what: String,
    /// What the store must hold when it is done.
    pub(super) after: Model,
    pub(super) end: End,
    /// Whether one commit point makes all of it visible.
    pub(super) is_atomic: bool,
    /// Whether each change may be made or not, even where it ends well.
    pub(super) is_open: bool,
    /// Does it.
    pub(super) perform: Perform,
}

impl Plan {
    /// An operation that ends well and has one commit point.
    pub(super) fn new(
        what: impl Into<String>,
        after: Model,
        perform: impl FnOnce(&mut Hands<'_>) -> Result<(), StoreError> + 'static,
    ) -> Self {
        Self {
            what: what.into(),
            after,
            end: End::Done,
            is_atomic: true,
            is_open: false,
            perform: Box::new(perform),
        }
    }

    /// Each change is made or not, where it ends well, too.
    pub(super) fn may_do_a_part(self) -> Self {
        Self {
            is_atomic: false,
            is_open: true,
            ..self
        }
    }

    /// It ends so.
    pub(super) fn ends(self, end: End) -> Self {
        Self { end, ..self }
    }
}

impl fmt::Debug for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

/// What an operation works with.
pub(super) struct Hands<'w> {
    pub(super) store: &'w Store,
    /// Where archives go.
    pub(super) domain: &'w Domain,
    /// Images that readers hold open.
    pub(super) images: &'w mut Vec<(Key, StoredImage)>,
    /// Machine by snapshot, from before the operation.
    pub(super) before: &'w Model,
    /// What is wrong although no call failed.
    pub(super) violation: Option<String>,
}

impl Hands<'_> {
    /// The snapshot in use with this number.
    pub(super) fn id(&self, key: Key) -> Result<SnapshotId, StoreError> {
        self.store.resolve(&self.reference(key)?)
    }

    /// The deleted snapshot with this number.
    pub(super) fn id_in_trash(&self, key: Key) -> Result<SnapshotId, StoreError> {
        self.store.resolve_in_trash(&self.reference(key)?)
    }

    fn reference(&self, key: Key) -> Result<Reference, StoreError> {
        let vm = self
            .before
            .snapshots
            .get(&key)
            .map_or("none", |kept| kept.vm);
        format!("{vm}/{}", name(key)).parse()
    }
}
