//! Snapshots of a store to a vault.

use snapshot_format::{SnapshotId, SnapshotRef};
use snapshot_memory::PageSource;
use snapshot_store::{SnapshotParts, Store};

use crate::archive::{ArchiveFile, ArchiveInput, ArchiveOptions, Archived, Relative};
use crate::domain::Domain;
use crate::error::VaultError;
use crate::id::ObjectId;
use crate::recipe::ArchivedKind;

impl Domain {
    /// Archives a snapshot of a store, which stays where it is and is leased meanwhile.
    ///
    /// Where its parent is archived here, only the pages that differ are read. An archive that there
    /// is of it already is given instead, and nothing is stored.
    pub fn archive_snapshot(
        &self,
        store: &Store,
        id: SnapshotId,
        options: &ArchiveOptions,
    ) -> Result<Archived, VaultError> {
        let parts = store.parts(id)?;
        if let Some(there) = self.archive_by(parts.reference())? {
            return Ok(Archived::there_already(there, id));
        }
        let near = match parts.manifest().parent {
            Some(parent) => self.archive_by(parent)?,
            None => None,
        };
        // Reading which pages are inherited is for nothing without an archive of the parent.
        let changed = match near {
            Some(_) => parts.changed()?,
            None => None,
        };
        let relative = near.zip(changed.as_ref());
        let input = ArchiveInput {
            snapshot: id,
            files: &files(&parts),
            memory: parts.image().map(|image| image as &dyn PageSource),
            relative: relative.map(|(archive, changed)| Relative { archive, changed }),
        };
        self.archive(&input, options)
    }

    /// The archive of a snapshot with this manifest, if there is one that counts.
    pub(crate) fn archive_by(&self, snapshot: SnapshotRef) -> Result<Option<ObjectId>, VaultError> {
        let list = self.archives()?;
        let mut archives = list.archives.iter().filter(|archive| !archive.is_deleted);
        let found = archives
            .find(|archive| archive.snapshot == snapshot.id && archive.manifest == snapshot.digest);
        Ok(found.map(|archive| archive.id))
    }
}

fn files(parts: &SnapshotParts) -> Vec<ArchiveFile<'_>> {
    let files = parts.files().iter();
    let files = files.map(|(kind, bytes)| ArchiveFile {
        kind: ArchivedKind::Snapshot(*kind),
        index: 0,
        bytes,
    });
    let metadata = parts.metadata().map(|bytes| ArchiveFile {
        kind: ArchivedKind::Metadata,
        index: 0,
        bytes,
    });
    files.chain(metadata).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use snapshot_format::{FileKind, MemoryLayout, PageRange, VmName};
    use snapshot_memory::backend::MemBackend;
    use snapshot_memory::{DirtyBitmap, MappedMemory, MappingOptions, Pages, Stability};
    use snapshot_store::{NewSnapshot, OpenOptions};

    use super::*;
    use crate::MemoryObjects;
    use crate::testing::{domain, restored};

    const PAGES: u64 = 64;

    /// Takes a snapshot of the pages that were written since the parent, or of all.
    fn snapshot(
        store: &Store,
        guest: &MappedMemory,
        since: Option<(SnapshotRef, &[u64])>,
    ) -> SnapshotRef {
        let new = NewSnapshot::of(VmName::new("web").unwrap());
        let new = new.parent(since.map(|(parent, _)| parent));
        let mut stage = store.sink(new).stage().unwrap();
        let dirty = DirtyBitmap::new(PAGES);
        for page in since.iter().flat_map(|(_, pages)| *pages) {
            dirty.set_range(PageRange::new(*page, 1));
        }
        let pages = since.map_or(Pages::Full, |(base, _)| Pages::Since {
            base,
            dirty: &dirty,
        });
        stage.memory(guest, pages, Stability::Paused).unwrap();
        stage.seal().unwrap().publish().unwrap().snapshot
    }

    #[test]
    fn a_chain_is_archived_as_what_changed_and_every_archive_stands_alone() {
        let options = OpenOptions::default();
        let store = Store::open_or_create(Arc::new(MemBackend::new()), &options).unwrap();
        let layout = MemoryLayout::single(PAGES * 4096).unwrap();
        let guest = MappedMemory::new(layout, MappingOptions::default()).unwrap();
        let mut image = vec![0; PAGES as usize * 4096];
        let mut write = |page: u64, byte: u8| {
            let noise: Vec<u8> = (0..4096_u32).map(|at| (at * at / 7) as u8 ^ byte).collect();
            guest.write(page * 4096, &noise).unwrap();
            image[page as usize * 4096..][..4096].copy_from_slice(&noise);
            image.clone()
        };
        (0..40).for_each(|page| drop(write(page, page as u8)));
        let before = write(40, 40);
        let base = snapshot(&store, &guest, None);
        write(3, 200);
        let after = write(50, 201);
        let diff = snapshot(&store, &guest, Some((base, &[3, 50])));

        let domain = domain(&MemoryObjects::new());
        let archive = |id| {
            domain
                .archive_snapshot(&store, id, &ArchiveOptions::default())
                .unwrap()
        };
        let first = archive(base.id);
        let second = archive(diff.id);
        assert_eq!(second.deltas, 2, "{second:?}");
        assert_eq!(restored(&domain, first.id).unwrap(), before);
        assert_eq!(restored(&domain, second.id).unwrap(), after);
        // Again: there is one.
        let again = archive(diff.id);
        assert_eq!((again.id, again.stored_bytes), (second.id, 0));
        let cold = domain.open_archive(second.id).unwrap();
        let manifest = cold.file(ArchivedKind::MANIFEST, 0).unwrap().unwrap();
        assert_eq!(snapshot_format::Digest::of(&manifest), diff.digest);
        let map = ArchivedKind::Snapshot(FileKind::MemoryMap);
        assert!(cold.file(map, 0).unwrap().is_some());
    }
}
