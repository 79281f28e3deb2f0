use std::error::Error;
use std::sync::atomic::{AtomicU64, Ordering};

use snapshot_format::envelope::HEADER_BYTES;
use snapshot_format::{Header, MemoryLayout, PAGE_BYTES, PageRange, WorkingSetOrigin};

use super::*;
use crate::backend::{Backend, FsBackend, MemBackend};
use crate::mapping::{MappedMemory, MappingOptions};
use crate::working_set::rig::{self, Numbered};
use crate::working_set::{FreshMemory, TouchedPages, WorkingSetOptions};

const PAGES: u64 = 4096;

/// Every third page and a long run, backwards.
fn touched() -> TouchedPages {
    let mut touched = TouchedPages::new(PAGES, WorkingSetOrigin::Trace);
    touched.add(PageRange::new(3000, 900));
    touched.add_all((0..1000).rev().map(|page| PageRange::new(page * 3, 1)));
    touched
}

fn fresh() -> MappedMemory {
    let layout = MemoryLayout::single(PAGES * PAGE_BYTES).unwrap();
    MappedMemory::new(layout, MappingOptions::default()).unwrap()
}

fn word(memory: &MappedMemory, page: u64) -> u64 {
    let mut word = [0; 8];
    memory.read(page * PAGE_BYTES + 4088, &mut word).unwrap();
    u64::from_le_bytes(word)
}

fn check(memory: &MappedMemory, what: &str) {
    let mut is_touched = vec![false; PAGES as usize];
    for run in touched().runs() {
        is_touched[run.start.0 as usize..run.end().0 as usize].fill(true);
    }
    for (page, is_touched) in (0..).zip(is_touched) {
        let expected = if is_touched && !Numbered::is_zero(page) {
            page + 1
        } else {
            0
        };
        assert_eq!(word(memory, page), expected, "{what}: page {page}");
    }
}

// spec: WS-11
#[test]
fn exactly_the_pages_that_were_touched_come_back_on_any_number_of_threads() {
    let folder = tempfile::tempdir().unwrap();
    let source = Numbered::new(PAGES);
    let backends: [&dyn Backend; 2] =
        [&FsBackend::open(folder.path()).unwrap(), &MemBackend::new()];
    for (number, backend) in backends.into_iter().enumerate() {
        let options = WorkingSetOptions::default();
        let written = rig::write(backend, &source, &touched(), options).unwrap();
        for threads in [0, 1, 2, 5] {
            let mut set = rig::open(backend, &source).unwrap();
            let memory = fresh();
            let replayed = set.replay(&FreshMemory(&memory), &ReplayOptions::new(threads));
            let replayed = replayed.unwrap();
            assert_eq!(replayed.data_pages, written.data_pages);
            assert_eq!(replayed.zero_pages, written.zero_pages);
            assert_eq!(
                replayed.reads,
                (written.data_pages * PAGE_BYTES).div_ceil(1 << 20)
            );
            check(&memory, &format!("backend {number}, {threads} threads"));
        }
    }
}

// spec: VER-03
// spec: VER-10
#[test]
fn an_unknown_bit_of_the_word_of_restoring_refuses_the_replay_and_no_other_word_does() {
    let source = Numbered::new(PAGES);
    for word in Operation::ALL.into_iter().skip(1) {
        let backend = MemBackend::new();
        rig::write(&backend, &source, &touched(), WorkingSetOptions::default()).unwrap();
        backend
            .tamper(&rig::path(), |bytes| {
                let mut header = Header::parse(bytes, bytes.len() as u64).unwrap();
                match word {
                    Operation::Restore => header.features.restore = 1 << 31,
                    Operation::Extend => header.features.extend = 1 << 31,
                    Operation::Rewrite => header.features.rewrite = 1 << 31,
                    _ => header.features.gc = 1 << 31,
                }
                bytes[..HEADER_BYTES].copy_from_slice(&header.encode());
            })
            .unwrap();
        let mut set = rig::open(&backend, &source).unwrap();
        let memory = fresh();
        let replayed = set.replay(&FreshMemory(&memory), &ReplayOptions::new(1));
        if word == Operation::Restore {
            let error = replayed.unwrap_err();
            let cause = error.source().map(ToString::to_string);
            assert!(cause.unwrap_or_default().contains("0x80000000"), "{error}");
            assert_eq!(word_of_any(&memory), 0);
        } else {
            assert!(replayed.unwrap().data_pages > 0, "{word:?}");
        }
    }
}

