use super::*;
use crate::plan::facts::{KernelFacts, MappingCount, RawImageFacts, TargetKind};
use crate::plan::mappings::MAX_MAPPINGS;

const NONE: [Option<Verification>; 5] = [
    None,
    Some(Verification::Trusted),
    Some(Verification::Background),
    Some(Verification::OnFault),
    Some(Verification::Eager),
];

fn memories() -> Vec<MemoryFacts> {
    let counts = [
        MappingCount::NotCounted,
        MappingCount::Counted { mappings: 3 },
        MappingCount::TooMany,
        MappingCount::Compressed { file: 2 },
    ];
    let mut all = Vec::new();
    for memory_bytes in [1 << 20, 1 << 30, 1 << 40] {
        for mappings in counts {
            for data_verity in [false, true] {
                for raw in [None, Some(false), Some(true)] {
                    for working_set_bytes in [None, Some(64 << 20)] {
                        all.push(MemoryFacts {
                            memory_bytes,
                            data_bytes_at_most: memory_bytes,
                            data_files: 2,
                            map_leaves: 16,
                            mappings,
                            data_verity,
                            raw_image: raw.map(|verity| RawImageFacts { verity }),
                            working_set_bytes,
                        });
                    }
                }
            }
        }
    }
    all
}

fn targets() -> Vec<TargetFacts> {
    let mut all = Vec::new();
    for kind in TargetKind::ALL {
        for bits in 0..32_u32 {
            let has = |bit: u32| bits >> bit & 1 == 1;
            let kernel = KernelFacts {
                page_bytes: if has(0) { 4096 } else { 65536 },
                missing: has(1),
                missing_memfd: has(1),
                minor_memfd: has(2),
            };
            let target = TargetFacts::new(kind, kernel);
            all.push(target.huge_pages(has(3)).shared(has(4)).threads(2));
        }
    }
    all
}

fn wishes() -> Vec<Wanted> {
    let methods = [None].into_iter().chain(MethodKind::ALL.map(Some));
    let pairs = methods.flat_map(|method| {
        NONE.map(|verification| Wanted {
            verification,
            method,
        })
    });
    pairs.collect()
}

/// Gives every plan, or refusal, of a great many cases to `look`.
fn all_cases(
    mut look: impl FnMut(&MemoryFacts, &TargetFacts, Wanted, Result<RestorePlan, NoPlan>),
) {
    let costs = RestoreCosts::default();
    for memory in memories() {
        for target in targets() {
            for wanted in wishes() {
                let plan = RestorePlan::choose(&memory, &target, wanted, &costs);
                look(&memory, &target, wanted, plan);
            }
        }
    }
}

// spec: RPL-01
#[test]
fn a_policy_is_kept_or_exceeded_and_a_lax_one_never_implied() {
    all_cases(|_, _, wanted, plan| {
        let Ok(plan) = plan else { return };
        assert!(plan.verification.satisfies(wanted.least()), "{plan:?}");
        if !plan.verification.is_strict() {
            assert!(wanted.verification.is_some_and(|named| !named.is_strict()));
        }
        if plan.checked_by == CheckedBy::Nobody {
            assert_eq!(plan.verification, Verification::Trusted);
            assert_eq!(wanted.verification, Some(Verification::Trusted));
        }
        assert_eq!(
            plan.checked_by == CheckedBy::Nobody,
            plan.verification == Verification::Trusted
        );
    });
}

// spec: RPL-02
#[test]
fn every_way_that_was_not_chosen_is_told_with_its_reason() {
    all_cases(|_, _, wanted, plan| match plan {
        Ok(plan) => {
            assert_eq!(plan.refused.len(), Way::ALL.len() - 1, "{plan:?}");
            assert_eq!(plan.wanted, wanted);
        }
        Err(error) => assert_eq!(error.refused.len(), Way::ALL.len()),
    });
}

