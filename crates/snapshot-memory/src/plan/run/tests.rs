use std::path::Path;

use snapshot_format::{MemoryLayout, PAGE_BYTES};

use super::*;
use crate::backend::{Backend, FsBackend, RelPath};
use crate::bus_guard::BusGuard;
use crate::capture::LayoutChoice;
use crate::mapping::MappingOptions;
use crate::plan::tests::rig::{Chain, bytes_of};
use crate::plan::{
    Estimate, KernelFacts, MemoryFacts, MethodKind, RawImage, RawImageFacts, RestoreCosts,
    TargetFacts, TargetKind, Wanted,
};
use crate::restore::{FailureCause, SourceError};
use crate::uffd::UffdOptions;

mod given_back;

fn target() -> TargetFacts {
    let kernel = KernelFacts {
        page_bytes: 4096,
        missing: false,
        missing_memfd: false,
        minor_memfd: false,
    };
    TargetFacts::new(TargetKind::Anonymous, kernel).threads(2)
}

fn named(method: MethodKind, verification: Verification) -> Wanted {
    Wanted::default().method(method).verification(verification)
}

fn plan_of(facts: &MemoryFacts, target: &TargetFacts, wanted: Wanted) -> RestorePlan {
    RestorePlan::choose(facts, target, wanted, &RestoreCosts::default()).unwrap()
}

fn plan(image: &MemoryImage, wanted: Wanted) -> RestorePlan {
    plan_of(&MemoryFacts::of(image, wanted).unwrap(), &target(), wanted)
}

fn fresh(layout: &MemoryLayout) -> Arc<MappedMemory> {
    let memory = MappedMemory::new(layout.clone(), MappingOptions::default());
    Arc::new(memory.unwrap())
}

/// A chain of a sparse full snapshot and a small diff.
fn chain() -> Chain {
    let mut chain = Chain::of_pages(2000);
    chain.write(PageRange::new(0, 900), 1);
    chain.write(PageRange::new(1990, 10), 1);
    chain.take(None, LayoutChoice::Sparse);
    chain.write(PageRange::new(100, 7), 2);
    chain.take(Some(&[PageRange::new(100, 7)]), LayoutChoice::Packed);
    chain
}

/// Changes a byte of a file, in place, though it is read-only.
fn flip(path: &Path, offset: usize) {
    let mut bytes = std::fs::read(path).unwrap();
    bytes[offset] ^= 1;
    let kept = path.with_extension("kept");
    std::fs::write(&kept, bytes).unwrap();
    std::fs::rename(kept, path).unwrap();
}

/// The raw image of `chain` as a file beside it.
fn raw_of(chain: &Chain) -> RawImage {
    std::fs::write(chain.folder.path().join("raw"), chain.bytes()).unwrap();
    let backend = FsBackend::open(chain.folder.path()).unwrap();
    let file = backend.open(&RelPath::root().join("raw").unwrap()).unwrap();
    RawImage {
        file: Arc::from(file),
        name: "raw".to_owned(),
    }
}

fn from(image: MemoryImage) -> RestoreFrom {
    RestoreFrom::new(Arc::new(image))
}

// spec: RPL-09
#[test]
fn mapped_data_files_are_the_guests_memory_and_its_writes_stay_its_own() {
    let chain = chain();
    let from = from(chain.image());
    let wanted = named(MethodKind::Mapped, Verification::Trusted);
    let plan = plan(&from.image, wanted);
    let guest = || {
        let memory = fresh(from.image.layout());
        let restored = plan.run(&memory, &from).unwrap();
        assert_eq!(restored.report.verification, Verification::Trusted);
        assert_eq!(restored.report.checked_by, CheckedBy::Nobody);
        assert_eq!(restored.report.copied_bytes, 0);
        assert!(restored.check.is_none());
        memory
    };
    let (first, second) = (guest(), guest());
    assert!(bytes_of(&*first) == chain.bytes());
    for page in [0, 103, 1500, 1999] {
        first.write(page * PAGE_BYTES, &[9; 4096]).unwrap();
    }
    assert!(bytes_of(&*second) == chain.bytes());
    assert!(bytes_of(&*from.image) == chain.bytes());
}

