//! What is said of snapshots, against images in vectors.

use std::ops::ControlFlow;

use super::rig::{A, PAGE, image, kind, named, one, store, take, vm};
use crate::{
    ErrorKind, FindingKind, Location, Merge, PageCountsBy, Picture, SnapshotDifference, Store,
    StoreError,
};
use proptest::prelude::*;
use snapshot_format::{BranchName, PageRange, SnapshotId, SnapshotRef, Tag};

fn difference(store: &Store, a: SnapshotRef, b: SnapshotRef) -> SnapshotDifference {
    store
        .difference(a.id, b.id, &mut |_| ControlFlow::Continue(()))
        .unwrap()
}

/// The counts by their definition.
fn model(before: &[u8], after: &[u8]) -> (PageCountsBy, u64) {
    let mut counts = PageCountsBy::default();
    let mut differing = 0;
    for (old, new) in before.chunks(PAGE).zip(after.chunks(PAGE)) {
        let is_zero = |page: &[u8]| page.iter().all(|byte| *byte == 0);
        if old == new {
            counts.same += 1;
        } else if is_zero(old) {
            counts.became_data += 1;
        } else if is_zero(new) {
            counts.became_zero += 1;
        } else {
            counts.changed += 1;
        }
        differing += old.iter().zip(new).filter(|(old, new)| old != new).count() as u64;
    }
    (counts, differing)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    // spec: ANA-01
    // spec: ANA-02
    // spec: ANA-04
    #[test]
    fn differences_and_pictures_are_those_of_the_images(
        steps in prop::collection::vec((any::<prop::sample::Index>(), prop::collection::vec((0..8_usize, 0..3_u8), 0..5)), 1..6),
        cells in 1..12_u64,
    ) {
        let (_, store, a) = one();
        let mut taken = vec![(a, image(&A))];
        for (number, (parent, writes)) in steps.into_iter().enumerate() {
            let (parent, mut image) = parent.get(&taken).clone();
            for (page, fill) in writes {
                image[page * PAGE..][..100].fill(fill);
            }
            let new = named("web", &format!("s{number}")).parent(Some(parent));
            taken.push((take(&store, new, &image).unwrap(), image));
        }
        for (a, before) in &taken {
            for (b, after) in &taken {
                let memory = difference(&store, *a, *b).memory.unwrap();
                prop_assert_eq!((memory.counts, memory.differing_bytes), model(before, after));
                prop_assert_eq!(memory.regions.len(), 1);
                if a == b {
                    prop_assert_eq!(memory.compared_pages, 0);
                }
            }
            let stored = store.image(a.id).unwrap();
            let touched = [PageRange::new(1, 3), PageRange::new(6, 1)];
            let picture = Picture::of(stored.image(), touched, cells).unwrap();
            prop_assert!(picture.cells.len() as u64 <= cells);
            let sum = |of: &dyn Fn(&crate::PictureCell) -> u64| picture.cells.iter().map(of).sum::<u64>();
            let chain = store.chain(a.id).unwrap();
            prop_assert_eq!(sum(&|cell| cell.pages), 8);
            prop_assert_eq!(sum(&|cell| cell.working_set), 4);
            prop_assert_eq!(sum(&|cell| cell.zero), chain.zero_pages);
            let own = |cell: &crate::PictureCell| {
                let own = cell.by_generation.iter().filter(|(generation, _)| *generation == 0);
                own.map(|(_, pages)| pages).sum()
            };
            prop_assert_eq!(sum(&own), chain.own_pages);
            let others = chain.own_pages + chain.inherited_pages + chain.zero_pages;
            prop_assert_eq!(others, chain.pages);
        }
    }
}

