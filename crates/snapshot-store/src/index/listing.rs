//! Lists by the index, each held against the directories.

use std::path::Path;
use std::time::Duration;

use serde::Serialize;
use snapshot_format::SnapshotId;

use super::database::{Changes, Database, Fault, Kept};
use super::place::{IndexUse, Opened, Place};
use super::row;
use super::stamps::{self, Stamped};
use crate::directory::Location;
use crate::error::StoreError;
use crate::filter::Filter;
use crate::record::{DamagedSnapshot, Listing, SnapshotRecord};
use crate::store::Store;

/// Lists the snapshots of a store by its index, and without one where there is none to use.
#[derive(Debug)]
pub struct Index {
    store: Store,
    place: Option<Place>,
    opened: Option<Opened>,
    how: IndexUse,
    files_read: u64,
    unsettled: Duration,
}

/// What making an index anew did.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Reindexed {
    /// Whether there is one now.
    pub index: IndexUse,
    /// Snapshots that were read from their files.
    pub snapshots: u64,
    /// Those that cannot be.
    pub damaged: Vec<DamagedSnapshot>,
}

impl Index {
    /// Opens the index of `store` in the directory `place`, which is made where it is missing;
    /// without one, and where it cannot be used, lists are read from the files.
    pub fn open(store: &Store, place: Option<&Path>) -> Self {
        let mut index = Self {
            store: store.clone(),
            place: None,
            opened: None,
            how: IndexUse::None,
            files_read: 0,
            unsettled: stamps::UNSETTLED,
        };
        let found = place.map(|path| Place::at(path, store.header().id));
        match found.transpose() {
            Ok(found) => index.place = found.flatten(),
            Err(error) => tracing::debug!(%error, "there is no place for an index"),
        }
        index.reopen();
        index
    }

    /// Whether an index is used, and whether it was there.
    pub fn how(&self) -> IndexUse {
        self.how
    }

    /// The same, where every change is settled at once: tests do not wait for seconds to pass.
    #[cfg(test)]
    pub(crate) fn settled_at_once(mut self) -> Self {
        self.unsettled = Duration::ZERO;
        self
    }

    /// How many snapshots were read from their files so far.
    pub fn files_read(&self) -> u64 {
        self.files_read
    }

    /// The snapshots at `location` that `filter` selects, and all that are damaged.
    pub fn list(&mut self, location: Location, filter: &Filter) -> Result<Listing, StoreError> {
        let mut ids = self.store.ids_at(location)?;
        // As the index has them.
        ids.sort_unstable();
        // Before anything is read: what changes after this has other stamps the next time.
        let (stamped, kept) = stamps::of(&self.store, location, &ids, self.unsettled, || {
            self.opened
                .as_ref()
                .map(|opened| rows(&opened.database, location, &ids))
        });
        let Some(stamped) = stamped? else {
            let mut listing = self.store.list_at(location, filter.vm.as_ref())?;
            listing.snapshots.retain(|record| filter.selects(record));
            return Ok(listing);
        };
        let Rows { known, gone } = self.usable(kept);
        let mut changes = Changes {
            forget: gone,
            ..Changes::default()
        };
        let mut listing = Listing::default();
        let mut known = known.into_iter().peekable();
        for (id, stamped) in ids.into_iter().zip(stamped) {
            let row = known.next_if(|row| row.id == id);
            let was_kept = row.is_some();
            let usable = row.filter(|row| row.stamps == stamped.stamps);
            let record = match usable.and_then(|row| row.record) {
                Some(record) => record,
                None => match self.read(location, id)? {
                    Some(Ok(record)) => {
                        note(&mut changes, &record, stamped, was_kept);
                        record
                    }
                    none => {
                        changes.forget.extend(was_kept.then_some(id));
                        listing.damaged.extend(none.and_then(Result::err));
                        continue;
                    }
                },
            };
            if filter.selects(&record) {
                listing.snapshots.push(record);
            }
        }
        self.keep(location, &changes);
        let order = |record: &SnapshotRecord| (record.vm.key(), record.seq, record.id);
        listing.snapshots.sort_by_cached_key(order);
        Ok(listing)
    }