// spec: RPL-09
#[test]
fn a_raw_image_is_mapped_as_a_whole() {
    let chain = chain();
    let from = from(chain.image());
    let from = from.raw(raw_of(&chain));
    let wanted = Wanted::default().verification(Verification::Trusted);
    let facts = MemoryFacts::of(&from.image, wanted).unwrap();
    let plan = plan_of(
        &facts.raw_image(RawImageFacts { verity: false }),
        &target(),
        wanted,
    );
    let what = RestoreMethod::Mapped {
        from: MappedFrom::RawImage,
        mappings: 1,
    };
    assert_eq!(plan.method, what);
    let memory = fresh(from.image.layout());
    let _held = plan.run(&memory, &from).unwrap();
    assert!(bytes_of(&*memory) == chain.bytes());
}

// spec: RPL-11
#[test]
fn an_eager_check_of_mapped_files_comes_before_the_guest() {
    let wanted = named(MethodKind::Mapped, Verification::Eager);
    let chain = chain();
    let sound = from(chain.image());
    let done = plan(&sound.image, wanted).run(&fresh(sound.image.layout()), &sound);
    let report = done.unwrap().report;
    assert_eq!(report.verification, Verification::Eager);
    assert_eq!(report.checked_bytes, 2000 * PAGE_BYTES);

    // In a stored page, and in one that is zero and mapped along.
    let mut one = Chain::of_pages(64);
    one.write(PageRange::new(0, 8), 1);
    one.take(None, LayoutChoice::Sparse);
    for offset in [3 * 4096 + 5, 40 * 4096] {
        flip(&one.data_path(0), offset);
        let damaged = from(one.image());
        let plan = plan(&damaged.image, wanted);
        let error = plan
            .run(&fresh(damaged.image.layout()), &damaged)
            .unwrap_err();
        let RestoreMemoryError::Damaged(failure) = error else {
            unreachable!("{error}")
        };
        let pages = failure.pages.start.0..failure.pages.end().0;
        assert!(pages.contains(&(offset as u64 / 4096)), "{failure}");
        flip(&one.data_path(0), offset);
    }
}

// spec: RPL-11
#[test]
fn damage_that_is_found_while_the_guest_runs_is_an_event() {
    let chain = chain();
    // Pages that are stored, and a zero page of a raw image.
    let raw = raw_of(&chain);
    flip(&chain.data_path(0), 555 * 4096);
    let from = from(chain.image());
    let wanted = named(MethodKind::Mapped, Verification::Background);
    let plan = plan(&from.image, wanted);
    let memory = fresh(from.image.layout());
    let mut restored = plan.run(&memory, &from).unwrap();
    assert_eq!(restored.report.verification, Verification::Background);
    assert!(restored.events().unwrap().take().is_empty());
    let check = restored.check.take().unwrap();
    let handle = check.handle();
    assert_eq!(handle.progress(), (0, 2000 * PAGE_BYTES));
    let outcome = std::thread::spawn(move || check.run()).join().unwrap();
    assert_eq!(outcome.failures, 1);
    assert!(!outcome.is_sound());
    assert_eq!(handle.progress(), (2000 * PAGE_BYTES, 2000 * PAGE_BYTES));
    let told = restored.events().unwrap().take();
    let pages = told[0].pages;
    assert!((pages.start.0..pages.end().0).contains(&555), "{}", told[0]);
    let damage = FailureCause::Source(SourceError::Image(ImageError::Stray {
        file: String::new(),
        offset: 0,
    }));
    assert_eq!(
        std::mem::discriminant(&told[0].cause),
        std::mem::discriminant(&damage)
    );
    drop(raw);
}

// spec: RPL-11
#[test]
fn a_raw_image_is_compared_with_the_snapshot() {
    let chain = chain();
    raw_of(&chain);
    for (offset, failures) in [(1500 * 4096 + 1, 1), (103 * 4096, 1)] {
        let raw = chain.folder.path().join("raw");
        flip(&raw, offset);
        let backend = FsBackend::open(chain.folder.path()).unwrap();
        let file = backend.open(&RelPath::root().join("raw").unwrap()).unwrap();
        let from = from(chain.image());
        let from = from.raw(RawImage {
            file: Arc::from(file),
            name: "raw".to_owned(),
        });
        let wanted = Wanted::default().verification(Verification::Background);
        let facts = MemoryFacts::of(&from.image, wanted).unwrap();
        let facts = facts.raw_image(RawImageFacts { verity: false });
        let restored = plan_of(&facts, &target(), wanted).run(&fresh(from.image.layout()), &from);
        let mut restored = restored.unwrap();
        let outcome = restored.check.take().unwrap().run();
        assert_eq!(outcome.failures, failures);
        let told = restored.events().unwrap().take();
        let FailureCause::Source(SourceError::Other(error)) = &told[0].cause else {
            unreachable!("{}", told[0])
        };
        let differs = error
            .downcast_ref::<super::super::check::RawDiffers>()
            .unwrap();
        assert_eq!(differs.offset, offset as u64 / 4096 * 4096);
        flip(&raw, offset);
    }
}

