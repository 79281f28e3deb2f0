use std::collections::BTreeMap;

use snapshot_format::state::Fingerprint;
use snapshot_format::{MemoryLayout, PAGE_BYTES, SectionKind};

use super::*;
use crate::backend::{CrashState, EntryKind, Fault, FaultBackend, MemBackend};
use crate::error::PublishError;
use crate::mapping::{MappedMemory, MappingOptions};

fn id() -> SnapshotId {
    SnapshotId([7; 16])
}

fn facts() -> SnapshotFacts {
    SnapshotFacts {
        vm: VmName::new("vm").unwrap(),
        seq: 1,
        branch: BranchName::main(),
        created_unix_ms: 0,
        vm_config: b"config".to_vec(),
        fingerprint: None,
    }
}

fn folder() -> RelPath {
    RelPath::root().join("snapshots").unwrap()
}

fn base() -> MemBackend {
    let backend = MemBackend::new();
    backend.create_dir(&folder()).unwrap();
    backend
}

fn memory() -> MappedMemory {
    let layout = MemoryLayout::single(40 * PAGE_BYTES).unwrap();
    let memory = MappedMemory::new(layout, MappingOptions::default()).unwrap();
    memory.write(3 * PAGE_BYTES, &[9; 10_000]).unwrap();
    memory
}

fn seal(backend: Arc<dyn Backend>) -> Result<SealedSnapshot, SinkError> {
    let mut staged = StagedSnapshot::begin(backend, folder(), id(), None, Arch::X86_64)?;
    staged.section(SectionPayload::raw(
        SectionKind::CALLER,
        0,
        1,
        vec![1, 2, 3],
    ));
    staged.memory(&memory(), Pages::Full, Stability::Paused, None)?;
    staged.side_file("snapshot.json", b"{}")?;
    staged.make_durable()?;
    staged.seal(facts())
}

fn publish(backend: Arc<dyn Backend>) -> Result<SnapshotRef, Failure> {
    let sealed = seal(backend).map_err(Failure::Seal)?;
    let published = sealed.publish().map_err(Failure::Publish)?;
    Ok(published.snapshot)
}

#[derive(Debug)]
enum Failure {
    Seal(SinkError),
    Publish(PublishError),
}

/// Every file below the folder with its bytes.
fn files(backend: &MemBackend) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    for dir in backend.list(&folder()).unwrap() {
        let path = folder().join(&dir.name).unwrap();
        assert_eq!(dir.kind, EntryKind::Directory);
        for entry in backend.list(&path).unwrap() {
            let file = backend.open(&path.join(&entry.name).unwrap()).unwrap();
            let mut bytes = vec![0; file.len().unwrap() as usize];
            file.read_exact_at(0, &mut bytes).unwrap();
            found.insert(format!("{}/{}", dir.name, entry.name), bytes);
        }
    }
    found
}

fn complete() -> BTreeMap<String, Vec<u8>> {
    let backend = base();
    publish(Arc::new(backend.clone())).unwrap();
    files(&backend)
}

#[test]
fn what_no_reader_accepts_is_not_sealed() {
    let begin = || {
        let backend = Arc::new(base());
        let mut staged = StagedSnapshot::begin(backend, folder(), id(), None, Arch::X86_64)?;
        staged.memory(&memory(), Pages::Full, Stability::Paused, None)?;
        Ok::<_, SinkError>(staged)
    };
    let unreadable = |result: Result<SealedSnapshot, SinkError>| match result {
        Err(SinkError::Unreadable { file, source }) => Some((file, source.kind())),
        _ => None,
    };
    let mut facts = facts();
    facts.vm_config = vec![0; snapshot_format::limits::MAX_VM_CONFIG_BYTES + 1];
    let sealed = begin().unwrap().seal(facts.clone());
    let limit = snapshot_format::ErrorKind::Limit;
    let manifest = Some(("manifest.vms".to_owned(), limit));
    assert_eq!(unreadable(sealed), manifest);
    facts.vm_config.pop();
    begin().unwrap().seal(facts.clone()).unwrap();

    let mut twice = begin().unwrap();
    for byte in [1, 2] {
        twice.section(SectionPayload::raw(SectionKind::CALLER, 0, 1, vec![byte]));
    }
    let corrupt = snapshot_format::ErrorKind::Corrupt;
    assert_eq!(
        unreadable(twice.seal(facts)),
        Some(("state.vms".to_owned(), corrupt))
    );
}

