use snapshot_format::{
    Features, FileKind, Header, MemoryLayout, Operation, PAGE_BYTES, PageRange, SectionKind,
};

use super::*;
use crate::backend::{FsBackend, MemBackend};
use crate::dirty::{DirtyTracker, VmmWrites};
use crate::mapping::{MappedMemory, MappingOptions};

const PAGES: u64 = 50;

fn memory() -> MappedMemory {
    let layout = MemoryLayout::single(PAGES * PAGE_BYTES).unwrap();
    MappedMemory::new(layout, MappingOptions::default()).unwrap()
}

fn sink(backend: &Arc<dyn Backend>) -> DirectorySink {
    DirectorySink::new(backend.clone(), VmName::new("vm").unwrap(), Arch::host())
}

fn bytes_of(source: &dyn GuestMemorySource) -> Vec<u8> {
    let mut bytes = vec![0; (PAGES * PAGE_BYTES) as usize];
    source
        .read_pages(PageRange::new(0, PAGES), &mut bytes)
        .unwrap();
    bytes
}

fn take(
    sink: &mut DirectorySink,
    memory: &MappedMemory,
    pages: Pages<'_>,
) -> Result<SnapshotRef, SinkError> {
    let mut staged = sink.begin()?;
    staged.section(SectionPayload::raw(
        SectionKind::CALLER,
        0,
        1,
        b"state".to_vec(),
    ))?;
    staged.memory(memory, pages, Stability::Paused)?;
    let published = staged.seal()?.publish();
    Ok(published.unwrap().snapshot)
}

#[test]
fn tracked_diffs_of_a_running_machine_come_back() {
    let dir = tempfile::tempdir().unwrap();
    let backend: Arc<dyn Backend> = Arc::new(FsBackend::open(dir.path()).unwrap());
    let memory = memory();
    let (source, marker) = VmmWrites::new(memory.layout().clone());
    let tracker = DirtyTracker::new(memory.layout().clone(), vec![Box::new(source)]).unwrap();
    let consumer = tracker.subscribe(None);
    let mut sink = sink(&backend);
    let mut instants = Vec::new();
    for round in 1..6u8 {
        let page = u64::from(round) * 7;
        memory.write(page * PAGE_BYTES, &[round; 6000]).unwrap();
        marker.mark(PageRange::new(page, 2));
        let epoch = tracker.epoch(consumer).unwrap();
        let published = take(&mut sink, &memory, epoch.selection()).unwrap();
        epoch.commit(published).unwrap();
        instants.push((published, bytes_of(&memory)));
    }
    for (depth, (published, instant)) in (1..).zip(&instants) {
        let snapshot = PublishedSnapshot::open(&*backend, published.id).unwrap();
        assert_eq!(snapshot.reference(), *published);
        assert_eq!(snapshot.manifest.seq, depth);
        assert_eq!(snapshot.placement.dependencies.len() as u64, depth);
        assert!(bytes_of(&snapshot.image(&*backend).unwrap()) == *instant);
        let mut state = snapshot.state(&*backend).unwrap();
        let section = state.take_payload(SectionKind::CALLER, 0).unwrap();
        assert_eq!(section.bytes, b"state");
    }
    let again = DirectorySink::new(backend, VmName::new("vm").unwrap(), Arch::host())
        .with_parent(instants[4].0.id)
        .unwrap();
    assert_eq!(again.last().unwrap().seq, 5);
}

#[test]
fn a_diff_of_another_base_is_refused_and_leaves_nothing() {
    let backend: Arc<dyn Backend> = Arc::new(MemBackend::new());
    let mut sink = sink(&backend);
    let memory = memory();
    let base = take(&mut sink, &memory, Pages::Full).unwrap();
    take(&mut sink, &memory, Pages::Full).unwrap();
    let dirty = crate::dirty::DirtyBitmap::new(PAGES);
    let pages = Pages::Since {
        base,
        dirty: &dirty,
    };
    let error = take(&mut sink, &memory, pages).unwrap_err();
    assert!(matches!(error, SinkError::WrongParent { .. }), "{error}");
    assert_eq!(backend.list(&RelPath::root()).unwrap().len(), 2);
}

