//! A small data file of frames of every coding, each made by hand, with its map.

use snapshot_format::page_map::flatten;
use snapshot_format::{
    DataLayout, Digest, FrameCoding, FrameEntry, IndexLeaf, IndexLeafBuilder, MapRoot, SnapshotId,
};

use crate::cases::{FULL, Map, full_ref, map_full, write_leaves, write_map};

/// Another child of the full snapshot.
const FRAMED: SnapshotId = SnapshotId(*b"\x01\x92\x00\x00\x00\x02\x70\x00\x80\x00-frame");

/// Where the frame table of the first leaf starts in it: 35 digests come before.
const TABLE: usize = 32 + 4096 + 35 * 32;

/// Pages 0 to 15 of `A` as LZ4, 16 to 31 of `B` as Zstandard, 300 to 302 of other letters plain;
/// in the second leaf one page of `C` as Zstandard.
pub(crate) fn map() -> Map {
    let [first, second] = leaves();
    let parent = map_full();
    let owners = [&first, &second]
        .into_iter()
        .zip(&parent.owners)
        .map(|(leaf, parent)| flatten(Some(parent), leaf, 2))
        .collect();
    let root = MapRoot {
        id: FRAMED,
        parent: Some(full_ref()),
        data_layout: DataLayout::Frames,
        unit_pages: 1,
        data_len_bytes: data().len() as u64,
        file: 2,
        ..parent.root
    };
    assert_eq!(full_ref().id, FULL);
    write_map(root, vec![first, second], owners)
}

/// The data file.
pub(crate) fn data() -> Vec<u8> {
    frames().concat()
}

/// The map with another first word of entry `index` in the first leaf, and right digests.
pub(crate) fn with_entry(index: usize, change: impl FnOnce(u32) -> u32) -> Vec<u8> {
    let map = map();
    let mut leaf = map.index[0].encode();
    let word = &mut leaf[TABLE + 8 * index..][..4];
    let new = change(u32::from_le_bytes(word.try_into().expect("four bytes")));
    word.copy_from_slice(&new.to_le_bytes());
    with_first_leaf(map, leaf)
}

/// The map with another root.
pub(crate) fn with_root(change: impl FnOnce(&mut MapRoot)) -> Vec<u8> {
    let mut map = map();
    change(&mut map.root);
    write_map(map.root, map.index, map.owners).bytes
}

/// A root that says that the data is packed, and is right otherwise.
pub(crate) fn as_packed(root: &mut MapRoot) {
    root.data_layout = DataLayout::Packed;
    root.data_len_bytes = 36 * 4096;
}

/// The map with other bytes for its first leaf.
pub(crate) fn with_first_leaf(map: Map, leaf: Vec<u8>) -> Vec<u8> {
    let second = map.index[1].encode();
    let owners = map.owners.iter();
    let owners = owners.map(|leaf| (leaf.number(), leaf.encode())).collect();
    write_leaves(map.root, vec![(0, leaf), (1, second)], owners).1
}

fn leaves() -> [IndexLeaf; 2] {
    let [lz4, zstd, plain, single] = frames();
    let mut first = IndexLeafBuilder::new(0, 1).expect("a valid unit");
    first.present().insert(0, 32);
    first.present().insert(300, 3);
    first.zero().insert(33, 2);
    let letters = [b'A'; 16].into_iter().chain([b'B'; 16]).chain(*b"DEF");
    letters.for_each(|letter| first.digest(Digest::of(&[letter; 4096])));
    let first_len = (lz4.len() + zstd.len() + plain.len()) as u64;
    let entries = vec![
        FrameEntry::of(FrameCoding::Lz4, &lz4),
        FrameEntry::of(FrameCoding::Zstd, &zstd),
        FrameEntry::of(FrameCoding::Plain, &plain),
    ];
    let first = first.finish_frames(0, entries).expect("three frames");
    let mut second = IndexLeafBuilder::new(1, 1).expect("a valid unit");
    second.present().insert(0, 1);
    second.digest(Digest::of(&[b'C'; 4096]));
    let entries = vec![FrameEntry::of(FrameCoding::Zstd, &single)];
    let second = second.finish_frames(first_len, entries).expect("one frame");
    [first, second]
}

/// The bytes of each frame.
fn frames() -> [Vec<u8>; 4] {
    [
        lz4_run(b'A', 65_536),
        zstd_run(b'B', 65_536),
        [[b'D'; 4096], [b'E'; 4096], [b'F'; 4096]].concat(),
        zstd_run(b'C', 4096),
    ]
}

/// A byte many times over, as a block of LZ4: one literal, a match of itself, five literals.
fn lz4_run(byte: u8, len: usize) -> Vec<u8> {
    let mut rest = len - 1 - 5 - 4 - 15;
    let mut block = vec![0x1f, byte, 1, 0];
    while rest >= 255 {
        block.push(255);
        rest -= 255;
    }
    block.push(u8::try_from(rest).expect("less than 255"));
    block.push(0x50);
    block.extend([byte; 5]);
    block
}

/// A byte many times over, as a frame of Zstandard: one run-length block.
fn zstd_run(byte: u8, len: usize) -> Vec<u8> {
    let len = u32::try_from(len).expect("a short run");
    // Single segment, and a content size of two bytes, which counts from 256.
    let mut frame = vec![0x28, 0xb5, 0x2f, 0xfd, 0x60];
    let size = u16::try_from(len - 256).expect("a short run");
    frame.extend(size.to_le_bytes());
    // Last block, run length.
    frame.extend(&(len << 3 | 3).to_le_bytes()[..3]);
    frame.push(byte);
    frame
}
