//! Plans for cases that matter, word for word: the files in `tests/plans` are what the planner says.
#![expect(clippy::unwrap_used, reason = "the tests fail by panicking")]

use std::fmt::Write as _;
use std::path::Path;

use snapshot_memory::{
    Discards, KernelFacts, MappingCount, MemoryFacts, MethodKind, RawImageFacts, RestoreCosts,
    RestorePlan, TargetFacts, TargetKind, Verification, Wanted,
};

/// Costs that are round, so that a new measurement changes no file.
const COSTS: RestoreCosts = RestoreCosts {
    map_leaf_ns: 10_000,
    map_run_ns: 5_000,
    map_touch_ns: 500,
    serve_start_ns: 200_000,
    serve_fault_ns: 50_000,
    serve_page_ns: 2_000,
    serve_window_pages: 16,
    replay_page_ns: 2_500,
    check_page_ns: 1_500,
    copy_page_ns: 3_000,
    copy_huge_page_ns: 2_000,
    fill_page_ns: 2_500,
    assumed_working_set_bytes: 64 << 20,
};

fn memory(memory_bytes: u64, mappings: MappingCount) -> MemoryFacts {
    MemoryFacts {
        memory_bytes,
        data_bytes_at_most: memory_bytes,
        data_files: 2,
        map_leaves: memory_bytes.div_ceil(64 << 20),
        mappings,
        data_verity: false,
        raw_image: None,
        working_set_bytes: None,
    }
}

fn target(kind: TargetKind) -> TargetFacts {
    let kernel = KernelFacts {
        page_bytes: 4096,
        missing: true,
        missing_memfd: true,
        minor_memfd: true,
    };
    TargetFacts::new(kind, kernel).threads(2)
}

type Case = (&'static str, MemoryFacts, TargetFacts, Wanted);

fn cases() -> Vec<Case> {
    let gib = 1 << 30;
    let not_counted = || memory(gib, MappingCount::NotCounted);
    let few = || memory(gib, MappingCount::Counted { mappings: 12 });
    let many = || memory(gib, MappingCount::TooMany);
    let anonymous = || target(TargetKind::Anonymous);
    let open = Wanted::default();
    let trusted = open.verification(Verification::Trusted);
    let background = open.verification(Verification::Background);
    let eager = open.verification(Verification::Eager);
    let raw = RawImageFacts { verity: false };
    let mut no_uffd = anonymous();
    no_uffd.kernel = KernelFacts {
        page_bytes: 4096,
        ..KernelFacts::default()
    };
    let mut large_pages = anonymous();
    large_pages.kernel.page_bytes = 65536;
    let verity = MemoryFacts {
        data_verity: true,
        ..few()
    };
    let compressed = memory(gib, MappingCount::Compressed { file: 2 });
    vec![
        ("open", not_counted(), anonymous(), open),
        (
            "open-8g",
            memory(8 * gib, MappingCount::NotCounted),
            anonymous(),
            open,
        ),
        (
            "open-1m",
            memory(1 << 20, MappingCount::NotCounted),
            anonymous(),
            open,
        ),
        (
            "open-working-set",
            not_counted().working_set(48 << 20),
            anonymous(),
            open,
        ),
        ("open-shared", not_counted(), anonymous().shared(true), open),
        ("open-memfd", not_counted(), target(TargetKind::Memfd), open),
        (
            "open-reservation",
            not_counted(),
            target(TargetKind::Reservation),
            open,
        ),
        (
            "open-huge-pages",
            not_counted(),
            anonymous().huge_pages(true),
            open,
        ),
        ("open-no-userfaultfd", not_counted(), no_uffd, open),
        ("open-large-host-pages", not_counted(), large_pages, open),
        ("open-verity", verity, anonymous(), open),
        ("trusted-few-runs", few(), anonymous(), trusted),
        (
            "trusted-gives-back",
            few().raw_image(raw),
            anonymous().shared(true).discards(Discards::MustBeZero),
            trusted,
        ),
        (
            "trusted-gives-back-accepted",
            few(),
            anonymous().discards(Discards::MayBeOld),
            trusted,
        ),
        (
            "mapped-gives-back-refused",
            few(),
            anonymous().discards(Discards::MustBeZero),
            trusted.method(MethodKind::Mapped),
        ),
        ("trusted-many-runs", many(), anonymous(), trusted),
        ("trusted-compressed", compressed, anonymous(), trusted),
        (
            "trusted-many-runs-cached",
            many().raw_image(raw),
            anonymous(),
            trusted,
        ),
        (
            "background-few-runs",
            few(),
            anonymous().shared(true),
            background,
        ),
        (
            "eager-shared",
            not_counted(),
            anonymous().shared(true),
            eager,
        ),
        (
            "eager-mapped",
            few(),
            anonymous(),
            eager.method(MethodKind::Mapped),
        ),
        (
            "mapped-unchecked-refused",
            few(),
            anonymous(),
            open.method(MethodKind::Mapped),
        ),
    ]
}

/// What a case says, in words and as data.
fn told(memory: &MemoryFacts, target: &TargetFacts, wanted: Wanted) -> String {
    let mut text = String::new();
    match RestorePlan::choose(memory, target, wanted, &COSTS) {
        Ok(plan) => {
            writeln!(text, "{plan}").unwrap();
            let data = serde_json::to_string_pretty(&plan).unwrap();
            writeln!(text, "{data}").unwrap();
        }
        Err(error) => writeln!(text, "{error}").unwrap(),
    }
    text
}

// spec: RPL-02
// spec: RPL-03
#[test]
fn plans_are_as_written_down() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/plans");
    let found = Path::new(env!("CARGO_TARGET_TMPDIR")).join("plans");
    std::fs::create_dir_all(&found).unwrap();
    let mut differing = Vec::new();
    let mut names = Vec::new();
    for (name, memory, target, wanted) in cases() {
        let text = told(&memory, &target, wanted);
        let file = format!("{name}.txt");
        if std::fs::read_to_string(folder.join(&file)).is_ok_and(|kept| kept == text) {
            names.push(file);
        } else {
            std::fs::write(found.join(&file), text).unwrap();
            differing.push(name);
        }
    }
    let found = found.display();
    assert!(
        differing.is_empty(),
        "{differing:?} differ; what is planned now is in {found}"
    );
    let kept = std::fs::read_dir(&folder).unwrap();
    let kept = kept.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let orphans: Vec<_> = kept.filter(|name| !names.contains(name)).collect();
    assert!(orphans.is_empty(), "{orphans:?} belong to no case");
}
