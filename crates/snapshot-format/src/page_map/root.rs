//! The root of a page map: the one part that is read when a snapshot is opened.

use serde::Serialize;

use crate::address::{GuestAddress, PAGE_BYTES};
use crate::bytes::Fields;
use crate::envelope::{BASE_READER_MINOR, FileKind, Header, SectionEntry, SectionTable};
use crate::error::{DecodeError, Part};
use crate::id::{Digest, SnapshotId, SnapshotRef};
use crate::layout::{MemoryLayout, MemoryRegion};
use crate::limits;
use crate::page_map::frame_table::frame_count;
use crate::page_map::{IndexLeaf, LEAF_WORDS, LeafRef, LeafTable, MAX_UNIT_PAGES, OwnerLeaf};
use crate::section::SectionKind;

/// The version of the root section that this build reads and writes.
pub const MAP_ROOT_VERSION: u16 = 1;

/// The lowest minor version that reads the map of a merged file, which holds more than the snapshot
/// wrote (page 26).
pub const MERGED_READER_MINOR: u16 = 5;

/// Where the root's part is in errors.
const PART: Part = SectionKind::MAP_ROOT.part(0);

/// Where fields of the root start. The table of `specs/02-page-map.md` must agree.
pub(crate) mod at {
    pub(crate) const FILE: u64 = 64;
    pub(crate) const LAYOUT: u64 = 66;
    pub(crate) const UNIT: u64 = 68;
    pub(crate) const DATA_LEN: u64 = 72;
    pub(crate) const REGION_COUNT: u64 = 80;
    pub(crate) const REGIONS: u64 = 96;
}

/// The length of data that lies in no frames.
const UNFRAMED_LEN: &str = "sparse data is as long as the image, packed data is whole pages of it";

/// How present pages lie in a data file.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum DataLayout {
    /// Each page at its offset in the raw image.
    Sparse,
    /// Present pages back to back, leaf by leaf.
    Packed,
    /// Present pages in frames of 16, each compressed where that is shorter, back to back.
    Frames,
}

/// The root of one `memory.map`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct MapRoot {
    /// The snapshot whose memory this is.
    pub id: SnapshotId,
    /// Its parent, for a manifest that is lost.
    pub parent: Option<SnapshotRef>,
    /// Which guest physical addresses are memory.
    pub layout: MemoryLayout,
    /// How present pages lie in the data file.
    pub data_layout: DataLayout,
    /// Pages in one digest unit: a power of two up to 16; 1 in packed data and in frames.
    pub unit_pages: u16,
    /// The length of the data file in bytes.
    pub data_len_bytes: u64,
    /// The place of this data file in the list of dependencies, counted from 1. A 1 depends on no
    /// other.
    pub file: u16,
    /// What this data file holds of each leaf; a leaf that is missing is all inherited.
    pub index: LeafTable,
    /// The leaves of the flattened map that this snapshot changed.
    pub owners: LeafTable,
}

impl DataLayout {
    const fn number(self) -> u16 {
        match self {
            Self::Sparse => 1,
            Self::Packed => 2,
            Self::Frames => 3,
        }
    }

    const fn from_number(number: u16) -> Option<Self> {
        match number {
            1 => Some(Self::Sparse),
            2 => Some(Self::Packed),
            3 => Some(Self::Frames),
            _ => None,
        }
    }

    /// The lowest minor version of the format that reads such data: what the header of its map
    /// says.
    #[must_use]
    pub const fn reader_minor(self) -> u16 {
        match self {
            Self::Sparse | Self::Packed => BASE_READER_MINOR,
            Self::Frames => 2,
        }
    }
}

