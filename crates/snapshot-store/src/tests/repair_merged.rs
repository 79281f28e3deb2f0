//! Repair of snapshots whose chains were made short.

use std::ops::ControlFlow;

use super::rig::{
    PAGE, image, kind, named, names, path, reopen, restored, staged_of, store, take, verify,
};
use crate::{ErrorKind, GarbageOptions, KeptFiles, RepairOutcome, RepairReport, Selection, Store};
use snapshot_format::{DataLayout, SnapshotRef};
use snapshot_memory::backend::MemBackend;
use snapshot_memory::{ChainLimits, ConsolidateOptions, RelayoutOptions, Stability};

type Taken = (SnapshotRef, Vec<u8>);

/// A chain whose first snapshot has sixteen pages under a digest, and whose others change one each.
fn chain(store: &Store, len: usize) -> Vec<Taken> {
    let mut fills = [1, 0, 3, 4, 5, 6, 7, 8];
    let mut all: Vec<Taken> = Vec::new();
    for number in 0..len {
        fills[number % 8] = 20 + u8::try_from(number).unwrap();
        let parent = all.last().map(|(reference, _)| *reference);
        let new = named("web", &format!("s{number}")).parent(parent);
        let stability = match parent {
            None => Stability::Paused,
            Some(_) => Stability::Running,
        };
        let stage = staged_of(store, new, &image(&fills), stability).unwrap();
        let taken = stage.seal().unwrap().publish().unwrap().snapshot;
        all.push((taken, image(&fills)));
    }
    all
}

/// Merges all but the first `kept` files of a chain.
fn consolidate(store: &Store, of: &Taken, kept: usize) {
    let limits = ChainLimits::default()
        .max_files(2 * (kept + 1))
        .max_wasted_percent(100);
    let options = ConsolidateOptions::default().limits(limits);
    let kept_files = match kept {
        0 => KeptFiles::None,
        _ => KeptFiles::ByLimits,
    };
    let report = store.consolidate(of.0.id, kept_files, &options).unwrap();
    assert_eq!(report.files_after, kept + 1);
}

/// Deletes snapshots, and collects all that nobody needs.
fn remove(store: &Store, gone: &[Taken]) {
    for (gone, _) in gone.iter().rev() {
        store.delete(&store.plan_delete(gone.id).unwrap()).unwrap();
    }
    store.collect(&GarbageOptions::default()).unwrap();
}

fn spoil_placement(tree: &MemBackend, of: &Taken) {
    let folder = format!("snapshots/{}", of.0.id);
    for name in names(tree, &folder) {
        if name.starts_with("place.") {
            let file = path(&format!("{folder}/{name}"));
            tree.tamper(&file, |bytes| bytes[200] ^= 1).unwrap();
        }
    }
}

fn repair(store: &Store, of: &Taken) -> RepairReport {
    let mut tell = |_| ControlFlow::Continue(());
    let plan = store.plan_repair(of.0.id, None, &mut tell).unwrap();
    let done = store.repair(of.0.id, None, &mut tell).unwrap();
    assert_eq!(plan.outcome, done.outcome, "{plan:?} {done:?}");
    done
}

fn mends(tree: &MemBackend, all: &[Taken], of: &Taken) {
    let store = reopen(tree);
    assert_eq!(kind(restored(&store, of.0)), Some(ErrorKind::Corrupt));
    let report = repair(&store, of);
    assert_eq!(report.outcome, RepairOutcome::Mended, "{report:?}");
    let store = reopen(tree);
    for (reference, memory) in all {
        assert!(restored(&store, *reference).unwrap() == *memory);
    }
    let checked = verify(&store, Selection::All);
    assert!(checked.ok, "{:?}", checked.errors);
}

fn needed(store: &Store, of: &Taken) -> Vec<u32> {
    let dependencies = store.detail(of.0.id).unwrap().dependencies;
    dependencies.iter().map(|data| data.index).collect()
}

