//! One data file with its memory map: the pages that one snapshot stored.

#[cfg(target_os = "linux")]
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use snapshot_format::page_map::MERGED_READER_MINOR;
use snapshot_format::sabotage::Sabotage;
use snapshot_format::{
    DataFileRef, DataLayout, DecodeError, Digest, Features, GuestPage, IndexLeaf, LEAF_PAGES,
    LeafRef, MapRoot, Operation, OwnerLeaf, PageIndex, PageRange, SectionTable,
};

use super::cache::LeafCache;
use super::error::ImageError;
use super::spare::Spares;
use crate::backend::ReadFile;
use crate::envelope_file::{self, Frame};

/// A data file and its map. The root of the map is read and checked at opening; leaves are read
/// when they are needed, and checked against the root.
#[derive(Debug)]
pub struct DataFile {
    pub(super) root: MapRoot,
    pub(super) names: DataFileNames,
    pub(super) map: Box<dyn ReadFile>,
    pub(super) data: Box<dyn ReadFile>,
    table: SectionTable,
    frame_digest: Digest,
    features: Features,
    is_merged: bool,
    reference: DataFileRef,
    index: LeafCache<IndexLeaf>,
    pub(super) spares: Arc<Spares>,
}

/// What the two files are called in errors.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DataFileNames {
    /// The memory map.
    pub map: String,
    /// The data file.
    pub data: String,
}

impl DataFile {
    /// Opens a data file through its map, which must be the one that `wanted` names.
    ///
    /// Checked here: the frame of the map, its root, that the root is the one named, and that the
    /// data file is as long as the root says.
    pub fn open(
        map: Box<dyn ReadFile>,
        data: Box<dyn ReadFile>,
        names: DataFileNames,
        wanted: &DataFileRef,
    ) -> Result<Self, ImageError> {
        let file = Self::open_any(map, data, names, wanted)?;
        let found = file.data.len();
        let found = found.map_err(ImageError::file_at("measure", &file.names.data))?;
        let expected = file.root.data_len_bytes;
        if found != expected && !Sabotage::TrustedLength.is_on() {
            return Err(ImageError::DataLength {
                file: file.names.data,
                expected,
                found,
            });
        }
        Ok(file)
    }

    /// Opens a data file of whatever length.
    pub(super) fn open_any(
        map: Box<dyn ReadFile>,
        data: Box<dyn ReadFile>,
        names: DataFileNames,
        wanted: &DataFileRef,
    ) -> Result<Self, ImageError> {
        let ReadRoot {
            table,
            bytes: root_bytes,
            root,
            frame_digest,
            features,
            is_merged,
        } = read_root(&*map, &names.map)?;
        check_wanted(&root, &root_bytes, wanted, &names.map)?;
        let index = LeafCache::new(MAX_INDEX_CACHE_BYTES);
        Ok(Self {
            root,
            names,
            map,
            data,
            table,
            frame_digest,
            features,
            is_merged,
            reference: *wanted,
            index,
            spares: Arc::default(),
        })
    }

    /// The root of the map.
    #[must_use]
    pub fn root(&self) -> &MapRoot {
        &self.root
    }

    /// What a build must know to do something to the memory; of the header of the map.
    pub(crate) fn features(&self) -> Features {
        self.features
    }

    /// Whether it is a merged file, or one laid out anew from one: the header of the map asks for
    /// readers that know such files.
    #[must_use]
    pub fn is_merged(&self) -> bool {
        self.is_merged
    }

    /// Refuses an operation that needs features of the map which this build does not know.
    pub fn allow(&self, operation: Operation) -> Result<(), ImageError> {
        allow(&self.names.map, self.features, operation)
    }

    /// Bytes of blocks that the data file and its map occupy.
    pub fn allocated_bytes(&self) -> Result<u64, ImageError> {
        let measured = |file: &dyn ReadFile, name: &str| {
            let allocated = file.allocated_bytes();
            allocated.map_err(ImageError::file_at("measure", name))
        };
        let map = measured(&*self.map, &self.names.map)?;
        Ok(measured(&*self.data, &self.names.data)?.saturating_add(map))
    }

    /// What a placement names the map by: the digest of its header and section table.
    #[must_use]
    pub fn frame_digest(&self) -> Digest {
        self.frame_digest
    }

    /// What a placement names the data file by.
    #[must_use]
    pub fn reference(&self) -> DataFileRef {
        self.reference
    }

    /// The two names.
    #[must_use]
    pub fn names(&self) -> &DataFileNames {
        &self.names
    }

    pub(super) fn table(&self) -> &SectionTable {
        &self.table
    }

    /// What this data file holds of a leaf; `None`: every page is inherited.
    pub fn index_leaf(&self, number: u32) -> Result<Option<Arc<IndexLeaf>>, ImageError> {
        let Some(leaf) = self.root.index.get(number) else {
            return Ok(None);
        };
        let read = || {
            let bytes = self.leaf_bytes(leaf)?;
            let parsed = self
                .root
                .index_leaf(leaf, &bytes)
                .map_err(|e| self.map_error(e))?;
            let held = bytes.len() + RANK_BYTES;
            Ok((parsed, held))
        };
        self.index.get(number, read).map(Some)
    }

