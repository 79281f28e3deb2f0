use std::sync::Arc;

use snapshot_memory::backend::{FaultBackend, FsBackend, MemBackend};

use super::super::{ObjectKind, objects_suite};
use super::*;
use crate::id::DomainId;

fn pack(number: u8) -> ObjectName {
    ObjectName::of(ObjectKind::Pack, DomainId([1; 16]), ObjectId([number; 16]))
}

/// Bytes that take several buffers, and do not end with a page.
fn bytes() -> Vec<u8> {
    (0..=250).cycle().take((4 << 20) + 77).collect()
}

#[test]
fn a_folder_keeps_what_it_promises_in_memory_and_on_a_disk() {
    objects_suite(&FolderObjects::open(Arc::new(MemBackend::new())).unwrap());
    let folder = tempfile::tempdir().unwrap();
    let backend = FsBackend::open(folder.path()).unwrap();
    objects_suite(&FolderObjects::open(Arc::new(backend)).unwrap());
}

#[test]
fn objects_in_memory_keep_the_same_promises() {
    objects_suite(&super::super::MemoryObjects::new());
}

#[test]
fn a_name_that_is_taken_keeps_its_object() {
    let objects = FolderObjects::open(Arc::new(MemBackend::new())).unwrap();
    objects.put(&pack(1), b"first").unwrap();
    let second = objects.put(&pack(1), b"second");
    assert!(matches!(second, Err(ObjectError::Exists)), "{second:?}");
    let mut found = [0; 8];
    assert_eq!(objects.get(&pack(1), 0, &mut found).unwrap(), 5);
    assert_eq!(&found[..5], b"first");
}

#[test]
fn a_folder_that_is_open_for_reading_changes_nothing() {
    let backend = MemBackend::new();
    let objects = FolderObjects::read_only(Arc::new(backend.clone()));
    assert!(objects.put(&pack(1), b"bytes").is_err());
    assert!(objects.delete(&pack(1)).is_err());
    assert!(backend.list(&RelPath::root()).unwrap().is_empty());
}

// spec: VGC-16
#[test]
fn after_a_crash_every_object_is_whole_or_absent_and_those_that_were_put_are_there() {
    let image = MemBackend::new();
    let run = |backend: &FaultBackend| -> usize {
        let Ok(objects) = FolderObjects::open(Arc::new(backend.clone())) else {
            return 0;
        };
        if objects.put(&pack(1), &bytes()).is_err() {
            return 0;
        }
        1 + usize::from(objects.put(&pack(2), b"small").is_ok())
    };
    let counting = FaultBackend::new(&image);
    assert_eq!(run(&counting), 2);
    for cut in 1..=counting.call_count() {
        let backend = FaultBackend::new(&image);
        backend.cut_at(cut);
        let put = run(&backend);
        for state in backend.crash_states() {
            let objects = FolderObjects::read_only(Arc::new(state.image));
            let expected = [(pack(1), bytes()), (pack(2), b"small".to_vec())];
            for (number, (name, bytes)) in expected.iter().enumerate() {
                let mut found = vec![0; bytes.len() + 1];
                match objects.get(name, 0, &mut found) {
                    Ok(len) => assert!(
                        len == bytes.len() && found.starts_with(bytes),
                        "cut {cut}, {}: {name} is torn",
                        state.what
                    ),
                    Err(ObjectError::NotFound) => {
                        assert!(number >= put, "cut {cut}, {}: {name} is lost", state.what);
                    }
                    Err(error) => panic!("cut {cut}, {}: {error}", state.what),
                }
            }
        }
    }
}

// spec: VGC-17
#[test]
fn files_of_a_writer_that_died_go_and_those_of_one_that_lives_stay() {
    let backend = MemBackend::new();
    let living = FolderObjects::open(Arc::new(backend.clone())).unwrap();
    let dead = FolderObjects::open(Arc::new(backend.clone())).unwrap();
    let left = |objects: &FolderObjects| {
        let folder = objects.incoming.as_ref().unwrap().folder.clone();
        let path = folder.join("0").unwrap();
        backend.create(&path).unwrap();
        path
    };
    let (of_living, of_dead) = (left(&living), left(&dead));
    drop(dead);
    let third = FolderObjects::open(Arc::new(backend.clone())).unwrap();
    assert!(backend.metadata(&of_living).is_ok());
    assert!(backend.metadata(&of_dead).is_err());
    assert!(backend.metadata(&of_dead.parent().unwrap()).is_err());
    drop(third);
}
