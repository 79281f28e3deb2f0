//! Random operations on a store, against images in vectors.

use std::collections::BTreeMap;

use super::rig::{self, PAGE, PAGES, kind, named, reopen, restored, store, take, verify};
use crate::{ErrorKind, GarbageOptions, KeptFiles, NewSnapshot, Selection, Store};
use proptest::prelude::*;
use snapshot_format::{DataLayout, SnapshotRef};
use snapshot_memory::backend::Backend;
use snapshot_memory::{ConsolidateOptions, FrameCodec, RelayoutOptions};

/// One step.
#[derive(Clone, Debug)]
enum Step {
    /// A full snapshot with these fills.
    Full(Vec<u8>),
    /// A diff over a snapshot: pages and what they become.
    Diff(usize, Vec<(usize, u8)>),
    /// A snapshot that is given up: before or after it is sealed.
    GivenUp(bool),
    /// To the trash or back, whichever is possible.
    Move(usize),
    /// Protected or not.
    Protect(usize, bool),
    /// Its pages laid out anew.
    Relayout(usize, RelayoutOptions),
    /// All that it needs in a data file of its own.
    Consolidate(usize),
    /// What is deleted and needed by nobody is gone.
    Collect,
    /// The store is opened anew.
    Reopen,
}

/// What a snapshot must be.
#[derive(Clone, Debug)]
struct Expected {
    reference: SnapshotRef,
    image: Vec<u8>,
    is_live: bool,
    is_protected: bool,
}

fn step() -> impl Strategy<Value = Step> {
    let pages = usize::try_from(PAGES).unwrap();
    let fill = 0..4_u8;
    prop_oneof![
        1 => prop::collection::vec(fill.clone(), pages).prop_map(Step::Full),
        5 => (any::<usize>(), prop::collection::vec((0..pages, fill), 0..4))
            .prop_map(|(parent, writes)| Step::Diff(parent, writes)),
        1 => any::<bool>().prop_map(Step::GivenUp),
        3 => any::<usize>().prop_map(Step::Move),
        1 => (any::<usize>(), any::<bool>()).prop_map(|(at, on)| Step::Protect(at, on)),
        2 => (any::<usize>(), prop::sample::select(vec![
            RelayoutOptions::of(DataLayout::Sparse),
            RelayoutOptions::of(DataLayout::Packed),
            RelayoutOptions::compressed(FrameCodec::Lz4),
        ])).prop_map(|(at, options)| Step::Relayout(at, options)),
        2 => any::<usize>().prop_map(Step::Consolidate),
        2 => Just(Step::Collect),
        1 => Just(Step::Reopen),
    ]
}

fn check(store: &Store, model: &[Expected]) -> Result<(), TestCaseError> {
    let live: BTreeMap<_, _> = model
        .iter()
        .filter(|expected| expected.is_live)
        .map(|expected| (expected.reference.id, expected))
        .collect();
    let listing = store.list(None).unwrap();
    prop_assert!(listing.damaged.is_empty());
    let listed: Vec<_> = listing.snapshots.iter().map(|r| r.id).collect();
    prop_assert_eq!(listed.len(), live.len());
    for record in &listing.snapshots {
        let expected = live.get(&record.id).unwrap();
        prop_assert_eq!(record.metadata.protected, expected.is_protected);
        let image = restored(store, expected.reference).unwrap();
        prop_assert!(
            image == expected.image,
            "{} restores to other bytes",
            record.id
        );
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    // spec: STO-19
    // spec: CON-05
    // spec: GC-02
    #[test]
    fn a_store_is_a_set_of_images(steps in prop::collection::vec(step(), 1..25)) {
        let (tree, mut store) = store();
        let mut model: Vec<Expected> = Vec::new();
        for (number, step) in steps.into_iter().enumerate() {
            let new = |parent: Option<SnapshotRef>| -> NewSnapshot {
                named("web", &format!("s{number}")).parent(parent)
            };
            let added = |reference, image| Expected {
                reference,
                image,
                is_live: true,
                is_protected: false,
            };
            let len = model.len();
            match step {
                Step::Full(fills) => {
                    let image = rig::image(&fills);
                    let reference = take(&store, new(None), &image).unwrap();
                    model.push(added(reference, image));
                }
                Step::Diff(parent, writes) if len > 0 => {
                    let parent = model[parent % len].clone();
                    let mut image = parent.image.clone();
                    for (page, fill) in writes {
                        image[page * PAGE..(page + 1) * PAGE].fill(fill);
                    }
                    let new = new(Some(parent.reference));
                    if parent.is_live {
                        let reference = take(&store, new, &image).unwrap();
                        model.push(added(reference, image));
                    } else {
                        let refused = store.sink(new).stage();
                        prop_assert_eq!(kind(refused), Some(ErrorKind::Incompatible));
                    }
                }
                Step::GivenUp(is_sealed) => {
                    let stage = rig::staged(&store, new(None), &rig::image(&[7; 8])).unwrap();
                    if is_sealed {
                        drop(stage.seal().unwrap());
                    }
                }
                Step::Move(at) if len > 0 => {
                    let expected = &mut model[at % len];
                    let id = expected.reference.id;
                    if expected.is_live {
                        let deleted = store.delete(&store.plan_delete(id).unwrap());
                        let refused = expected.is_protected.then_some(ErrorKind::Refused);
                        prop_assert_eq!(kind(deleted), refused);
                        expected.is_live = expected.is_protected;
                    } else {
                        store.undelete(id).unwrap();
                        expected.is_live = true;
                    }
                }
                Step::Protect(at, on) if len > 0 => {
                    let expected = &mut model[at % len];
                    let changed = store.change_metadata(expected.reference.id, |m| m.protected = on);
                    if expected.is_live {
                        changed.unwrap();
                        expected.is_protected = on;
                    } else {
                        prop_assert_eq!(kind(changed), Some(ErrorKind::NotFound));
                    }
                }
                Step::Relayout(at, options) if !model.is_empty() => {
                    let expected = &model[at % model.len()];
                    let id = expected.reference.id;
                    let done = store.relayout(id, &options);
                    if expected.is_live {
                        prop_assert_eq!(done.unwrap().layout, options.layout);
                    } else {
                        prop_assert_eq!(kind(done), Some(ErrorKind::NotFound));
                    }
                }
                Step::Consolidate(at) if len > 0 => {
                    let expected = &model[at % len];
                    let id = expected.reference.id;
                    let options = ConsolidateOptions::default();
                    let done = store.consolidate(id, KeptFiles::None, &options);
                    if expected.is_live {
                        prop_assert_eq!(done.unwrap().files_after, 1);
                    } else {
                        prop_assert_eq!(kind(done), Some(ErrorKind::NotFound));
                    }
                }
                Step::Collect => {
                    let report = store.collect(&GarbageOptions::default()).unwrap();
                    prop_assert!(report.is_complete(), "{:?}", report.problems);
                    let left = store.trash().unwrap().snapshots;
                    let is_left = |expected: &Expected| {
                        let id = expected.reference.id;
                        left.iter().any(|record| record.id == id)
                    };
                    model.retain(|expected| expected.is_live || is_left(expected));
                }
                Step::Reopen => store = reopen(&tree),
                _ => {}
            }
            check(&store, &model)?;
        }
        let report = verify(&store, Selection::All);
        prop_assert!(report.ok, "{:?}", report.errors);
        prop_assert_eq!(report.snapshots, model.len() as u64);
        // Nothing of what was given up is left.
        for entry in tree.list(&rig::path("snapshots")).unwrap() {
            prop_assert!(!entry.name.starts_with('.'), "{}", entry.name);
        }
    }
}