    /// A leaf of the flattened map that this file holds.
    pub(crate) fn owner_leaf(&self, leaf: &LeafRef) -> Result<OwnerLeaf, ImageError> {
        let bytes = self.leaf_bytes(leaf)?;
        self.root
            .owner_leaf(leaf, &bytes)
            .map_err(|e| self.map_error(e))
    }

    /// The pages that share a digest with a page, and where they lie in the data file.
    ///
    /// `None` if the page is no memory of this file's layout or, packed, is not present, or if the
    /// data lies in frames.
    pub(crate) fn unit(&self, leaf: &IndexLeaf, page: GuestPage) -> Option<(PageRange, u64)> {
        let unit = self.root.layout.unit(page, self.root.unit_pages)?;
        let offset = match self.root.data_layout {
            DataLayout::Packed => leaf.packed_offset(within_leaf(page))?,
            DataLayout::Sparse => unit.start.image_offset()?,
            _ => return None,
        };
        Some((unit, offset))
    }

    /// Where a page lies in the data file, in bytes.
    pub(crate) fn page_offset(&self, page: GuestPage) -> Result<u64, ImageError> {
        let offset = match self.root.data_layout {
            DataLayout::Sparse => {
                let page = self.root.layout.image_page(page);
                page.and_then(PageIndex::image_offset)
            }
            DataLayout::Packed => {
                let number = u32::try_from(page.0 / LEAF_PAGES as u64).unwrap_or(u32::MAX);
                let leaf = self.index_leaf(number)?;
                leaf.and_then(|leaf| leaf.packed_offset(within_leaf(page)))
            }
            _ => None,
        };
        offset.ok_or_else(|| self.not_held(page))
    }

    /// The descriptor of the data file, where its backend has one.
    #[cfg(target_os = "linux")]
    pub(crate) fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.data.as_fd()
    }

    pub(crate) fn read_data(&self, offset: u64, out: &mut [u8]) -> Result<(), ImageError> {
        self.data
            .read_exact_at(offset, out)
            .map_err(ImageError::file_at("read", &self.names.data))
    }

    pub(super) fn map_error(&self, source: DecodeError) -> ImageError {
        ImageError::Map {
            file: self.names.map.clone(),
            source,
        }
    }

    fn leaf_bytes(&self, leaf: &LeafRef) -> Result<Vec<u8>, ImageError> {
        read_leaf(&*self.map, &self.names.map, leaf)
    }
}

/// Refuses an operation on a file that needs features which this build does not know.
pub(crate) fn allow(
    file: &str,
    features: Features,
    operation: Operation,
) -> Result<(), ImageError> {
    match features.allow(operation) {
        Err(DecodeError::Feature { operation, bits }) => Err(ImageError::Feature {
            file: file.to_owned(),
            operation,
            bits,
        }),
        _ => Ok(()),
    }
}

/// The bytes of a leaf that a checked root names, not yet checked themselves.
pub(super) fn read_leaf(
    map: &dyn ReadFile,
    file: &str,
    leaf: &LeafRef,
) -> Result<Vec<u8>, ImageError> {
    // The root has been checked: the length is that of a leaf.
    let mut bytes = vec![0; leaf.len as usize];
    map.read_exact_at(leaf.offset, &mut bytes)
        .map_err(ImageError::file_at("read", file))?;
    Ok(bytes)
}

/// Refuses a root that is not the one that `wanted` names.
pub(super) fn check_wanted(
    root: &MapRoot,
    root_bytes: &[u8],
    wanted: &DataFileRef,
    file: &str,
) -> Result<(), ImageError> {
    let found = Digest::of(root_bytes);
    if found == wanted.map_root && root.id == wanted.snapshot {
        return Ok(());
    }
    Err(ImageError::OtherMap {
        file: file.to_owned(),
        snapshot: wanted.snapshot,
        expected: wanted.map_root,
        found,
    })
}

/// The place of a guest page in its leaf.
pub(crate) fn within_leaf(page: GuestPage) -> usize {
    usize::try_from(page.0 % LEAF_PAGES as u64).unwrap_or(0)
}

/// The frame and the root of a memory map, checked.
pub(super) struct ReadRoot {
    pub(super) table: SectionTable,
    /// The root as it was stored.
    pub(super) bytes: Vec<u8>,
    pub(super) root: MapRoot,
    pub(super) frame_digest: Digest,
    pub(super) features: Features,
    /// Whether the header asks for readers that know merged files.
    pub(super) is_merged: bool,
}

/// Reads and checks the frame and the root of a memory map.
pub(super) fn read_root(map: &dyn ReadFile, file: &str) -> Result<ReadRoot, ImageError> {
    let damaged = |source| ImageError::Map {
        file: file.to_owned(),
        source,
    };
    let Frame {
        header,
        table,
        digest,
    } = Frame::read(map, file)?;
    let entry = MapRoot::entry(&header, &table).map_err(damaged)?;
    let root_bytes = envelope_file::read(map, file, entry.offset, entry.stored_len)?;
    let root = MapRoot::parse(&header, &table, &root_bytes).map_err(damaged)?;
    Ok(ReadRoot {
        table,
        bytes: root_bytes,
        root,
        frame_digest: digest,
        features: header.features,
        is_merged: header.reader_minor >= MERGED_READER_MINOR,
    })
}

/// Bytes of index leaves that one open data file keeps.
const MAX_INDEX_CACHE_BYTES: usize = 4 << 20;

/// What a parsed index leaf holds beyond its bytes.
const RANK_BYTES: usize = 1024;
