//! Chains that become short: the same bytes, fewer files, for whoever descends from them, too.

use super::rig::{
    image, kind, named, names, path, read, reopen, restored, store, take, verify,
    with_each_call_failing,
};
use crate::{ErrorKind, GarbageOptions, KeptFiles, Selection, Store, VmPolicy};
use snapshot_format::envelope::HEADER_BYTES;
use snapshot_format::{DataLayout, Header, SnapshotId, SnapshotRef, VmName};
use snapshot_memory::backend::MemBackend;
use snapshot_memory::{ChainLimits, ConsolidateOptions, FrameCodec, RelayoutOptions};

type Taken = (SnapshotRef, Vec<u8>);

/// A chain of so many: each differs from the one before in two pages, one of which becomes zero.
fn chain(store: &Store, len: usize) -> Vec<Taken> {
    let mut fills = [1, 0, 3, 0, 5, 6, 7, 8];
    let mut all: Vec<Taken> = Vec::new();
    for number in 0..len {
        fills[number % 8] = 20 + u8::try_from(number).unwrap();
        fills[(number + 3) % 8] = 0;
        let parent = all.last().map(|(reference, _)| *reference);
        let new = named("web", &format!("s{number}")).parent(parent);
        let taken = take(store, new, &image(&fills)).unwrap();
        all.push((taken, image(&fills)));
    }
    all
}

fn limits(max_files: usize) -> ConsolidateOptions {
    let limits = ChainLimits::default()
        .max_files(max_files)
        .max_wasted_percent(100);
    ConsolidateOptions::default().limits(limits)
}

fn needed(store: &Store, id: SnapshotId) -> Vec<SnapshotId> {
    let dependencies = store.detail(id).unwrap().dependencies;
    dependencies.iter().map(|data| data.snapshot).collect()
}

fn check(store: &Store, all: &[Taken], what: &str) {
    for (reference, memory) in all {
        assert!(restored(store, *reference).unwrap() == *memory, "{what}");
    }
    let report = verify(store, Selection::All);
    assert!(report.ok, "{what}: {:?}", report.errors);
}

// spec: CON-05
// spec: CON-09
#[test]
fn a_chain_is_flattened_in_every_layout_and_reads_the_same() {
    for relayout in [
        RelayoutOptions::of(DataLayout::Sparse),
        RelayoutOptions::of(DataLayout::Packed),
        RelayoutOptions::compressed(FrameCodec::Lz4),
    ] {
        let (tree, store) = store();
        let all = chain(&store, 5);
        let last = all[4].0.id;
        let options = ConsolidateOptions::default().relayout(relayout);
        let report = store.consolidate(last, KeptFiles::None, &options).unwrap();
        assert!(report.changed);
        assert_eq!((report.files_before, report.files_after), (5, 1));
        assert_eq!(needed(&store, last), [last]);
        check(&reopen(&tree), &all, "flattened");
        let again = store.consolidate(last, KeptFiles::None, &options).unwrap();
        assert!(!again.changed);
        // It is laid out anew as any other, and children come of it.
        let packed = RelayoutOptions::of(DataLayout::Packed);
        store.relayout(last, &packed).unwrap();
        let child = named("db", "clone").parent(Some(all[4].0));
        let child = take(&store, child, &image(&[7; 8])).unwrap();
        assert_eq!(needed(&store, child.id), [last, child.id]);
        assert_eq!(restored(&store, child).unwrap(), image(&[7; 8]));
        check(&store, &all, "laid out anew");
    }
}

// spec: CON-01
// spec: CON-05
#[test]
fn beyond_the_limit_the_first_files_stay_and_the_others_are_merged() {
    let (tree, store) = store();
    let all = chain(&store, 6);
    let last = all[5].0.id;
    let within = store.consolidate(last, KeptFiles::ByLimits, &limits(6));
    assert!(!within.unwrap().changed);
    let report = store.consolidate(last, KeptFiles::ByLimits, &limits(5));
    let report = report.unwrap();
    assert_eq!((report.files_before, report.files_after), (6, 2));
    assert_eq!(needed(&store, last), [all[0].0.id, last]);
    check(&reopen(&tree), &all, "merged");
    // A second time, over what was merged; and with descendants.
    let child = named("web", "child").parent(Some(all[5].0));
    let child = take(&store, child, &image(&[9; 8])).unwrap();
    let alone = ConsolidateOptions::default();
    store.consolidate(last, KeptFiles::None, &alone).unwrap();
    assert_eq!(needed(&store, child.id), [all[0].0.id, last, child.id]);
    assert_eq!(restored(&store, child).unwrap(), image(&[9; 8]));
    check(&reopen(&tree), &all, "merged twice");
}

