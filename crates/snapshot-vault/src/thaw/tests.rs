use std::sync::Arc;

use snapshot_format::{SectionKind, SectionPayload, SnapshotRef, StateFile, Tag, VmName};
use snapshot_memory::backend::MemBackend;
use snapshot_memory::{MappedMemory, MappingOptions};
use snapshot_store::{OpenOptions, StoredImage};

use super::*;
use crate::testing::domain;
use crate::{
    ArchiveOptions, ArchivedKind, CollectOptions, ErrorKind, MemoryObjects, ObjectKind, ObjectName,
};

mod returned;

const PAGES: u64 = 64;

/// A guest, the store that it is in, and the vault.
struct Rig {
    store: Store,
    guest: MappedMemory,
    objects: MemoryObjects,
    vault: Domain,
}

impl Rig {
    fn new() -> Self {
        let layout = MemoryLayout::single(PAGES * 4096).unwrap();
        let objects = MemoryObjects::new();
        let rig = Self {
            store: store(),
            guest: MappedMemory::new(layout, MappingOptions::default()).unwrap(),
            vault: domain(&objects),
            objects,
        };
        (0..40).for_each(|page| rig.write(page, 1));
        rig
    }

    fn write(&self, page: u64, seed: u8) {
        let noise: Vec<u8> = (0..4096_u32).map(|at| (at * at / 7) as u8 ^ seed).collect();
        self.guest.write(page * 4096, &noise).unwrap();
    }

    /// A snapshot of the pages that were written since the parent, or of all.
    fn snapshot(&self, name: &str, since: Option<(SnapshotRef, &[u64])>) -> SnapshotRef {
        let mut metadata = Metadata::default();
        metadata.tags.insert(Tag::new("kept").unwrap());
        let new = NewSnapshot::of(VmName::new("web").unwrap())
            .parent(since.map(|(parent, _)| parent))
            .metadata(metadata)
            .name(SnapshotName::new(name).unwrap())
            .config(b"config".to_vec());
        let mut stage = self.store.sink(new).stage().unwrap();
        stage.section(state());
        let dirty = DirtyBitmap::new(PAGES);
        for page in since.iter().flat_map(|(_, pages)| *pages) {
            dirty.set_range(PageRange::new(*page, 1));
        }
        let pages = since.map_or(Pages::Full, |(base, _)| Pages::Since {
            base,
            dirty: &dirty,
        });
        stage.memory(&self.guest, pages, Stability::Paused).unwrap();
        stage.seal().unwrap().publish().unwrap().snapshot
    }

    fn archive(&self, snapshot: SnapshotRef) -> ObjectId {
        let options = ArchiveOptions::default();
        let archived = self
            .vault
            .archive_snapshot(&self.store, snapshot.id, &options);
        archived.unwrap().id
    }

    fn thaw(&self, archive: ObjectId, store: &Store, base: ThawBase) -> Result<Thawed, VaultError> {
        let name = ThawName::Dropped;
        let options = ThawOptions {
            name,
            base,
            ..ThawOptions::default()
        };
        self.vault.thaw(archive, store, &options)
    }
}

fn store() -> Store {
    Store::open_or_create(Arc::new(MemBackend::new()), &OpenOptions::default()).unwrap()
}

fn state() -> SectionPayload {
    SectionPayload::raw(SectionKind::VM_CONFIG, 3, 1, b"state".to_vec())
}

fn memory(store: &Store, id: SnapshotId) -> Vec<u8> {
    let image: StoredImage = store.image(id).unwrap();
    let mut bytes = vec![0xEE; PAGES as usize * 4096];
    PageSource::read_pages(&image, PageRange::new(0, PAGES), &mut bytes).unwrap();
    bytes
}

