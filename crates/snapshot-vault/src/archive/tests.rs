use std::sync::Arc;

use snapshot_format::{GuestAddress, MemoryLayout, MemoryRegion};
use snapshot_memory::FrameCodec;

use crate::objects::ObjectKind;
use crate::testing::{Before, Guest, PAGE, archive, domain, domain_on, restored};
use crate::{
    ArchiveFile, ArchiveInput, ArchiveOptions, ArchivedKind, CollectOptions, Domain, DomainId,
    MemoryObjects, Objects, RootKey, ScopeName, Step, VaultError,
};

#[test]
fn memory_and_files_come_back_byte_for_byte() {
    let objects = MemoryObjects::new();
    let domain = domain(&objects);
    // Two regions, neither of which begins or ends with a chunk.
    let region = |start: u64, pages: u64| MemoryRegion {
        start: GuestAddress(start * 4096),
        len_bytes: pages * 4096,
    };
    let layout = MemoryLayout::new(vec![region(3, 70), region(16_384 * 3 - 5, 21)]).unwrap();
    let guest = Guest::of_layout(layout, 1);
    let map: Vec<u8> = (0..=250).cycle().take(65_536 * 2 + 9).collect();
    let files = [
        ArchiveFile {
            kind: ArchivedKind::Metadata,
            index: 0,
            bytes: b"{}",
        },
        ArchiveFile {
            kind: ArchivedKind::Snapshot(snapshot_format::FileKind::MemoryMap),
            index: 0,
            bytes: &map,
        },
        ArchiveFile {
            kind: ArchivedKind::MANIFEST,
            index: 0,
            bytes: b"manifest",
        },
    ];
    let input = ArchiveInput {
        snapshot: snapshot_format::SnapshotId([5; 16]),
        files: &files,
        memory: Some(&guest),
        relative: None,
    };
    for (threads, codec) in [
        (0, FrameCodec::Lz4),
        (1, FrameCodec::ZSTD),
        (3, FrameCodec::Lz4),
    ] {
        let options = ArchiveOptions::default().threads(threads).codec(codec);
        let archived = domain.archive(&input, &options).unwrap();
        assert_eq!(restored(&domain, archived.id).unwrap(), guest.image());
        let cold = domain.open_archive(archived.id).unwrap();
        for file in &files {
            let found = cold.file(file.kind, file.index).unwrap();
            assert_eq!(found.as_deref(), Some(file.bytes));
        }
    }
    // All three are the same chunks.
    assert_eq!(domain.list(ObjectKind::Pack).unwrap().len(), 1);
    assert_eq!(domain.archives().unwrap().archives.len(), 3);
}

// spec: VLT-13
#[test]
fn a_file_that_is_not_what_its_recipe_says_is_not_handed_out() {
    let objects = MemoryObjects::new();
    let domain = domain(&objects);
    let archived = archive(&domain, 1, &Guest::new(16, 1), None).unwrap();
    let mut recipe = domain.recipe(archived.id).unwrap();
    recipe.files[0].len_bytes -= 1;
    let name = domain.name(ObjectKind::Recipe, archived.id);
    objects.delete(&name).unwrap();
    domain
        .put(ObjectKind::Recipe, archived.id, &recipe.encode())
        .unwrap();
    let cold = domain.open_archive(archived.id).unwrap();
    let file = cold.file(ArchivedKind::MANIFEST, 0);
    assert!(matches!(file, Err(VaultError::Damaged { .. })), "{file:?}");
}

// spec: VLT-06
#[test]
fn zero_chunks_have_no_record_and_the_same_chunk_has_one() {
    let objects = MemoryObjects::new();
    let domain = domain(&objects);
    let guest = Guest::new(64, 1);
    (0..64).for_each(|page| guest.write(page, 0));
    // The manifest alone: a leaf of zeros is not written.
    let archived = archive(&domain, 1, &guest, None).unwrap();
    assert_eq!(archived.new_chunks, 1);
    assert_eq!(restored(&domain, archived.id).unwrap(), vec![0; 64 * PAGE]);
    for chunk in 0..4 {
        guest.write(chunk * 16 + 3, 77);
    }
    // One chunk four times, and the leaf.
    let second = archive(&domain, 1, &guest, None).unwrap();
    assert_eq!(second.new_chunks, 2);
    assert_eq!(restored(&domain, second.id).unwrap(), guest.image());
}

#[test]
fn few_changed_pages_are_a_delta_of_the_first_archive_however_long_the_chain_is() {
    let objects = MemoryObjects::new();
    let domain = domain(&objects);
    let guest = Guest::new(64, 1);
    let mut last = archive(&domain, 1, &guest, None).unwrap();
    let mut images = vec![(last.id, guest.image())];
    for number in 2..=8_u8 {
        // Page 3 each time, and another page of the first chunk; then the chunk has too many.
        let pages = [3, 4 + usize::from(number)];
        for page in pages {
            guest.write(page, 1000 + u64::from(number));
        }
        let near = Some((last.id, &pages[..]));
        last = archive(&domain, number, &guest, near).unwrap();
        assert_eq!(last.deltas, 1, "archive {number}");
        images.push((last.id, guest.image()));
    }
    guest.write(15, 5);
    let full = archive(&domain, 9, &guest, Some((last.id, &[15]))).unwrap();
    assert_eq!(full.deltas, 0);
    images.push((full.id, guest.image()));
    for (id, image) in images {
        assert_eq!(restored(&domain, id).unwrap(), image);
    }
}

