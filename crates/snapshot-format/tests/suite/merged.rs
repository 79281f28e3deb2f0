//! A merged file: what a snapshot and files of its chain held, in one, with the placement that names
//! it.

use snapshot_format::page_map::{MERGED_READER_MINOR, flatten};
use snapshot_format::{
    DataFileRef, DataLayout, Digest, FileEntry, FileKind, IndexLeafBuilder, MapRoot, Placement,
    SnapshotId,
};

use crate::cases::{FULL, Map, full_ref, map_full, placement, write_map};
use crate::damaged::with_header_byte;
use crate::golden;

/// The last of a chain of three.
const MERGED: SnapshotId = SnapshotId(*b"\x01\x92\x00\x00\x00\x03\x70\x00\x80\x00-merge");

/// Where the header has its `reader_minor`.
const READER_MINOR_AT: usize = 14;

/// Packed, of the first leaf: a page of the base that fills a gap, pages of two diffs, and one that
/// is zero. The base stays, so the file is number 2.
pub(crate) fn map() -> Map {
    let full = map_full();
    let mut leaf = IndexLeafBuilder::new(0, 1).expect("a valid unit");
    leaf.present().insert(1, 3);
    leaf.present().insert(300, 2);
    leaf.zero().insert(302, 1);
    for page in 0..5u8 {
        leaf.digest(Digest::of(&[2, page]));
    }
    let index = vec![leaf.finish(0).expect("one digest a unit")];
    let owners = vec![flatten(full.owners.first(), &index[0], 2)];
    let root = MapRoot {
        id: MERGED,
        parent: Some(full_ref()),
        data_layout: DataLayout::Packed,
        unit_pages: 1,
        data_len_bytes: 5 * 4096,
        file: 2,
        ..full.root
    };
    of_merged(write_map(root, index, owners))
}

/// The placement that makes it count.
pub(crate) fn placement_with_it() -> Placement {
    let (full, map, first) = (map_full(), map(), placement());
    let file = |kind, index, len_bytes, digest| FileEntry {
        kind,
        index,
        len_bytes,
        digest,
    };
    let (map_len, data_len) = (map.bytes.len() as u64, map.root.data_len_bytes);
    Placement {
        id: MERGED,
        generation: 2,
        files: vec![
            file(FileKind::Manifest, 0, 400, first.manifest),
            file(FileKind::MemoryMap, 0, 5000, Digest::of(b"map")),
            file(FileKind::MemoryMap, 1, map_len, Digest::of(b"merged map")),
            file(FileKind::MemoryData, 0, 4096, Digest::of(b"root")),
            file(FileKind::MemoryData, 1, data_len, map.root.digest()),
        ],
        dependencies: vec![
            DataFileRef {
                snapshot: FULL,
                index: 0,
                map_root: full.root.digest(),
            },
            DataFileRef {
                snapshot: MERGED,
                index: 1,
                map_root: map.root.digest(),
            },
        ],
        flattened: full.root.owners.overlaid(&map.root.owners),
        ..first
    }
}

/// One that stands alone, and inherits pages all the same.
pub(crate) fn alone_and_inheriting() -> Vec<u8> {
    let map = map();
    let owners = vec![flatten(None, &map.index[0], 1)];
    let root = MapRoot {
        file: 1,
        ..map.root
    };
    of_merged(write_map(root, map.index, owners)).bytes
}

/// Asks for readers that know merged files.
fn of_merged(map: Map) -> Map {
    let minor = MERGED_READER_MINOR.to_le_bytes()[0];
    let bytes = with_header_byte(&map.bytes, READER_MINOR_AT, minor);
    Map { bytes, ..map }
}

#[test]
fn a_merged_file_and_its_placement_say_what_they_said() {
    let bytes = golden::read("v0.5/memory-merged.map");
    // Everything behind the header, which holds the version of the writer.
    assert_eq!(bytes[128..], map().bytes[128..]);
    let placement = Placement::parse(&golden::read("v0.5/placement-merged.vms"));
    assert_eq!(placement, Ok(placement_with_it()));
}
