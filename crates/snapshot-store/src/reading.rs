//! Reading a snapshot while it cannot be deleted.

use serde::Serialize;
use snapshot_format::state::Fingerprint;
use snapshot_format::{
    DataFileRef, Digest, FileEntry, FileKind, Header, Manifest, Operation, SectionOffers,
    SnapshotId, StateFile, limits,
};

use crate::directory::{self, Location};
use crate::error::StoreError;
use crate::feature;
use crate::file;
use crate::lease::Lease;
use crate::placed::Placed;
use crate::record::SnapshotRecord;
use crate::store::Store;

/// How often a snapshot is looked up anew when its files move while it is opened.
const ATTEMPTS: usize = 8;

/// What is known of a snapshot without reading its memory.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct SnapshotDetail {
    /// What the store lists of it.
    #[serde(flatten)]
    pub record: SnapshotRecord,
    /// The generation of the placement that counts.
    pub generation: u32,
    /// Its files.
    pub files: Vec<FileEntry>,
    /// The data files that its memory may be in, its own included.
    pub dependencies: Vec<DataFileRef>,
    /// What is wrong with placements of higher generations.
    pub problems: Vec<String>,
}

impl Store {
    /// What is known of a snapshot in use without reading its memory.
    pub fn detail(&self, id: SnapshotId) -> Result<SnapshotDetail, StoreError> {
        let record = self.snapshot(id)?;
        let placed = Placed::read(self.backend(), Location::Live, id)?;
        Ok(SnapshotDetail {
            record,
            generation: placed.placement.generation,
            files: placed.placement.files,
            dependencies: placed.placement.dependencies,
            problems: placed.passed_over.iter().map(ToString::to_string).collect(),
        })
    }

    /// The manifest of a snapshot in use, with the VMM's configuration and the fingerprint.
    pub fn manifest(&self, id: SnapshotId) -> Result<Manifest, StoreError> {
        Ok(self.live(id)?.manifest)
    }

    /// What a host must have to run the guest of a snapshot in use, as its manifest says; `None` if
    /// it does not. Neither state nor memory is read.
    pub fn fingerprint(&self, id: SnapshotId) -> Result<Option<Fingerprint>, StoreError> {
        let manifest = self.manifest(id)?;
        let path = directory::below(
            &Location::Live.snapshot(id),
            &FileKind::Manifest.file_name(0),
        );
        let saved = manifest.fingerprint.map(|section| section.value());
        saved
            .transpose()
            .map_err(|error| StoreError::decode(&path, error))
    }

    /// The sections of machine state of a snapshot in use; none if it has no state.
    pub fn state(&self, id: SnapshotId) -> Result<SectionOffers, StoreError> {
        let Some(bytes) = self.state_bytes(id)? else {
            return Ok(SectionOffers::default());
        };
        let path = directory::below(&Location::Live.snapshot(id), &FileKind::State.file_name(0));
        StateFile::offers(&bytes).map_err(|error| StoreError::decode(&path, error))
    }

    /// The bytes of `state.vms` of a snapshot in use, which are those that were written, to bring
    /// the machine back; `None` if it has no state.
    pub fn state_bytes(&self, id: SnapshotId) -> Result<Option<Vec<u8>>, StoreError> {
        self.allow(Operation::Restore)?;
        let (bytes, _lease) = self.leased(id, |placed| {
            placed.allow(Operation::Restore)?;
            let Some(entry) = placed.placement.file(FileKind::State, 0) else {
                return Ok(None);
            };
            let path = placed.path(FileKind::State, 0);
            let bytes = file::read(self.backend(), &path, limits::MAX_ENVELOPE_BYTES)?;
            // The sections have digests of their own; this one binds the file to the snapshot.
            let found = Digest::of(&bytes);
            if found != entry.digest {
                let problem = format!("its digest is {found}, and {} is expected", entry.digest);
                return Err(StoreError::damaged(&path, problem));
            }
            let header = Header::parse(&bytes, bytes.len() as u64);
            let header = header.map_err(|error| StoreError::decode(&path, error))?;
            feature::allow(&path, header.features, Operation::Restore)?;
            Ok(Some(bytes))
        })?;
        Ok(bytes)
    }

    /// Keeps a snapshot in use, and all that any placement of it names, from being destroyed: at the
    /// cost of one lock, however many snapshots those are.
    pub fn lease(&self, id: SnapshotId) -> Result<Lease, StoreError> {
        let ((), lease) = self.leased(id, |_| Ok(()))?;
        Ok(lease)
    }

    /// Leases a snapshot in use, then opens it.
    ///
    /// From the moment in which the lease is there, nothing is destroyed that a placement of the
    /// snapshot names: so the placement is read after it. A file that is missing then was moved or
    /// superseded a moment ago, and is looked for anew.
    pub(crate) fn leased<T>(
        &self,
        id: SnapshotId,
        open: impl Fn(&Placed) -> Result<T, StoreError>,
    ) -> Result<(T, Lease), StoreError> {
        if !self.exists_at(Location::Live, id)? {
            return Err(not_found(id));
        }
        let lease = Lease::take(self, id)?;
        let mut attempt = 1;
        loop {
            match self.live(id).and_then(|placed| open(&placed)) {
                Ok(opened) => return Ok((opened, lease)),
                Err(error) if error.is_missing_file() && attempt < ATTEMPTS => attempt += 1,
                Err(error) => return Err(error),
            }
        }
    }

    /// Where a snapshot in use lies.
    pub(crate) fn live(&self, id: SnapshotId) -> Result<Placed, StoreError> {
        if !self.exists_at(Location::Live, id)? {
            return Err(not_found(id));
        }
        Placed::read(self.backend(), Location::Live, id)
    }
}

fn not_found(id: SnapshotId) -> StoreError {
    StoreError::NotFound {
        what: format!("snapshot {id}"),
    }
}