// spec: RPL-16
#[test]
fn what_must_be_zero_after_it_was_given_back_is_not_mapped() {
    let costs = RestoreCosts::default();
    for memory in memories() {
        for target in targets() {
            for wanted in wishes() {
                let choose = |discards| {
                    let target = target.discards(discards);
                    RestorePlan::choose(&memory, &target, wanted, &costs)
                };
                let is_mapped = wanted.method == Some(MethodKind::Mapped);
                match choose(Discards::MustBeZero) {
                    Ok(plan) => {
                        assert_eq!(plan.method.given_back(), GivenBack::Zero, "{plan:?}");
                        assert_eq!(plan.discards, Discards::MustBeZero);
                    }
                    Err(_) => assert!(is_mapped || choose(Discards::None).is_err()),
                }
                // Who accepts old bytes gets the plan of one who gives nothing back.
                let without = choose(Discards::None).map(|plan| RestorePlan {
                    discards: Discards::MayBeOld,
                    ..plan
                });
                assert_eq!(choose(Discards::MayBeOld), without);
            }
        }
    }
}

// spec: RPL-04
#[test]
fn only_a_named_method_that_cannot_be_is_refused() {
    all_cases(|_, _, wanted, plan| match plan {
        Ok(plan) => assert!(
            wanted
                .method
                .is_none_or(|named| named == plan.method.kind())
        ),
        Err(_) => assert!(
            wanted
                .method
                .is_some_and(|named| named != MethodKind::Eager)
        ),
    });
}

// spec: RPL-06
#[test]
fn files_are_mapped_only_where_the_target_gives_way_and_huge_pages_stay() {
    all_cases(|memory, target, wanted, plan| {
        let Ok(plan) = plan else { return };
        if let RestoreMethod::Mapped { from, mappings } = plan.method {
            assert_eq!(target.kind, TargetKind::Anonymous);
            assert_eq!(target.kernel.page_bytes, PAGE_BYTES);
            assert!(mappings <= MAX_MAPPINGS as u64);
            match from {
                MappedFrom::RawImage => assert!(memory.raw_image.is_some()),
                MappedFrom::SealedMemfd => assert!(target.shared),
                MappedFrom::DataFiles => {
                    assert!(matches!(memory.mappings, MappingCount::Counted { .. }));
                }
            }
        }
        if target.huge_pages && wanted.method.is_none() {
            assert_eq!(plan.method.kind(), MethodKind::Eager);
        }
        if plan.method.kind() == MethodKind::Served {
            assert_eq!(plan.verification, Verification::OnFault);
            assert_eq!(target.kernel.page_bytes, PAGE_BYTES);
        }
    });
}

// spec: RPL-03
#[test]
fn a_plan_is_data_that_comes_back_from_its_json() {
    let mut seen = 0_u32;
    all_cases(|_, _, _, plan| {
        let Ok(plan) = plan else { return };
        seen += 1;
        // Every hundredth: they are alike.
        if seen.is_multiple_of(100) {
            let text = serde_json::to_string(&plan).unwrap();
            assert_eq!(serde_json::from_str::<RestorePlan>(&text).unwrap(), plan);
        }
    });
    assert!(seen > 10_000);
}

// spec: RPL-05
#[test]
fn a_served_start_does_not_depend_on_the_size_of_the_memory() {
    let kernel = KernelFacts {
        page_bytes: 4096,
        missing: true,
        missing_memfd: true,
        minor_memfd: true,
    };
    let target = TargetFacts::new(TargetKind::Anonymous, kernel);
    let plan = |memory_bytes| {
        let memory = MemoryFacts {
            memory_bytes,
            data_bytes_at_most: memory_bytes,
            ..memories()[0].clone()
        };
        let costs = RestoreCosts::default();
        RestorePlan::choose(&memory, &target, Wanted::default(), &costs).unwrap()
    };
    let (small, large) = (plan(1 << 30), plan(1 << 40));
    assert_eq!(small.method.kind(), MethodKind::Served);
    assert_eq!(small.method, large.method);
    assert_eq!(small.estimate.start_ns, large.estimate.start_ns);
}