#[test]
fn a_check_that_is_cancelled_is_not_sound() {
    let chain = chain();
    let from = from(chain.image());
    let wanted = named(MethodKind::Mapped, Verification::Background);
    let restored = plan(&from.image, wanted).run(&fresh(from.image.layout()), &from);
    let check = restored.unwrap().check.unwrap();
    check.handle().cancel();
    let outcome = check.run();
    assert_eq!((outcome.checked_bytes, outcome.failures), (0, 0));
    assert!(!outcome.is_sound());
}

// spec: RPL-10
#[test]
fn an_eager_restore_keeps_huge_pages() {
    use crate::uffd::{Backing, backing};
    let mut chain = Chain::of_pages(4096);
    chain.write(PageRange::new(0, 4096), 1);
    chain.take(None, LayoutChoice::Sparse);
    let from = from(chain.image());
    let layout = from.image.layout().clone();
    let options = MappingOptions::default().huge_pages(true);
    let probe = MappedMemory::new(layout.clone(), options).unwrap();
    probe.write(0, &vec![1; 16 << 20]).unwrap();
    if backing(&probe) != Backing::Huge {
        crate::skip::skip("huge-pages", "the kernel gives none for new memory");
        return;
    }
    let memory = Arc::new(MappedMemory::new(layout, options).unwrap());
    let wanted = Wanted::default();
    let facts = MemoryFacts::of(&from.image, wanted).unwrap();
    let plan = plan_of(&facts, &target().huge_pages(true), wanted);
    assert_eq!(plan.method, RestoreMethod::Eager);
    let restored = plan.run(&memory, &from).unwrap();
    assert_eq!(restored.report.verification, Verification::Eager);
    assert_eq!(restored.report.copied_bytes, 16 << 20);
    assert_eq!(backing(&*memory), Backing::Huge);
    assert!(bytes_of(&*memory) == chain.bytes());
}

// spec: RPL-12
#[test]
fn a_shared_eager_restore_fills_one_memfd_for_all() {
    let chain = chain();
    let from = from(chain.image());
    let wanted = Wanted::default().verification(Verification::Eager);
    let facts = MemoryFacts::of(&from.image, wanted).unwrap();
    let plan = plan_of(&facts, &target().shared(true), wanted);
    let first = fresh(from.image.layout());
    let restored = plan.run(&first, &from).unwrap();
    assert!(restored.events().is_none());
    assert_eq!(restored.report.copied_bytes, 910 * PAGE_BYTES);
    let from = from.sealed(restored.sealed.clone().unwrap());
    let second = fresh(from.image.layout());
    let again = plan.run(&second, &from).unwrap();
    assert_eq!(again.report.copied_bytes, 0);
    assert_eq!(again.report.verification, Verification::Eager);
    assert!(bytes_of(&*first) == chain.bytes());
    assert!(bytes_of(&*second) == chain.bytes());
}

// spec: RPL-13
#[test]
fn a_plan_that_no_longer_fits_is_refused_and_never_replaced() {
    let chain = chain();
    let from = from(chain.image());
    let good = plan(
        &from.image,
        named(MethodKind::Mapped, Verification::Trusted),
    );
    let run = |plan: &RestorePlan| plan.run(&fresh(from.image.layout()), &from).unwrap_err();
    let mapped = |from, mappings| RestoreMethod::Mapped { from, mappings };
    let other = RestorePlan {
        method: mapped(MappedFrom::DataFiles, 200),
        ..good.clone()
    };
    assert!(matches!(run(&other), RestoreMemoryError::Stale { .. }));
    let other = RestorePlan {
        checked_by: CheckedBy::FsVerity,
        verification: Verification::OnFault,
        ..good.clone()
    };
    assert!(matches!(run(&other), RestoreMemoryError::Stale { .. }));
    let other = RestorePlan {
        method: mapped(MappedFrom::RawImage, 1),
        estimate: Estimate {
            start_ns: 0,
            warm_ns: 0,
        },
        ..good.clone()
    };
    assert!(matches!(run(&other), RestoreMemoryError::Missing { .. }));
    let small = fresh(&MemoryLayout::single(PAGE_BYTES).unwrap());
    let error = good.run(&small, &from).unwrap_err();
    assert!(matches!(error, RestoreMemoryError::LayoutDiffers));
}

