use std::ops::ControlFlow;

use snapshot_format::{Digest, PageRange, SnapshotId, WorkingSetOrigin};

use super::*;
use crate::backend::{Backend, MemBackend};
use crate::working_set::rig::{self, Numbered, SNAPSHOT};
use crate::working_set::{TouchedPages, WorkingSetOptions};

fn written(source: &Numbered) -> MemBackend {
    let backend = MemBackend::new();
    let mut touched = TouchedPages::new(512, WorkingSetOrigin::Trace);
    touched.add(PageRange::new(100, 50));
    rig::write(&backend, source, &touched, WorkingSetOptions::default()).unwrap();
    backend
}

// spec: WS-10
#[test]
fn a_working_set_of_another_snapshot_or_another_memory_is_refused() {
    let source = Numbered::new(512);
    let backend = written(&source);
    assert_eq!(rig::open(&backend, &source).unwrap().view().zero_pages, 10);
    let open = |snapshot, layout: &MemoryLayout| {
        let file = backend.open(&rig::path()).unwrap();
        WorkingSet::open(file, "file", snapshot, layout)
    };
    let others = [
        SnapshotRef {
            id: SnapshotId([8; 16]),
            ..SNAPSHOT
        },
        SnapshotRef {
            digest: Digest([8; 32]),
            ..SNAPSHOT
        },
    ];
    let layout = MemoryLayout::single(512 * 4096).unwrap();
    for other in others {
        let error = open(other, &layout).unwrap_err();
        assert!(
            matches!(error, WorkingSetError::OtherSnapshot { .. }),
            "{error}"
        );
    }
    let error = open(SNAPSHOT, &MemoryLayout::single(4096).unwrap()).unwrap_err();
    assert!(
        matches!(error, WorkingSetError::PageCount { .. }),
        "{error}"
    );
}

// spec: WS-02
#[test]
fn a_flipped_byte_anywhere_is_found_when_it_is_opened_or_compared() {
    let source = Numbered::new(512);
    let backend = written(&source);
    rig::open(&backend, &source)
        .unwrap()
        .compare(&source, &mut |_| ControlFlow::Continue(()))
        .unwrap();
    let file = backend.open(&rig::path()).unwrap();
    let mut bytes = vec![0; usize::try_from(file.len().unwrap()).unwrap()];
    file.read_exact_at(0, &mut bytes).unwrap();
    for at in (0..bytes.len()).step_by(97) {
        bytes[at] ^= 0x10;
        let other = MemBackend::new();
        let mut file = other.create(&rig::path()).unwrap();
        file.write_all_at(0, &bytes).unwrap();
        let opened = rig::open(&other, &source);
        let compared =
            opened.and_then(|mut set| set.compare(&source, &mut |_| ControlFlow::Continue(())));
        let error = compared.expect_err("a flipped byte was accepted");
        assert!(
            matches!(error, WorkingSetError::Damaged { .. }),
            "{at}: {error}"
        );
        bytes[at] ^= 0x10;
    }
}

// spec: WS-12
#[test]
fn pages_that_are_not_those_of_the_snapshot_are_found_by_comparing() {
    let source = Numbered::new(512);
    let backend = written(&source);
    let mut set = rig::open(&backend, &source).unwrap();
    for (run, is_zero) in [(0, true), (1, false)] {
        let moved = PageRange::new(if is_zero { 301 } else { 305 }, 1);
        let mut runs = set.index.runs.clone();
        let changed = runs.iter_mut().filter(|run| run.is_zero == is_zero);
        let changed = changed.min_by_key(|run| run.pages.start).unwrap();
        let count = changed.pages.count;
        changed.pages = PageRange::new(moved.start.0, count);
        let true_runs = std::mem::replace(&mut set.index.runs, runs);
        let error = set
            .compare(&source, &mut |_| ControlFlow::Continue(()))
            .expect_err("other pages");
        assert!(
            matches!(error, WorkingSetError::Differs { pages, .. } if pages.start == moved.start),
            "{run}: {error}"
        );
        set.index.runs = true_runs;
    }
    set.compare(&source, &mut |_| ControlFlow::Continue(()))
        .unwrap();
}