// spec: CON-11
#[test]
fn a_lost_placement_of_what_stands_alone_is_made_of_the_merged_file() {
    let (tree, store) = store();
    let all = chain(&store, 4);
    consolidate(&store, &all[3], 0);
    remove(&store, &all[..3]);
    assert_eq!(names(&tree, "trash").len(), 0);
    spoil_placement(&tree, &all[3]);
    mends(&tree, &all[3..], &all[3]);
    assert_eq!(needed(&reopen(&tree), &all[3]), [1]);
    // Laid out anew from it, too.
    let packed = RelayoutOptions::of(DataLayout::Packed);
    reopen(&tree).relayout(all[3].0.id, &packed).unwrap();
    spoil_placement(&tree, &all[3]);
    mends(&tree, &all[3..], &all[3]);
}

// spec: CON-11
#[test]
fn what_stays_of_a_chain_is_found_by_the_parent_or_by_a_child() {
    let (tree, store) = store();
    let all = chain(&store, 6);
    consolidate(&store, &all[5], 1);
    // Both lists are there: the one that the manifest binds is taken.
    spoil_placement(&tree, &all[5]);
    mends(&tree, &all, &all[5]);
    assert_eq!(needed(&reopen(&tree), &all[5]), [0; 6]);
    // The parent has the whole list, and not all of its files are there.
    let (tree, store) = super::rig::store();
    let all = chain(&store, 6);
    consolidate(&store, &all[5], 1);
    consolidate(&store, &all[4], 0);
    let child = named("web", "child").parent(Some(all[5].0));
    let child = take(&store, child, &image(&[9; 8])).unwrap();
    remove(&store, &all[..4]);
    spoil_placement(&tree, &all[5]);
    let left = [all[4].clone(), all[5].clone(), (child, image(&[9; 8]))];
    mends(&tree, &left, &all[5]);
    assert_eq!(needed(&reopen(&tree), &all[5]), [0, 1]);
}

// spec: CON-11
#[test]
fn nothing_is_guessed_where_nobody_knows_the_list() {
    let (tree, store) = store();
    let all = chain(&store, 6);
    consolidate(&store, &all[5], 1);
    remove(&store, &all[..5]);
    spoil_placement(&tree, &all[5]);
    let store = reopen(&tree);
    let report = repair(&store, &all[5]);
    assert_eq!(report.outcome, RepairOutcome::Lost, "{report:?}");
    assert_eq!(kind(restored(&store, all[5].0)), Some(ErrorKind::Corrupt));
}

// spec: CON-11
#[test]
fn a_child_is_placed_again_after_its_parent_was_consolidated_and_trimmed() {
    let (tree, store) = store();
    let all = chain(&store, 5);
    consolidate(&store, &all[3], 0);
    consolidate(&store, &all[2], 0);
    store.collect(&GarbageOptions::default()).unwrap();
    assert_eq!(store.detail(all[3].0.id).unwrap().generation, 2);
    let left = names(&tree, &format!("snapshots/{}", all[3].0.id));
    assert!(!left.contains(&"place.1.vms".to_owned()));
    spoil_placement(&tree, &all[4]);
    mends(&tree, &all, &all[4]);
}

// spec: RPR-01
#[test]
fn pages_of_a_merged_file_come_back_from_where_they_came() {
    // Under digests of sixteen pages at first: no other file has a unit with that digest.
    let spoil = |tree: &MemBackend, of: &Taken, page: usize| {
        let file = path(&format!("snapshots/{}/memory.1.img", of.0.id));
        let spoilt = tree.tamper(&file, |bytes| bytes[page * PAGE..][..64].fill(0xee));
        spoilt.unwrap();
    };
    let (tree, store) = store();
    let all = chain(&store, 3);
    consolidate(&store, &all[2], 0);
    spoil(&tree, &all[2], 5);
    mends(&tree, &all, &all[2]);
    // The placement from before is gone: by the parent, for all that the snapshot inherits.
    let store = reopen(&tree);
    store.collect(&GarbageOptions::default()).unwrap();
    for page in [5, 2] {
        spoil(&tree, &all[2], page);
    }
    mends(&tree, &all, &all[2]);
}
