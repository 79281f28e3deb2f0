//! What takes space, and what would give it back.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use snapshot_format::{SnapshotId, VmName};

use crate::directory::Location;
use crate::error::StoreError;
use crate::placed::Placed;
use crate::store::Store;
use crate::usage::Usage;

/// The space that a store takes, and for whom.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct SpaceReport {
    /// Every snapshot, deleted ones included.
    pub snapshots: Vec<SnapshotSpace>,
    /// Every machine; without a name those whose machine cannot be read.
    pub machines: Vec<MachineSpace>,
    /// Bytes of blocks that snapshots in use occupy.
    pub live_bytes: u64,
    /// Bytes of blocks that deleted snapshots occupy.
    pub trash_bytes: u64,
    /// The part of `trash_bytes` that no snapshot in use needs.
    pub trash_unneeded_bytes: u64,
    /// Bytes of blocks that the files of the cache occupy.
    pub cache_bytes: u64,
    /// Bytes that are free on the file system.
    pub free_bytes: u64,
}

/// The space of one snapshot.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct SnapshotSpace {
    /// Which.
    pub id: SnapshotId,
    /// Its machine, as far as it can be read.
    pub vm: Option<VmName>,
    /// Whether it is in use or deleted.
    pub location: Location,
    /// Bytes of blocks that its files occupy.
    pub allocated_bytes: u64,
    /// Bytes that go when this one is deleted and garbage is collected: its own, and those of deleted
    /// snapshots that no other one in use needs. Of a deleted one: what it occupies, if it is not
    /// needed.
    pub exclusive_bytes: u64,
    /// How many other snapshots in use need its data.
    pub needed_by: usize,
    /// Snapshots with data files that it may need, itself included; 0 where that cannot be read.
    pub chain_files: usize,
}

/// The space of one machine.
#[derive(Clone, Debug, Default, Serialize)]
#[non_exhaustive]
pub struct MachineSpace {
    /// Which.
    pub vm: Option<VmName>,
    /// How many snapshots of it are in use.
    pub snapshots: u64,
    /// Bytes of blocks that those occupy.
    pub live_bytes: u64,
    /// Bytes of blocks that its deleted snapshots occupy.
    pub trash_bytes: u64,
    /// The longest chain of data files.
    pub chain_files: usize,
}

/// The snapshots whose data each live one may need, itself included.
type Closures = BTreeMap<SnapshotId, BTreeSet<SnapshotId>>;

impl Store {
    /// What takes space, by snapshot and by machine.
    pub fn space(&self) -> Result<SpaceReport, StoreError> {
        let usage = self.usage()?;
        let mut closures = Closures::new();
        for id in self.ids_at(Location::Live)? {
            // What cannot be read needs nothing that is known.
            if let Ok(placed) = Placed::read(self.backend(), Location::Live, id) {
                closures.insert(id, placed.closure());
            }
        }
        Ok(SpaceReport::of(&usage, &closures))
    }
}

impl SpaceReport {
    fn of(usage: &Usage, closures: &Closures) -> Self {
        let bytes: BTreeMap<SnapshotId, (Location, u64)> = usage
            .snapshots
            .iter()
            .map(|one| (one.id, (one.location, one.allocated_bytes)))
            .collect();
        let mut needed: BTreeMap<SnapshotId, usize> = BTreeMap::new();
        for (id, closure) in closures {
            for base in closure.iter().filter(|base| *base != id) {
                *needed.entry(*base).or_default() += 1;
            }
        }
        let needed_by = |id: SnapshotId| needed.get(&id).copied().unwrap_or(0);
        let exclusive = |id: SnapshotId, location: Location, own: u64| {
            if needed_by(id) > 0 {
                return 0;
            }
            let bases = closures.get(&id).filter(|_| location == Location::Live);
            let freed = bases
                .into_iter()
                .flatten()
                .filter_map(|base| match bytes.get(base) {
                    Some((Location::Trash, bytes)) if needed_by(*base) == 1 => Some(*bytes),
                    _ => None,
                });
            own + freed.sum::<u64>()
        };
        let snapshots: Vec<SnapshotSpace> = usage
            .snapshots
            .iter()
            .map(|one| SnapshotSpace {
                id: one.id,
                vm: one.vm.clone(),
                location: one.location,
                allocated_bytes: one.allocated_bytes,
                exclusive_bytes: exclusive(one.id, one.location, one.allocated_bytes),
                needed_by: needed_by(one.id),
                chain_files: closures.get(&one.id).map_or(0, BTreeSet::len),
            })
            .collect();
        let unneeded = snapshots
            .iter()
            .filter(|one| one.location == Location::Trash && one.needed_by == 0);
        Self {
            trash_unneeded_bytes: unneeded.map(|one| one.allocated_bytes).sum(),
            machines: machines(&snapshots),
            snapshots,
            live_bytes: usage.live_bytes,
            trash_bytes: usage.trash_bytes,
            cache_bytes: usage.cache_bytes,
            free_bytes: usage.free_bytes,
        }
    }
}