// spec: RES-13
#[test]
fn the_manifest_says_of_the_host_what_the_state_says() {
    let fingerprint = |stepping| {
        let fingerprint = Fingerprint {
            stepping,
            ..Fingerprint::default()
        };
        SectionPayload::of(0, &fingerprint)
    };
    let manifest = |in_state: Option<SectionPayload>, told: Option<SectionPayload>| {
        let backend = base();
        let shared = Arc::new(backend.clone());
        let mut staged = StagedSnapshot::begin(shared, folder(), id(), None, Arch::X86_64).unwrap();
        in_state
            .into_iter()
            .for_each(|section| staged.section(section));
        staged
            .memory(&memory(), Pages::Full, Stability::Paused, None)
            .unwrap();
        let facts = SnapshotFacts {
            fingerprint: told,
            ..facts()
        };
        staged.seal(facts).unwrap().publish().unwrap();
        let bytes = &files(&backend)[&format!("{}/manifest.vms", id())];
        Manifest::parse(bytes).unwrap().fingerprint
    };
    assert_eq!(manifest(None, None), None);
    assert_eq!(manifest(None, Some(fingerprint(1))), Some(fingerprint(1)));
    for told in [None, Some(fingerprint(1))] {
        assert_eq!(manifest(Some(fingerprint(2)), told), Some(fingerprint(2)));
    }
}

// spec: PUB-01
// spec: PUB-02
#[test]
fn a_published_snapshot_names_every_file_with_length_and_digest() {
    let files = complete();
    let name = |file: &str| format!("{}/{file}", id());
    let placement = Placement::parse(&files[&name("place.1.vms")]).unwrap();
    for entry in &placement.files {
        let bytes = &files[&name(&entry.file_name())];
        assert_eq!(bytes.len() as u64, entry.len_bytes);
        if !matches!(entry.kind, FileKind::MemoryData | FileKind::MemoryMap) {
            assert_eq!(Digest::of(bytes), entry.digest);
        }
    }
    assert_eq!(placement.files.len() + 2, files.len());
    let manifest = Manifest::parse(&files[&name("manifest.vms")]).unwrap();
    assert_eq!(
        (manifest.id, manifest.vm_config),
        (id(), b"config".to_vec())
    );
    assert!(manifest.state.is_some());
}

// spec: PUB-04
// spec: PUB-05
#[test]
fn a_crash_at_any_call_leaves_all_of_it_or_nothing() {
    let backend = FaultBackend::new(&base());
    publish(Arc::new(backend.clone())).unwrap();
    let (calls, complete) = (backend.call_count(), complete());
    let mut states = 0;
    let check = |states: &mut usize, backend: &FaultBackend, must_exist: bool| {
        for CrashState { what, image } in backend.crash_states() {
            let prefix = format!("{}/", id());
            let mut visible = files(&image);
            visible.retain(|name, _| name.starts_with(&prefix));
            let exists = image
                .metadata(&folder().join(&id().to_string()).unwrap())
                .is_ok();
            assert!(
                !exists || visible == complete,
                "{what}: {:?}",
                visible.keys()
            );
            assert!(
                exists || !must_exist,
                "{what}: a published snapshot is lost"
            );
            *states += 1;
        }
    };
    check(&mut states, &backend, true);
    for cut in 1..=calls {
        let backend = FaultBackend::new(&base());
        backend.cut_at(cut);
        assert!(publish(Arc::new(backend.clone())).is_err(), "cut at {cut}");
        check(&mut states, &backend, false);
    }
    assert!(states > 500, "{states} states");
}

