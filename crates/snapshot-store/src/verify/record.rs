//! When each snapshot was checked last: `verified/<id>.json`, a file for each.
//!
//! Derived data: a file that is missing or damaged says that its snapshot was never checked, and
//! says nothing of any other.

use std::collections::BTreeMap;
use std::io;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use snapshot_format::SnapshotId;

use crate::checked_json::{self, Fault};
use crate::directory;
use crate::error::StoreError;
use crate::file;
use crate::store::Store;

/// The version of the file that this build writes.
const VERSION: u32 = 1;

/// The highest number of a check that is believed: what follows it can be counted.
const MAX_SEQ: u64 = 1 << 62;

/// The last check of one snapshot.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct LastCheck {
    version: u32,
    id: SnapshotId,
    /// Its place among all checks of the store: the order rests on this.
    pub seq: u64,
    /// When, in milliseconds since 1970, by a clock that may have been wrong.
    pub unix_ms: u64,
    /// Whether nothing was found wrong.
    pub sound: bool,
}

/// The last checks of all snapshots.
#[derive(Clone, Debug, Default)]
pub(super) struct LastChecks {
    by_id: BTreeMap<SnapshotId, LastCheck>,
}

impl LastCheck {
    fn decode(id: SnapshotId, bytes: &[u8]) -> Result<Self, Fault> {
        let check: Self = checked_json::decode(bytes, VERSION)?;
        let problem = if check.id != id {
            format!("it belongs to snapshot {}", check.id)
        } else if check.seq > MAX_SEQ {
            format!("{} is no number of a check", check.seq)
        } else {
            return Ok(check);
        };
        Err(Fault::Corrupt(problem))
    }
}

impl LastChecks {
    /// All that the store remembers. A file that cannot be read, for whatever reason, is none.
    pub(super) fn read(store: &Store) -> Self {
        let listed = store.backend().list(&directory::verified_directory());
        let entries = listed.unwrap_or_default();
        let ids = entries.iter();
        let ids = ids.filter_map(|entry| directory::verified_id(&entry.name));
        let found = ids.filter_map(|id| Some((id, read(store, id)?)));
        Self {
            by_id: found.collect(),
        }
    }

    /// The ids that are due, least recently checked first: those never checked, those in which
    /// something was wrong, and those whose last check is at least `age` ago. All, without an age.
    pub(super) fn due(
        &self,
        ids: impl Iterator<Item = SnapshotId>,
        age: Option<Duration>,
        now_unix_ms: u64,
    ) -> Vec<SnapshotId> {
        let trusted = self.trusted_times();
        let is_due = |id: &SnapshotId| {
            let (Some(age), Some(check)) = (age, self.by_id.get(id)) else {
                return true;
            };
            let then = trusted.get(&check.seq).copied().unwrap_or(0);
            let passed = now_unix_ms.checked_sub(then);
            // What was checked in the future was checked nobody knows when.
            !check.sound || passed.is_none_or(|ms| u128::from(ms) >= age.as_millis())
        };
        let mut due: Vec<SnapshotId> = ids.filter(is_due).collect();
        due.sort_by_key(|id| (self.by_id.get(id).map_or(0, |check| check.seq), *id));
        due
    }

    /// For each number, the earliest time of it and all after it: a check cannot be later than one
    /// that followed it, whatever a clock said.
    fn trusted_times(&self) -> BTreeMap<u64, u64> {
        let mut by_seq: Vec<(u64, u64)> = self.by_id.values().map(|c| (c.seq, c.unix_ms)).collect();
        by_seq.sort_unstable();
        let mut earliest = u64::MAX;
        let downwards = by_seq.into_iter().rev().map(|(seq, unix_ms)| {
            earliest = earliest.min(unix_ms);
            (seq, earliest)
        });
        downwards.collect()
    }

    /// The number of the next check.
    pub(super) fn next_seq(&self) -> u64 {
        let highest = self.by_id.values().map(|check| check.seq).max();
        highest.unwrap_or(0).saturating_add(1)
    }
}

impl Store {
    /// When a snapshot was checked last, as far as the store remembers.
    pub fn last_check(&self, id: SnapshotId) -> Option<LastCheck> {
        read(self, id)
    }
}

