//! The set of snapshots to check, and what must hold between them.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

use snapshot_format::{FileKind, SnapshotId};

use crate::directory::{self, Location};
use crate::error::StoreError;
use crate::lease::Lease;
use crate::placed::Placed;
use crate::record::SnapshotRecord;
use crate::store::Store;
use crate::verify::record::{self, LastChecks};
use crate::verify::report::{Findings, Selection, VerifyOptions, VerifyProgress, VerifyReport};
use crate::verify::snapshot;

impl Store {
    /// Checks every byte of the selected snapshots. Nothing is changed.
    ///
    /// An error that is found does not end the check; it is in the report. `tell` is called often
    /// and ends the check by breaking.
    pub fn verify(
        &self,
        selection: Selection,
        tell: &mut dyn FnMut(VerifyProgress) -> ControlFlow<()>,
    ) -> Result<VerifyReport, StoreError> {
        self.verify_with(&VerifyOptions::of(selection).remember(false), tell)
    }

    /// Checks every byte of snapshots, the least recently checked first, as far as the options say,
    /// and remembers which were checked. Nothing else is changed.
    ///
    /// An error that is found does not end the check; it is in the report. `tell` is called often
    /// and ends the check by breaking: what was checked until then is remembered.
    pub fn verify_with(
        &self,
        options: &VerifyOptions,
        tell: &mut dyn FnMut(VerifyProgress) -> ControlFlow<()>,
    ) -> Result<VerifyReport, StoreError> {
        let span = tracing::info_span!("verify");
        let _inside = span.enter();
        let selection = options.selection;
        let targets = self.targets(selection)?;
        let now = options.now_unix_ms.unwrap_or_else(record::now_unix_ms);
        let (age, max_bytes) = match selection {
            Selection::All => (options.older_than, options.max_bytes),
            Selection::One(_) => (None, None),
        };
        let remember = options.remember && self.is_writable();
        let known = if remember || age.is_some() || max_bytes.is_some() {
            LastChecks::read(self)
        } else {
            LastChecks::default()
        };
        let due = known.due(targets.iter().copied(), age, now);
        let mut findings = Findings::new(due.len() as u64, tell);
        for (id, seq) in due.into_iter().zip(known.next_seq()..) {
            if max_bytes.is_some_and(|most| findings.progress.bytes >= most) {
                break;
            }
            let before = findings.problems.len();
            let lease = Lease::take(self, id)?;
            match self.whereabouts(id)? {
                Some(location) => snapshot::check(self, location, id, &mut findings)?,
                // It was removed since the set was listed.
                None if selection == Selection::All => {}
                None => {
                    let path = Location::Live.snapshot(id);
                    findings.keep(id, StoreError::MissingFile { path })?;
                }
            }
            drop(lease);
            if remember {
                record::remember(self, id, seq, now, findings.problems.len() == before);
            }
            findings.snapshot_done()?;
        }
        if remember && selection == Selection::All {
            record::forget(self, &|id| targets.contains(&id));
        }
        if selection == Selection::All {
            self.check_uniqueness(&mut findings)?;
        }
        Ok(findings.into_report())
    }

    fn targets(&self, selection: Selection) -> Result<BTreeSet<SnapshotId>, StoreError> {
        match selection {
            Selection::All => {
                let mut ids = BTreeSet::new();
                for location in Location::SEARCH {
                    ids.extend(self.ids_at(location)?);
                }
                Ok(ids)
            }
            Selection::One(id) => {
                if !self.exists_at(Location::Live, id)? {
                    return Err(StoreError::NotFound {
                        what: format!("snapshot {id}"),
                    });
                }
                // What cannot be placed is found again when it is checked.
                let placed = Placed::read(self.backend(), Location::Live, id);
                Ok(placed.map_or_else(|_| BTreeSet::from([id]), |placed| placed.closure()))
            }
        }
    }

    pub(crate) fn whereabouts(&self, id: SnapshotId) -> Result<Option<Location>, StoreError> {
        for location in Location::SEARCH {
            if self.exists_at(location, id)? {
                return Ok(Some(location));
            }
        }
        Ok(None)
    }

    /// Sequence numbers are unique in a machine, deleted snapshots included; names among those in
    /// use.
    fn check_uniqueness(&self, findings: &mut Findings<'_>) -> Result<(), StoreError> {
        let mut by_seq: BTreeMap<(String, u64), SnapshotId> = BTreeMap::new();
        let mut by_name: BTreeMap<(String, String), SnapshotId> = BTreeMap::new();
        for location in Location::SEARCH {
            for record in self.list_at(location, None)?.snapshots {
                let vm = record.vm.key();
                if let Some(first) = by_seq.insert((vm.clone(), record.seq), record.id) {
                    let problem = format!(
                        "it has sequence number {} of VM {}, as has snapshot {first}",
                        record.seq, record.vm
                    );
                    findings.damaged(record.id, &manifest_path(&record), problem);
                }
                let name = record.metadata.name.as_ref();
                let name = name.filter(|_| location == Location::Live);
                if let Some(name) = name
                    && let Some(first) = by_name.insert((vm, name.key()), record.id)
                {
                    let problem = format!("it is named {name}, as is snapshot {first}");
                    findings.damaged(record.id, &metadata_path(&record), problem);
                }
            }
        }
        Ok(())
    }
}

fn manifest_path(record: &SnapshotRecord) -> snapshot_memory::backend::RelPath {
    directory::below(
        &record.location.snapshot(record.id),
        &FileKind::Manifest.file_name(0),
    )
}

fn metadata_path(record: &SnapshotRecord) -> snapshot_memory::backend::RelPath {
    directory::below(
        &record.location.snapshot(record.id),
        directory::METADATA_FILE,
    )
}