// spec: PUB-06
// spec: PUB-07
#[test]
fn a_failure_leaves_nothing_or_says_that_it_is_uncertain() {
    let backend = FaultBackend::new(&base());
    publish(Arc::new(backend.clone())).unwrap();
    let (calls, complete) = (backend.call_count(), complete());
    let mut uncertain = 0;
    for number in 1..=calls {
        let backend = FaultBackend::new(&base());
        backend.fail_at(number, Fault::Errno(libc::EIO));
        match publish(Arc::new(backend.clone())).unwrap_err() {
            Failure::Publish(PublishError::DurabilityUncertain { .. }) => {
                assert_eq!(files(&backend.live()), complete);
                uncertain += 1;
            }
            failure => {
                let left = files(&backend.live());
                assert!(
                    left.is_empty(),
                    "call {number}, {failure:?}: {:?}",
                    left.keys()
                );
                assert_eq!(backend.live().list(&folder()).unwrap(), []);
            }
        }
    }
    // Only the sync of the folder comes after the rename.
    assert_eq!(uncertain, 1);
}

// spec: PUB-12
#[test]
fn a_failed_sync_is_not_tried_again() {
    let syncs = |backend: &FaultBackend| {
        let calls = backend.calls().into_iter().enumerate();
        let syncs = calls.filter(|(_, call)| call.operation == "sync");
        syncs.map(|(index, _)| index + 1).collect::<Vec<_>>()
    };
    let backend = FaultBackend::new(&base());
    publish(Arc::new(backend.clone())).unwrap();
    for number in syncs(&backend) {
        let backend = FaultBackend::new(&base());
        backend.fail_at(number, Fault::Errno(libc::EIO));
        publish(Arc::new(backend.clone())).unwrap_err();
        assert_eq!(syncs(&backend).last(), Some(&number));
    }
}

// spec: PUB-08
#[test]
fn a_full_disk_leaves_nothing() {
    for bytes in [0, 100, 10_000, 20_000] {
        let backend = FaultBackend::new(&base());
        backend.limit_bytes(bytes);
        let failure = publish(Arc::new(backend.clone())).unwrap_err();
        let full = matches!(&failure, Failure::Seal(SinkError::File(file)) if file.is_no_space());
        assert!(full, "{failure:?}");
        assert_eq!(backend.live().list(&folder()).unwrap(), []);
    }
}

// spec: PUB-09
#[test]
fn an_existing_name_is_not_replaced() {
    let backend = base();
    publish(Arc::new(backend.clone())).unwrap();
    let before = files(&backend);
    let failure = publish(Arc::new(backend.clone())).unwrap_err();
    let refused = matches!(failure, Failure::Publish(PublishError::NotCommitted { .. }));
    assert!(refused, "{failure:?}");
    assert_eq!(files(&backend), before);
}

#[test]
fn a_dropped_stage_is_removed() {
    let backend = base();
    drop(seal(Arc::new(backend.clone())).unwrap());
    let shared: Arc<dyn Backend> = Arc::new(backend.clone());
    drop(StagedSnapshot::begin(shared, folder(), id(), None, Arch::None).unwrap());
    assert_eq!(backend.list(&folder()).unwrap(), []);
}

#[test]
fn memory_is_written_exactly_once() {
    let backend: Arc<dyn Backend> = Arc::new(base());
    let begin = || StagedSnapshot::begin(backend.clone(), folder(), id(), None, Arch::None);
    let error = begin().unwrap().seal(facts()).unwrap_err();
    assert!(matches!(error, SinkError::Missing { .. }), "{error}");
    let mut staged = begin().unwrap();
    staged
        .memory(&memory(), Pages::Full, Stability::Running, None)
        .unwrap();
    let again = staged.memory(&memory(), Pages::Full, Stability::Running, None);
    assert!(matches!(again.unwrap_err(), SinkError::Twice { .. }));
}