#[test]
fn a_raw_image_of_another_length_is_refused() {
    let chain = chain();
    let raw = raw_of(&chain);
    let path = chain.folder.path().join("raw");
    std::fs::OpenOptions::new()
        .write(true)
        .open(path)
        .unwrap()
        .set_len(4096)
        .unwrap();
    let from = from(chain.image());
    let from = from.raw(raw);
    let wanted = Wanted::default().verification(Verification::Trusted);
    let facts = MemoryFacts::of(&from.image, wanted).unwrap();
    let plan = plan_of(
        &facts.raw_image(RawImageFacts { verity: false }),
        &target(),
        wanted,
    );
    let error = plan.run(&fresh(from.image.layout()), &from).unwrap_err();
    let is_length = matches!(
        error,
        RestoreMemoryError::Image(ImageError::DataLength { .. })
    );
    assert!(is_length, "{error}");
}

/// A target of the host that the tests run on; `None`, told as a skip, where nothing can be served.
fn serving_target() -> Option<TargetFacts> {
    let kernel = KernelFacts::of_host(UffdOptions::default());
    if !kernel.missing {
        crate::skip::skip("uffd", "the kernel gives no userfaultfd");
        return None;
    }
    Some(TargetFacts::new(TargetKind::Anonymous, kernel))
}

// spec: RPL-13
#[test]
fn a_served_plan_brings_pages_on_fault_and_clones_share_them() {
    let chain = chain();
    let from = from(chain.image());
    let Some(target) = serving_target() else {
        return;
    };
    let wanted = Wanted::default().method(MethodKind::Served);
    let facts = MemoryFacts::of(&from.image, wanted).unwrap();
    assert_eq!(facts.mappings, crate::plan::MappingCount::NotCounted);
    for shared in [false, true] {
        let plan = plan_of(&facts, &target.shared(shared), wanted);
        assert_eq!(plan.verification, Verification::OnFault);
        let first = plan.run(&fresh(from.image.layout()), &from).unwrap();
        assert_eq!(first.shared.is_some(), shared);
        let again = match &first.shared {
            Some(pages) => from.clone().shared(Arc::clone(pages)),
            None => from.clone(),
        };
        let second = plan.run(&fresh(from.image.layout()), &again).unwrap();
        first.memory().write(103 * PAGE_BYTES, &[9; 4096]).unwrap();
        assert!(bytes_of(&**second.memory()) == chain.bytes());
        let mut byte = [0];
        first.memory().read(103 * PAGE_BYTES, &mut byte).unwrap();
        assert_eq!(byte, [9]);
        assert!(second.events().unwrap().take().is_empty());
        assert!(second.server().unwrap().stats().faults > 0);
    }
}

/// Waits until there is something to take; panics where nothing comes.
fn wait_for(events: &MemoryEvents) -> Vec<MemoryFailure> {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    use std::os::fd::AsFd;
    let mut bell = [PollFd::new(events.as_fd(), PollFlags::POLLIN)];
    let rang = poll(&mut bell, PollTimeout::from(60_000_u16)).unwrap();
    assert_eq!(rang, 1, "no event in a minute");
    events.take()
}

// spec: RPL-09
#[test]
fn a_file_that_is_cut_under_a_mapped_guest_is_an_event() {
    let mut chain = Chain::of_pages(64);
    chain.write(PageRange::new(0, 64), 1);
    chain.take(None, LayoutChoice::Sparse);
    let from = from(chain.image()).guard(BusGuard::install().unwrap());
    let wanted = named(MethodKind::Mapped, Verification::Trusted);
    let restored = plan(&from.image, wanted).run(&fresh(from.image.layout()), &from);
    let restored = restored.unwrap();
    let path = chain.data_path(0);
    // The owner of a read-only file may cut it, after making it writable.
    let mut permissions = std::fs::metadata(&path).unwrap().permissions();
    std::os::unix::fs::PermissionsExt::set_mode(&mut permissions, 0o600);
    std::fs::set_permissions(&path, permissions).unwrap();
    let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.set_len(10 * 4096).unwrap();
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut byte = [0xff];
            restored.memory().read(40 * PAGE_BYTES, &mut byte).unwrap();
            byte
        });
        let told = wait_for(restored.events().unwrap());
        let FailureCause::Mapping { offset, .. } = told[0].cause else {
            unreachable!("{}", told[0])
        };
        assert_eq!(offset, 40 * 4096);
        restored.abandon();
        assert_eq!(reader.join().unwrap(), [0]);
    });
}