// spec: CON-06
// spec: CON-07
#[test]
fn once_all_that_is_kept_stands_alone_its_bases_are_garbage() {
    let (tree, store) = store();
    let all = chain(&store, 4);
    let clone = named("db", "clone").parent(Some(all[2].0));
    let clone = (
        take(&store, clone, &image(&[6; 8])).unwrap(),
        image(&[6; 8]),
    );
    let options = ConsolidateOptions::default();
    for (gone, _) in &all[..3] {
        store.delete(&store.plan_delete(gone.id).unwrap()).unwrap();
    }
    let collect = || store.collect(&GarbageOptions::default()).unwrap();
    store
        .consolidate(all[3].0.id, KeptFiles::None, &options)
        .unwrap();
    assert!(
        collect().collected.is_empty(),
        "the clone needs all of them"
    );
    // A reader of the placement from before goes on; so its bases stay.
    let reader = store.image(clone.0.id).unwrap();
    store
        .consolidate(clone.0.id, KeptFiles::None, &options)
        .unwrap();
    assert!(collect().collected.is_empty());
    let mut page = vec![0; 4096];
    let first = snapshot_format::PageRange::new(0, 1);
    reader.image().read_pages(first, &mut page).unwrap();
    assert_eq!(page, [6; 4096]);
    drop(reader);
    let collected: Vec<_> = collect().collected.iter().map(|one| one.id).collect();
    assert_eq!(collected, [2, 1, 0].map(|at: usize| all[at].0.id));
    check(&reopen(&tree), &[all[3].clone(), clone], "alone");
}

// spec: CON-05
#[test]
fn whatever_call_fails_the_snapshot_reads_the_same() {
    let (tree, store) = store();
    let all = chain(&store, 4);
    let last = all[3].0.id;
    let work =
        |store: &Store| store.consolidate(last, KeptFiles::None, &ConsolidateOptions::default());
    with_each_call_failing(&tree, work, |done, left, what| {
        let store = reopen(left);
        check(&store, &all, what);
        if done.is_err() {
            work(&store).unwrap();
            check(&store, &all, what);
        }
    });
}

// spec: CON-08
#[test]
fn a_quota_counts_the_merged_file() {
    let (_, store) = store();
    let all = chain(&store, 3);
    let usage = store.usage().unwrap();
    let policy = VmPolicy::default().quota_bytes(Some(usage.live_bytes));
    store
        .set_policy(&VmName::new("web").unwrap(), &policy)
        .unwrap();
    let options = ConsolidateOptions::default();
    let refused = store.consolidate(all[2].0.id, KeptFiles::None, &options);
    assert_eq!(kind(refused), Some(ErrorKind::NoSpace));
    assert_eq!(store.usage().unwrap().live_bytes, usage.live_bytes);
    check(&store, &all, "refused");
}

fn header(tree: &MemBackend, id: SnapshotId, map: &str) -> Header {
    let bytes = read(tree, &path(&format!("snapshots/{id}/{map}")));
    Header::parse(&bytes, bytes.len() as u64).unwrap()
}

/// Changes the header of a map, which stays a sound one.
fn restamp(tree: &MemBackend, id: SnapshotId, map: &str, change: impl FnOnce(&mut Header)) {
    let file = path(&format!("snapshots/{id}/{map}"));
    let changed = tree.tamper(&file, |bytes| {
        let mut header = Header::parse(bytes, bytes.len() as u64).unwrap();
        change(&mut header);
        bytes[..HEADER_BYTES].copy_from_slice(&header.encode());
    });
    changed.unwrap();
}

// spec: CON-10
#[test]
fn a_merged_file_asks_for_readers_that_know_of_such_files() {
    let (tree, store) = store();
    let all = chain(&store, 4);
    let last = all[3].0;
    let options = ConsolidateOptions::default();
    store
        .consolidate(last.id, KeptFiles::None, &options)
        .unwrap();
    assert_eq!(header(&tree, last.id, "memory.map").reader_minor, 1);
    assert_eq!(header(&tree, last.id, "memory.1.map").reader_minor, 5);
    let packed = RelayoutOptions::of(DataLayout::Packed);
    store.relayout(last.id, &packed).unwrap();
    assert_eq!(header(&tree, last.id, "memory.2.map").reader_minor, 5);
    let child = named("web", "child").parent(Some(last));
    let child = take(&store, child, &image(&[9; 8])).unwrap();
    assert_eq!(header(&tree, child.id, "memory.map").reader_minor, 1);
    // One that does not ask for them is none.
    restamp(&tree, last.id, "memory.2.map", |header| {
        header.reader_minor = 1;
    });
    let store = reopen(&tree);
    assert_eq!(kind(restored(&store, last)), Some(ErrorKind::Corrupt));
    // As a build of 0.4 sees one of today.
    restamp(&tree, last.id, "memory.2.map", |header| {
        header.version.minor += 1;
        header.reader_minor = header.version.minor;
    });
    let store = reopen(&tree);
    assert_eq!(kind(restored(&store, last)), Some(ErrorKind::TooNew));
    assert_eq!(store.list(None).unwrap().snapshots.len(), 5);
}

// spec: VER-10
// spec: VER-11
#[test]
fn a_merged_file_asks_what_each_of_its_sources_asks() {
    let (tree, store) = store();
    let all = chain(&store, 6);
    let last = all[5].0.id;
    let options = ConsolidateOptions::default();
    restamp(&tree, all[1].0.id, "memory.map", |header| {
        header.features.gc = 2;
    });
    restamp(&tree, all[2].0.id, "memory.map", |header| {
        header.features.gc = 4;
    });
    restamp(&tree, all[0].0.id, "memory.map", |header| {
        header.features.rewrite = 1;
    });
    let refused = store.consolidate(last, KeptFiles::None, &options);
    assert_eq!(kind(refused), Some(ErrorKind::TooNew));
    assert_eq!(names(&tree, "snapshots").len(), 6);
    // The base stays where it is, and need not be known.
    let merged = store.consolidate(last, KeptFiles::ByLimits, &limits(5));
    assert_eq!(merged.unwrap().files_after, 2);
    assert_eq!(header(&tree, last, "memory.1.map").features.gc, 6);
}
