//! Damage that is mended from copies, told where it cannot be, and never made worse.

use std::ops::ControlFlow;

use super::rig::{
    A, PAGE, image, kind, named, one, path, read, restored, staged_of, store, take, verify,
    with_each_call_failing,
};
use crate::{
    ErrorKind, RepairOutcome, RepairReport, RepairSource, Selection, Store, WantedFile, WantedPages,
};
use snapshot_format::{DataLayout, FileKind, Manifest, PageIndex, SnapshotRef};
use snapshot_memory::backend::{Backend, MemBackend};
use snapshot_memory::{CaptureControl, FrameCodec, RelayoutOptions, Stability};

const B: [u8; 8] = [1, 9, 3, 0, 5, 6, 7, 8];

fn repair(store: &Store, id: SnapshotRef) -> RepairReport {
    let mut tell = |_| ControlFlow::Continue(());
    let plan = store.plan_repair(id.id, None, &mut tell).unwrap();
    assert!(plan.dry_run);
    let done = store.repair(id.id, None, &mut tell).unwrap();
    assert_eq!(plan.outcome, done.outcome, "{plan:?} {done:?}");
    assert_eq!(plan.hurt.len(), done.hurt.len());
    done
}

fn file_of(id: SnapshotRef, name: &str) -> String {
    format!("snapshots/{}/{name}", id.id)
}

/// Overwrites half of a page with what nobody ever wrote.
fn spoil(tree: &MemBackend, file: &str, page: usize) {
    tree.tamper(&path(file), |bytes| {
        for byte in &mut bytes[page * PAGE..page * PAGE + PAGE / 2] {
            *byte ^= 0x5a;
        }
    })
    .unwrap();
}

/// That a repair of `a` brings everything back.
fn mends(store: &Store, a: SnapshotRef, from: &str) -> RepairReport {
    assert!(!verify(store, Selection::All).ok);
    let report = repair(store, a);
    assert_eq!(report.outcome, RepairOutcome::Mended, "{report:?}");
    let told = report.files.iter().flat_map(|file| &file.from);
    assert!(told.clone().any(|name| name.contains(from)), "{report:?}");
    let checked = verify(store, Selection::All);
    assert!(checked.ok, "{:?}", checked.errors);
    assert_eq!(restored(store, a).unwrap(), image(&A));
    assert_eq!(repair(store, a).outcome, RepairOutcome::Sound);
    report
}

// spec: RPR-01
// spec: RPR-03
#[test]
fn a_page_comes_back_from_any_data_file_that_has_its_digest() {
    let (tree, store, a) = one();
    let other = take(&store, named("db", "twin"), &image(&A)).unwrap();
    let b = take(&store, named("web", "b").parent(Some(a)), &image(&B)).unwrap();
    // A reader that was there before goes on, with what it has.
    let reader = store.image(b.id).unwrap();
    let data = file_of(a, "memory.img");
    spoil(&tree, &data, 5);
    let damaged = read(&tree, &path(&data));
    let report = mends(&store, a, &other.id.to_string());
    let file = &report.files[0];
    assert_eq!((file.damaged_units, file.mended_units), (1, 1));
    // What was there was put aside first.
    let aside = file.quarantined.as_ref().unwrap();
    assert_eq!(read(&tree, &path(aside)), damaged);
    assert_eq!(restored(&store, b).unwrap(), image(&B));
    let mut page = [0; PAGE];
    let pages = snapshot_format::PageRange::new(1, 1);
    reader.image().read_pages(pages, &mut page).unwrap();
    assert_eq!(page, [9; PAGE]);
}

// spec: RPR-01
#[test]
fn a_unit_comes_back_from_the_same_pages_laid_out_anew_and_the_other_way_round() {
    for (spoilt, name) in [
        ("memory.img", "memory.1.img"),
        ("memory.1.img", "memory.img"),
    ] {
        let (tree, store) = store();
        let stage = staged_of(&store, named("web", "a"), &image(&A), Stability::Paused);
        let a = stage.unwrap().seal().unwrap().publish().unwrap().snapshot;
        let packed = RelayoutOptions::of(DataLayout::Packed);
        store.relayout(a.id, &packed).unwrap();
        spoil(&tree, &file_of(a, spoilt), 1);
        mends(&store, a, name);
    }
}

