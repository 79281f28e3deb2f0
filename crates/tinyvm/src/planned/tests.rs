//! Guests brought back by plans.

use std::sync::Arc;

use hypervisor_bridge::{Cancel, ClockPolicy, Overrides};
use snapshot_format::{Arch, PAGE_BYTES, PageRange, SectionOffers, SnapshotRef, VmName};
use snapshot_memory::backend::{Backend as Files, MemBackend};
use snapshot_memory::skip::skip;
use snapshot_memory::{
    DirectorySink, KernelFacts, MemoryFacts, MethodKind, PublishedSnapshot, RestoreCosts,
    RestoreFrom, RestorePlan, TargetFacts, TargetKind, UffdOptions, Wanted,
};

use super::PlannedPages;
use crate::tests::{can_run, config, uninterrupted};
use crate::{
    Backend, GuestConfig, GuestError, Image, ImagePages, Purpose, Restored, SnapshotPages, restore,
    start,
};

/// A snapshot of a guest on its way.
struct Taken {
    files: Arc<dyn Files>,
    snapshot: SnapshotRef,
}

impl Taken {
    fn new(backend: Backend) -> Self {
        let files: Arc<dyn Files> = Arc::new(MemBackend::new());
        let name = VmName::new("vm").unwrap();
        let mut sink = DirectorySink::new(Arc::clone(&files), name, Arch::host());
        let mut guest = start(backend, &config()).unwrap();
        guest.run(300).unwrap();
        let taken = guest.snapshot(SnapshotPages::Full, &mut sink, &Cancel::default());
        let snapshot = taken.unwrap().published.snapshot;
        Self { files, snapshot }
    }

    fn open(&self) -> PublishedSnapshot {
        PublishedSnapshot::open(&*self.files, self.snapshot.id).unwrap()
    }

    fn sections(&self) -> SectionOffers {
        self.open().state(&*self.files).unwrap()
    }

    /// Its pages by a plan that does what is wanted; `None` where this host has no such way.
    fn pages(&self, method: MethodKind, shared: bool) -> Option<PlannedPages> {
        let image = self.open().image(&*self.files).unwrap();
        let wanted = Wanted::default().method(method);
        let facts = MemoryFacts::of(&image, wanted).unwrap();
        let kernel = KernelFacts::of_host(UffdOptions::default());
        let target = TargetFacts::new(TargetKind::Anonymous, kernel).shared(shared);
        let plan = RestorePlan::choose(&facts, &target, wanted, &RestoreCosts::default());
        match plan {
            Ok(plan) => {
                let from = RestoreFrom::new(Arc::new(image));
                Some(PlannedPages::new(plan, from, Arc::clone(&self.files)))
            }
            Err(error) => {
                skip("uffd", &error.to_string());
                None
            }
        }
    }

    fn restore(
        &self,
        backend: Backend,
        config: GuestConfig,
        pages: PlannedPages,
    ) -> Result<Restored, GuestError> {
        let image = Image {
            config,
            pages: ImagePages::Planned(pages),
            sections: self.sections(),
            snapshot: self.snapshot,
            purpose: Purpose::Resume(ClockPolicy::Frozen),
            overrides: Overrides::default(),
        };
        restore(backend, image)
    }
}

fn by_every_plan(backend: Backend) {
    if !can_run(backend) {
        return;
    }
    let expected = uninterrupted(backend);
    let taken = Taken::new(backend);
    for (method, shared) in [
        (MethodKind::Eager, false),
        (MethodKind::Served, false),
        (MethodKind::Served, true),
        // A sealed memfd.
        (MethodKind::Mapped, true),
    ] {
        let Some(pages) = taken.pages(method, shared) else {
            continue;
        };
        let Restored { guest, outcome } = taken.restore(backend, config(), pages).unwrap();
        assert_eq!(outcome.memory.method.kind(), method);
        let planned = guest.planned().unwrap();
        assert_eq!(planned.server().is_some(), method == MethodKind::Served);
        assert!(planned.take_check().is_none());
        drop(planned);
        assert_eq!(guest.finish().unwrap(), expected, "{method}, {shared}");
    }
}

#[test]
fn a_kvm_guest_restored_by_any_plan_ends_as_if_it_had_never_stopped() {
    by_every_plan(Backend::Kvm);
}

#[test]
fn a_process_guest_restored_by_any_plan_ends_as_if_it_had_never_stopped() {
    by_every_plan(Backend::Process);
}

#[test]
fn what_a_guest_gives_back_of_a_mapped_memory_is_zero() {
    let taken = Taken::new(Backend::Process);
    let pages = taken.pages(MethodKind::Mapped, true).unwrap();
    let restored = taken.restore(Backend::Process, config(), pages).unwrap();
    let mut guest = restored.guest;
    let code = PageRange::new(0, config().page_count());
    let mut bytes = vec![1; usize::try_from(code.count * PAGE_BYTES).unwrap()];
    guest
        .look(&mut |standing| {
            standing.discard(code).unwrap();
            standing.memory().read_pages(code, &mut bytes).unwrap();
        })
        .unwrap();
    assert!(bytes.iter().all(|byte| *byte == 0));
}

#[test]
fn the_pages_of_another_machine_are_refused() {
    let taken = Taken::new(Backend::Process);
    let pages = taken.pages(MethodKind::Eager, false).unwrap();
    let other = GuestConfig {
        memory_bytes: 8 << 20,
        ..config()
    };
    let refused = taken.restore(Backend::Process, other, pages).err();
    assert!(matches!(
        refused,
        Some(GuestError::ForeignMemory { len_bytes }) if len_bytes == 4 << 20
    ));
}
