//! The data files that the memory of one snapshot lies in.

use serde::Serialize;
use snapshot_format::{Operation, PAGE_BYTES, SnapshotId, VmName};
use snapshot_memory::{MapSummary, MappingCount};

use crate::directory::Location;
use crate::error::StoreError;
use crate::record;
use crate::store::Store;

/// The chain of data files of a snapshot.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct ChainReport {
    /// Whose.
    pub id: SnapshotId,
    /// Pages of its memory.
    pub pages: u64,
    /// Of those, pages that are zero.
    pub zero_pages: u64,
    /// Of those, pages that it stores itself.
    pub own_pages: u64,
    /// Of those, pages that lie in data files of others.
    pub inherited_pages: u64,
    /// Pages that the data files of the chain store.
    pub stored_pages: u64,
    /// Of those, pages that this snapshot does not use.
    pub waste_pages: u64,
    /// Runs of pages that lie in one data file, or are zero.
    pub runs: u64,
    /// How many mappings of the data files make up the memory.
    pub mappings: MappingCount,
    /// Bytes that consolidating it would write, by estimate.
    pub consolidation_bytes: u64,
    /// The data files, the snapshot's own first.
    pub layers: Vec<ChainLayer>,
}

/// One data file of a chain.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct ChainLayer {
    /// The snapshot that wrote it.
    pub snapshot: SnapshotId,
    /// Its machine, as far as it can be read.
    pub vm: Option<VmName>,
    /// Whether that snapshot is in use or deleted.
    pub location: Option<Location>,
    /// How many snapshots of the chain were made after it.
    pub generation: u64,
    /// How pages lie in it.
    pub layout: &'static str,
    /// Pages that it stores.
    pub stored_pages: u64,
    /// Of those, pages that this snapshot uses.
    pub used_pages: u64,
    /// The runs that those form.
    pub runs: u64,
    /// Bytes of blocks of the data file and its map.
    pub allocated_bytes: u64,
}

impl Store {
    /// The data files that the memory of a snapshot in use lies in. The whole flattened map is
    /// read, and the maps of all data files.
    pub fn chain(&self, id: SnapshotId) -> Result<ChainReport, StoreError> {
        let stored = self.image_to(Operation::Read, id)?;
        let image = stored.image();
        let summary = MapSummary::of(image)?;
        let mut layers = Vec::new();
        let files = image.files().zip(&summary.files);
        for (generation, (file, counted)) in (0_u64..).zip(files.rev()) {
            let file = file?;
            let location = self.whereabouts(counted.snapshot)?;
            let manifest = location
                .map(|location| record::read_manifest(self.backend(), location, counted.snapshot));
            layers.push(ChainLayer {
                snapshot: counted.snapshot,
                vm: manifest
                    .and_then(Result::ok)
                    .map(|(manifest, _)| manifest.vm),
                location,
                generation,
                layout: counted.layout,
                stored_pages: file.page_counts()?.present,
                used_pages: counted.pages,
                runs: counted.runs,
                allocated_bytes: file.allocated_bytes()?,
            });
        }
        let sum = |of: fn(&ChainLayer) -> u64| layers.iter().map(of).sum::<u64>();
        let own = layers.first().filter(|layer| layer.snapshot == id);
        let own_pages = own.map_or(0, |layer| layer.used_pages);
        let used = sum(|layer| layer.used_pages);
        let stored_pages = sum(|layer| layer.stored_pages);
        Ok(ChainReport {
            id,
            pages: summary.pages,
            zero_pages: summary.zero_pages,
            own_pages,
            inherited_pages: used.saturating_sub(own_pages),
            stored_pages,
            waste_pages: stored_pages.saturating_sub(used),
            runs: summary.regions.iter().map(|region| region.runs).sum(),
            mappings: summary.mappings,
            consolidation_bytes: used.saturating_sub(own_pages).saturating_mul(PAGE_BYTES),
            layers,
        })
    }
}
