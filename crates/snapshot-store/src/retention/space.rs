//! Which blocks the snapshots that are still kept need, and what removing one more would free.

use std::collections::{BTreeMap, BTreeSet};

use snapshot_format::SnapshotId;

use super::Extent;

/// The blocks of a store, as snapshots of one machine are removed one by one.
pub(super) struct Space<'a> {
    extents: &'a [Extent],
    /// The snapshots of the machine. Those of others are never removed.
    own: BTreeSet<SnapshotId>,
    removed: BTreeSet<SnapshotId>,
    /// For each snapshot of the machine, the extents that it needs.
    needs: BTreeMap<SnapshotId, Vec<usize>>,
    /// For each snapshot of the machine, the extents in its own directory.
    owns: BTreeMap<SnapshotId, Vec<usize>>,
    /// For each extent, how many snapshots need it that are not removed: of all, and of the machine.
    users: Vec<Users>,
    /// Bytes of the extents that any snapshot of the machine needs.
    bytes: u64,
}

#[derive(Clone, Copy, Default)]
struct Users {
    all: usize,
    own: usize,
}

impl<'a> Space<'a> {
    pub(super) fn new(extents: &'a [Extent], own: BTreeSet<SnapshotId>) -> Self {
        let mut needs: BTreeMap<SnapshotId, Vec<usize>> = BTreeMap::new();
        let mut owns: BTreeMap<SnapshotId, Vec<usize>> = BTreeMap::new();
        let mut users = Vec::with_capacity(extents.len());
        let mut bytes: u64 = 0;
        for (at, extent) in extents.iter().enumerate() {
            if own.contains(&extent.owner) {
                owns.entry(extent.owner).or_default().push(at);
            }
            let mine: Vec<SnapshotId> = extent.needed_by.intersection(&own).copied().collect();
            users.push(Users {
                all: extent.needed_by.len(),
                own: mine.len(),
            });
            if !mine.is_empty() {
                bytes = bytes.saturating_add(extent.bytes);
            }
            for id in mine {
                needs.entry(id).or_default().push(at);
            }
        }
        Self {
            extents,
            own,
            removed: BTreeSet::new(),
            needs,
            owns,
            users,
            bytes,
        }
    }

    /// Bytes of blocks that the snapshots of the machine need.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Bytes of blocks that `id` alone needs, of all snapshots that are not removed.
    pub(super) fn exclusive(&self, id: SnapshotId) -> u64 {
        let needed = self.needs.get(&id).into_iter().flatten();
        let alone = needed.filter(|at| self.users.get(**at).is_some_and(|users| users.all == 1));
        let bytes = alone.filter_map(|at| self.extents.get(*at).map(|extent| extent.bytes));
        bytes.fold(0, u64::saturating_add)
    }

    /// The others that are not removed and need blocks in the directory of `id`.
    pub(super) fn needed_by(&self, id: SnapshotId) -> BTreeSet<SnapshotId> {
        let owned = self.owns.get(&id).into_iter().flatten();
        let extents = owned.filter_map(|at| self.extents.get(*at));
        let users = extents.flat_map(|extent| &extent.needed_by).copied();
        users
            .filter(|user| *user != id && !self.removed.contains(user))
            .collect()
    }

    /// Takes a snapshot of the machine out.
    pub(super) fn remove(&mut self, id: SnapshotId) {
        if !self.own.contains(&id) || !self.removed.insert(id) {
            return;
        }
        for at in self.needs.get(&id).into_iter().flatten() {
            let (Some(users), Some(extent)) = (self.users.get_mut(*at), self.extents.get(*at))
            else {
                continue;
            };
            users.all = users.all.saturating_sub(1);
            users.own = users.own.saturating_sub(1);
            if users.own == 0 {
                self.bytes = self.bytes.saturating_sub(extent.bytes);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: u8) -> SnapshotId {
        SnapshotId([number; 16])
    }

    fn extent(owner: u8, bytes: u64, needed_by: &[u8]) -> Extent {
        Extent {
            owner: id(owner),
            bytes,
            needed_by: needed_by.iter().map(|number| id(*number)).collect(),
        }
    }

    // spec: RET-09
    #[test]
    fn bytes_are_exclusive_once_the_others_that_need_them_are_gone() {
        // 1 <- 2, a clone 9 of another machine on 3, and 8 in the trash, needed by 2 alone.
        let extents = [
            extent(1, 100, &[1, 2]),
            extent(1, 1, &[1]),
            extent(2, 10, &[2]),
            extent(3, 1000, &[3, 9]),
            extent(8, 5, &[2]),
            extent(7, 7, &[]),
        ];
        let own = [1, 2, 3].map(id).into_iter().collect();
        let mut space = Space::new(&extents, own);
        let exclusive = |space: &Space<'_>| [1, 2, 3].map(|number| space.exclusive(id(number)));
        assert_eq!((space.bytes(), exclusive(&space)), (1116, [1, 15, 0]));
        assert_eq!(space.needed_by(id(1)), BTreeSet::from([id(2)]));
        assert_eq!(space.needed_by(id(3)), BTreeSet::from([id(9)]));
        space.remove(id(2));
        space.remove(id(2));
        assert_eq!((space.bytes(), exclusive(&space)[0]), (1101, 101));
        assert!(space.needed_by(id(1)).is_empty());
        space.remove(id(3));
        // The clone keeps the blocks, and the machine needs them no more.
        assert_eq!(space.bytes(), 101);
        space.remove(id(9));
        assert_eq!(space.bytes(), 101);
    }
}
