use hypervisor_bridge::testing::{KeptSnapshot, MemorySink, Script};
use snapshot_memory::skip::skip;

use super::*;
use crate::config::GuestConfig;
use crate::guest::{Guest, Outcome, SnapshotPages};
use crate::start::{Image, Restored, kvm_available, restore, start};
use crate::{Backend, GuestError};
use hypervisor_bridge::{Cancel, Overrides};

/// Small enough to take a fraction of a second at a microsecond an instruction.
fn config() -> GuestConfig {
    GuestConfig {
        memory_bytes: 4 << 20,
        steps: 12_000,
        seed: 42,
    }
}

fn has_kvm() -> bool {
    match kvm_available() {
        Ok(()) => true,
        Err(error) => {
            skip("kvm", &error.to_string());
            false
        }
    }
}

/// What an uninterrupted run ends with.
fn uninterrupted(backend: Backend) -> Outcome {
    start(backend, &config()).unwrap().finish().unwrap()
}

fn take(guest: &mut dyn Guest, pages: SnapshotPages, sink: &mut MemorySink) -> KeptSnapshot {
    guest.snapshot(pages, sink, &Cancel::default()).unwrap();
    sink.kept().pop().unwrap()
}

fn bring_back(backend: Backend, kept: &KeptSnapshot) -> Result<Box<dyn Guest>, GuestError> {
    let image = Image {
        config: config(),
        pages: &mut |pages, out| kept.read_pages(pages, out),
        sections: kept.offers(),
        snapshot: kept.reference,
        overrides: Overrides::default(),
    };
    restore(backend, image).map(|Restored { guest, .. }| guest)
}

#[test]
fn kvm_ends_as_the_model_of_its_program_does() {
    if has_kvm() {
        assert_eq!(uninterrupted(Backend::Kvm), uninterrupted(Backend::Process));
    }
}

#[test]
fn a_guest_restored_from_any_instant_ends_as_if_it_had_never_stopped() {
    if !has_kvm() {
        return;
    }
    let expected = uninterrupted(Backend::Kvm);
    let mut guest = start(Backend::Kvm, &config()).unwrap();
    let mut sink = MemorySink::new(Script::default());
    let mut kept = vec![take(&mut *guest, SnapshotPages::Full, &mut sink)];
    while guest.run(64).unwrap() < 11_000 {
        kept.push(take(&mut *guest, SnapshotPages::Diff, &mut sink));
    }
    assert!(kept.len() > 8, "{} snapshots", kept.len());
    // The original runs on as well.
    assert_eq!(guest.finish().unwrap(), expected);
    for (number, snapshot) in kept.iter().enumerate() {
        let restored = bring_back(Backend::Kvm, snapshot).unwrap();
        assert_eq!(restored.finish().unwrap(), expected, "snapshot {number}");
    }
}

#[test]
fn a_pending_question_is_answered_once() {
    if !has_kvm() {
        return;
    }
    let expected = uninterrupted(Backend::Kvm);
    for questions in [1, 7] {
        let mut guest = KvmGuest::boot(&config()).unwrap();
        guest.run_to_question(questions).unwrap();
        let mut sink = MemorySink::new(Script::default());
        let kept = take(&mut guest, SnapshotPages::Full, &mut sink);
        assert_eq!(Box::new(guest).finish().unwrap(), expected);
        let restored = bring_back(Backend::Kvm, &kept).unwrap();
        assert_eq!(restored.finish().unwrap(), expected);
    }
}

#[test]
fn a_restored_guest_is_the_base_of_its_next_diff() {
    if !has_kvm() {
        return;
    }
    let expected = uninterrupted(Backend::Kvm);
    let mut guest = start(Backend::Kvm, &config()).unwrap();
    let mut sink = MemorySink::new(Script::default());
    guest.run(200).unwrap();
    let first = take(&mut *guest, SnapshotPages::Full, &mut sink);
    drop(guest);
    let mut second = bring_back(Backend::Kvm, &first).unwrap();
    assert_eq!(second.base(), Some(first.reference));
    second.run(200).unwrap();
    let diff = take(&mut *second, SnapshotPages::Diff, &mut sink);
    drop(second);
    let third = bring_back(Backend::Kvm, &diff).unwrap();
    assert_eq!(third.finish().unwrap(), expected);
}