#[test]
fn a_damaged_or_replaced_file_is_named() {
    let backend = MemBackend::new();
    let shared: Arc<dyn Backend> = Arc::new(backend.clone());
    let id = take(&mut sink(&shared), &memory(), Pages::Full).unwrap().id;
    let dir = RelPath::root().join(&id.to_string()).unwrap();
    let path = |kind: FileKind| {
        dir.join(&kind.file_name(u32::from(kind == FileKind::Placement)))
            .unwrap()
    };
    let open = |backend: &MemBackend| -> Result<(), DirectoryError> {
        let snapshot = PublishedSnapshot::open(backend, id)?;
        snapshot.state(backend)?;
        snapshot.image(backend).map(drop)
    };
    open(&backend).unwrap();
    for kind in [
        FileKind::Manifest,
        FileKind::Placement,
        FileKind::State,
        FileKind::MemoryMap,
    ] {
        let damaged = backend.snapshot();
        damaged.tamper(&path(kind), |bytes| bytes[20] ^= 1).unwrap();
        let error = open(&damaged).unwrap_err();
        let shown = format!("{error} {:?}", std::error::Error::source(&error));
        assert!(
            shown.contains(&kind.file_name(1)) || shown.contains(&kind.file_name(0)),
            "{shown}"
        );
        let gone = backend.snapshot();
        gone.remove_file(&path(kind)).unwrap();
        assert!(open(&gone).is_err(), "{kind:?} is not missed");
    }
}

// spec: VER-03
#[test]
fn an_unknown_feature_of_a_map_refuses_its_operation_only() {
    let backend = MemBackend::new();
    let shared: Arc<dyn Backend> = Arc::new(backend.clone());
    let mut sink = sink(&shared);
    let id = take(&mut sink, &memory(), Pages::Full).unwrap().id;
    let map = RelPath::root().join(&id.to_string()).unwrap();
    let map = map.join(&FileKind::MemoryMap.file_name(0)).unwrap();
    let none = Features::default();
    let words = [
        (Operation::Restore, Features { restore: 4, ..none }),
        (Operation::Extend, Features { extend: 4, ..none }),
        (Operation::Rewrite, Features { rewrite: 4, ..none }),
    ];
    for (word, features) in words {
        let stamped = backend.snapshot();
        let stamp = |bytes: &mut Vec<u8>| {
            let mut header = Header::parse(bytes, bytes.len() as u64).unwrap();
            header.features = features;
            let header = header.encode();
            bytes[..header.len()].copy_from_slice(&header);
        };
        stamped.tamper(&map, stamp).unwrap();
        let snapshot = PublishedSnapshot::open(&stamped, id).unwrap();
        for (operation, _) in words {
            let opened = snapshot.image_to(operation, &stamped);
            assert_eq!(opened.is_err(), operation == word, "{word:?}: {opened:?}");
        }
        assert_eq!(
            snapshot.image(&stamped).is_err(),
            word == Operation::Restore
        );
        let stamped: Arc<dyn Backend> = Arc::new(stamped);
        let child = DirectorySink::new(stamped, sink.vm.clone(), Arch::host());
        let begun = child.with_parent(id).unwrap().begin();
        assert_eq!(begun.is_err(), word == Operation::Extend, "{word:?}");
    }
}

#[test]
fn stages_of_dead_writers_are_removed_and_nothing_else() {
    let backend: Arc<dyn Backend> = Arc::new(MemBackend::new());
    let mut sink = sink(&backend);
    let kept = take(&mut sink, &memory(), Pages::Full).unwrap();
    let other = RelPath::root().join(".stage-of-somebody-else").unwrap();
    backend.create_dir(&other).unwrap();
    // A writer that died never drops its stage.
    let mut staged = sink.begin().unwrap();
    staged
        .memory(&memory(), Pages::Full, Stability::Paused)
        .unwrap();
    std::mem::forget(staged);
    assert_eq!(backend.list(&RelPath::root()).unwrap().len(), 3);
    assert_eq!(sink.remove_leftovers().unwrap(), 1);
    assert_eq!(sink.remove_leftovers().unwrap(), 0);
    let names = backend.list(&RelPath::root()).unwrap();
    let names: Vec<_> = names.into_iter().map(|entry| entry.name).collect();
    assert_eq!(names, [other.name().to_owned(), kept.id.to_string()]);
}
