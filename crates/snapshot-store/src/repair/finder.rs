//! Where the bytes of a damaged unit may still be.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use snapshot_format::{DataFileRef, Digest, FileKind, GuestPage, PAGE_BYTES};
use snapshot_memory::{DamagedUnit, DataFile, GuestMemorySource, MemoryImage, RawFile};

use crate::directory::{self, Location};
use crate::error::StoreError;
use crate::placed::{self, Placed};
use crate::record;
use crate::repair::source::{RepairSource, WantedPages};
use crate::repair::whole::BUT_FOR_ONE_BIT;
use crate::store::Store;

/// Looks for the bytes of damaged units of one data file.
pub(super) struct Finder<'a, 's> {
    store: &'a Store,
    target: &'a DataFile,
    /// Units of other data files with a digest that is wanted.
    copies: BTreeMap<Digest, Vec<(DataFileRef, GuestPage)>>,
    /// Other data files with the same pages.
    pub(super) twins: Vec<DataFile>,
    /// Materialised images of memory that lies in the same places.
    images: Vec<(String, RawFile)>,
    /// For a merged file, memory that its pages came from: by older placements, and of the parent.
    memories: Vec<(String, MemoryImage)>,
    source: Option<&'a mut (dyn RepairSource + 's)>,
    /// Bytes that may still be hashed to look for one wrong bit.
    hashing_left: u64,
    /// Where bytes came from.
    pub(super) from: BTreeSet<String>,
}

impl<'a, 's> Finder<'a, 's> {
    pub(super) fn new(
        store: &'a Store,
        target: &'a DataFile,
        damaged: &[DamagedUnit],
        source: Option<&'a mut (dyn RepairSource + 's)>,
    ) -> Result<Self, StoreError> {
        let wanted: BTreeSet<Digest> = damaged.iter().map(|unit| unit.digest).collect();
        let mut finder = Self {
            store,
            target,
            copies: BTreeMap::new(),
            twins: Vec::new(),
            images: Vec::new(),
            memories: Vec::new(),
            source,
            hashing_left: HASHED_BYTES,
            from: BTreeSet::new(),
        };
        if wanted.is_empty() {
            return Ok(finder);
        }
        for data in all_data(store)? {
            if data == target.reference() {
                continue;
            }
            // What cannot be opened is damage of its own, and no copy.
            let Ok(file) = store.open_data_file(&data) else {
                continue;
            };
            let hits = file.find_digests(&|digest| wanted.contains(digest));
            for (digest, page) in hits.unwrap_or_default() {
                finder.copies.entry(digest).or_default().push((data, page));
            }
            if data.snapshot == target.reference().snapshot {
                finder.twins.push(file);
            }
        }
        finder.open_images()?;
        if target.is_merged() {
            finder.open_memories()?;
        }
        Ok(finder)
    }

    /// The memory of the snapshot by each placement that does not name the file, and its parent's.
    fn open_memories(&mut self) -> Result<(), StoreError> {
        let (store, target) = (self.store, self.target.reference());
        let parent = self.target.root().parent.map(|parent| parent.id);
        for id in [Some(target.snapshot), parent].into_iter().flatten() {
            let Some(location) = store.whereabouts(id)? else {
                continue;
            };
            for placed in placed::all_readable(store.backend(), location, id)? {
                if placed.placement.dependencies.contains(&target) {
                    continue;
                }
                if let Ok(image) = store.open_image(&placed) {
                    let name = placed.path(FileKind::Placement, placed.placement.generation);
                    self.memories.push((name.as_str().to_owned(), image));
                }
            }
        }
        Ok(())
    }

    /// Every materialised image of memory of the same layout.
    fn open_images(&mut self) -> Result<(), StoreError> {
        for id in self.store.ids_at(Location::Live)? {
            let Ok((manifest, _)) = record::read_manifest(self.store.backend(), Location::Live, id)
            else {
                continue;
            };
            if manifest.layout != self.target.root().layout {
                continue;
            }
            if let Ok(Some(image)) = self.store.find_cached(&manifest)
                && let Ok(raw) = RawFile::image(image.into_file(), manifest.layout)
            {
                let name = directory::cached(id).as_str().to_owned();
                self.images.push((name, raw));
            }
        }
        Ok(())
    }

    /// The bytes of a damaged unit. Whatever is given has its digest.
    pub(super) fn find(&mut self, unit: &DamagedUnit) -> Option<Vec<u8>> {
        let is_right = |bytes: &Vec<u8>| unit.digest.check(bytes).is_ok();
        let found = self.copy_of(unit).filter(|(_, bytes)| is_right(bytes));
        let found = found.or_else(|| self.twin_of(unit).filter(|(_, bytes)| is_right(bytes)));
        let found = found.or_else(|| self.in_memory(unit));
        let found = found.or_else(|| self.in_image(unit));
        let found = found.or_else(|| self.elsewhere(unit).filter(|(_, bytes)| is_right(bytes)));
        let found = found.or_else(|| self.flipped_back(unit));
        let (from, bytes) = found?;
        self.from.insert(from);
        Some(bytes)
    }

    fn copy_of(&self, unit: &DamagedUnit) -> Option<(String, Vec<u8>)> {
        let copies = self.copies.get(&unit.digest)?;
        copies.iter().find_map(|(data, page)| {
            let file = self.store.open_data_file(data).ok()?;
            let bytes = file.whole_unit(*page).ok()?;
            Some((file.names().data.clone(), bytes))
        })
    }

    fn twin_of(&self, unit: &DamagedUnit) -> Option<(String, Vec<u8>)> {
        self.twins.iter().find_map(|twin| {
            let bytes = twin.pages_like(unit, self.target)?;
            let is_right = unit.digest.check(&bytes).is_ok();
            is_right.then(|| (twin.names().data.clone(), bytes))
        })
    }

    fn in_image(&self, unit: &DamagedUnit) -> Option<(String, Vec<u8>)> {
        self.images.iter().find_map(|(name, image)| {
            let bytes = present_bytes(unit, |out| image.read_pages(unit.pages, out).is_ok())?;
            Some((name.clone(), bytes))
        })
    }

    fn in_memory(&self, unit: &DamagedUnit) -> Option<(String, Vec<u8>)> {
        self.memories.iter().find_map(|(name, image)| {
            let bytes = present_bytes(unit, |out| image.read_pages(unit.pages, out).is_ok())?;
            Some((name.clone(), bytes))
        })
    }

    fn elsewhere(&mut self, unit: &DamagedUnit) -> Option<(String, Vec<u8>)> {
        let source = self.source.as_mut()?;
        let bytes = source.pages(&WantedPages {
            data: self.target.reference(),
            layout: &self.target.root().layout,
            pages: unit.pages,
            present: &unit.present,
            digest: unit.digest,
        })?;
        Some((source.name().to_owned(), bytes))
    }

    /// The bytes that are there, with the one bit of them changed that makes them right.
    fn flipped_back(&mut self, unit: &DamagedUnit) -> Option<(String, Vec<u8>)> {
        let mut bytes = unit.found.clone()?;
        let len = bytes.len() as u64;
        self.hashing_left = self.hashing_left.checked_sub(len * len * 8)?;
        for at in 0..bytes.len() {
            for bit in 0..8 {
                let flip = |bytes: &mut Vec<u8>| {
                    if let Some(byte) = bytes.get_mut(at) {
                        *byte ^= 1 << bit;
                    }
                };
                flip(&mut bytes);
                if unit.digest.check(&bytes).is_ok() {
                    return Some((BUT_FOR_ONE_BIT.to_owned(), bytes));
                }
                flip(&mut bytes);
            }
        }
        None
    }
}