fn read(store: &Store, id: SnapshotId) -> Option<LastCheck> {
    let bytes = file::read(
        store.backend(),
        &directory::verified(id),
        checked_json::MAX_BYTES,
    );
    LastCheck::decode(id, &bytes.ok()?).ok()
}

/// Remembers a check. Nothing depends on it: a failure is told to the log alone.
pub(super) fn remember(store: &Store, id: SnapshotId, seq: u64, unix_ms: u64, sound: bool) {
    let check = LastCheck {
        version: VERSION,
        id,
        seq,
        unix_ms,
        sound,
    };
    if let Err(error) = write(store, &check) {
        let error = &error as &dyn std::error::Error;
        tracing::warn!(error, snapshot = %id, "a check is not remembered");
    }
}

fn write(store: &Store, check: &LastCheck) -> Result<(), StoreError> {
    let bytes = checked_json::encode(check);
    let bytes = bytes.map_err(|source| StoreError::EncodeJson { source })?;
    let folder = directory::verified_directory();
    let _lock = store.lock_exclusively(&directory::verified_lock())?;
    match store.backend().create_dir(&folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            return Err(StoreError::io("create", &folder, error));
        }
        Err(_) => {}
        Ok(()) => store.give_directory(&folder)?,
    }
    let (path, access) = (directory::verified(check.id), store.own_file_access());
    file::replace(store.backend(), &folder, path.name(), &bytes, access)
}

/// Forgets the checks of snapshots that are gone. `is_there` is asked of each.
pub(super) fn forget(store: &Store, is_there: &dyn Fn(SnapshotId) -> bool) {
    let folder = directory::verified_directory();
    let Ok(entries) = store.backend().list(&folder) else {
        return;
    };
    let ids = entries
        .iter()
        .filter_map(|entry| directory::verified_id(&entry.name));
    for id in ids.filter(|id| !is_there(*id)) {
        if let Err(error) = file::remove_if_there(store.backend(), &directory::verified(id)) {
            let error = &error as &dyn std::error::Error;
            tracing::debug!(error, "a check of a snapshot that is gone remains");
        }
    }
}

/// The time of this host.
pub(super) fn now_unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| {
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: u64 = 24 * 3600 * 1000;

    fn checks(checks: &[(u8, u64, u64, bool)]) -> LastChecks {
        let check = |&(id, seq, day, sound): &(u8, u64, u64, bool)| LastCheck {
            version: VERSION,
            id: SnapshotId([id; 16]),
            seq,
            unix_ms: day * DAY,
            sound,
        };
        let by_id = checks.iter().map(check).map(|check| (check.id, check));
        LastChecks {
            by_id: by_id.collect(),
        }
    }

    fn due(known: &LastChecks, ids: &[u8], days: Option<u64>, today: u64) -> Vec<u8> {
        let ids = ids.iter().map(|id| SnapshotId([*id; 16]));
        let age = days.map(|days| Duration::from_millis(days * DAY));
        let due = known.due(ids, age, today * DAY);
        due.into_iter().map(|id| id.0[0]).collect()
    }

    // spec: VFY-02
    #[test]
    fn the_least_recently_checked_come_first_by_number_and_never_by_clock() {
        let known = checks(&[(1, 9, 100, true), (2, 3, 900, true), (3, 5, 1, true)]);
        assert_eq!(due(&known, &[1, 2, 3, 4], None, 100), [4, 2, 3, 1]);
        assert_eq!(known.next_seq(), 10);
    }

    // spec: VFY-03
    #[test]
    fn what_is_old_unsound_or_from_the_future_is_due() {
        let known = checks(&[(1, 1, 80, true), (2, 2, 95, false), (3, 3, 95, true)]);
        assert_eq!(due(&known, &[1, 2, 3, 4], Some(7), 100), [4, 1, 2]);
        assert_eq!(due(&known, &[3], Some(5), 100), [3]);
        // Thirty days back: every check is from the future.
        assert_eq!(due(&known, &[1, 2, 3], Some(7), 70), [1, 2, 3]);
        // A check by a clock that was thirty days ahead is not later than those that followed.
        let ahead = checks(&[(1, 1, 130, true), (2, 2, 101, true)]);
        assert_eq!(due(&ahead, &[1, 2], Some(7), 109), [1, 2]);
        assert_eq!(due(&ahead, &[1, 2], Some(7), 104), Vec::<u8>::new());
    }
}
