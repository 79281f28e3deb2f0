//! A small vault in memory, which checks of archives start from.

use std::error::Error;
use std::sync::Arc;

use snapshot_format::{Digest, MemoryLayout, PAGE_BYTES, PageRange, SnapshotId};
use snapshot_memory::{DirtyBitmap, PageRun, PageSource, SourceError};
use snapshot_vault::{
    ArchiveFile, ArchiveInput, ArchiveOptions, ArchivedKind, Domain, MemoryObjects, ObjectId,
    Relative, ScopeName, Sealing, Vault,
};

use crate::random::Random;

/// A vault with two archives, a deleted one and a lease.
#[derive(Debug)]
pub(crate) struct ColdVault {
    /// Its objects.
    pub(crate) objects: MemoryObjects,
    /// Archives, and the digests of their memory.
    pub(crate) archives: Vec<(ObjectId, Digest)>,
}

/// Guest memory in a vector.
struct Memory(MemoryLayout, Vec<u8>);

impl PageSource for Memory {
    fn layout(&self) -> &MemoryLayout {
        &self.0
    }

    fn run(&self, pages: PageRange) -> Result<PageRun, SourceError> {
        Ok(PageRun {
            count: pages.count,
            is_zero: false,
        })
    }

    fn read_pages(&self, pages: PageRange, out: &mut [u8]) -> Result<(), SourceError> {
        let start = usize::try_from(pages.start.0 * PAGE_BYTES).unwrap_or(usize::MAX);
        let bytes = self.1.get(start..start.saturating_add(out.len()));
        out.copy_from_slice(bytes.unwrap_or_default());
        Ok(())
    }
}

/// Makes the vault: 40 pages, of which some are zero, some alike, and some noise.
pub(crate) fn make() -> Result<ColdVault, Box<dyn Error>> {
    make_of(40)
}

/// Makes a vault of archives of so many pages, four at least.
pub(crate) fn make_of(pages: usize) -> Result<ColdVault, Box<dyn Error>> {
    let objects = MemoryObjects::new();
    let vault = Vault::open_or_create(Arc::new(objects.clone()))?;
    let domain = vault.create_domain(&ScopeName::default_scope(), &Sealing::Open)?;
    let mut random = Random::new(7);
    let page_bytes = usize::try_from(PAGE_BYTES)?;
    let mut bytes = vec![0; pages * page_bytes];
    for (number, page) in bytes.chunks_mut(page_bytes).enumerate() {
        match number % 4 {
            0 => page.fill(0),
            1 => page.fill(u8::try_from(number).unwrap_or(1)),
            _ => page
                .iter_mut()
                .for_each(|byte| *byte = random.next().to_le_bytes()[0]),
        }
    }
    let mut memory = Memory(MemoryLayout::single(pages as u64 * PAGE_BYTES)?, bytes);
    let first = archive(&domain, 1, &memory, None)?;
    let mut archives = vec![(first, Digest::of(&memory.1))];
    if let Some(page) = memory.1.get_mut(3 * page_bytes..4 * page_bytes) {
        page.fill(9);
    }
    let dirty = DirtyBitmap::new(pages as u64);
    dirty.set_range(PageRange::new(3, 1));
    let relative = Relative {
        archive: first,
        changed: &dirty,
    };
    let second = archive(&domain, 2, &memory, Some(relative))?;
    archives.push((second, Digest::of(&memory.1)));
    let third = archive(&domain, 3, &memory, None)?;
    domain.delete_archive(third)?;
    // It lasts as long as its object does.
    std::mem::forget(domain.lease_archive(first)?);
    Ok(ColdVault { objects, archives })
}

fn archive(
    domain: &Domain,
    number: u8,
    memory: &Memory,
    relative: Option<Relative<'_>>,
) -> Result<ObjectId, Box<dyn Error>> {
    let manifest = ArchiveFile {
        kind: ArchivedKind::MANIFEST,
        index: 0,
        bytes: &[number; 300],
    };
    let input = ArchiveInput {
        snapshot: SnapshotId([number; 16]),
        files: &[manifest],
        memory: Some(memory),
        relative,
    };
    Ok(domain.archive(&input, &ArchiveOptions::default())?.id)
}
