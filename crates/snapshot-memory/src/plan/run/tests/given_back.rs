//! What pages read as that were given back.

use super::*;
use crate::plan::GivenBack;

// spec: RPL-15
#[test]
fn pages_that_are_given_back_are_zero_however_they_came() {
    let chain = chain();
    let mut from = from(chain.image());
    from.raw = Some(raw_of(&chain));
    let open = Wanted::default();
    let raw = RawImageFacts { verity: false };
    let mapped = named(MethodKind::Mapped, Verification::Trusted);
    let known = |wanted| MemoryFacts::of(&from.image, wanted).unwrap();
    let mut plans = vec![
        plan(&from.image, mapped),
        plan_of(&known(mapped).raw_image(raw), &target(), mapped),
        plan(&from.image, open.method(MethodKind::Eager)),
    ];
    let shared = open.method(MethodKind::Mapped);
    plans.push(plan_of(&known(shared), &target().shared(true), shared));
    if let Some(target) = serving_target() {
        let served = open.method(MethodKind::Served);
        plans.push(plan_of(&known(served), &target, served));
        plans.push(plan_of(&known(served), &target.shared(true), served));
    }
    for plan in plans {
        let mut restored = plan.run(&fresh(from.image.layout()), &from).unwrap();
        // Across runs of both files and of zero pages, and to the end.
        let mut expected = chain.bytes();
        for pages in [PageRange::new(90, 60), PageRange::new(1999, 1)] {
            restored.discard(pages).unwrap();
            let start = usize::try_from(pages.start.0).unwrap() * 4096;
            let len = usize::try_from(pages.count).unwrap() * 4096;
            expected[start..start + len].fill(0);
        }
        let found = bytes_of(&**restored.memory());
        assert!(found == expected, "{:?}", plan.method);
        if let Some(server) = restored.server_mut() {
            assert!(server.finish().unwrap());
            restored.discard(PageRange::new(180, 20)).unwrap();
            expected[180 * 4096..200 * 4096].fill(0);
            let found = bytes_of(&**restored.memory());
            assert!(found == expected, "finished: {:?}", plan.method);
        }
    }
}

/// What two pages read as after they were given back: one that was written, and one that was not.
fn after_discard(plan: &RestorePlan, from: &RestoreFrom) -> [Vec<u8>; 2] {
    let restored = plan.run(&fresh(from.image.layout()), from).unwrap();
    assert_eq!(restored.report.given_back, plan.method.given_back());
    let memory = restored.memory();
    memory.write(103 * PAGE_BYTES, &[9; 4096]).unwrap();
    memory.discard(PageRange::new(103, 2)).unwrap();
    [103, 104].map(|page| {
        let mut bytes = vec![7; 4096];
        memory.read(page * PAGE_BYTES, &mut bytes).unwrap();
        bytes
    })
}

// spec: RPL-16
#[test]
fn a_page_that_was_given_back_reads_as_the_report_says() {
    let chain = chain();
    let from = from(chain.image()).raw(raw_of(&chain));
    let kernel = KernelFacts::of_host(UffdOptions::default());
    let serves = kernel.missing && kernel.minor_memfd && kernel.missing_memfd;
    if !serves {
        crate::skip::skip("uffd", "userfaultfd fills no memory here");
    }
    let old = [103, 104].map(|page| chain.bytes()[page * 4096..][..4096].to_vec());
    let zero = [vec![0; 4096], vec![0; 4096]];
    assert_ne!(old, zero);
    let (mapped, served) = (MethodKind::Mapped, MethodKind::Served);
    let lax = Verification::Trusted;
    let cases = [
        (named(mapped, lax), false, false),
        (named(mapped, lax), false, true),
        (named(mapped, Verification::Eager), true, false),
        (named(MethodKind::Eager, Verification::Eager), false, false),
        (named(served, Verification::OnFault), false, false),
        (named(served, Verification::OnFault), true, false),
    ];
    for (wanted, shared, raw) in cases {
        if wanted.method == Some(served) && !serves {
            continue;
        }
        let mut facts = MemoryFacts::of(&from.image, wanted).unwrap();
        facts.raw_image = raw.then_some(RawImageFacts { verity: false });
        let target = TargetFacts::new(
            TargetKind::Anonymous,
            KernelFacts {
                page_bytes: 4096,
                ..kernel
            },
        );
        let plan = plan_of(&facts, &target.shared(shared), wanted);
        let expected = match plan.method.given_back() {
            GivenBack::Zero => &zero,
            GivenBack::AsInSnapshot => &old,
        };
        assert!(after_discard(&plan, &from) == *expected, "{plan}");
    }
}