fn machines(snapshots: &[SnapshotSpace]) -> Vec<MachineSpace> {
    let mut machines: BTreeMap<Option<String>, MachineSpace> = BTreeMap::new();
    for one in snapshots {
        let machine = machines
            .entry(one.vm.as_ref().map(VmName::key))
            .or_default();
        machine.vm.clone_from(&one.vm);
        match one.location {
            Location::Live => {
                machine.snapshots += 1;
                machine.live_bytes += one.allocated_bytes;
            }
            Location::Trash => machine.trash_bytes += one.allocated_bytes,
        }
        machine.chain_files = machine.chain_files.max(one.chain_files);
    }
    machines.into_values().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::usage::SnapshotUsage;

    fn id(number: u8) -> SnapshotId {
        SnapshotId([number; 16])
    }

    // spec: ANA-06
    #[test]
    fn what_goes_with_a_snapshot_is_what_no_other_one_needs() {
        use Location::{Live, Trash};
        let one = |number, location, allocated_bytes| SnapshotUsage {
            id: id(number),
            vm: VmName::new(if number < 5 { "web" } else { "db" }).ok(),
            location,
            len_bytes: 0,
            allocated_bytes,
            needed_by: 0,
        };
        let usage = Usage {
            // 1 <- 2 <- 3, 1 <- 4; 5 alone; 6 deleted and not needed.
            snapshots: vec![
                one(1, Trash, 1),
                one(2, Trash, 20),
                one(3, Live, 300),
                one(4, Live, 4000),
                one(5, Live, 50_000),
                one(6, Trash, 600_000),
            ],
            cached: Vec::new(),
            live_bytes: 54_300,
            trash_bytes: 600_021,
            trash_needed_bytes: 21,
            cache_bytes: 0,
            free_bytes: 7,
        };
        let closure = |ids: &[u8]| ids.iter().map(|&number| id(number)).collect();
        let closures = Closures::from([
            (id(3), closure(&[1, 2, 3])),
            (id(4), closure(&[1, 4])),
            (id(5), closure(&[5])),
        ]);
        let report = SpaceReport::of(&usage, &closures);
        let told: Vec<_> = report
            .snapshots
            .iter()
            .map(|one| (one.exclusive_bytes, one.needed_by, one.chain_files))
            .collect();
        // The base that both need goes with neither.
        let expected = [
            (0, 2, 0),
            (0, 1, 0),
            (320, 0, 3),
            (4000, 0, 2),
            (50_000, 0, 1),
            (600_000, 0, 0),
        ];
        assert_eq!(told, expected);
        assert_eq!(report.trash_unneeded_bytes, 600_000);
        let machines: Vec<_> = report
            .machines
            .iter()
            .map(|one| {
                (
                    one.snapshots,
                    one.live_bytes,
                    one.trash_bytes,
                    one.chain_files,
                )
            })
            .collect();
        assert_eq!(machines, [(1, 50_000, 600_000, 1), (2, 4300, 21, 3)]);
    }
}
