//! Frames that lie behind digests that are right: nothing but the true pages may be handed out.

use std::error::Error;
use std::ops::ControlFlow;

use snapshot_format::page_map::{FRAME_BYTES, FRAME_ENTRY_BYTES, flatten};
use snapshot_format::{
    Arch, DataFileRef, DataLayout, Digest, EnvelopeBuilder, FileKind, FrameEntry, IndexLeafBuilder,
    LeafRef, LeafTable, MapRoot, MemoryLayout, PAGE_BYTES, PageRange, SectionKind, SectionPayload,
    SnapshotId,
};
use snapshot_memory::backend::{Backend, MemBackend, RelPath};
use snapshot_memory::{DataFile, DataFileNames, FrameCodec, FrameEncoder, MemoryImage};

use crate::hostile::Tally;

type Fallible<T> = Result<T, Box<dyn Error>>;

/// A data file of frames and the parts of its map, before they are sealed.
#[derive(Clone)]
struct Framed {
    pages: Vec<u8>,
    data: Vec<u8>,
    index: Vec<u8>,
    owners: Vec<u8>,
    entries: Vec<FrameEntry>,
}

/// Lies in every entry of a frame table, and damages every frame behind a right checksum.
pub(super) fn run(tally: &mut Tally) -> Fallible<()> {
    let truth = Framed::new()?;
    if use_all(&truth)? != Some(true) {
        return Err("the frames that nobody changed are not sound".into());
    }
    let table = truth.table_start();
    for at in (28..32).chain(8..16).chain(table..truth.index.len()) {
        for value in [0, 1, 0x0f, 0x10, 0x20, 0x7f, 0x80, 0xff] {
            let mut lie = truth.clone();
            set(&mut lie.index, at, |_| value);
            attempt(
                &lie,
                &format!("byte {at} of the leaf is {value:#04x}"),
                tally,
            );
        }
    }
    let mut start = 0;
    for (index, entry) in truth.entries.iter().enumerate() {
        let len = usize::try_from(entry.stored_len)?;
        for at in (start..start + len).step_by(1 + len / 600) {
            for bit in [0x01, 0x80, 0xff] {
                let mut lie = truth.clone();
                set(&mut lie.data, at, |byte| byte ^ bit);
                let bytes = lie.data.get(start..start + len).unwrap_or_default();
                let sealed = FrameEntry::of(entry.coding, bytes).checksum.to_le_bytes();
                for (byte, sealed) in (table + index * FRAME_ENTRY_BYTES + 4..).zip(sealed) {
                    set(&mut lie.index, byte, |_| sealed);
                }
                attempt(&lie, &format!("byte {at} of the data ^ {bit:#04x}"), tally);
            }
        }
        start += len;
    }
    Ok(())
}

fn attempt(lie: &Framed, what: &str, tally: &mut Tally) {
    match tally.count("frames", what, || use_all(lie)) {
        Some(Ok(Some(false))) => tally.accept_wrong("frames", what),
        Some(Err(error)) => tally.accept_wrong("frames", format_args!("{what}: {error}")),
        _ => {}
    }
}

/// Opens, checks and reads everything. `None`: something was refused; else whether every page that
/// was handed out is true.
fn use_all(framed: &Framed) -> Fallible<Option<bool>> {
    let (map, wanted, table) = framed.seal()?;
    let backend = MemBackend::new();
    let (map_path, data_path) = (RelPath::root().join("map")?, RelPath::root().join("img")?);
    backend.create(&map_path)?.write_all_at(0, &map)?;
    backend.create(&data_path)?.write_all_at(0, &framed.data)?;
    let names = DataFileNames {
        map: "map".to_owned(),
        data: "img".to_owned(),
    };
    let (map, data) = (backend.open(&map_path)?, backend.open(&data_path)?);
    let Ok(file) = DataFile::open(map, data, names, &wanted) else {
        return Ok(None);
    };
    let mut is_refused = false;
    file.check(&mut |_| is_refused = true, &mut |_| {
        ControlFlow::Continue(())
    });
    let layout = file.root().layout.clone();
    let image = MemoryImage::new(layout, table, vec![file])?;
    let mut is_true = true;
    let page_len = usize::try_from(PAGE_BYTES)?;
    for (page, expected) in (0..).zip(framed.pages.chunks(page_len)) {
        let mut found = vec![0; page_len];
        match image.read_pages(PageRange::new(page, 1), &mut found) {
            Ok(()) => is_true &= found == expected,
            Err(_) => is_refused = true,
        }
    }
    Ok((!is_refused || !is_true).then_some(is_true))
}

