//! Snapshots that come back under their ids.

use std::num::NonZeroU64;
use std::ops::ControlFlow;

use snapshot_format::Digest;
use snapshot_memory::ConsolidateOptions;
use snapshot_memory::backend::{Backend, RelPath};
use snapshot_store::{GarbageOptions, KeptFiles, Selection};

use super::*;

/// What a snapshot is made of, but for what lies where.
#[derive(PartialEq, Eq, Debug)]
struct Whole {
    manifest: Digest,
    state: Option<Vec<u8>>,
    metadata: Metadata,
    memory: Vec<u8>,
}

impl Rig {
    fn whole(&self, id: SnapshotId) -> Whole {
        let record = self.store.snapshot(id).unwrap();
        Whole {
            manifest: record.digest,
            state: self.store.state_bytes(id).unwrap(),
            metadata: record.metadata,
            memory: memory(&self.store, id),
        }
    }

    fn delete(&self, id: SnapshotId) {
        let plan = self.store.plan_delete(id).unwrap();
        self.store.delete(&plan).unwrap();
    }

    fn collect(&self) {
        let report = self.store.collect(&GarbageOptions::default()).unwrap();
        assert!(report.is_complete(), "{report:?}");
    }

    fn bring_back(&self, archive: ObjectId) -> Result<Thawed, VaultError> {
        let options = ThawOptions::default();
        self.vault.bring_back(archive, &self.store, &options)
    }

    fn is_gone(&self, id: SnapshotId) {
        for listed in [self.store.list(None), self.store.trash()] {
            let there = listed.unwrap().snapshots;
            assert!(there.iter().all(|record| record.id != id), "{there:?}");
        }
    }

    /// Verifies everything; pages that no manifest binds.
    fn verified(&self) -> u64 {
        let tell = &mut |_| ControlFlow::Continue(());
        let report = self.store.verify(Selection::All, tell).unwrap();
        assert!(report.errors.is_empty(), "{:?}", report.errors);
        report.unbound_pages
    }

    fn alone(&self, id: SnapshotId) {
        let options = ConsolidateOptions::default();
        let done = self.store.consolidate(id, KeptFiles::None, &options);
        done.unwrap();
    }
}

// spec: VLT-18, VLT-19
#[test]
fn a_chain_that_is_gone_comes_back_as_it_was_and_children_find_it() {
    let rig = Rig::new();
    let base = rig.snapshot("base", None);
    rig.write(3, 2);
    rig.guest.write(5 * 4096, &[0; 4096]).unwrap();
    rig.write(50, 3);
    let diff = rig.snapshot("diff", Some((base, &[3, 5, 50])));
    rig.write(7, 4);
    let child = rig.snapshot("child", Some((diff, &[7])));
    let whole = [base, diff, child].map(|snapshot| rig.whole(snapshot.id));
    let archives = [base, diff].map(|snapshot| rig.archive(snapshot));
    rig.alone(child.id);
    rig.delete(diff.id);
    rig.delete(base.id);
    rig.collect();
    for snapshot in [base, diff] {
        rig.is_gone(snapshot.id);
    }
    let bound = rig.verified();
    // The diff first: its parent is not there.
    let thawed = rig.bring_back(archives[1]).unwrap();
    assert_eq!((thawed.id, thawed.archived), (diff.id, diff.id));
    assert_eq!(thawed.stats.unwrap().inherited, 0);
    assert_eq!(rig.whole(diff.id), whole[1]);
    // What it has itself is bound again, also for its child; the rest is when the base is back.
    let with_diff = rig.verified();
    assert!(bound > 0 && with_diff > 0);
    let thawed = rig.bring_back(archives[0]).unwrap();
    assert_eq!(thawed.id, base.id);
    assert_eq!(rig.verified(), 0);
    for (snapshot, whole) in [base, diff, child].iter().zip(&whole) {
        assert_eq!(rig.whole(snapshot.id), *whole);
    }
    let parent = rig.store.snapshot(child.id).unwrap().parent;
    assert_eq!(parent, Some(diff));
    // It is a parent of diffs, is archived as it was, and can be collected again.
    rig.write(9, 5);
    let next = rig.snapshot("next", Some((diff, &[3, 5, 7, 9, 50])));
    assert_eq!(rig.archive(diff), archives[1]);
    let expected = memory(&rig.store, next.id);
    rig.delete(diff.id);
    rig.collect();
    assert_eq!(memory(&rig.store, next.id), expected);
    assert_eq!(rig.verified(), 0);
}

