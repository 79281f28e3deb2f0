//! What the store holds, against what the victims said.

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::path::Path;

use snapshot_format::SnapshotId;
use snapshot_memory::{PLACE_PREFIX, STAGE_PREFIX};
use snapshot_store::{Selection, SnapshotRecord, Store};
use tinyvm::{Backend, Position, Replay};

use super::task::{self, SEED, vm_of, vm_of_imports};
use crate::random::Random;
use crate::stored_guest::{Failure, compare_image, config, position};

/// What is known to be in the store.
#[derive(Debug, Default)]
pub(super) struct Judge {
    /// Every snapshot that a victim said it had published.
    announced: BTreeSet<SnapshotId>,
    /// Those whose bytes were compared.
    compared: BTreeSet<SnapshotId>,
}

impl Judge {
    /// A victim said that it had published a snapshot.
    pub(super) fn announced(&mut self, id: SnapshotId) {
        self.announced.insert(id);
    }

    /// One of the snapshots whose bytes were compared, if there is one.
    pub(super) fn pick(&self, random: &mut Random) -> Option<SnapshotId> {
        let all: Vec<_> = self.compared.iter().copied().collect();
        random.pick(&all).copied()
    }

    /// Snapshots that were said to be published.
    pub(super) fn count(&self) -> usize {
        self.announced.len()
    }

    /// Opens the store as anybody would after the end of a victim, and looks at all of it: what was
    /// said to be there is there, what is there is whole, and nothing else is left.
    pub(super) fn look(&mut self, directory: &Path) -> Result<(), Failure> {
        let store = task::open(directory)?;
        // A snapshot that was being deleted and brought back may be in the trash.
        for record in store.trash()?.snapshots {
            store.undelete(record.id)?;
        }
        let listing = store.list(None)?;
        if let Some(damaged) = listing.damaged.first() {
            return Err(format!("{} is damaged: {}", damaged.id, damaged.problem).into());
        }
        let there: BTreeSet<_> = listing.snapshots.iter().map(|record| record.id).collect();
        if let Some(lost) = self.announced.difference(&there).next() {
            return Err(format!("snapshot {lost} was published and is gone").into());
        }
        no_leftovers(directory)?;
        self.compare(&store, &listing.snapshots)?;
        let report = store.verify(Selection::All, &mut |_| ControlFlow::Continue(()))?;
        match report.errors.first() {
            None => Ok(()),
            Some(problem) => Err(format!("{:?}: {}", problem.file, problem.message).into()),
        }
    }

    /// Compares every byte of each snapshot that was not there before, announced or not.
    fn compare(&mut self, store: &Store, records: &[SnapshotRecord]) -> Result<(), Failure> {
        let new = records
            .iter()
            .filter(|record| !self.compared.contains(&record.id));
        let mut placed = new
            .map(|record| Ok((stood_at(store, record)?, record.id)))
            .collect::<Result<Vec<_>, Failure>>()?;
        // All are of one program: its memory depends on how far it was, and on nothing else.
        placed.sort_unstable();
        let mut replay = Replay::new(&config(SEED))?;
        for (position, id) in placed {
            replay.advance(position)?;
            compare_image(store, id, &replay)?;
            self.compared.insert(id);
        }
        Ok(())
    }
}

/// How far the program of a snapshot was.
pub(super) fn stood_at(store: &Store, record: &SnapshotRecord) -> Result<Position, Failure> {
    if record.vm == vm_of_imports()? {
        let config = store.manifest(record.id)?.vm_config;
        return Ok(Position::after(u64::from_le_bytes(
            config.as_slice().try_into()?,
        )));
    }
    let backend = if record.vm == vm_of(Backend::Kvm)? {
        Backend::Kvm
    } else {
        Backend::Process
    };
    position(store, backend, record.id)
}

/// Finds what a victim had begun: whoever opens the store removes it.
fn no_leftovers(directory: &Path) -> Result<(), Failure> {
    for entry in std::fs::read_dir(directory.join("snapshots"))? {
        let name = entry?.file_name();
        let name = name.to_string_lossy();
        if name.starts_with(STAGE_PREFIX) || name.starts_with(PLACE_PREFIX) {
            return Err(format!("{name} was begun and is still there").into());
        }
    }
    Ok(())
}