fn set(bytes: &mut [u8], at: usize, change: impl FnOnce(u8) -> u8) {
    if let Some(byte) = bytes.get_mut(at) {
        *byte = change(*byte);
    }
}

impl Framed {
    /// 40 pages: 16 as LZ4, 16 as Zstandard, 8 of noise.
    fn new() -> Fallible<Self> {
        let mut pages: Vec<u8> = (0..PAGES * 4096)
            .map(|at| (at >> 5).to_le_bytes()[0])
            .collect();
        let mut state = 1_u64;
        for byte in pages.iter_mut().skip(2 * FRAME_BYTES) {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            *byte = state.to_le_bytes()[7];
        }
        let mut leaf = IndexLeafBuilder::new(0, 1)?;
        leaf.present().insert(0, usize::try_from(PAGES)?);
        for page in pages.chunks(4096) {
            leaf.digest(Digest::of(page));
        }
        let codecs = [FrameCodec::Lz4, FrameCodec::ZSTD, FrameCodec::Lz4];
        let (mut data, mut entries) = (Vec::new(), Vec::new());
        for (pages, codec) in pages.chunks(FRAME_BYTES).zip(codecs) {
            entries.push(FrameEncoder::new(codec)?.append(pages, &mut data));
        }
        let leaf = leaf.finish_frames(0, entries.clone())?;
        let owners = flatten(None, &leaf, 1).encode();
        let index = leaf.encode();
        Ok(Self {
            pages,
            data,
            index,
            owners,
            entries,
        })
    }

    fn table_start(&self) -> usize {
        self.index.len() - self.entries.len() * FRAME_ENTRY_BYTES
    }

    /// A map of the parts, with every digest right.
    fn seal(&self) -> Fallible<(Vec<u8>, DataFileRef, LeafTable)> {
        let place = |offset: usize, bytes: &[u8]| -> Fallible<LeafTable> {
            let leaf = LeafRef {
                number: 0,
                file: 1,
                offset: 128 + u64::try_from(offset)?,
                len: u32::try_from(bytes.len())?,
                digest: Digest::of(bytes),
            };
            LeafTable::new(vec![leaf]).ok_or_else(|| "one leaf is sorted".into())
        };
        let id = SnapshotId([7; 16]);
        let root = MapRoot {
            id,
            parent: None,
            layout: MemoryLayout::single(PAGES * PAGE_BYTES)?,
            data_layout: DataLayout::Frames,
            unit_pages: 1,
            data_len_bytes: u64::try_from(self.data.len())?,
            file: 1,
            index: place(0, &self.index)?,
            owners: place(self.index.len(), &self.owners)?,
        };
        let section = |kind, bytes| SectionPayload::raw(kind, 0, 1, bytes);
        let leaves = [self.index.as_slice(), &self.owners].concat();
        let map = EnvelopeBuilder::new(FileKind::MemoryMap, Arch::None, id)
            .reader_minor(root.data_layout.reader_minor())
            .section(&section(SectionKind::MAP_LEAVES, leaves))
            .section(&section(SectionKind::MAP_ROOT, root.encode()))
            .finish();
        let wanted = DataFileRef {
            snapshot: id,
            index: 0,
            map_root: root.digest(),
        };
        Ok((map, wanted, root.owners))
    }
}

/// Pages of the image.
const PAGES: u64 = 40;