// spec: VLT-15
#[test]
fn a_chain_comes_back_in_another_store_each_snapshot_standing_alone() {
    let rig = Rig::new();
    let base = rig.snapshot("base", None);
    rig.write(3, 2);
    rig.write(50, 3);
    let diff = rig.snapshot("diff", Some((base, &[3, 50])));
    let archives = [base, diff].map(|snapshot| rig.archive(snapshot));
    let other = store();
    for (archive, snapshot) in archives.into_iter().zip([base, diff]) {
        let options = ThawOptions::default();
        let thawed = rig.vault.thaw(archive, &other, &options).unwrap();
        assert_eq!((thawed.archived, thawed.base), (snapshot.id, None));
        assert_eq!(memory(&other, thawed.id), memory(&rig.store, snapshot.id));
        let (was, is) = (
            rig.store.snapshot(snapshot.id).unwrap(),
            other.snapshot(thawed.id).unwrap(),
        );
        assert_eq!(
            (is.metadata, is.parent, is.vm),
            (was.metadata, None, was.vm)
        );
        assert_eq!(other.manifest(thawed.id).unwrap().vm_config, b"config");
        let bytes = other.state_bytes(thawed.id).unwrap().unwrap();
        assert_eq!(StateFile::parse(&bytes).unwrap().sections, [state()]);
        let verified = other.verify(snapshot_store::Selection::All, &mut |_| {
            std::ops::ControlFlow::Continue(())
        });
        assert!(verified.unwrap().errors.is_empty());
    }
}

// spec: VLT-15
#[test]
fn what_comes_back_beside_its_parent_is_what_differs() {
    let rig = Rig::new();
    let base = rig.snapshot("base", None);
    rig.write(3, 2);
    rig.write(50, 3);
    let diff = rig.snapshot("diff", Some((base, &[3, 4, 50])));
    rig.archive(base);
    let archive = rig.archive(diff);
    let expected = memory(&rig.store, diff.id);
    let thawed = rig.thaw(archive, &rig.store, ThawBase::Parent).unwrap();
    assert_eq!(thawed.base, Some(base.id));
    let stats = thawed.stats.unwrap();
    // Page 4 was marked, and is what the parent has.
    assert_eq!((stats.present, stats.inherited), (2, PAGES - 2));
    assert_eq!(memory(&rig.store, thawed.id), expected);
    let alone = rig.thaw(archive, &rig.store, ThawBase::Nothing).unwrap();
    assert_eq!((alone.base, alone.stats.unwrap().inherited), (None, 0));
    assert_eq!(rig.store.snapshot(alone.id).unwrap().parent, Some(base));
    assert_eq!(memory(&rig.store, alone.id), expected);
}

// spec: VLT-15
#[test]
fn any_base_will_do_because_pages_are_compared() {
    let rig = Rig::new();
    let first = rig.snapshot("first", None);
    let archive = rig.archive(first);
    let expected = memory(&rig.store, first.id);
    (0..PAGES).step_by(2).for_each(|page| rig.write(page, 9));
    let other = rig.snapshot("other", None);
    let thawed = rig
        .thaw(archive, &rig.store, ThawBase::Snapshot(other.id))
        .unwrap();
    assert_eq!(thawed.base, Some(other.id));
    assert_eq!(thawed.stats.unwrap().inherited, PAGES / 2);
    assert_eq!(memory(&rig.store, thawed.id), expected);
}

// spec: VLT-16
#[test]
fn a_damaged_chunk_or_a_taken_name_leaves_the_store_as_it_was() {
    let rig = Rig::new();
    let snapshot = rig.snapshot("base", None);
    let archive = rig.archive(snapshot);
    let taken = rig.vault.thaw(archive, &rig.store, &ThawOptions::default());
    assert_eq!(taken.unwrap_err().kind(), ErrorKind::Exists);
    let cold = rig.vault.open_archive(archive).unwrap();
    assert!(cold.file(ArchivedKind::Metadata, 0).unwrap().is_some());
    for name in rig.objects.names() {
        let folder = ObjectName::folder(ObjectKind::Pack, rig.vault.id());
        if name.id_below(&folder).is_some() {
            // In the first payload: of memory.
            let mut bytes = rig.objects.bytes(&name).unwrap();
            bytes[400] ^= 1;
            rig.objects.tamper(&name, bytes);
        }
    }
    let failed = rig
        .thaw(archive, &rig.store, ThawBase::Nothing)
        .unwrap_err();
    assert_eq!(failed.kind(), ErrorKind::Corrupt, "{failed}");
    assert_eq!(rig.store.list(None).unwrap().snapshots.len(), 1);
}

