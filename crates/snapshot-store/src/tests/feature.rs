//! Files that ask for features which this build does not know: each refuses its operation only.

use super::rig::{
    A, Guest, PAGES, image, kind, named, one, path, read, reopen, restored, take, verify,
};
use crate::{ErrorKind, GarbageOptions, Location, Selection, Store, StoreError};
use snapshot_format::envelope::{HEADER_BYTES, envelope_digest};
use snapshot_format::{
    DataLayout, Digest, Features, FileKind, Header, Manifest, Operation, PageRange, Placement,
    SnapshotId, SnapshotRef, table_range,
};
use snapshot_memory::backend::MemBackend;
use snapshot_memory::{DirtyBitmap, Pages, RelayoutOptions, Stability};

const BIT: u32 = 1 << 31;

/// Sets a bit of the word of an operation in a sound header.
fn stamp(bytes: &mut [u8], operation: Operation) {
    let mut header = Header::parse(bytes, bytes.len() as u64).unwrap();
    let word = match operation {
        Operation::Read => &mut header.features.read,
        Operation::Restore => &mut header.features.restore,
        Operation::Extend => &mut header.features.extend,
        Operation::Rewrite => &mut header.features.rewrite,
        Operation::Gc => &mut header.features.gc,
    };
    *word = BIT;
    bytes[..HEADER_BYTES].copy_from_slice(&header.encode());
}

/// A store with one snapshot, of which a file of this kind has such a stamp. Every digest that
/// names the file is that of its new bytes.
fn stamped(file: FileKind, operation: Operation) -> (MemBackend, Store, SnapshotRef) {
    let (tree, _, mut a) = one();
    let at = |kind: FileKind| {
        let index = u32::from(kind == FileKind::Placement);
        path(&format!("snapshots/{}/{}", a.id, kind.file_name(index)))
    };
    tree.tamper(&at(file), |bytes| stamp(bytes, operation))
        .unwrap();
    if file == FileKind::Placement {
        return (tree.clone(), reopen(&tree), a);
    }
    let mut manifest = Manifest::parse(&read(&tree, &at(FileKind::Manifest)));
    if let (FileKind::State, Ok(manifest)) = (file, &mut manifest) {
        manifest.state = Some(Digest::of(&read(&tree, &at(file))));
        let bytes = manifest.encode();
        tree.tamper(&at(FileKind::Manifest), |old| *old = bytes)
            .unwrap();
    }
    a.digest = Digest::of(&read(&tree, &at(FileKind::Manifest)));
    let bytes = read(&tree, &at(FileKind::Placement));
    let mut placement = Placement::parse(&bytes).unwrap();
    placement.manifest = a.digest;
    for entry in &mut placement.files {
        let bytes = read(&tree, &at(entry.kind));
        entry.len_bytes = bytes.len() as u64;
        entry.digest = match entry.kind {
            FileKind::MemoryData => entry.digest,
            FileKind::MemoryMap => {
                let table = table_range(&bytes).unwrap();
                let table = usize::try_from(table.start).unwrap()..;
                envelope_digest(bytes.first_chunk().unwrap(), &bytes[table])
            }
            _ => Digest::of(&bytes),
        };
    }
    let bytes = placement.encode();
    tree.tamper(&at(FileKind::Placement), |old| *old = bytes)
        .unwrap();
    (tree.clone(), reopen(&tree), a)
}

/// Does what the word of `operation` is for.
fn attempt(store: &Store, a: SnapshotRef, operation: Operation) -> Result<(), StoreError> {
    match operation {
        Operation::Read => {
            store.detail(a.id)?;
            // What is copied elsewhere is looked at, and no machine is brought back.
            assert_eq!(store.parts(a.id)?.files().len(), 3);
            assert!(verify(store, Selection::All).ok);
            Ok(())
        }
        Operation::Restore => {
            assert_eq!(restored(store, a)?, image(&A));
            store.state(a.id).map(drop)
        }
        Operation::Extend => {
            let mut stage = store.sink(named("web", "b").parent(Some(a))).stage()?;
            let dirty = DirtyBitmap::new(PAGES);
            dirty.set_range(PageRange::new(1, 1));
            let pages = Pages::Since {
                base: a,
                dirty: &dirty,
            };
            stage.memory(&Guest::new(&image(&A)), pages, Stability::Running)?;
            stage.seal()?.publish().map(drop)
        }
        Operation::Rewrite => {
            let options = RelayoutOptions::of(DataLayout::Packed);
            store.relayout(a.id, &options).map(drop)
        }
        Operation::Gc => {
            store.delete(&store.plan_delete(a.id)?)?;
            store.undelete(a.id)
        }
    }
}

/// An error with its causes.
fn told(error: &dyn std::error::Error) -> String {
    let cause = error.source().map(told).unwrap_or_default();
    format!("{error}: {cause}")
}