// spec: RPR-01
// spec: RPR-04
#[test]
fn frames_are_encoded_again_as_they_were() {
    for codec in [FrameCodec::Lz4, FrameCodec::Zstd { level: 9 }] {
        let (tree, store, a) = one();
        let options = RelayoutOptions::compressed(codec);
        store.relayout(a.id, &options).unwrap();
        let data = file_of(a, "memory.1.img");
        let before = read(&tree, &path(&data));
        tree.tamper(&path(&data), |bytes| bytes[8..20].fill(0xee))
            .unwrap();
        mends(&store, a, "memory.img");
        assert_eq!(read(&tree, &path(&data)), before);
    }
}

// spec: RPR-01
#[test]
fn a_materialised_image_has_the_bytes_of_what_it_was_made_from() {
    let (tree, store, a) = one();
    store.warm(a.id, &CaptureControl::default()).unwrap();
    for page in [0, 5, 7] {
        spoil(&tree, &file_of(a, "memory.img"), page);
    }
    mends(&store, a, "cache/");
}

// spec: RPR-02
#[test]
fn one_wrong_bit_is_found_without_a_copy() {
    let (tree, store, a) = one();
    let data = path(&file_of(a, "memory.img"));
    tree.tamper(&data, |bytes| bytes[6 * PAGE + 77] ^= 4)
        .unwrap();
    mends(&store, a, "one bit");
}

// spec: RPR-04
#[test]
fn a_file_that_is_gone_cut_or_has_stray_bytes_is_written_again() {
    let (tree, store, a) = one();
    take(&store, named("db", "twin"), &image(&A)).unwrap();
    let data = path(&file_of(a, "memory.img"));
    let whole = read(&tree, &data);
    let spoils: [&dyn Fn(); 4] = [
        &|| tree.remove_file(&data).unwrap(),
        &|| {
            tree.tamper(&data, |bytes| bytes.truncate(5 * PAGE))
                .unwrap();
        },
        &|| tree.tamper(&data, |bytes| bytes.extend([1; 9])).unwrap(),
        // A page that is zero in the map.
        &|| tree.tamper(&data, |bytes| bytes[PAGE + 3] = 1).unwrap(),
    ];
    for spoil in spoils {
        spoil();
        assert!(!verify(&store, Selection::All).ok);
        assert_eq!(repair(&store, a).outcome, RepairOutcome::Mended);
        assert!(verify(&store, Selection::All).ok);
        assert_eq!(read(&tree, &data), whole);
    }
}

// spec: RPR-05
// spec: RPR-06
#[test]
fn what_nobody_has_is_told_by_address_for_all_who_lose_it_and_changes_nothing() {
    let (tree, store, a) = one();
    let b = take(&store, named("web", "b").parent(Some(a)), &image(&B)).unwrap();
    let mut later = B;
    (later[5], later[6]) = (60, 70);
    let c = take(&store, named("web", "c").parent(Some(b)), &image(&later)).unwrap();
    for page in [4, 5, 6] {
        spoil(&tree, &file_of(a, "memory.img"), page);
    }
    let before = read(&tree, &path(&file_of(a, "memory.img")));
    let report = repair(&store, c);
    assert_eq!(report.outcome, RepairOutcome::Lost);
    assert_eq!(read(&tree, &path(&file_of(a, "memory.img"))), before);
    tree.metadata(&path("quarantine")).unwrap_err();
    let ranges = |of: SnapshotRef| {
        let hurt = report.hurt.iter().find(|hurt| hurt.id == of.id).unwrap();
        let lost = hurt.lost.iter();
        lost.map(|range| (range.region, range.start, range.len_bytes))
            .collect::<Vec<_>>()
    };
    let page = PAGE as u64;
    assert_eq!(ranges(a), [(0, 4 * page, 3 * page)]);
    assert_eq!(ranges(b), [(0, 4 * page, 3 * page)]);
    assert_eq!(ranges(c), [(0, 4 * page, page)]);
    // A copy of one of them: the rest stays lost, and stays as it was.
    let mut one_of_them = [0; 8];
    one_of_them[5] = A[5];
    take(&store, named("db", "part"), &image(&one_of_them)).unwrap();
    let report = repair(&store, c);
    assert_eq!(report.outcome, RepairOutcome::Partly);
    let after = read(&tree, &path(&file_of(a, "memory.img")));
    let page_of = |bytes: &[u8], page: usize| bytes[page * PAGE..][..PAGE].to_vec();
    assert_eq!(page_of(&after, 5), image(&A[5..6]));
    assert_eq!(page_of(&after, 4), page_of(&before, 4));
    assert_eq!(kind(restored(&store, c)), Some(ErrorKind::Corrupt));
}

