use std::sync::Arc;

use snapshot_format::{DecodeError, PageIndex, WorkingSetOrigin};

use super::*;
use crate::capture::LayoutChoice;
use crate::mapping::{MappedMemory, MappingOptions};
use crate::plan::tests::rig::{Chain, Kept, bytes_of};
use crate::plan::{
    FillError, KernelFacts, MemoryFacts, MethodKind, RestoreCosts, RestoreMemoryError, RestorePlan,
    RestoredMemory, TargetFacts, TargetKind, Wanted,
};
use crate::serve::ServeOptions;
use crate::skip::skip;
use crate::uffd::UffdOptions;
use crate::working_set::{Seen, TouchedPages, Verdict, WorkingSetKeeper};

const PAGES: u64 = 1800;

/// Pages of a guest whose hot pages move.
const MANY: u64 = 4096;

/// A guest of which all pages but the first 8 are noise, its working set, and what brings
/// it back; `None`, and said so, where no memory can be served.
struct Rig {
    chain: Chain,
    kept: Arc<Kept>,
    from: RestoreFrom,
    plan: RestorePlan,
}

impl Rig {
    fn new(page_count: u64, shared: bool) -> Option<Self> {
        let mut chain = Chain::of_pages(page_count);
        chain.write(PageRange::new(8, page_count - 8), 1);
        chain.take(None, LayoutChoice::Sparse);
        let image = Arc::new(chain.image());
        let kept = Kept::new(&chain, &image);
        let serve = ServeOptions::new(1).window_bytes(PAGE_BYTES);
        let from = RestoreFrom::new(Arc::clone(&image)).serve(serve);
        let from = from.working_set(kept.clone());
        let kernel = KernelFacts::of_host(UffdOptions::default());
        let target = TargetFacts::new(TargetKind::Anonymous, kernel).shared(shared);
        let wanted = Wanted::default().method(MethodKind::Served);
        let facts = MemoryFacts::of(&image, wanted)
            .unwrap()
            .working_set(1 << 20);
        match RestorePlan::choose(&facts, &target, wanted, &RestoreCosts::default()) {
            Ok(plan) => {
                assert!(plan.replays_working_set);
                Some(Self {
                    chain,
                    kept,
                    from,
                    plan,
                })
            }
            Err(error) => {
                skip("uffd", &error.to_string());
                None
            }
        }
    }

    fn try_run(&self, from: &RestoreFrom) -> Result<RestoredMemory, RestoreMemoryError> {
        let layout = from.image.layout().clone();
        let memory = MappedMemory::new(layout, MappingOptions::default()).unwrap();
        self.plan.run(&Arc::new(memory), from)
    }

    fn run(&self, from: &RestoreFrom) -> RestoredMemory {
        self.try_run(from).unwrap()
    }

    /// Compares all of memory, and says how many faults that took.
    fn faults(&self, restored: &RestoredMemory) -> u64 {
        let before = restored.server().unwrap().stats().faults;
        assert!(bytes_of(&**restored.memory()) == self.chain.bytes());
        assert!(restored.events().unwrap().take().is_empty());
        restored.server().unwrap().stats().faults - before
    }
}

fn touched(runs: &[(u64, u64)]) -> TouchedPages {
    let mut touched = TouchedPages::new(PAGES, WorkingSetOrigin::Named);
    touched.add_all(
        runs.iter()
            .map(|&(start, count)| PageRange::new(start, count)),
    );
    touched
}

