//! The same promises of every backend.

use hypervisor_bridge::testing::{KeptSnapshot, MemorySink, Script};
use hypervisor_bridge::{
    Answer, Cancel, ClockPolicy, GenerationId, Overrides, ReloadReport, RestoreError, SnapshotError,
};
use snapshot_format::state::{Fingerprint, VmX86};
use snapshot_memory::skip::skip;

use crate::{
    Backend, GENERATION_ADDRESS, Guest, GuestConfig, GuestError, Image, ImagePages, Outcome,
    Program, Purpose, Restored, SnapshotPages, host, kvm_available, reload, restore, start,
};

/// Small enough to take a fraction of a second at a microsecond an instruction.
pub(crate) fn config() -> GuestConfig {
    GuestConfig {
        memory_bytes: 4 << 20,
        steps: 12_000,
        seed: 42,
        ..GuestConfig::default()
    }
}

/// Whether a backend can run here.
pub(crate) fn can_run(backend: Backend) -> bool {
    match kvm_available() {
        Err(error) if backend == Backend::Kvm => {
            skip("kvm", &error.to_string());
            false
        }
        _ => true,
    }
}

/// What an uninterrupted run ends with.
pub(crate) fn uninterrupted(backend: Backend) -> Outcome {
    start(backend, &config()).unwrap().finish().unwrap()
}

pub(crate) fn take(
    guest: &mut dyn Guest,
    pages: SnapshotPages,
    sink: &mut MemorySink,
) -> KeptSnapshot {
    guest.snapshot(pages, sink, &Cancel::default()).unwrap();
    sink.kept().pop().unwrap()
}

pub(crate) fn bring_back(
    backend: Backend,
    kept: &KeptSnapshot,
) -> Result<Box<dyn Guest>, GuestError> {
    bring_back_as(backend, config(), kept)
}

pub(crate) fn bring_back_as(
    backend: Backend,
    config: GuestConfig,
    kept: &KeptSnapshot,
) -> Result<Box<dyn Guest>, GuestError> {
    let image = Image {
        config,
        pages: ImagePages::Copied(&mut |pages, out| kept.read_pages(pages, out)),
        sections: kept.offers(),
        snapshot: kept.reference,
        purpose: Purpose::Resume(ClockPolicy::Frozen),
        overrides: Overrides::default(),
    };
    restore(backend, image).map(|Restored { guest, .. }| guest)
}

#[test]
fn kvm_ends_as_the_model_of_its_program_does() {
    if can_run(Backend::Kvm) {
        assert_eq!(uninterrupted(Backend::Kvm), uninterrupted(Backend::Process));
    }
}

fn any_instant(backend: Backend) {
    if !can_run(backend) {
        return;
    }
    let expected = uninterrupted(backend);
    let mut guest = start(backend, &config()).unwrap();
    let mut sink = MemorySink::new(Script::default());
    let mut kept = vec![take(&mut *guest, SnapshotPages::Full, &mut sink)];
    while guest.run(64).unwrap() < 11_000 {
        kept.push(take(&mut *guest, SnapshotPages::Diff, &mut sink));
    }
    assert!(kept.len() > 8, "{} snapshots", kept.len());
    // The original runs on as well.
    assert_eq!(guest.finish().unwrap(), expected);
    let every = kept.len().div_ceil(12);
    for (number, snapshot) in kept.iter().enumerate().step_by(every) {
        let restored = bring_back(backend, snapshot).unwrap();
        assert_eq!(restored.finish().unwrap(), expected, "snapshot {number}");
    }
}

#[test]
fn a_kvm_guest_restored_from_any_instant_ends_as_if_it_had_never_stopped() {
    any_instant(Backend::Kvm);
}

#[test]
fn a_process_guest_restored_from_any_instant_ends_as_if_it_had_never_stopped() {
    any_instant(Backend::Process);
}

fn goes_on_as_base(backend: Backend) {
    if !can_run(backend) {
        return;
    }
    let expected = uninterrupted(backend);
    let mut guest = start(backend, &config()).unwrap();
    let mut sink = MemorySink::new(Script::default());
    guest.run(200).unwrap();
    let first = take(&mut *guest, SnapshotPages::Full, &mut sink);
    drop(guest);
    let mut second = bring_back(backend, &first).unwrap();
    assert_eq!(second.base(), Some(first.reference));
    second.run(200).unwrap();
    let diff = take(&mut *second, SnapshotPages::Diff, &mut sink);
    drop(second);
    let third = bring_back(backend, &diff).unwrap();
    assert_eq!(third.finish().unwrap(), expected);
    // The first one is still there, as a second branch.
    let branch = bring_back(backend, &first).unwrap();
    assert_eq!(branch.finish().unwrap(), expected);
}

