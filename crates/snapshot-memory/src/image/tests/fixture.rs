//! Memory files made page by page, the slow and obvious way, to hold the reader against.

use snapshot_format::page_map::{FRAME_BYTES, flatten};
use snapshot_format::{
    Arch, Codec, DataFileRef, DataLayout, Digest, EnvelopeBuilder, FileKind, GuestAddress,
    IndexLeafBuilder, LeafRef, LeafTable, MapRoot, MemoryLayout, MemoryRegion, OwnerLeaf,
    PAGE_BYTES, PageIndex, SectionKind, SectionPayload, SnapshotId,
};

use crate::backend::{Backend, MemBackend, RelPath};
use crate::frames::{FrameCodec, FrameEncoder};
use crate::image::{DataFile, DataFileNames, ImageError, MemoryImage};

/// What one snapshot says of a page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Cell {
    Inherited,
    Zero,
    /// A page whose bytes follow from this number: noise if it is odd.
    Data(u8),
}

/// A chain of memory files on a backend in memory.
pub(super) struct Chain {
    pub(super) backend: MemBackend,
    pub(super) layout: MemoryLayout,
    pub(super) model: Vec<u8>,
    pub(super) table: LeafTable,
    pub(super) files: Vec<DataFileRef>,
    /// How frames are compressed, one after the other.
    pub(super) codecs: Vec<FrameCodec>,
    owners: Vec<OwnerLeaf>,
}

pub(super) fn layout(regions: &[(u64, u64)]) -> MemoryLayout {
    let region = |&(page, count): &(u64, u64)| MemoryRegion {
        start: GuestAddress(page * PAGE_BYTES),
        len_bytes: count * PAGE_BYTES,
    };
    MemoryLayout::new(regions.iter().map(region).collect()).unwrap()
}

pub(super) fn page_of(seed: u8) -> Vec<u8> {
    if seed % 2 == 1 {
        let mut state = u64::from(seed);
        let noise = std::iter::repeat_with(|| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (state >> 56) as u8
        });
        return noise.take(4096).collect();
    }
    (0..4096u32)
        .map(|i| (i as u8).wrapping_mul(seed | 1) ^ seed)
        .collect()
}

pub(super) fn path(file: usize, name: &str) -> RelPath {
    RelPath::root().join(&format!("{file}.{name}")).unwrap()
}

impl Chain {
    pub(super) fn new(layout: MemoryLayout) -> Self {
        let model = vec![0; layout.len_bytes() as usize];
        let (table, files, owners) = (LeafTable::default(), Vec::new(), Vec::new());
        Self {
            backend: MemBackend::new(),
            layout,
            model,
            table,
            files,
            codecs: vec![FrameCodec::Lz4, FrameCodec::ZSTD],
            owners,
        }
    }

    /// Adds a snapshot that says `cells` of the pages of the image.
    pub(super) fn add(&mut self, cells: &[Cell], data_layout: DataLayout, unit_pages: u16) {
        let number = self.files.len() + 1;
        let file = u16::try_from(number).unwrap();
        let id = SnapshotId([file as u8; 16]);
        let (mut data, mut leaves) = (Vec::new(), Vec::new());
        if data_layout == DataLayout::Sparse {
            data.resize(self.model.len(), 0);
        }
        let (mut index, mut owners) = (Vec::new(), Vec::new());
        for leaf_number in self.layout.leaves() {
            let data_offset = data.len() as u64;
            let mut leaf = IndexLeafBuilder::new(leaf_number, unit_pages).unwrap();
            self.say_leaf(&mut leaf, leaf_number, cells, data_layout, &mut data);
            if leaf.is_empty() && number > 1 {
                continue;
            }
            self.digest_units(
                &mut leaf,
                leaf_number,
                unit_pages,
                data_layout,
                &data,
                data_offset,
            );
            let leaf = match data_layout {
                DataLayout::Packed => leaf.finish(data_offset),
                DataLayout::Frames => {
                    let pages = data.split_off(data_offset as usize);
                    let frames = pages.chunks(FRAME_BYTES).zip(self.codecs.iter().cycle());
                    let frames = frames.map(|(pages, codec)| {
                        FrameEncoder::new(*codec).unwrap().append(pages, &mut data)
                    });
                    leaf.finish_frames(data_offset, frames.collect())
                }
                _ => leaf.finish(0),
            };
            let leaf = leaf.unwrap();
            let parent = self
                .owners
                .iter()
                .position(|owner| owner.number() == leaf_number);
            let owner = flatten(parent.map(|at| &self.owners[at]), &leaf, file);
            index.push(place(&mut leaves, leaf_number, file, &leaf.encode()));
            owners.push(place(&mut leaves, leaf_number, file, &owner.encode()));
            match parent {
                Some(at) => self.owners[at] = owner,
                None => self.owners.push(owner),
            }
        }
        let root = MapRoot {
            id,
            parent: None,
            layout: self.layout.clone(),
            data_layout,
            unit_pages,
            data_len_bytes: data.len() as u64,
            file,
            index: LeafTable::new(index).unwrap(),
            owners: LeafTable::new(owners).unwrap(),
        };
        self.table = self.table.overlaid(&root.owners);
        self.files.push(DataFileRef {
            snapshot: id,
            index: 0,
            map_root: root.digest(),
        });
        let map = map_of(&root, leaves);
        for (name, bytes) in [("map", map), ("img", data)] {
            let mut file = self.backend.create(&path(number, name)).unwrap();
            file.write_all_at(0, &bytes).unwrap();
        }
    }

