//! The archives of a domain, each with what its manifest says.

use std::collections::BTreeMap;

use snapshot_format::{DecodeError, Digest, FileKind, Manifest, SnapshotId, StateFile};
use snapshot_store::{Metadata, Reference};

use crate::archives::ColdSnapshot;
use crate::domain::Domain;
use crate::error::VaultError;
use crate::id::ObjectId;
use crate::recipe::ArchivedKind;

/// An archive, with what its manifest says.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ArchivedSnapshot {
    /// The archive.
    pub archive: ObjectId,
    /// What the snapshot is.
    pub manifest: Manifest,
    /// The digest of the manifest.
    pub digest: Digest,
    /// Name, labels and tags as they were when it was archived; `None` where they could not be read.
    pub metadata: Option<Metadata>,
    /// Whether it was deleted, and may be undeleted.
    pub is_deleted: bool,
}

/// The archives of a domain.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct Catalog {
    /// Those that can be read, by machine, sequence number and archive.
    pub archives: Vec<ArchivedSnapshot>,
    /// Recipes without a commit: their writers go on, or have died.
    pub unfinished: Vec<ObjectId>,
    /// Archives that cannot be read, and why. They hide no other.
    pub damaged: Vec<(ObjectId, VaultError)>,
}

impl Domain {
    /// The archives of the domain, with what their manifests say.
    pub fn catalog(&self) -> Result<Catalog, VaultError> {
        let list = self.archives()?;
        let mut catalog = Catalog {
            archives: Vec::new(),
            unfinished: list.unfinished,
            damaged: list.damaged,
        };
        let Some(first) = list.archives.first() else {
            return Ok(catalog);
        };
        // The first one that is still there: all have the same index.
        let mut open: Option<ColdSnapshot> = self.open_archive(first.id).ok();
        for summary in list.archives {
            let cold = match &open {
                Some(beside) => beside.open_beside(summary.id),
                None => self.open_archive(summary.id),
            };
            let described = cold.and_then(|cold| {
                let described = ArchivedSnapshot {
                    archive: summary.id,
                    manifest: cold.manifest()?,
                    digest: summary.manifest,
                    metadata: cold.metadata()?,
                    is_deleted: summary.is_deleted,
                };
                open.get_or_insert(cold);
                Ok(described)
            });
            match described {
                Ok(described) => catalog.archives.push(described),
                // Expired since it was listed.
                Err(VaultError::NotFound { .. }) => {}
                Err(error) => catalog.damaged.push((summary.id, error)),
            }
        }
        catalog.archives.sort_by_cached_key(|archived| {
            let manifest = &archived.manifest;
            (manifest.vm.key(), manifest.seq, archived.archive)
        });
        Ok(catalog)
    }
}

impl ColdSnapshot {
    /// What the snapshot is.
    pub fn manifest(&self) -> Result<Manifest, VaultError> {
        let bytes = self.file(ArchivedKind::MANIFEST, 0)?.unwrap_or_default();
        let parsed = Manifest::parse(&bytes).map_err(self.undecodable("manifest"))?;
        if parsed.id == self.snapshot() {
            return Ok(parsed);
        }
        Err(VaultError::Input {
            what: format!("archive {} has the manifest of another snapshot", self.id()),
        })
    }

    /// Name, labels and tags; `None` where they were not archived or cannot be read.
    pub fn metadata(&self) -> Result<Option<Metadata>, VaultError> {
        let bytes = self.file(ArchivedKind::Metadata, 0)?;
        Ok(bytes.and_then(|bytes| Metadata::of_copy(self.snapshot(), &bytes)))
    }

    /// The machine state; `None` if the snapshot has none.
    pub fn state(&self) -> Result<Option<StateFile>, VaultError> {
        let bytes = self.file(ArchivedKind::Snapshot(FileKind::State), 0)?;
        let parsed = bytes.map(|bytes| StateFile::parse(&bytes));
        parsed
            .transpose()
            .map_err(self.undecodable("machine state"))
    }

    fn undecodable(&self, what: &'static str) -> impl FnOnce(DecodeError) -> VaultError {
        let archive = self.id();
        move |source| VaultError::Content {
            archive,
            what,
            source,
        }
    }
}

impl Catalog {
    /// The archive that a reference means, of those that are not deleted: of the snapshot with this
    /// id, this part of one, this name, or the highest sequence number.
    pub fn resolve(&self, reference: &Reference) -> Result<&ArchivedSnapshot, VaultError> {
        // Archives of one snapshot hold the same: the one with the lowest id counts.
        let mut counting: BTreeMap<SnapshotId, &ArchivedSnapshot> = BTreeMap::new();
        for archived in self.archives.iter().filter(|archived| !archived.is_deleted) {
            let known = counting.entry(archived.manifest.id).or_insert(archived);
            if archived.archive < known.archive {
                *known = archived;
            }
        }
        let mut meant: Vec<_> = counting
            .into_values()
            .filter(|archived| is_meant(reference, archived))
            .collect();
        meant.sort_by_key(|archived| archived.manifest.seq);
        match (reference, meant.as_slice()) {
            (Reference::Part(part), [_, _, ..]) => Err(VaultError::Input {
                what: format!("{part} could mean {} archived snapshots", meant.len()),
            }),
            (_, [.., last]) => Ok(*last),
            (_, []) => Err(VaultError::NotFound {
                what: format!("an archive of {reference}"),
            }),
        }
    }
}

fn is_meant(reference: &Reference, archived: &ArchivedSnapshot) -> bool {
    let manifest = &archived.manifest;
    match reference {
        Reference::Id(id) => manifest.id == *id,
        Reference::Part(part) => {
            let text = manifest.id.to_string();
            text.starts_with(part) || text.ends_with(part)
        }
        Reference::Named { vm, name } => {
            let own = archived
                .metadata
                .as_ref()
                .and_then(|known| known.name.as_ref());
            manifest.vm.key() == vm.key() && own.is_some_and(|own| own.key() == name.key())
        }
        Reference::Latest { vm } => manifest.vm.key() == vm.key(),
    }
}
