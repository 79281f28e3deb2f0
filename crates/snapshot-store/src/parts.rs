//! All that a snapshot is made of, kept from being destroyed: for copying it elsewhere.

use snapshot_format::{
    Digest, FileKind, GuestPage, LEAF_PAGES, Manifest, Operation, PageRange, SnapshotId,
    SnapshotRef, limits,
};
use snapshot_memory::{DirtyBitmap, ImageError};

use crate::directory::{self, Location};
use crate::error::StoreError;
use crate::file;
use crate::image::StoredImage;
use crate::lease::Lease;
use crate::placed::Placed;
use crate::store::Store;

/// A snapshot in use: its small files as they are, and its memory open.
#[derive(Debug)]
pub struct SnapshotParts {
    manifest: Manifest,
    reference: SnapshotRef,
    files: Vec<(FileKind, Vec<u8>)>,
    metadata: Option<Vec<u8>>,
    image: Option<StoredImage>,
    lease: Lease,
}

impl Store {
    /// Opens all that a snapshot in use is made of.
    ///
    /// The map of its own memory is the first one, which the manifest names, whatever the placement
    /// that counts has beside it.
    pub fn parts(&self, id: SnapshotId) -> Result<SnapshotParts, StoreError> {
        let lease = self.lease(id)?;
        self.allow(Operation::Read)?;
        let placed = self.live(id)?;
        placed.allow(Operation::Read)?;
        let manifest = self.whole(&placed, FileKind::Manifest, Some(placed.digest))?;
        let mut files = vec![(FileKind::Manifest, manifest)];
        if let Some(entry) = placed.placement.file(FileKind::State, 0) {
            let state = self.whole(&placed, FileKind::State, Some(entry.digest))?;
            files.push((FileKind::State, state));
        }
        let mut image = None;
        if placed.manifest.map_root.is_some() {
            let map = self.whole(&placed, FileKind::MemoryMap, None)?;
            files.push((FileKind::MemoryMap, map));
            image = Some(self.image_to(Operation::Read, id)?);
        }
        let path = directory::below(&Location::Live.snapshot(id), directory::METADATA_FILE);
        // One that cannot be read is damage of the store, and none of the snapshot.
        let metadata = file::read(self.backend(), &path, limits::MAX_ENVELOPE_BYTES).ok();
        Ok(SnapshotParts {
            reference: SnapshotRef {
                id,
                digest: placed.digest,
            },
            manifest: placed.manifest,
            files,
            metadata,
            image,
            lease,
        })
    }

    /// Reads a file of a snapshot, which has the digest that is given.
    fn whole(
        &self,
        placed: &Placed,
        kind: FileKind,
        digest: Option<Digest>,
    ) -> Result<Vec<u8>, StoreError> {
        let path = placed.path(kind, 0);
        let bytes = file::read(self.backend(), &path, MAX_FILE_BYTES)?;
        match digest.map_or(Ok(()), |digest| digest.check(&bytes)) {
            Ok(()) => Ok(bytes),
            Err(found) => {
                let problem = format!("its digest is {found}, which is not the one it had");
                Err(StoreError::damaged(&path, problem))
            }
        }
    }
}

impl SnapshotParts {
    /// What the snapshot is.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// What a child names it by.
    pub fn reference(&self) -> SnapshotRef {
        self.reference
    }

    /// Its files but for memory, as they are: the manifest, and the state and the map of its own
    /// memory where it has them.
    pub fn files(&self) -> &[(FileKind, Vec<u8>)] {
        &self.files
    }

    /// `snapshot.json` as it is; `None` if it cannot be read.
    pub fn metadata(&self) -> Option<&[u8]> {
        self.metadata.as_deref()
    }

    /// Its memory, if it has any.
    pub fn image(&self) -> Option<&StoredImage> {
        self.image.as_ref()
    }

    /// What keeps all of it.
    pub fn lease(&self) -> &Lease {
        &self.lease
    }

    /// The image pages that it does not take from its parent: all others are the parent's, from the
    /// same data files. `None` without memory or without a parent.
    pub fn changed(&self) -> Result<Option<DirtyBitmap>, StoreError> {
        let (Some(stored), Some(_)) = (&self.image, self.manifest.parent) else {
            return Ok(None);
        };
        let image = stored.image();
        let layout = image.layout();
        let changed = DirtyBitmap::new(layout.page_count());
        let last = image.references().last();
        let is_own = last.is_some_and(|data| data.snapshot == self.reference.id);
        let number = u16::try_from(image.references().len()).ok();
        let Some(number) = number.filter(|_| is_own) else {
            // No data file of its own that could tell: any page may be another one.
            changed.set_all();
            return Ok(Some(changed));
        };
        let file = image.file(number)?;
        for leaf in file.root().index.refs() {
            let Some(leaf) = file.index_leaf(leaf.number)? else {
                continue;
            };
            let first = u64::from(leaf.number()) * LEAF_PAGES as u64;
            let runs = leaf.present().runs().chain(leaf.zero().runs());
            for (start, count) in runs {
                for page in start..start + count {
                    let guest = GuestPage(first + page as u64);
                    let page = layout.image_page(guest);
                    let page = page.ok_or_else(|| not_memory(leaf.number()))?;
                    changed.set_range(PageRange::new(page.0, 1));
                }
            }
        }
        Ok(Some(changed))
    }
}

fn not_memory(leaf: u32) -> StoreError {
    StoreError::image(ImageError::LeafMemory { leaf })
}

/// Bytes of a file that is read whole: the map of a guest of terabytes.
const MAX_FILE_BYTES: u64 = 1 << 30;