// spec: VLT-17
#[test]
fn an_archive_is_found_by_every_form_of_a_reference() {
    let rig = Rig::new();
    let base = rig.snapshot("base", None);
    let last = rig.snapshot("last", None);
    let archives = [base, last].map(|snapshot| rig.archive(snapshot));
    let catalog = rig.vault.catalog().unwrap();
    assert!(catalog.damaged.is_empty() && catalog.unfinished.is_empty());
    let id = |text: &str| {
        let found = catalog.resolve(&text.parse().unwrap());
        found.map(|archived| archived.archive)
    };
    let text = base.id.to_string();
    for text in [
        text.as_str(),
        &text[text.len() - 12..],
        "web/base",
        "WEB/BASE",
    ] {
        assert_eq!(id(text).unwrap(), archives[0], "{text}");
    }
    assert_eq!(id("web@latest").unwrap(), archives[1]);
    assert_eq!(id("web/nobody").unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(id(&text[..2]).unwrap_err().kind(), ErrorKind::Usage);
    rig.vault.delete_archive(archives[1]).unwrap();
    let catalog = rig.vault.catalog().unwrap();
    let latest = catalog.resolve(&"web@latest".parse().unwrap()).unwrap();
    assert_eq!(latest.archive, archives[0]);
}

// spec: VGC-21
#[test]
fn a_tombstone_that_cannot_be_read_keeps_no_reader_out_and_every_writer() {
    let rig = Rig::new();
    let base = rig.snapshot("base", None);
    let archive = rig.archive(base);
    rig.write(3, 2);
    let diff = rig.snapshot("diff", Some((base, &[3])));
    let deleted = rig.archive(diff);
    rig.vault.delete_archive(deleted).unwrap();
    let cold = rig.vault.open_archive(archive).unwrap().memory().unwrap();
    // What is open lists packs anew, as those that it knew are gone.
    let packs = rig.vault.list(ObjectKind::Pack).unwrap();
    let collect = CollectOptions {
        copy_below_percent: 100,
        ..CollectOptions::default()
    };
    rig.vault.collect(&collect).unwrap();
    let moved = rig.vault.list(ObjectKind::Pack).unwrap();
    assert!(moved.iter().all(|pack| !packs.contains(pack)));
    let id = ObjectId([7; 16]);
    let name = rig.vault.name(ObjectKind::Tombstone, id);
    // It says that it names more packs than it does; then it is cut.
    rig.vault
        .put_body(ObjectKind::Tombstone, id, &[0xFF; 20])
        .unwrap();
    for len in [usize::MAX, 90, 0] {
        let mut bytes = rig.objects.bytes(&name).unwrap();
        bytes.truncate(len);
        rig.objects.tamper(&name, bytes);
        let names = rig.objects.names();
        let mut read = vec![0; PAGES as usize * 4096];
        PageSource::read_pages(&cold, PageRange::new(0, PAGES), &mut read).unwrap();
        assert_eq!(read, memory(&rig.store, base.id));
        let catalog = rig.vault.catalog().unwrap();
        assert_eq!((catalog.archives.len(), catalog.damaged.len()), (2, 0));
        let thawed = rig.thaw(archive, &store(), ThawBase::Nothing);
        assert!(thawed.is_ok(), "{thawed:?}");
        let report = rig.vault.verify(0).unwrap();
        assert_eq!((report.problems.len(), report.incomplete.len()), (1, 0));
        let options = ArchiveOptions::default();
        let ended = [
            rig.vault
                .archive_snapshot(&rig.store, diff.id, &options)
                .map(drop),
            rig.vault.undelete_archive(deleted).map(drop),
            rig.vault.collect(&collect).map(drop),
        ];
        for ended in &ended {
            assert!(
                matches!(ended, Err(VaultError::Damaged { .. })),
                "{ended:?}"
            );
        }
        assert_eq!(rig.objects.names(), names, "to {len} bytes");
    }
}