    /// Removes the index of `store` in `place`, and makes it anew from the files.
    pub fn rebuild(store: &Store, place: Option<&Path>) -> Result<Reindexed, StoreError> {
        let mut index = Self::open(store, place);
        // Without our own lock, so that nobody but others can keep it.
        index.opened = None;
        let was_removed = index.remove();
        index.reopen();
        if was_removed && index.how == IndexUse::Found {
            index.how = IndexUse::Made;
        }
        let mut damaged = Vec::new();
        for location in Location::SEARCH {
            damaged.extend(index.list(location, &Filter::default())?.damaged);
        }
        Ok(Reindexed {
            index: index.how,
            snapshots: index.files_read,
            damaged,
        })
    }

    fn reopen(&mut self) {
        let Some(place) = &self.place else {
            return;
        };
        match place.open() {
            Ok((opened, how)) => (self.opened, self.how) = (opened, how),
            Err(error) => {
                tracing::debug!(%error, "the index is not used");
                (self.opened, self.how) = (None, IndexUse::None);
            }
        }
    }

    /// Reads one snapshot from its files: it, or what is wrong with it. `None`: it is not there any
    /// more.
    fn read(
        &mut self,
        location: Location,
        id: SnapshotId,
    ) -> Result<Option<Result<SnapshotRecord, DamagedSnapshot>>, StoreError> {
        self.files_read += 1;
        match SnapshotRecord::read(self.store.backend(), location, id) {
            Ok(record) => Ok(Some(Ok(record))),
            Err(_) if !self.store.exists_at(location, id)? => Ok(None),
            Err(error) => Ok(Some(Err(DamagedSnapshot::new(id, location, &error)))),
        }
    }

    /// What is kept; nothing where it cannot be read.
    fn usable(&mut self, kept: Option<Result<Rows, Fault>>) -> Rows {
        match kept {
            Some(Ok(rows)) => return rows,
            Some(Err(Fault::Unusable(problem))) => {
                tracing::debug!(%problem, "the index is made anew");
                self.replace();
            }
            Some(Err(Fault::Busy)) | None => {}
        }
        Rows::default()
    }

    /// Keeps what was read. The next one who lists does what fails here.
    fn keep(&mut self, location: Location, changes: &Changes) {
        if changes.keep.is_empty() && changes.forget.is_empty() {
            return;
        }
        let Some(opened) = &mut self.opened else {
            return;
        };
        match opened.database.change(location, changes) {
            Ok(()) | Err(Fault::Busy) => {}
            Err(Fault::Unusable(problem)) => {
                tracing::debug!(%problem, "the index is made anew");
                self.replace();
            }
        }
    }

    /// Puts an empty index in the place of one that turned out to be damaged.
    fn replace(&mut self) {
        self.opened = None;
        self.remove();
        self.reopen();
    }

    /// Removes the index, which nobody here has open: `false` where others have, or it fails.
    fn remove(&self) -> bool {
        match self.place.as_ref().map(Place::remove).transpose() {
            Ok(removed) => removed.unwrap_or(false),
            Err(error) => {
                tracing::debug!(%error, "the index cannot be removed");
                false
            }
        }
    }
}

/// What an index keeps at one location.
#[derive(Default)]
struct Rows {
    /// Of snapshots that are there, by ascending id; no record where the row does not parse.
    known: Vec<Kept<Option<SnapshotRecord>>>,
    /// Whose directories are gone.
    gone: Vec<SnapshotId>,
}

/// What is kept of the snapshots `ids`, which ascend, and of which others.
fn rows(database: &Database, location: Location, ids: &[SnapshotId]) -> Result<Rows, Fault> {
    let mut rows = Rows {
        known: Vec::with_capacity(ids.len()),
        gone: Vec::new(),
    };
    let mut ids = ids.iter().copied().peekable();
    database.rows(location, |row| {
        while ids.next_if(|id| *id < row.id).is_some() {}
        if ids.next_if_eq(&row.id).is_none() {
            rows.gone.push(row.id);
            return;
        }
        rows.known.push(Kept {
            id: row.id,
            stamps: row.stamps,
            record: row::decode(location, row.id, row.record),
        });
    })?;
    Ok(rows)
}

/// Notes what is to be kept of a snapshot that was read.
fn note(changes: &mut Changes, record: &SnapshotRecord, stamped: Stamped, was_kept: bool) {
    match row::encode(record).filter(|_| stamped.is_settled) {
        Some(bytes) => changes.keep.push(Kept {
            id: record.id,
            stamps: stamped.stamps,
            record: bytes,
        }),
        None if was_kept => changes.forget.push(record.id),
        None => {}
    }
}