// spec: WS-13
// spec: WS-18
#[test]
fn a_plan_brings_the_working_set_before_and_beside_the_guest_and_counts_it() {
    for shared in [false, true] {
        let Some(rig) = Rig::new(PAGES, shared) else {
            return;
        };
        rig.kept.write(&touched(&[(400, 1200), (0, 8), (100, 4)]));
        for threads in [0, 1, 2] {
            let restored = rig.run(&rig.from.clone().replay_threads(threads));
            let first = restored.report.working_set.unwrap();
            assert_eq!(first.set_pages, 1212);
            assert_eq!(first.is_done, threads == 0, "{first:?}");
            let before = if threads == 0 { 1204 } else { 1024 };
            assert_eq!(first.data_pages, before, "{first:?}");
            let outcome = restored.replay().unwrap().wait();
            assert!(outcome.error.is_none(), "{outcome:?}");
            let all = WorkingSetReport {
                set_pages: 1212,
                data_pages: 1204,
                zero_pages: 8,
                data_bytes: 1204 * PAGE_BYTES,
                is_done: true,
                fault: None,
            };
            assert_eq!(outcome.report, all);
            assert_eq!(restored.replay().unwrap().report(), all);
            // Whoever touches a page of it waits for nothing.
            assert_eq!(rig.faults(&restored), PAGES - 1212);
        }
    }
}

// spec: WS-14
// spec: WS-18
#[test]
fn a_working_set_that_is_of_no_use_is_told_and_the_memory_is_served() {
    let Some(rig) = Rig::new(PAGES, false) else {
        return;
    };
    rig.kept.write(&touched(&[(400, 1300)]));
    let whole = rig.kept.file.lock().unwrap().clone().unwrap();
    let flipped = |at: usize| {
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        bytes
    };
    let cases = [
        // The header, the index, a page before the guest, one beside it, the end.
        (flipped(20), WorkingSetFault::Damaged, 0),
        (flipped(130), WorkingSetFault::Damaged, 0),
        (
            flipped(whole.len() - 1200 * 4096),
            WorkingSetFault::Damaged,
            0,
        ),
        (
            flipped(whole.len() - 100 * 4096),
            WorkingSetFault::Damaged,
            1024,
        ),
        (
            whole[..whole.len() - 4096].to_vec(),
            WorkingSetFault::Damaged,
            0,
        ),
        (Vec::new(), WorkingSetFault::Damaged, 0),
    ];
    for (number, (bytes, fault, least)) in cases.into_iter().enumerate() {
        *rig.kept.file.lock().unwrap() = Some(bytes);
        let restored = rig.run(&rig.from);
        let outcome = restored.replay().unwrap().wait();
        assert_eq!(outcome.report.fault, Some(fault), "{number}: {outcome:?}");
        let error = outcome.error.as_ref().unwrap();
        assert_eq!(error.fault(), fault);
        assert!(
            matches!(
                error,
                WorkingSetError::Damaged {
                    source: DecodeError::Digest { .. },
                    ..
                }
            ) || !(2..4).contains(&number),
            "{error}"
        );
        let brought = outcome.report.data_pages;
        assert!((least..1300).contains(&brought), "{number}: {outcome:?}");
        if (2..4).contains(&number) {
            // However little this guest touches, the next one has a whole set.
            restored.memory().read(8 * PAGE_BYTES, &mut [0]).unwrap();
            let refreshed = restored.refresh_working_set().unwrap().unwrap();
            assert_eq!(refreshed.change.verdict, Verdict::Extend);
            let next = rig.run(&rig.from);
            let outcome = next.replay().unwrap().wait();
            assert!(outcome.error.is_none(), "{outcome:?}");
            assert_eq!(rig.faults(&next), PAGES - 1301);
        } else {
            assert_eq!(rig.faults(&restored), PAGES - brought, "{number}");
        }
    }
    *rig.kept.file.lock().unwrap() = None;
    let restored = rig.run(&rig.from);
    let outcome = restored.replay().unwrap().wait();
    assert_eq!(outcome.report.fault, Some(WorkingSetFault::Missing));
    assert!(outcome.error.is_none());
    assert_eq!(rig.faults(&restored), PAGES);
}