/// An archive that lies about the first page that it is asked for.
struct Archive(Vec<u8>, bool);

impl RepairSource for Archive {
    fn name(&self) -> &'static str {
        "the archive"
    }

    fn pages(&mut self, wanted: &WantedPages<'_>) -> Option<Vec<u8>> {
        let start = usize::try_from(wanted.pages.start.image_offset()?).ok()?;
        assert_eq!(
            wanted
                .layout
                .image_page(wanted.layout.guest_page(PageIndex(0))?)?
                .0,
            0
        );
        let mut bytes = self
            .0
            .get(start..start + wanted.present.len() * PAGE)?
            .to_vec();
        if std::mem::take(&mut self.1) {
            bytes[9] ^= 1;
        }
        Some(bytes)
    }
}

// spec: RPR-01
// spec: RPR-03
#[test]
fn an_archive_is_asked_and_never_believed() {
    let (tree, store, a) = one();
    for page in [5, 6] {
        spoil(&tree, &file_of(a, "memory.img"), page);
    }
    let mut archive = Archive(image(&A), true);
    let mut tell = |_| ControlFlow::Continue(());
    let report = store.repair(a.id, Some(&mut archive), &mut tell).unwrap();
    assert_eq!(report.outcome, RepairOutcome::Partly);
    assert_eq!(report.files[0].from, ["the archive"]);
    let report = store.repair(a.id, Some(&mut archive), &mut tell).unwrap();
    assert_eq!(report.outcome, RepairOutcome::Mended);
    assert_eq!(restored(&store, a).unwrap(), image(&A));
}

/// Whole files, as an archive holds them; the first that is asked for is another one's.
struct Files(Vec<(FileKind, Vec<u8>)>);

impl RepairSource for Files {
    fn name(&self) -> &'static str {
        "the files"
    }

    fn pages(&mut self, _: &WantedPages<'_>) -> Option<Vec<u8>> {
        None
    }

    fn file(&mut self, wanted: &WantedFile) -> Option<Vec<u8>> {
        let mut files = self.0.iter();
        let found = files.find(|(kind, _)| *kind == wanted.kind && wanted.index == 0);
        found.map(|(_, bytes)| bytes.clone())
    }
}

const WHOLE: [FileKind; 3] = [FileKind::Manifest, FileKind::State, FileKind::MemoryMap];

/// Every file of a snapshot that comes back whole.
fn files_of(tree: &MemBackend, id: SnapshotRef) -> Vec<(FileKind, Vec<u8>)> {
    let read = |kind: FileKind| read(tree, &path(&file_of(id, &kind.file_name(0))));
    WHOLE.map(|kind| (kind, read(kind))).into()
}