#[test]
fn a_restored_kvm_guest_is_the_base_of_its_next_diff() {
    goes_on_as_base(Backend::Kvm);
}

#[test]
fn a_restored_process_guest_is_the_base_of_its_next_diff() {
    goes_on_as_base(Backend::Process);
}

fn diff_is_small(backend: Backend) {
    if !can_run(backend) {
        return;
    }
    let mut guest = start(backend, &config()).unwrap();
    let mut sink = MemorySink::new(Script::default());
    let cancel = Cancel::default();
    let early = guest.snapshot(SnapshotPages::Diff, &mut sink, &cancel);
    let no_base = matches!(early, Err(GuestError::Snapshot(SnapshotError::NoBase)));
    assert!(no_base, "{early:?}");
    guest
        .snapshot(SnapshotPages::Full, &mut sink, &cancel)
        .unwrap();
    // Stopped before its start: nothing was written.
    let still = guest
        .snapshot(SnapshotPages::Diff, &mut sink, &cancel)
        .unwrap();
    assert_eq!((still.memory.present, still.steps), (0, 0));
    let steps = guest.run(1).unwrap();
    let moved = guest
        .snapshot(SnapshotPages::Diff, &mut sink, &cancel)
        .unwrap();
    assert!(
        moved.steps >= steps && moved.memory.present > 0,
        "{moved:?}"
    );
    assert!(
        moved.memory.inherited > 0,
        "every page was taken: {moved:?}"
    );
}

#[test]
fn a_diff_of_a_kvm_guest_holds_what_was_written_and_no_more() {
    diff_is_small(Backend::Kvm);
}

#[test]
fn a_diff_of_a_process_guest_holds_what_was_written_and_no_more() {
    diff_is_small(Backend::Process);
}

#[test]
fn a_snapshot_of_one_backend_is_refused_by_the_other() {
    if !can_run(Backend::Kvm) {
        return;
    }
    for (from, to) in [
        (Backend::Kvm, Backend::Process),
        (Backend::Process, Backend::Kvm),
    ] {
        let mut guest = start(from, &config()).unwrap();
        let mut sink = MemorySink::new(Script::default());
        let kept = take(&mut *guest, SnapshotPages::Full, &mut sink);
        let refused = bring_back(to, &kept).map(|_| ()).unwrap_err();
        let expected = matches!(
            refused,
            GuestError::Restore(RestoreError::Incompatible { .. })
        );
        assert!(expected, "{refused:?}");
    }
}

#[test]
fn a_damaged_image_stops_the_restore() {
    let mut guest = start(Backend::Process, &config()).unwrap();
    let mut sink = MemorySink::new(Script::default());
    let kept = take(&mut *guest, SnapshotPages::Full, &mut sink);
    let image = Image {
        config: config(),
        pages: ImagePages::Copied(&mut |_, _| Err("damaged".into())),
        sections: kept.offers(),
        snapshot: kept.reference,
        purpose: Purpose::Resume(ClockPolicy::Frozen),
        overrides: Overrides::default(),
    };
    let refused = restore(Backend::Process, image).map(|_| ()).unwrap_err();
    assert!(refused.to_string().contains("restore memory"), "{refused}");
}

fn clone_of(backend: Backend, kept: &KeptSnapshot, generation: GenerationId) -> Restored {
    let image = Image {
        config: config(),
        pages: ImagePages::Copied(&mut |pages, out| kept.read_pages(pages, out)),
        sections: kept.offers(),
        snapshot: kept.reference,
        purpose: Purpose::Clone {
            clock: ClockPolicy::Frozen,
            generation,
        },
        overrides: Overrides::default(),
    };
    restore(backend, image).unwrap()
}

fn clone_is_another_machine(backend: Backend) {
    if !can_run(backend) {
        return;
    }
    let mut guest = start(backend, &config()).unwrap();
    let mut sink = MemorySink::new(Script::default());
    guest.run(200).unwrap();
    let kept = take(&mut *guest, SnapshotPages::Full, &mut sink);
    drop(guest);
    let generation = GenerationId::random().unwrap();
    let mut cloned = clone_of(backend, &kept, generation);
    let items: Vec<_> = cloned.outcome.checklist.iter().flatten().collect();
    assert_eq!(items.len(), 6, "{items:?}");
    assert_eq!(items[0].done, Answer::By(generation.to_string()));

    // It has not run: what the restore itself wrote is all there is, and the diff has it.
    let diff = take(&mut *cloned.guest, SnapshotPages::Diff, &mut sink);
    let page = usize::try_from(GENERATION_ADDRESS.0).unwrap();
    assert_eq!(diff.image[page..][..16], generation.0);
    let mut expected = kept.image.clone();
    expected[page..][..16].copy_from_slice(&generation.0);
    assert!(diff.image == expected, "more than the id was written");
    if backend == Backend::Kvm {
        // Raised after the chips were restored: both have it latched.
        let vm: VmX86 = diff.offers().take(0).unwrap();
        assert_eq!(vm.pic_slave.unwrap().irr & 1 << 1, 1 << 1);
        let original: VmX86 = kept.offers().take(0).unwrap();
        assert_eq!(original.pic_slave.unwrap().irr & 1 << 1, 0);
    }
    // But for the id it ends as the original would have.
    let mut end = cloned.guest.finish().unwrap();
    assert_eq!(std::mem::take(&mut end.generation.0), generation.0);
    assert_eq!(end, uninterrupted(backend));
}