// spec: VER-03
// spec: VER-10
#[test]
fn an_unknown_bit_of_any_file_refuses_the_operation_of_its_word_and_no_other() {
    let asked = |file, operation| match (file, operation) {
        (FileKind::State, Operation::Restore) => true,
        (FileKind::State, _) | (FileKind::MemoryMap, Operation::Gc) => false,
        _ => true,
    };
    let files = [
        FileKind::Manifest,
        FileKind::Placement,
        FileKind::State,
        FileKind::MemoryMap,
    ];
    for file in files {
        for word in Operation::ALL.into_iter().skip(1) {
            for operation in Operation::ALL {
                let (_, store, a) = stamped(file, word);
                let done = attempt(&store, a, operation);
                let what = format!("{word:?} of {file}: {operation:?}: {done:?}");
                if operation != word || !asked(file, word) {
                    assert!(done.is_ok(), "{what}");
                    continue;
                }
                let error = done.expect_err(&what);
                assert_eq!(error.kind(), ErrorKind::TooNew, "{what}");
                assert!(told(&error).contains("0x80000000"), "{what}");
                assert!(
                    error.path().is_some() && !error.hint().is_empty(),
                    "{error}"
                );
                assert_eq!(store.list(None).unwrap().snapshots.len(), 1, "{what}");
            }
        }
    }
}

// spec: VER-10
#[test]
fn the_words_of_the_store_hold_for_all_of_its_snapshots_and_survive_a_new_writer() {
    for word in Operation::ALL.into_iter().skip(1) {
        for operation in Operation::ALL {
            let (tree, _, a) = one();
            tree.tamper(&path("store.vms"), |bytes| stamp(bytes, word))
                .unwrap();
            let done = attempt(&reopen(&tree), a, operation);
            let expected = (operation == word).then_some(ErrorKind::TooNew);
            assert_eq!(kind(done), expected, "{word:?}: {operation:?}");
        }
    }
    let (tree, _, a) = one();
    let store = reopen(&tree);
    store.delete(&store.plan_delete(a.id).unwrap()).unwrap();
    tree.tamper(&path("store.vms"), |bytes| stamp(bytes, Operation::Gc))
        .unwrap();
    let collected = reopen(&tree).collect(&GarbageOptions::default());
    assert_eq!(kind(collected), Some(ErrorKind::TooNew));
    let mut header = reopen(&one().0).header().clone();
    header.features.gc = BIT;
    header.last_host = "another".to_owned();
    let again = crate::StoreHeader::parse(&path("store.vms"), &header.encode()).unwrap();
    assert_eq!(again, header);
}

// spec: VER-11
#[test]
fn what_is_written_anew_asks_for_what_the_old_one_did() {
    let (tree, store, a) = stamped(FileKind::Placement, Operation::Gc);
    attempt(&store, a, Operation::Rewrite).unwrap();
    let second = read(&tree, &path(&format!("snapshots/{}/place.2.vms", a.id)));
    assert_eq!(Placement::parse(&second).unwrap().features.gc, BIT);
    let (tree, store, a) = stamped(FileKind::MemoryMap, Operation::Extend);
    attempt(&store, a, Operation::Rewrite).unwrap();
    let map = read(&tree, &path(&format!("snapshots/{}/memory.1.map", a.id)));
    let header = Header::parse(&map, map.len() as u64).unwrap();
    let expected = Features {
        extend: BIT,
        ..Features::default()
    };
    assert_eq!(header.features, expected);
    assert_eq!(
        kind(attempt(&store, a, Operation::Extend)),
        Some(ErrorKind::TooNew)
    );
}

// spec: VER-10
#[test]
fn a_placement_that_may_not_be_judged_keeps_what_it_may_need_while_it_is_leased() {
    let (tree, store, a) = one();
    let b = take(&store, named("db", "b"), &image(&A)).unwrap();
    let stamp_gc = |id: SnapshotId| {
        let place = path(&format!("snapshots/{id}/place.1.vms"));
        tree.tamper(&place, |bytes| stamp(bytes, Operation::Gc))
            .unwrap();
    };
    stamp_gc(b.id);
    let lease = store.lease(b.id).unwrap();
    let plan = store.plan_delete(a.id).unwrap();
    assert_eq!(kind(store.delete(&plan)), Some(ErrorKind::Refused));
    drop(lease);
    store.delete(&plan).unwrap();
    // Nor is what it may need removed for good.
    let report = store.collect(&GarbageOptions::default()).unwrap();
    assert!(report.collected.is_empty() && !report.is_complete());
    assert_eq!(store.trash().unwrap().snapshots.len(), 1);
    // Of a version that this build cannot read, the words are still read.
    let place = path(&format!("snapshots/{}/place.1.vms", b.id));
    tree.tamper(&place, |bytes| {
        let mut header = Header::parse(bytes, bytes.len() as u64).unwrap();
        header.version.minor += 1;
        header.reader_minor = header.version.minor;
        bytes[..HEADER_BYTES].copy_from_slice(&header.encode());
    })
    .unwrap();
    assert_eq!(kind(store.plan_delete(b.id)), Some(ErrorKind::TooNew));
    assert!(store.exists_at(Location::Live, b.id).unwrap());
}