// spec: ANA-03
#[test]
fn state_and_what_is_attached_are_compared_by_key() {
    let (_, store, a) = one();
    let mut new = named("web", "b").parent(Some(a));
    new.metadata.tags.insert(Tag::new("keep").unwrap());
    let b = take(&store, new.config(b"other".to_vec()), &image(&A)).unwrap();
    let found = difference(&store, a, b);
    assert_eq!((found.state.same, found.state.changed.len()), (1, 0));
    assert!(found.config_changed);
    let told: Vec<_> = found.attached.iter().map(|one| one.key.as_str()).collect();
    assert_eq!(told, ["name", "tag.keep"]);
    assert_eq!(found.attached[0].before.as_deref(), Some("a"));
    assert_eq!(found.attached[1].before, None);
    assert_eq!(difference(&store, b, b).attached, []);
    let stopped = store.difference(a.id, b.id, &mut |_| ControlFlow::Break(()));
    assert_eq!(kind(stopped), Some(ErrorKind::Interrupted));
}

// spec: ANA-06
// spec: ANA-07
#[test]
fn a_chain_and_the_space_of_a_store_add_up() {
    let (_, store, a) = one();
    let b = take(
        &store,
        named("web", "b").parent(Some(a)),
        &image(&[9, 0, 3, 0, 5, 6, 7, 8]),
    )
    .unwrap();
    let chain = store.chain(b.id).unwrap();
    let told: Vec<_> = chain
        .layers
        .iter()
        .map(|layer| {
            (
                layer.snapshot,
                layer.generation,
                layer.stored_pages,
                layer.used_pages,
            )
        })
        .collect();
    assert_eq!(told, [(b.id, 0, 1, 1), (a.id, 1, 6, 5)]);
    assert_eq!(
        (chain.zero_pages, chain.waste_pages, chain.inherited_pages),
        (2, 1, 5)
    );
    assert_eq!(chain.consolidation_bytes, 5 * 4096);

    store.delete(&store.plan_delete(a.id).unwrap()).unwrap();
    let (space, usage) = (store.space().unwrap(), store.usage().unwrap());
    assert_eq!(
        (space.live_bytes, space.trash_bytes),
        (usage.live_bytes, usage.trash_bytes)
    );
    assert_eq!(space.trash_unneeded_bytes, 0);
    let of = |id| space.snapshots.iter().find(|one| one.id == id).unwrap();
    assert_eq!(
        of(b.id).exclusive_bytes,
        space.live_bytes + space.trash_bytes
    );
    assert_eq!(
        (of(a.id).exclusive_bytes, of(a.id).location),
        (0, Location::Trash)
    );
}

// spec: ANA-08
#[test]
fn a_long_chain_and_damage_are_found() {
    let (tree, store) = store();
    let mut head = take(&store, named("web", "a"), &image(&A)).unwrap();
    for number in 0..33 {
        let new = named("web", &format!("n{number}")).parent(Some(head));
        head = take(&store, new, &image(&A)).unwrap();
    }
    let found = store.diagnose(None, true).unwrap();
    assert_eq!(found.snapshots, 1);
    let long = found
        .findings
        .iter()
        .find(|one| one.kind == FindingKind::LongChain)
        .unwrap();
    assert_eq!(
        (long.snapshot, long.found, long.limit),
        (Some(head.id), 34, 32)
    );
    let path = super::rig::path(&format!("snapshots/{}/manifest.vms", head.id));
    tree.tamper(&path, |bytes| bytes.truncate(9)).unwrap();
    let found = store.diagnose(None, false).unwrap();
    let damaged = found
        .findings
        .iter()
        .find(|one| one.kind == FindingKind::Damaged)
        .unwrap();
    assert_eq!(damaged.snapshot, Some(head.id));
    let missing: Result<_, StoreError> = store.chain(SnapshotId([7; 16]));
    assert_eq!(kind(missing), Some(ErrorKind::NotFound));
}

// spec: ANA-02
#[test]
fn a_merge_differs_from_its_giver_in_nothing_and_is_not_read() {
    let (_, store, a) = one();
    let fix = BranchName::new("fix").unwrap();
    let new = named("web", "b").branch(fix).parent(Some(a));
    let b = take(&store, new, &image(&[9; 8])).unwrap();
    let report = store
        .merge(&Merge::of(vm("web"), b.id, BranchName::main()))
        .unwrap();
    let merged = store.snapshot(report.id).unwrap().reference();
    let memory = difference(&store, b, merged).memory.unwrap();
    assert_eq!((memory.counts.same, memory.compared_pages), (8, 0));
}