    pub(super) fn open_file(&self, number: usize) -> Result<DataFile, ImageError> {
        let open = |name| self.backend.open(&path(number, name)).unwrap();
        let names = DataFileNames {
            map: format!("{number}.map"),
            data: format!("{number}.img"),
        };
        DataFile::open(open("map"), open("img"), names, &self.files[number - 1])
    }

    pub(super) fn image(&self) -> Result<MemoryImage, ImageError> {
        let files = (1..=self.files.len()).map(|number| self.open_file(number));
        let files = files.collect::<Result<Vec<_>, _>>()?;
        MemoryImage::new(self.layout.clone(), self.table.clone(), files)
    }

    fn say_leaf(
        &mut self,
        leaf: &mut IndexLeafBuilder,
        number: u32,
        cells: &[Cell],
        data_layout: DataLayout,
        data: &mut Vec<u8>,
    ) {
        for (page, &cell) in cells.iter().enumerate() {
            let guest = self.layout.guest_page(PageIndex(page as u64)).unwrap();
            if guest.0 / 16384 != u64::from(number) {
                continue;
            }
            let within = (guest.0 % 16384) as usize;
            self.say(cell, page, data_layout, data);
            match cell {
                Cell::Inherited => {}
                Cell::Zero => leaf.zero().insert(within, 1),
                Cell::Data(_) => leaf.present().insert(within, 1),
            }
        }
    }

    fn say(&mut self, cell: Cell, page: usize, data_layout: DataLayout, data: &mut Vec<u8>) {
        let bytes = match cell {
            Cell::Inherited => return,
            Cell::Zero => vec![0; 4096],
            Cell::Data(seed) => page_of(seed),
        };
        self.model[page * 4096..][..4096].copy_from_slice(&bytes);
        if let Cell::Data(_) = cell {
            match data_layout {
                DataLayout::Packed | DataLayout::Frames => data.extend(&bytes),
                _ => data[page * 4096..][..4096].copy_from_slice(&bytes),
            }
        }
    }

    fn digest_units(
        &self,
        leaf: &mut IndexLeafBuilder,
        number: u32,
        unit_pages: u16,
        data_layout: DataLayout,
        data: &[u8],
        data_offset: u64,
    ) {
        let pages: Vec<usize> = leaf.present().pages().collect();
        let mut last_unit = None;
        for (rank, page) in pages.into_iter().enumerate() {
            if last_unit.replace(page / usize::from(unit_pages))
                == Some(page / usize::from(unit_pages))
            {
                continue;
            }
            let guest = snapshot_format::GuestPage(u64::from(number) * 16384 + page as u64);
            let unit = self.layout.unit(guest, unit_pages).unwrap();
            let from = match data_layout {
                DataLayout::Packed | DataLayout::Frames => data_offset as usize + rank * 4096,
                _ => unit.start.0 as usize * 4096,
            };
            leaf.digest(Digest::of(&data[from..][..unit.count as usize * 4096]));
        }
    }
}

fn map_of(root: &MapRoot, leaves: Vec<u8>) -> Vec<u8> {
    let section = |kind, bytes: Vec<u8>| SectionPayload {
        kind,
        instance: 0,
        version: 1,
        codec: Codec::Raw,
        critical: true,
        bytes,
    };
    EnvelopeBuilder::new(FileKind::MemoryMap, Arch::X86_64, root.id)
        .reader_minor(root.data_layout.reader_minor())
        .section(&section(SectionKind::MAP_LEAVES, leaves))
        .section(&section(SectionKind::MAP_ROOT, root.encode()))
        .finish()
}

fn place(leaves: &mut Vec<u8>, number: u32, file: u16, bytes: &[u8]) -> LeafRef {
    let offset = 128 + leaves.len() as u64;
    leaves.extend(bytes);
    LeafRef {
        number,
        file,
        offset,
        len: bytes.len() as u32,
        digest: Digest::of(bytes),
    }
}