/// Something of the pages that were touched.
fn word_of_any(memory: &MappedMemory) -> u64 {
    let touched = touched();
    let runs = touched.runs().iter();
    runs.map(|run| word(memory, run.start.0)).sum()
}

// spec: WS-13
#[test]
fn parts_that_follow_each_other_bring_all_of_it_once() {
    let (source, backend) = (Numbered::new(PAGES), MemBackend::new());
    rig::write(&backend, &source, &touched(), WorkingSetOptions::default()).unwrap();
    let mut set = rig::open(&backend, &source).unwrap();
    let memory = fresh();
    let mut pages = 0;
    for part in [0..1, 1..3 << 20, 3 << 20..u64::MAX] {
        let options = ReplayOptions::new(2).part(part);
        let replayed = set.replay(&FreshMemory(&memory), &options).unwrap();
        assert!(replayed.reads >= 1);
        pages += replayed.data_pages + replayed.zero_pages;
    }
    assert_eq!(pages, touched().pages());
    check(&memory, "three parts");
}

/// Fails at its n-th call, by an error or a panic.
struct Failing {
    calls: AtomicU64,
    at: u64,
    panics: bool,
}

impl Failing {
    fn call(&self) -> Result<(), Box<dyn Error + Send + Sync>> {
        let is_it = self.calls.fetch_add(1, Ordering::Relaxed) == self.at;
        assert!(!(is_it && self.panics), "as the test wants it");
        if is_it { Err("no".into()) } else { Ok(()) }
    }
}

impl PageTarget for Failing {
    fn page_count(&self) -> u64 {
        PAGES
    }

    fn put(&self, _: PageRange, _: &[u8]) -> Result<(), Box<dyn Error + Send + Sync>> {
        self.call()
    }

    fn put_zero(&self, _: PageRange) -> Result<(), Box<dyn Error + Send + Sync>> {
        self.call()
    }
}

// spec: WS-14
#[test]
fn a_failure_of_any_call_ends_the_replay_with_its_own_error() {
    let (source, backend) = (Numbered::new(PAGES), MemBackend::new());
    rig::write(&backend, &source, &touched(), WorkingSetOptions::default()).unwrap();
    let mut set = rig::open(&backend, &source).unwrap();
    for at in (0..700).step_by(13) {
        let target = Failing {
            calls: AtomicU64::new(0),
            at,
            panics: false,
        };
        let result = set.replay(&target, &ReplayOptions::new(1 + at as usize % 3));
        assert!(
            matches!(result, Err(WorkingSetError::Place { .. })),
            "{at}: {result:?}"
        );
    }
    let cancel = Cancel::default();
    cancel.ask();
    let memory = fresh();
    let options = ReplayOptions::new(2).cancel(cancel);
    let result = set.replay(&FreshMemory(&memory), &options);
    assert!(
        matches!(result, Err(WorkingSetError::Cancelled)),
        "{result:?}"
    );
    let small = MappedMemory::new(
        MemoryLayout::single(PAGE_BYTES).unwrap(),
        MappingOptions::default(),
    )
    .unwrap();
    let result = set.replay(&FreshMemory(&small), &ReplayOptions::new(2));
    assert!(
        matches!(result, Err(WorkingSetError::PageCount { .. })),
        "{result:?}"
    );
}

// spec: WS-14
#[test]
fn a_target_that_panics_ends_the_replay() {
    let (source, backend) = (Numbered::new(PAGES), MemBackend::new());
    rig::write(&backend, &source, &touched(), WorkingSetOptions::default()).unwrap();
    let mut set = rig::open(&backend, &source).unwrap();
    for at in [0, 300, 600] {
        let target = Failing {
            calls: AtomicU64::new(0),
            at,
            panics: true,
        };
        let replay = || set.replay(&target, &ReplayOptions::new(2));
        let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(replay));
        // The caller's own thread unwinds, or a helper's panic is its error.
        if let Ok(result) = ended {
            assert!(
                matches!(result, Err(WorkingSetError::Panicked)),
                "{at}: {result:?}"
            );
        }
    }
}