// spec: RES-07
// spec: RES-08
#[test]
fn a_kvm_clone_has_a_generation_of_its_own_in_memory_and_in_the_next_diff() {
    clone_is_another_machine(Backend::Kvm);
}

// spec: RES-08
#[test]
fn a_process_clone_has_a_generation_of_its_own_in_memory_and_in_the_next_diff() {
    clone_is_another_machine(Backend::Process);
}

fn host_runs_its_own_snapshots(backend: Backend) {
    if !can_run(backend) {
        return;
    }
    let mut guest = start(backend, &config()).unwrap();
    let mut sink = MemorySink::new(Script::default());
    guest.run(64).unwrap();
    let kept = take(&mut *guest, SnapshotPages::Full, &mut sink);
    let saved: Fingerprint = kept.offers().take(0).unwrap();
    assert_eq!(saved.check(&host(backend).unwrap()), []);
}

// spec: RES-13
#[test]
fn a_host_that_is_asked_without_a_snapshot_says_what_it_says_in_a_restore() {
    host_runs_its_own_snapshots(Backend::Kvm);
    host_runs_its_own_snapshots(Backend::Process);
}

fn reload_of(backend: Backend, config: GuestConfig, kept: &KeptSnapshot) -> ReloadReport {
    let image = Image {
        config,
        pages: ImagePages::Copied(&mut |pages, out| kept.read_pages(pages, out)),
        sections: kept.offers(),
        snapshot: kept.reference,
        purpose: Purpose::Resume(ClockPolicy::Frozen),
        overrides: Overrides::default(),
    };
    reload(backend, image).unwrap()
}

/// Snapshots `config` at some instants, and reloads each.
fn reloads_exactly(backend: Backend, config: GuestConfig, instants: usize) {
    if !can_run(backend) {
        return;
    }
    let mut guest = start(backend, &config).unwrap();
    let mut sink = MemorySink::new(Script::default());
    for _ in 0..instants {
        guest.run(64).unwrap();
        let kept = take(&mut *guest, SnapshotPages::Full, &mut sink);
        let report = reload_of(backend, config, &kept);
        let wrong = report.differences.iter().find(|one| one.allowed.is_none());
        let wrong = wrong.map(ToString::to_string);
        assert_eq!(wrong, None, "{}", config.program.name());
        assert_eq!(report.sections, kept.sections.len());
        assert_eq!(report.pages, config.page_count());
    }
}

// spec: RES-18
#[test]
fn every_kvm_guest_is_captured_again_as_it_was_restored() {
    reloads_exactly(Backend::Kvm, config(), 3);
    for program in Program::PROOFS {
        reloads_exactly(
            Backend::Kvm,
            GuestConfig {
                program,
                ..config()
            },
            1,
        );
    }
}

// spec: RES-18
#[test]
fn a_process_guest_is_captured_again_as_it_was_restored() {
    reloads_exactly(Backend::Process, config(), 3);
}

// spec: RES-20
#[test]
fn a_reload_finds_memory_that_is_not_the_image() {
    let mut guest = start(Backend::Process, &config()).unwrap();
    let mut sink = MemorySink::new(Script::default());
    let kept = take(&mut *guest, SnapshotPages::Full, &mut sink);
    let mut reads = 0;
    let image = Image {
        config: config(),
        pages: ImagePages::Copied(&mut |pages, out| {
            kept.read_pages(pages, out)?;
            reads += 1;
            // The first read of all; it is read again to be compared.
            if reads == 1 {
                out.iter_mut().take(1).for_each(|byte| *byte ^= 1);
            }
            Ok(())
        }),
        sections: kept.offers(),
        snapshot: kept.reference,
        purpose: Purpose::Resume(ClockPolicy::Frozen),
        overrides: Overrides::default(),
    };
    let report = reload(Backend::Process, image).unwrap();
    let told: Vec<_> = report.differences.iter().map(|one| &*one.field).collect();
    assert_eq!(told, ["page 0, byte 0x0"]);
}