// spec: VLT-18
#[test]
fn what_is_there_or_has_lost_its_place_does_not_come_back() {
    let rig = Rig::new();
    let base = rig.snapshot("base", None);
    let archive = rig.archive(base);
    let refused = |what: &str| {
        let before = rig.store.list(None).unwrap().snapshots.len();
        let error = rig.bring_back(archive).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Exists, "{error}");
        assert!(error.to_string().contains(what), "{error}");
        assert_eq!(rig.store.list(None).unwrap().snapshots.len(), before);
    };
    refused("under a new id");
    // A lease is not disturbed.
    let lease = rig.store.lease(base.id).unwrap();
    refused("under a new id");
    drop(lease);
    rig.delete(base.id);
    refused("undelete");
    rig.collect();
    let other = rig.snapshot("base", None);
    refused("web/base");
    rig.delete(other.id);
    let thawed = rig.bring_back(archive).unwrap();
    assert_eq!(thawed.id, base.id);
    // Elsewhere its number may be that of another.
    let elsewhere = Rig::new();
    elsewhere.snapshot("other", None);
    let options = ThawOptions::default();
    let taken = rig.vault.bring_back(archive, &elsewhere.store, &options);
    let error = taken.unwrap_err();
    assert!(error.to_string().contains("number 1 of VM web"), "{error}");
    // What a collection left that was cut off is not mixed with it.
    let tree = MemBackend::new();
    let empty = Store::open_or_create(Arc::new(tree.clone()), &OpenOptions::default()).unwrap();
    let tombstone = RelPath::root().join("trash").unwrap();
    let tombstone = tombstone.join(&format!(".gone-{}", base.id)).unwrap();
    tree.create_dir(&tombstone).unwrap();
    let taken = rig.vault.bring_back(archive, &empty, &options);
    let error = taken.unwrap_err();
    assert!(error.to_string().contains("which gc ends"), "{error}");
    empty.collect(&GarbageOptions::default()).unwrap();
    let moved = rig.vault.bring_back(archive, &empty, &options).unwrap();
    assert_eq!(moved.id, base.id);
    assert_eq!(memory(&empty, base.id), memory(&rig.store, base.id));
}

// spec: VLT-16, VLT-19
#[test]
fn nothing_comes_back_of_a_damaged_archive_or_of_one_that_holds_other_memory() {
    let rig = Rig::new();
    let base = rig.snapshot("base", None);
    rig.write(3, 2);
    let diff = rig.snapshot("diff", Some((base, &[3])));
    let archive = rig.archive(diff);
    // An archive of the diff's files with the memory of a guest that went on.
    let cold = rig.vault.open_archive(archive).unwrap();
    let forged = |page: u64| {
        rig.write(page, 77);
        let files: Vec<_> = cold.files().map(|(kind, index, _)| (kind, index)).collect();
        let bytes: Vec<_> = files
            .iter()
            .map(|(kind, index)| cold.file(*kind, *index).unwrap().unwrap())
            .collect();
        let files = files.iter().zip(&bytes);
        let files: Vec<_> = files
            .map(|((kind, index), bytes)| crate::ArchiveFile {
                kind: *kind,
                index: *index,
                bytes,
            })
            .collect();
        let went_on = rig.snapshot(&format!("p{page}"), None);
        let image = rig.store.image(went_on.id).unwrap();
        let input = crate::ArchiveInput {
            snapshot: diff.id,
            files: &files,
            memory: Some(&image),
            relative: None,
        };
        let archived = rig.vault.archive(&input, &ArchiveOptions::default());
        archived.unwrap().id
    };
    let forged = forged(3);
    for snapshot in rig.store.list(None).unwrap().snapshots {
        rig.delete(snapshot.id);
    }
    rig.collect();
    let error = rig.bring_back(forged).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    assert!(error.to_string().contains("memory.map"), "{error}");
    let slow = {
        let mut options = ThawOptions::default();
        let control = options.capture.control.clone();
        control.cancel.ask();
        options.capture =
            CaptureOptions::default().control(control.bytes_per_second(NonZeroU64::new(1)));
        rig.vault.bring_back(archive, &rig.store, &options)
    };
    assert_eq!(slow.unwrap_err().kind(), ErrorKind::Interrupted);
    for name in rig.objects.names() {
        let folder = ObjectName::folder(ObjectKind::Pack, rig.vault.id());
        if name.id_below(&folder).is_some() {
            let mut bytes = rig.objects.bytes(&name).unwrap();
            bytes[400] ^= 1;
            rig.objects.tamper(&name, bytes);
        }
    }
    let failed = rig.bring_back(archive).unwrap_err();
    assert!(
        matches!(failed, VaultError::Lost { .. } | VaultError::Damaged { .. }),
        "{failed}"
    );
    assert!(rig.store.list(None).unwrap().snapshots.is_empty());
    rig.is_gone(diff.id);
}