// spec: RPR-11
#[test]
fn manifest_state_and_map_come_back_whole_and_are_never_taken_from_another() {
    let (tree, store, a) = one();
    let b = take(&store, named("web", "b").parent(Some(a)), &image(&B)).unwrap();
    let (own, others) = (files_of(&tree, a), files_of(&tree, b));
    let mut tell = |_| ControlFlow::Continue(());
    let cut: fn(&mut Vec<u8>) = |bytes| bytes.truncate(bytes.len() - 9);
    let overwritten: fn(&mut Vec<u8>) = |bytes| bytes[130..150].fill(0x77);
    for (kind, whole) in &own {
        let name = file_of(a, &kind.file_name(0));
        for spoil in [cut, overwritten] {
            tree.tamper(&path(&name), spoil).unwrap();
            let lost = store.repair(a.id, Some(&mut Files(others.clone())), &mut tell);
            assert_eq!(lost.unwrap().outcome, RepairOutcome::Lost, "{kind}");
            let mut source = Files(own.clone());
            let plan = store
                .plan_repair(a.id, Some(&mut source), &mut tell)
                .unwrap();
            assert_eq!(plan.outcome, RepairOutcome::Mended, "{plan:?}");
            assert_ne!(&read(&tree, &path(&name)), whole);
            let report = store.repair(a.id, Some(&mut source), &mut tell).unwrap();
            assert_eq!(report.outcome, RepairOutcome::Mended, "{report:?}");
            assert_eq!(report.files[0].from, ["the files"]);
            assert!(report.files[0].quarantined.is_some());
            assert_eq!(&read(&tree, &path(&name)), whole);
            assert!(verify(&store, Selection::All).ok);
        }
        // Gone altogether: there is nothing to put aside.
        tree.remove_file(&path(&name)).unwrap();
        let report = store.repair(a.id, Some(&mut Files(own.clone())), &mut tell);
        assert_eq!(report.unwrap().outcome, RepairOutcome::Mended, "{kind}");
        assert_eq!(&read(&tree, &path(&name)), whole);
    }
    assert_eq!(restored(&store, b).unwrap(), image(&B));
}

// spec: RPR-11
#[test]
fn a_wrong_bit_of_a_manifest_or_a_state_is_found_and_the_children_name_it() {
    for kind in [FileKind::Manifest, FileKind::State] {
        let (tree, store, a) = one();
        let b = take(&store, named("web", "b").parent(Some(a)), &image(&B)).unwrap();
        let name = path(&file_of(a, &kind.file_name(0)));
        tree.tamper(&name, |bytes| bytes[140] ^= 0x10).unwrap();
        let whole = repair(&store, a);
        assert_eq!(whole.outcome, RepairOutcome::Mended, "{whole:?}");
        assert!(verify(&store, Selection::All).ok);
        // Without any placement the child says which manifest it was.
        if kind == FileKind::Manifest {
            tree.remove_file(&path(&file_of(a, "place.1.vms"))).unwrap();
            let other = take(&store, named("web", "c"), &image(&B)).unwrap();
            let mut foreign = Manifest::parse(&files_of(&tree, other)[0].1).unwrap();
            foreign.id = a.id;
            tree.tamper(&name, |bytes| bytes[140..150].fill(0)).unwrap();
            let mut source = Files(vec![(kind, foreign.encode())]);
            let mut tell = |_| ControlFlow::Continue(());
            let report = store.repair(a.id, Some(&mut source), &mut tell).unwrap();
            assert_eq!(report.outcome, RepairOutcome::Lost, "{report:?}");
        }
        assert_eq!(restored(&store, b).unwrap(), image(&B));
    }
}

// spec: RPR-09
// spec: RPR-11
#[test]
fn a_file_that_comes_back_whole_does_so_at_once_or_not_at_all() {
    for kind in WHOLE {
        let (tree, _, a) = one();
        let own = files_of(&tree, a);
        let name = path(&file_of(a, &kind.file_name(0)));
        let right = read(&tree, &name);
        tree.tamper(&name, |bytes| bytes[130..150].fill(0x77))
            .unwrap();
        let wrong = read(&tree, &name);
        let work = |store: &Store| {
            let mut tell = |_| ControlFlow::Continue(());
            let report = store.repair(a.id, Some(&mut Files(own.clone())), &mut tell)?;
            Ok(report.outcome)
        };
        with_each_call_failing(&tree, work, |done, live, what| {
            let found = read(live, &name);
            match done {
                Ok(_) => assert!(found == right, "{what}"),
                Err(_) => assert!(found == wrong || found == right, "{what}"),
            }
            let store = super::rig::reopen(live);
            assert_ne!(work(&store).unwrap(), RepairOutcome::Lost, "{what}");
            assert!(verify(&store, Selection::All).ok, "{what}");
        });
    }
}