impl MapRoot {
    /// The bytes of the root section.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let regions = self.layout.regions();
        let mut out = Vec::new();
        out.extend(self.id.0);
        out.extend(self.parent.map_or([0; 16], |parent| parent.id.0));
        out.extend(self.parent.map_or([0; 32], |parent| parent.digest.0));
        out.extend(self.file.to_le_bytes());
        out.extend(self.data_layout.number().to_le_bytes());
        out.extend(self.unit_pages.to_le_bytes());
        out.extend([0; 2]);
        out.extend(self.data_len_bytes.to_le_bytes());
        for count in [regions.len(), self.index.len(), self.owners.len(), 0] {
            out.extend(u32::try_from(count).unwrap_or(u32::MAX).to_le_bytes());
        }
        for region in regions {
            out.extend(region.start.0.to_le_bytes());
            out.extend(region.len_bytes.to_le_bytes());
        }
        self.index.encode_into(&mut out);
        self.owners.encode_into(&mut out);
        out
    }

    /// The digest that names the memory of a snapshot: BLAKE3 of the root section.
    #[must_use]
    pub fn digest(&self) -> Digest {
        Digest::of(&self.encode())
    }

    /// The entry of the root section, after the frame of a `memory.map` is checked: read the bytes
    /// that it names and give them to [`parse`](Self::parse).
    pub fn entry<'a>(
        header: &Header,
        table: &'a SectionTable,
    ) -> Result<&'a SectionEntry, DecodeError> {
        header.expect_kind(FileKind::MemoryMap)?;
        header.allows(crate::envelope::Operation::Read)?;
        for entry in table.entries() {
            let known = matches!(entry.kind, SectionKind::MAP_ROOT | SectionKind::MAP_LEAVES);
            if entry.critical && !known {
                return Err(DecodeError::NotUnderstood {
                    part: entry.part(),
                    offset: entry.offset,
                    why: "no section of a memory map is of this kind",
                });
            }
        }
        let entry = table.get(SectionKind::MAP_ROOT, 0)?;
        if entry.version != MAP_ROOT_VERSION {
            return Err(DecodeError::Version {
                part: PART,
                offset: entry.offset,
                found: entry.version,
                reads: MAP_ROOT_VERSION,
            });
        }
        if entry.stored_len > limits::MAX_MAP_ROOT_BYTES {
            return Err(DecodeError::Limit {
                part: PART,
                offset: entry.offset,
                what: "bytes",
                found: entry.stored_len,
                limit: limits::MAX_MAP_ROOT_BYTES,
            });
        }
        Ok(entry)
    }

    /// Checks the root section of a `memory.map` against its header and its section table.
    pub fn parse(header: &Header, table: &SectionTable, bytes: &[u8]) -> Result<Self, DecodeError> {
        let entry = Self::entry(header, table)?;
        entry.verify(bytes)?;
        let root = Self::decode(bytes).map_err(|error| error.shifted(entry.offset))?;
        let parent = root.parent.map(|parent| parent.id);
        header
            .check_lineage(PART, root.id, parent)
            .map_err(|error| error.shifted(entry.offset))?;
        if header.reader_minor < root.data_layout.reader_minor() {
            return Err(DecodeError::Invalid {
                part: PART,
                offset: entry.offset + at::LAYOUT,
                rule: "the header asks for a reader that knows the layout of the data",
                found: header.reader_minor.into(),
            });
        }
        let leaves = table.get(SectionKind::MAP_LEAVES, 0)?;
        for leaf in root.index.refs().iter().chain(root.owners.refs()) {
            if leaf.offset < leaves.offset || leaf.end() > leaves.end() {
                return Err(DecodeError::Invalid {
                    part: Part::LeafTable,
                    offset: entry.offset,
                    rule: "leaves lie in the section of leaves",
                    found: leaf.offset,
                });
            }
        }
        Ok(root)
    }

    /// Checks the bytes of a root section by themselves.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut fields = Fields::new(bytes, PART);
        let id = SnapshotId(fields.array()?);
        let parent = decode_parent(&mut fields)?;
        let file = fields.u16()?;
        let layout_number = fields.u16()?;
        let unit_pages = fields.u16()?;
        fields.reserved::<2>()?;
        let data_len_bytes = fields.u64()?;
        let [regions, index, owners] = [fields.u32()?, fields.u32()?, fields.u32()?];
        fields.reserved::<4>()?;
        let data_layout = DataLayout::from_number(layout_number).ok_or_else(|| {
            fields.invalid(
                at::LAYOUT,
                "data is sparse (1), packed (2) or in frames (3)",
                layout_number.into(),
            )
        })?;
        let layout = decode_layout(&mut fields, regions)?;
        let root = Self {
            id,
            parent,
            layout,
            data_layout,
            unit_pages,
            data_len_bytes,
            file,
            index: LeafTable::decode(&mut fields, index as usize)?,
            owners: LeafTable::decode(&mut fields, owners as usize)?,
        };
        fields.finish()?;
        root.check(&fields)?;
        Ok(root)
    }

    /// Checks the bytes of one of the leaves that [`index`](Self::index) names: length, digest,
    /// then everything that a leaf must agree on with its root.
    pub fn index_leaf(&self, leaf: &LeafRef, bytes: &[u8]) -> Result<IndexLeaf, DecodeError> {
        let part = Part::IndexLeaf(leaf.number);
        leaf.verify(bytes, part)?;
        let parsed = IndexLeaf::parse(bytes, leaf.number).map_err(|e| e.shifted(leaf.offset))?;
        let invalid = |within, rule, found| DecodeError::Invalid {
            part,
            offset: leaf.offset + within,
            rule,
            found,
        };
        if parsed.unit_pages() != self.unit_pages {
            return Err(invalid(
                2,
                "the unit of the root",
                parsed.unit_pages().into(),
            ));
        }
        let frames = match self.data_layout {
            DataLayout::Frames => frame_count(parsed.present().count()),
            DataLayout::Sparse | DataLayout::Packed => 0,
        };
        if parsed.frame_count() != frames {
            return Err(invalid(
                28,
                "there are frames where the root says so, and only there",
                parsed.frame_count() as u64,
            ));
        }
        if !self.is_placed(&parsed) {
            return Err(invalid(
                8,
                "present pages lie in the data file",
                parsed.data_offset(),
            ));
        }
        let memory = self.layout.leaf_pages(leaf.number);
        for index in 0..LEAF_WORDS {
            let (present, zero) = (
                parsed.present().words()[index],
                parsed.zero().words()[index],
            );
            let memory = memory.words()[index];
            if (present | zero) & !memory != 0 {
                return Err(invalid(
                    32,
                    "pages outside of memory are inherited",
                    index as u64 * 64,
                ));
            }
            if self.file == 1 && (present | zero) != memory {
                return Err(invalid(
                    32,
                    "nothing is inherited without a parent",
                    index as u64 * 64,
                ));
            }
        }
        Ok(parsed)
    }

    /// Checks the bytes of one of the leaves that [`owners`](Self::owners) names.
    pub fn owner_leaf(&self, leaf: &LeafRef, bytes: &[u8]) -> Result<OwnerLeaf, DecodeError> {
        leaf.verify(bytes, Part::OwnerLeaf(leaf.number))?;
        let owners = OwnerLeaf::parse(bytes, leaf.number, self.file);
        let owners = owners.map_err(|e| e.shifted(leaf.offset))?;
        match owners.owned_outside(&self.layout.leaf_pages(leaf.number)) {
            None => Ok(owners),
            Some(page) => Err(DecodeError::Invalid {
                part: Part::OwnerLeaf(leaf.number),
                offset: leaf.offset,
                rule: "pages outside of memory have no owner",
                found: page as u64,
            }),
        }
    }

    /// Checks that the frames of a leaf start where those of the leaf before it end, at `end`, and
    /// gives where they end. Nothing is checked in data that does not lie in frames.
    pub fn follow_frames(
        &self,
        place: &LeafRef,
        leaf: &IndexLeaf,
        end: u64,
    ) -> Result<u64, DecodeError> {
        if self.data_layout != DataLayout::Frames {
            return Ok(end);
        }
        if leaf.data_offset() != end {
            return Err(DecodeError::Invalid {
                part: Part::IndexLeaf(leaf.number()),
                offset: place.offset + 8,
                rule: "frames start where those of the leaf before end",
                found: leaf.data_offset(),
            });
        }
        Ok(end.saturating_add(leaf.frame_bytes().into()))
    }

    /// Checks that the frames of the last leaf, which end at `end`, end the data file.
    pub fn end_frames(&self, end: u64) -> Result<(), DecodeError> {
        if self.data_layout != DataLayout::Frames || end == self.data_len_bytes {
            return Ok(());
        }
        Err(DecodeError::Invalid {
            part: PART,
            offset: at::DATA_LEN,
            rule: "the last frame ends the data file",
            found: end,
        })
    }

    /// Whether the present pages of a leaf lie where they may.
    fn is_placed(&self, leaf: &IndexLeaf) -> bool {
        let ends_inside = |len_bytes: u64| {
            let end = leaf.data_offset().checked_add(len_bytes);
            end.is_some_and(|end| end <= self.data_len_bytes)
        };
        match self.data_layout {
            DataLayout::Sparse => leaf.data_offset() == 0,
            DataLayout::Packed => {
                leaf.data_offset().is_multiple_of(PAGE_BYTES)
                    && ends_inside(leaf.present().count() as u64 * PAGE_BYTES)
            }
            DataLayout::Frames => ends_inside(leaf.frame_bytes().into()),
        }
    }

    fn check(&self, fields: &Fields<'_>) -> Result<(), DecodeError> {
        if self.file == 0 || usize::from(self.file) > limits::MAX_DATA_FILES {
            return Err(fields.invalid(
                at::FILE,
                "data files are counted from 1 to 4096",
                self.file.into(),
            ));
        }
        let unit_max = match self.data_layout {
            DataLayout::Sparse => MAX_UNIT_PAGES,
            DataLayout::Packed | DataLayout::Frames => 1,
        };
        if !self.unit_pages.is_power_of_two() || self.unit_pages > unit_max {
            return Err(fields.invalid(
                at::UNIT,
                "a unit has 1, 2, 4, 8 or 16 pages, and 1 in packed data and in frames",
                self.unit_pages.into(),
            ));
        }
        let image_len = self.layout.len_bytes();
        let (len_fits, rule) = match self.data_layout {
            DataLayout::Frames => (
                self.data_len_bytes <= image_len,
                "frames are not longer than the image",
            ),
            DataLayout::Sparse => (self.data_len_bytes == image_len, UNFRAMED_LEN),
            DataLayout::Packed => (
                self.data_len_bytes.is_multiple_of(PAGE_BYTES) && self.data_len_bytes <= image_len,
                UNFRAMED_LEN,
            ),
        };
        if !len_fits {
            return Err(fields.invalid(at::DATA_LEN, rule, self.data_len_bytes));
        }
        self.check_tables(fields)
    }

    fn check_tables(&self, fields: &Fields<'_>) -> Result<(), DecodeError> {
        for leaf in self.index.refs().iter().chain(self.owners.refs()) {
            if leaf.file != self.file {
                return Err(fields.invalid(
                    at::FILE,
                    "a root names leaves of its own file",
                    leaf.file.into(),
                ));
            }
        }
        let layout_leaves = self.layout.leaves();
        let in_layout = |table: &LeafTable| {
            let outside = |leaf: &&LeafRef| layout_leaves.binary_search(&leaf.number).is_err();
            table.refs().iter().find(outside).map(|leaf| leaf.number)
        };
        if let Some(number) = in_layout(&self.index).or_else(|| in_layout(&self.owners)) {
            return Err(fields.invalid(at::REGIONS, "leaves hold memory", number.into()));
        }
        if self.file == 1 && self.index.len() != layout_leaves.len() {
            return Err(fields.invalid(
                at::REGION_COUNT + 4,
                "every leaf of memory is named without a parent",
                self.index.len() as u64,
            ));
        }
        let same = self.index.refs().iter().map(|leaf| leaf.number);
        if !same.eq(self.owners.refs().iter().map(|leaf| leaf.number)) {
            return Err(fields.invalid(
                at::REGION_COUNT + 8,
                "the leaves that changed are the leaves that the data file has",
                self.owners.len() as u64,
            ));
        }
        Ok(())
    }
}

fn decode_parent(fields: &mut Fields<'_>) -> Result<Option<SnapshotRef>, DecodeError> {
    let at = fields.offset();
    let (id, digest) = (SnapshotId(fields.array()?), Digest(fields.array()?));
    match (id.is_nil(), digest == Digest([0; 32])) {
        (true, true) => Ok(None),
        (false, _) => Ok(Some(SnapshotRef { id, digest })),
        (true, false) => Err(fields.invalid(at, "a parent has an id", 0)),
    }
}

fn decode_layout(fields: &mut Fields<'_>, count: u32) -> Result<MemoryLayout, DecodeError> {
    if count as usize > limits::MAX_REGIONS {
        return Err(DecodeError::Limit {
            part: PART,
            offset: at::REGION_COUNT,
            what: "memory regions",
            found: count.into(),
            limit: limits::MAX_REGIONS as u64,
        });
    }
    let offset = fields.offset();
    let mut regions = Vec::with_capacity(count as usize);
    for _ in 0..count {
        regions.push(MemoryRegion {
            start: GuestAddress(fields.u64()?),
            len_bytes: fields.u64()?,
        });
    }
    MemoryLayout::new(regions).map_err(|source| DecodeError::Layout {
        part: PART,
        offset,
        source,
    })
}
