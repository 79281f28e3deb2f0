//! The bytes of a parity file, and how files are cut.

use std::fs;
use std::ops::ControlFlow;
use std::path::Path;

use snapshot_format::{FileKind, ParityTable, SnapshotId};
use snapshot_memory::backend::{Backend, ReadFile};

use super::add::shard_bytes;
use super::*;
use crate::tests::rig::{path, read, store};

const ID: SnapshotId = SnapshotId([7; 16]);

/// 2500 bytes, of which the second KiB is zero.
fn content() -> Vec<u8> {
    let byte = |at: usize| match at {
        1024..2048 => 0,
        at => u8::try_from(at * at / 7 % 251).unwrap_or(0),
    };
    (0..2500).map(byte).collect()
}

// spec: PAR-02
// spec: PAR-03
#[test]
fn the_golden_file_is_what_is_written_and_gives_its_data_back() {
    let (tree, store) = store();
    let folder = Location::Live.snapshot(ID);
    tree.create_dir(&folder).unwrap();
    let data = directory::below(&folder, "memory.img");
    let mut file = tree.create(&data).unwrap();
    file.write_all_at(0, &content()).unwrap();
    drop(file);
    let mut tell = |_| ControlFlow::Continue(());
    let source = store.measure(ID, FileKind::MemoryData, 0, 25, &mut tell);
    let mut sources = [source.unwrap()];
    let table = ParityTable {
        id: ID,
        files: vec![sources[0].entry.clone()],
    };
    let area = table.head(&table.encode()).area_offset();
    store
        .write_parity(&folder, table, &mut sources, area, &mut tell)
        .unwrap();
    let written = read(&tree, &super::path(Location::Live, ID));
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/v1/parity");
    assert!(written == fs::read(golden).unwrap(), "another golden file");
    // Six shards of it are lost, and its end.
    tree.tamper(&data, |bytes| {
        bytes[..320].fill(0xee);
        bytes.truncate(2498);
    })
    .unwrap();
    let parity = OpenParity::open(&store, Location::Live, ID)
        .unwrap()
        .unwrap();
    let rest = tree.open(&data).ok();
    let parity = std::sync::Arc::new(parity);
    let whole = Recovered::of(&parity, FileKind::MemoryData, 0, rest).unwrap();
    let mut bytes = vec![0; usize::try_from(whole.len().unwrap()).unwrap()];
    whole.read_exact_at(0, &mut bytes).unwrap();
    assert!(bytes == content());
    assert!(
        whole.read_exact_at(1, &mut bytes).is_err(),
        "beyond its end"
    );
    // One more, and it says so.
    tree.tamper(&data, |bytes| bytes[320] ^= 1).unwrap();
    let rest = tree.open(&path(data.as_str())).ok();
    let less = Recovered::of(&parity, FileKind::MemoryData, 0, rest).unwrap();
    assert!(less.read_exact_at(0, &mut bytes).is_err());
}

// spec: PAR-05
#[test]
fn shards_grow_with_the_file_and_groups_have_two_recovery_shards_at_least() {
    for (len, expected) in [
        (0, 64),
        (8 << 10, 64),
        ((8 << 10) + 1, 128),
        (8 << 20, 64 << 10),
        (64 << 30, 64 << 10),
        ((64 << 30) + 1, 128 << 10),
        (1 << 40, 1 << 20),
    ] {
        assert_eq!(shard_bytes(len).unwrap(), expected, "{len}");
    }
    shard_bytes((1 << 40) + 1).unwrap_err();
    let (tree, store) = store();
    let folder = Location::Live.snapshot(ID);
    tree.create_dir(&folder).unwrap();
    let mut file = tree
        .create(&directory::below(&folder, "memory.img"))
        .unwrap();
    file.write_all_at(0, &[1; 640]).unwrap();
    drop(file);
    for (percent, expected) in [(1, 2), (20, 2), (21, 3), (100, 10)] {
        let mut tell = |_| ControlFlow::Continue(());
        let source = store.measure(ID, FileKind::MemoryData, 0, percent, &mut tell);
        let entry = source.unwrap().entry;
        assert_eq!((entry.group, entry.recovery_of_group), (10, expected));
        assert_eq!(entry.recovery.len(), usize::from(expected));
    }
}