// spec: RPR-07
#[test]
fn a_lost_placement_is_made_again_and_names_all_that_children_need() {
    let (tree, store, a) = one();
    store
        .relayout(a.id, &RelayoutOptions::of(DataLayout::Packed))
        .unwrap();
    // Made from the second layout: it needs index 1 of its parent.
    let b = take(&store, named("web", "b").parent(Some(a)), &image(&B)).unwrap();
    tree.tamper(&path(&file_of(a, "place.2.vms")), |bytes| bytes[200] ^= 1)
        .unwrap();
    let report = repair(&store, a);
    assert_eq!(report.outcome, RepairOutcome::Mended, "{report:?}");
    let detail = store.detail(a.id).unwrap();
    assert_eq!((detail.generation, detail.problems.len()), (3, 0));
    assert!(
        detail
            .files
            .iter()
            .any(|file| file.file_name() == "memory.1.img")
    );
    assert!(verify(&store, Selection::All).ok);
    // Whoever cleans up next leaves what the child needs.
    store.drop_working_set(a.id).unwrap();
    assert_eq!(restored(&store, b).unwrap(), image(&B));
    // The only one of a diff.
    let only = file_of(b, "place.1.vms");
    for spoil in [true, false] {
        if spoil {
            tree.tamper(&path(&only), |bytes| bytes.truncate(99))
                .unwrap();
        } else {
            tree.remove_file(&path(&file_of(b, "place.2.vms"))).unwrap();
        }
        assert_eq!(kind(restored(&store, b)), Some(ErrorKind::Corrupt));
        assert_eq!(repair(&store, b).outcome, RepairOutcome::Mended);
        assert_eq!(restored(&store, b).unwrap(), image(&B));
        let checked = verify(&store, Selection::All);
        assert!(checked.ok, "{:?}", checked.errors);
    }
}

// spec: RPR-08
#[test]
fn an_unreadable_description_is_put_aside_and_the_snapshot_stays_protected() {
    let (tree, store, a) = one();
    let json = path(&file_of(a, "snapshot.json"));
    tree.tamper(&json, |bytes| *bytes = b"{\"name\":".to_vec())
        .unwrap();
    let report = repair(&store, a);
    assert_eq!(report.outcome, RepairOutcome::Partly);
    let record = store.snapshot(a.id).unwrap();
    assert!(record.metadata.protected && record.metadata_problem.is_none());
    let aside = report.files[0].quarantined.as_ref().unwrap();
    assert_eq!(read(&tree, &path(aside)), b"{\"name\":");
    assert!(verify(&store, Selection::All).ok);
}

// spec: RPR-09
#[test]
fn a_repair_that_fails_anywhere_leaves_the_old_file_or_the_right_one() {
    let (tree, store, a) = one();
    take(&store, named("db", "twin"), &image(&A)).unwrap();
    let data = path(&file_of(a, "memory.img"));
    let right = read(&tree, &data);
    spoil(&tree, &file_of(a, "memory.img"), 5);
    let wrong = read(&tree, &data);
    let work = |store: &Store| {
        let report = store.repair(a.id, None, &mut |_| ControlFlow::Continue(()))?;
        Ok(report.outcome)
    };
    with_each_call_failing(&tree, work, |done, live, what| {
        let found = read(live, &data);
        match done {
            Ok(outcome) => {
                assert_eq!(*outcome, RepairOutcome::Mended, "{what}");
                assert!(found == right, "{what}");
            }
            Err(_) => assert!(found == wrong || found == right, "{what}"),
        }
        let store = super::rig::reopen(live);
        let again = work(&store).unwrap();
        assert_ne!(again, RepairOutcome::Lost, "{what}");
        assert!(verify(&store, Selection::All).ok, "{what}");
    });
}