#[test]
fn chunks_that_cannot_have_changed_are_not_read() {
    let objects = MemoryObjects::new();
    let domain = domain(&objects);
    let guest = Guest::new(64, 1);
    let first = archive(&domain, 1, &guest, None).unwrap();
    let before = guest.image();
    // A change that the bitmap does not tell of: nobody looks.
    guest.write(40, 99);
    guest.write(3, 99);
    let second = archive(&domain, 2, &guest, Some((first.id, &[3]))).unwrap();
    let found = restored(&domain, second.id).unwrap();
    assert_eq!(found[40 * PAGE..41 * PAGE], before[40 * PAGE..41 * PAGE]);
    assert_eq!(found[..16 * PAGE], guest.image()[..16 * PAGE]);
}

// spec: VGC-04
#[test]
fn a_writer_that_dies_at_any_call_leaves_the_archives_that_there_were() {
    let start = MemoryObjects::new();
    let guest = Guest::new(64, 1);
    let first = archive(&domain(&start), 1, &guest, None).unwrap();
    let before = guest.image();
    guest.write(3, 9);
    let work = |objects: &MemoryObjects| archive(&domain(objects), 2, &guest, None);
    let counting = start.copy();
    work(&counting).unwrap();
    for number in 1..=counting.change_count() {
        for step in [Step::Dies, Step::Fails, Step::FailsDone] {
            let objects = start.copy();
            objects.plan(number, step);
            let outcome = work(&objects);
            let after = domain(&objects.copy());
            assert_eq!(
                restored(&after, first.id).unwrap(),
                before,
                "call {number}, {step:?}"
            );
            let list = after.archives().unwrap();
            assert!(list.damaged.is_empty());
            for found in list.archives.iter().filter(|found| found.id != first.id) {
                assert_eq!(restored(&after, found.id).unwrap(), guest.image());
            }
            if let Ok(archived) = outcome {
                assert!(list.archives.iter().any(|found| found.id == archived.id));
            }
        }
    }
}

// spec: VGC-22
#[test]
fn a_pack_whose_put_failed_is_put_under_another_id_and_sealed_for_it() {
    for is_sealed in [false, true] {
        for step in [Step::Fails, Step::FailsDone] {
            let objects = MemoryObjects::new();
            let scope = ScopeName::default_scope();
            let shared = Arc::new(objects.clone());
            let key = RootKey([2; 32]);
            let domain = Domain::new(shared, DomainId([1; 16]), scope, &key, is_sealed);
            objects.plan(1, step);
            let guest = Guest::new(32, 1);
            let archived = archive(&domain, 1, &guest, None).unwrap();
            assert_eq!(restored(&domain, archived.id).unwrap(), guest.image());
            let report = domain.verify(0).unwrap();
            assert!(report.is_ok(), "{report:?}");
            let packs = domain.list(ObjectKind::Pack).unwrap();
            // The one that failed was put, or may be, under an id that is not used again.
            assert_eq!(packs.len(), if step == Step::FailsDone { 2 } else { 1 });
            let collected = domain.collect(&CollectOptions::default()).unwrap();
            assert_eq!(collected.deleted_packs, packs.len() as u64 - 1);
            assert_eq!(restored(&domain, archived.id).unwrap(), guest.image());
        }
    }
}

// spec: VGC-05
#[test]
fn a_writer_that_cannot_commit_takes_its_recipe_back() {
    let objects = MemoryObjects::new();
    // Puts: the pack, the recipe, the commit, which is tried three times.
    (3..6).for_each(|number| objects.plan(number, Step::Fails));
    let failed = archive(&domain(&objects), 1, &Guest::new(16, 1), None);
    assert!(
        matches!(failed, Err(VaultError::Object { .. })),
        "{failed:?}"
    );
    let domain = domain(&objects);
    let list = domain.archives().unwrap();
    assert!(
        list.archives.is_empty() && list.unfinished.is_empty(),
        "{list:?}"
    );
    assert_eq!(domain.list(ObjectKind::Withdrawal).unwrap().len(), 1);
}

// spec: VGC-09
#[test]
fn a_writer_whose_recipe_is_withdrawn_at_any_call_archives_again_or_was_done() {
    let guest = Guest::new(32, 1);
    // Puts: the pack, the recipe, the commit.
    for number in 1..=3 {
        let objects = MemoryObjects::new();
        let act = |objects: &MemoryObjects| {
            let options = CollectOptions {
                withdraw_unfinished: true,
                ..CollectOptions::default()
            };
            domain(objects).collect(&options).unwrap();
        };
        let writer = domain_on(Arc::new(Before::new(&objects, number, act)));
        let archived = archive(&writer, 1, &guest, None).unwrap();
        let after = domain(&objects);
        assert_eq!(
            restored(&after, archived.id).unwrap(),
            guest.image(),
            "before put {number}"
        );
        assert_eq!(
            after.archives().unwrap().archives.len(),
            1,
            "before put {number}"
        );
    }
}

#[test]
fn a_snapshot_without_a_manifest_is_refused() {
    let domain = domain(&MemoryObjects::new());
    let input = ArchiveInput {
        snapshot: snapshot_format::SnapshotId([5; 16]),
        files: &[],
        memory: None,
        relative: None,
    };
    let refused = domain.archive(&input, &ArchiveOptions::default());
    assert!(
        matches!(refused, Err(VaultError::Input { .. })),
        "{refused:?}"
    );
    assert_eq!(domain.id(), DomainId([1; 16]));
}
