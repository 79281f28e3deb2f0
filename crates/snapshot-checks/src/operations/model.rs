//! What a store must hold.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use snapshot_format::{GuestAddress, LayoutError, MemoryLayout, MemoryRegion, PAGE_BYTES};

use crate::random::Random;

/// Pages of the two regions, which lie in different leaves of a page map.
const REGION_PAGES: [u64; 2] = [40, 24];

/// Where the second region starts: behind a hole.
const SECOND_START: u64 = 128 << 20;

/// Pages of a guest, and bytes of a page.
pub(super) const PAGES: u64 = REGION_PAGES[0] + REGION_PAGES[1];
pub(super) const PAGE: usize = 4096;

/// The number of a snapshot in the order of the operations: its name is made of it.
pub(super) type Key = u64;

/// The snapshots of a store, those in the trash included.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Model {
    pub(super) snapshots: BTreeMap<Key, Kept>,
    /// Those whose image is held open.
    pub(super) held: BTreeSet<Key>,
    /// The branch that the next snapshot of a machine is on where none is named.
    pub(super) current: BTreeMap<&'static str, String>,
    /// Those that the vault keeps, as they were when they were archived.
    pub(super) archived: BTreeMap<Key, Kept>,
    /// The number of the next one.
    pub(super) next: Key,
}

/// One snapshot.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Kept {
    pub(super) vm: &'static str,
    pub(super) branch: &'static str,
    pub(super) parent: Option<Key>,
    /// The whole memory.
    pub(super) image: Arc<Vec<u8>>,
    /// The snapshot whose machine state it has.
    pub(super) state: Key,
    /// Whether it is in use; deleted otherwise.
    pub(super) is_live: bool,
    pub(super) is_protected: bool,
    pub(super) description: String,
}

impl Model {
    /// Those in use, oldest first.
    pub(super) fn live(&self) -> impl Iterator<Item = (Key, &Kept)> {
        self.those(true)
    }

    /// Those that were deleted, oldest first.
    pub(super) fn trash(&self) -> impl Iterator<Item = (Key, &Kept)> {
        self.those(false)
    }

    fn those(&self, is_live: bool) -> impl Iterator<Item = (Key, &Kept)> {
        let all = self.snapshots.iter().map(|(key, kept)| (*key, kept));
        all.filter(move |(_, kept)| kept.is_live == is_live)
    }

    /// One of those in use.
    pub(super) fn pick_live(&self, random: &mut Random) -> Option<(Key, &Kept)> {
        let all: Vec<_> = self.live().collect();
        random.pick(&all).copied()
    }

    /// Itself, with another opinion of one snapshot.
    pub(super) fn with(&self, key: Key, change: impl FnOnce(&mut Kept)) -> Self {
        let mut after = self.clone();
        after.snapshots.entry(key).and_modify(change);
        after
    }

    /// The newest snapshot in use on a branch of a machine.
    pub(super) fn head(&self, vm: &str, branch: &str) -> Option<Key> {
        let is_there = |kept: &Kept| kept.vm == vm && kept.branch == branch;
        let on_it = self.live().filter(|(_, kept)| is_there(kept));
        on_it.map(|(key, _)| key).max()
    }

    /// Whether it is the head of the branch that its machine is on, unless that is on none.
    pub(super) fn is_current_head(&self, key: Key, kept: &Kept) -> bool {
        let current = self.current.get(kept.vm);
        let is_current = current.is_some_and(|branch| branch == kept.branch);
        is_current && self.head(kept.vm, kept.branch) == Some(key)
    }

    /// Whether `key` is a snapshot that `from` is or comes from.
    pub(super) fn is_on_path(&self, key: Key, from: Key) -> bool {
        self.path(from).any(|at| at == key)
    }

    /// Whether a snapshot whose image is held comes from `key`, maybe by way of others.
    pub(super) fn is_below_held(&self, key: Key) -> bool {
        self.held
            .iter()
            .any(|held| self.path(*held).any(|at| at == key))
    }

    /// A snapshot and all that it comes from.
    fn path(&self, key: Key) -> impl Iterator<Item = Key> {
        std::iter::successors(Some(key), |at| self.snapshots.get(at)?.parent)
    }
}

/// The machines.
pub(super) const VMS: [&str; 3] = ["web", "db", "run"];

/// The name of a snapshot in its machine.
pub(super) fn name(key: Key) -> String {
    format!("s{key}")
}

/// The number in a name.
pub(super) fn key(name: &str) -> Option<Key> {
    name.strip_prefix('s')?.parse().ok()
}

/// The machine state of the snapshot with this number.
pub(super) fn state(key: Key) -> Vec<u8> {
    key.to_le_bytes().repeat(12)
}

/// The memory of every guest here.
pub(super) fn layout() -> Result<MemoryLayout, LayoutError> {
    let region = |start, pages| MemoryRegion {
        start: GuestAddress(start),
        len_bytes: pages * PAGE_BYTES,
    };
    MemoryLayout::new(vec![
        region(0, REGION_PAGES[0]),
        region(SECOND_START, REGION_PAGES[1]),
    ])
}