// spec: WS-14
#[test]
fn a_replay_ends_with_its_restore_and_when_it_is_asked_to() {
    let Some(rig) = Rig::new(PAGES, false) else {
        return;
    };
    rig.kept.write(&touched(&[(8, PAGES - 8)]));
    // Dropping it waits for nobody but the thread, whose memory is still there.
    for _ in 0..10 {
        drop(rig.run(&rig.from));
    }
    let restored = rig.run(&rig.from);
    restored.replay().unwrap().cancel();
    let outcome = restored.replay().unwrap().wait();
    let ended = outcome.report.fault;
    assert!(matches!(ended, None | Some(WorkingSetFault::Cancelled)));
    assert_eq!(rig.faults(&restored), PAGES - outcome.report.data_pages);

    let from = rig.from.clone();
    from.cancel.ask();
    let error = rig.try_run(&from).unwrap_err();
    assert!(matches!(
        error,
        RestoreMemoryError::Fill(FillError::Cancelled)
    ));
}

// spec: WS-16
#[test]
fn what_is_held_back_comes_by_faults_and_all_else_does_not() {
    let Some(rig) = Rig::new(PAGES, false) else {
        return;
    };
    rig.kept.write(&touched(&[(512, 1024)]));
    let sample = HoldBack::new(3);
    let held = (512..1536).filter(|page| sample.holds(PageIndex(*page)));
    let held = held.count() as u64;
    assert!(held > 0);
    let restored = rig.run(&rig.from.clone().hold_back(sample));
    let outcome = restored.replay().unwrap().wait();
    assert_eq!(outcome.report.data_pages, 1024 - held);
    let mut byte = [0];
    for page in 512..1536 {
        restored
            .memory()
            .read(page * PAGE_BYTES, &mut byte)
            .unwrap();
    }
    let observed = restored.observe().unwrap();
    assert_eq!(observed.touched.pages(), held);
    assert_eq!(observed.seen, Seen::NotBrought(Some(sample)));
    assert_eq!(rig.faults(&restored), PAGES - 1024);
}

/// A guest whose hot pages move on by a third of their number with each resume.
// spec: WS-16
// spec: WS-17
// spec: WS-19
#[test]
fn a_working_set_follows_a_guest_whose_hot_pages_move() {
    const HOT: u64 = 600;
    let Some(rig) = Rig::new(MANY, false) else {
        return;
    };
    let mut sizes = Vec::new();
    for generation in 0..14_u64 {
        let from = rig.from.clone().hold_back(HoldBack::new(generation));
        let restored = rig.run(&from);
        let outcome = restored.replay().unwrap().wait();
        assert!(outcome.error.is_none(), "{outcome:?}");
        let start = 8 + generation * 200;
        let mut bytes = [0; 8];
        let truth = rig.chain.bytes();
        for page in start..start + HOT {
            restored
                .memory()
                .read(page * PAGE_BYTES, &mut bytes)
                .unwrap();
            let at = usize::try_from(page * PAGE_BYTES).unwrap();
            assert_eq!(bytes, truth[at..at + 8]);
        }
        let faults = restored.server().unwrap().stats().faults;
        let refreshed = restored.refresh_working_set().unwrap().unwrap();
        assert!(refreshed.change.verdict.publishes(), "{refreshed:?}");
        let set = rig.kept.open().unwrap().unwrap();
        let mut pages = TouchedPages::new(MANY, WorkingSetOrigin::Named);
        pages.add_all(set.index().runs.iter().map(|run| run.pages));
        let has = (start..start + HOT).filter(|page| pages.has(PageIndex(*page)));
        let (has, size) = (has.count() as u64, pages.pages());
        sizes.push((refreshed.change.verdict, has, size, faults));
    }
    assert_eq!(sizes[0], (Verdict::First, HOT, HOT, HOT));
    let replaced = sizes.iter().filter(|size| size.0 == Verdict::Replace);
    assert!(replaced.count() > 0, "{sizes:?}");
    for (_, _, size, _) in &sizes {
        // Never all that was hot once: 600 + 13 × 200.
        assert!(*size <= 3 * HOT, "{sizes:?}");
    }
    // On the whole a guest waits for far less than without a set.
    let waits: u64 = sizes[1..].iter().map(|size| size.3).sum();
    assert!(waits < 13 * HOT * 7 / 10, "{sizes:?}");
}
