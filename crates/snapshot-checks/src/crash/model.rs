//! What a store must hold.

use std::collections::BTreeMap;

use snapshot_format::{PageRange, SectionKind, SnapshotId, WorkingSetIndex};
use snapshot_store::{Listing, Store, StoreError, StoredWorkingSet};

pub(super) use snapshot_store::with_causes as chain;

use super::said::Said;

/// The name of a parent that was collected.
const GONE: &str = "gone";

/// The snapshots of a store, by `VM/NAME`.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Model {
    pub(super) snapshots: BTreeMap<String, Expected>,
    /// What the store keeps beside them.
    pub(super) said: Said,
}

/// One snapshot.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Expected {
    /// The whole memory.
    pub(super) image: Vec<u8>,
    /// Whether it is in use; deleted otherwise.
    pub(super) is_live: bool,
    /// Its description.
    pub(super) description: String,
    /// The name of its parent, or [`GONE`].
    pub(super) parent: Option<String>,
    /// Which placement counts.
    pub(super) generation: u32,
    /// The page of its working set, if it has one.
    pub(super) working_set: Option<u64>,
    /// Whether there must be a materialised image of it. One that was dropped may come back.
    pub(super) is_warm: bool,
}

impl Model {
    /// Takes a snapshot away for good: its children lose sight of their parent.
    pub(super) fn collect(&mut self, name: &str) -> Option<Expected> {
        for child in self.snapshots.values_mut() {
            if child.parent.as_deref() == Some(name) {
                child.parent = Some(GONE.to_owned());
            }
        }
        self.snapshots.remove(name)
    }

    /// What differs between the store and this model, if anything does.
    pub(super) fn compare(&self, store: &Store) -> Result<(), String> {
        let live = store.list(None).map_err(|error| error.to_string())?;
        let trash = store.trash().map_err(|error| error.to_string())?;
        if let Some(damaged) = live.damaged.iter().chain(&trash.damaged).next() {
            return Err(format!("{} is damaged: {}", damaged.id, damaged.problem));
        }
        let names = names(&live, &trash);
        let mut found = 0;
        for (listing, is_live) in [(&live, true), (&trash, false)] {
            for record in &listing.snapshots {
                let name = names.get(&record.id).cloned().unwrap_or_default();
                let expected = self.snapshots.get(&name);
                let expected = expected.ok_or_else(|| format!("{name} should not be there"))?;
                if expected.is_live != is_live {
                    return Err(format!("{name} is deleted, or should be"));
                }
                let parent = record.parent.map(|parent| {
                    let known = names.get(&parent.id).cloned();
                    known.unwrap_or_else(|| GONE.to_owned())
                });
                if parent != expected.parent {
                    return Err(format!("{name} has parent {parent:?}"));
                }
                if record.metadata.description.as_str() != expected.description {
                    return Err(format!("{name} has another description"));
                }
                if is_live {
                    let detail = store.detail(record.id).map_err(|error| chain(&error))?;
                    if detail.generation != expected.generation {
                        return Err(format!("{name} has placement {}", detail.generation));
                    }
                    compare_image(store, record.id, &expected.image)
                        .map_err(|error| format!("{name}: {error}"))?;
                    compare_working_set(store, record.id, expected.working_set)
                        .map_err(|error| format!("{name}: {error}"))?;
                    compare_cached(store, record.id, expected)
                        .map_err(|error| format!("{name}: {error}"))?;
                }
                found += 1;
            }
        }
        if found == self.snapshots.len() {
            self.said.compare(store)
        } else {
            Err(format!("{found} snapshots, not {}", self.snapshots.len()))
        }
    }
}

/// `VM/NAME` of every snapshot.
pub(super) fn names(live: &Listing, trash: &Listing) -> BTreeMap<SnapshotId, String> {
    let records = live.snapshots.iter().chain(&trash.snapshots);
    let name = |record: &snapshot_store::SnapshotRecord| match &record.metadata.name {
        Some(name) => format!("{}/{name}", record.vm),
        None => format!("{}/?{}", record.vm, record.seq),
    };
    records.map(|record| (record.id, name(record))).collect()
}

/// The memory of a snapshot in use.
pub(super) fn memory_of(store: &Store, id: SnapshotId) -> Result<Vec<u8>, StoreError> {
    let stored = store.image(id)?;
    let image = stored.image();
    let len = usize::try_from(image.layout().len_bytes()).unwrap_or(0);
    let mut found = vec![0; len];
    let pages = PageRange::new(0, image.layout().page_count());
    image.read_pages(pages, &mut found)?;
    Ok(found)
}

fn compare_image(store: &Store, id: SnapshotId, expected: &[u8]) -> Result<(), String> {
    let found = memory_of(store, id).map_err(|error| chain(&error))?;
    let differing = found.chunks(4096).zip(expected.chunks(4096));
    match differing.enumerate().find(|(_, (a, b))| a != b) {
        None => Ok(()),
        Some((page, _)) => Err(format!("page {page} is not what was captured")),
    }
}

fn compare_working_set(store: &Store, id: SnapshotId, page: Option<u64>) -> Result<(), String> {
    let stored = store.working_set(id).map_err(|error| chain(&error))?;
    let read = |set: StoredWorkingSet| set.file().section(SectionKind::WORKING_SET, 0);
    let bytes = stored.map(read).transpose();
    let bytes = bytes.map_err(|error| chain(&error))?;
    let index = bytes
        .map(|bytes| WorkingSetIndex::decode(&bytes))
        .transpose();
    let index = index.map_err(|error| chain(&error))?;
    let runs = index.map_or_else(Vec::new, |index| index.runs);
    let found: Vec<PageRange> = runs.into_iter().map(|run| run.pages).collect();
    let expected = page.map(|page| PageRange::new(page, 1));
    if found.iter().eq(&expected) {
        Ok(())
    } else {
        Err(format!("its working set is of {found:?}"))
    }
}

/// That a materialised image which is offered is whole, and that the one which must be there is.
fn compare_cached(store: &Store, id: SnapshotId, expected: &Expected) -> Result<(), String> {
    let cached = store.cached_image(id).map_err(|error| chain(&error))?;
    let Some(cached) = cached else {
        let lost = expected
            .is_warm
            .then(|| "its materialised image is not there".to_owned());
        return lost.map_or(Ok(()), Err);
    };
    let mut found = vec![0; expected.image.len()];
    let read = cached.file().read_exact_at(0, &mut found);
    read.map_err(|error| chain(&error))?;
    if found == expected.image && cached.len_bytes() == found.len() as u64 {
        Ok(())
    } else {
        Err("its materialised image holds something else".to_owned())
    }
}