/// The bytes of a unit out of whole memory, if they are the right ones.
fn present_bytes(unit: &DamagedUnit, read: impl Fn(&mut [u8]) -> bool) -> Option<Vec<u8>> {
    let mut bytes = vec![0; unit.len_bytes()];
    if !read(&mut bytes) {
        return None;
    }
    for (page, present) in bytes.chunks_exact_mut(PAGE).zip(&unit.present) {
        if !present {
            page.fill(0);
        }
    }
    unit.digest.check(&bytes).is_ok().then_some(bytes)
}

/// Every data file that any placement of any snapshot names as its snapshot's own.
fn all_data(store: &Store) -> Result<HashSet<DataFileRef>, StoreError> {
    let backend = store.backend();
    let mut all = HashSet::new();
    for location in Location::SEARCH {
        for id in store.ids_at(location)? {
            for Placed { placement, .. } in placed::all_readable(backend, location, id)? {
                let files = placement.files.iter();
                let data = files.filter(|file| file.kind == FileKind::MemoryData);
                all.extend(data.map(|file| DataFileRef {
                    snapshot: id,
                    index: file.index,
                    map_root: file.digest,
                }));
            }
        }
    }
    Ok(all)
}

#[expect(clippy::cast_possible_truncation, reason = "4096")]
const PAGE: usize = PAGE_BYTES as usize;

/// Bytes that are hashed at most to find single wrong bits of one file: 128 units of a page. Units of
/// sixteen pages, which take 32 GiB each, are never tried.
const HASHED_BYTES: u64 = 16 << 30;
