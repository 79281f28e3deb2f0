use std::sync::Arc;

use proptest::prelude::*;
use snapshot_format::PageRange;

use super::*;
use crate::backend::MemBackend;
use crate::capture::rig::{Chain, fill, layout, mapped};
use crate::capture::{CaptureOptions, LayoutChoice};
use crate::dirty::DirtyBitmap;

const NAMES: [&str; 7] = ["ext4", "xfs", "btrfs", "tmpfs", "memory", "nfs", "0x1234"];

fn model(name: &str) -> CostModel {
    CostModel::of(&FileSystem {
        name: name.to_owned(),
        is_network: false,
        is_read_only: false,
    })
}

fn shape(total_pages: u64, dirty_pages: u64, dirty_runs: u64) -> DirtyShape {
    DirtyShape {
        total_pages,
        dirty_pages,
        dirty_runs,
        stability: Stability::Paused,
        dedup: false,
    }
}

fn shapes() -> impl Strategy<Value = DirtyShape> {
    let total = prop_oneof![1..100_000u64, (1u64 << 14)..1 << 40];
    let shape = (
        total,
        0..=1000u64,
        0..=1000u64,
        any::<bool>(),
        any::<bool>(),
    );
    shape.prop_map(|(total, dirty, runs, paused, dedup)| {
        let share = |of: u64, part: u64| u64::try_from(u128::from(of) * u128::from(part) / 1000);
        let dirty = share(total, dirty).unwrap();
        DirtyShape {
            dirty_runs: share(dirty, runs).unwrap().max(u64::from(dirty > 0)),
            stability: [Stability::Running, Stability::Paused][usize::from(paused)],
            dedup,
            ..shape_of(total, dirty)
        }
    })
}

fn shape_of(total_pages: u64, dirty_pages: u64) -> DirtyShape {
    shape(total_pages, dirty_pages, dirty_pages)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2048))]

    // spec: CST-02
    #[test]
    fn sparse_is_chosen_where_extents_take_at_most_a_twentieth(
        shape in shapes(),
        name in prop::sample::select(&NAMES[..]),
    ) {
        let model = model(name);
        let chosen = choose(&model, &shape);
        let extents = u128::from(shape.dirty_runs) * u128::from(model.extent_ns);
        let bytes = u128::from(shape.dirty_pages) * u128::from(model.page_ns());
        let sparse = chosen.full || shape.dirty_pages > 0 && extents * 20 <= bytes;
        prop_assert_eq!(chosen.data_layout == DataLayout::Sparse, sparse);
    }

    // spec: CST-03
    #[test]
    fn more_runs_never_make_it_sparse_and_longer_ones_never_packed(
        shape in shapes(),
        more in 1..1000u64,
        name in prop::sample::select(&NAMES[..]),
    ) {
        let model = model(name);
        let before = choose(&model, &shape);
        let runs = DirtyShape { dirty_runs: shape.dirty_runs + more, ..shape };
        let more_runs = choose(&model, &runs);
        prop_assert!(before.data_layout == DataLayout::Sparse
            || more_runs.data_layout == DataLayout::Packed);
        let dirty_pages = (shape.dirty_pages + more).min(shape.total_pages);
        let more_pages = choose(&model, &DirtyShape { dirty_pages, ..shape });
        prop_assert!(before.data_layout == DataLayout::Packed
            || more_pages.data_layout == DataLayout::Sparse);
        prop_assert!(!before.full || more_runs.full && more_pages.full);
    }

    // spec: CST-04
    #[test]
    fn a_full_snapshot_takes_the_place_of_a_diff_of_nearly_all_pages(
        shape in shapes(),
        name in prop::sample::select(&NAMES[..]),
    ) {
        let chosen = choose(&model(name), &shape);
        let clean = shape.total_pages - shape.dirty_pages;
        let large = shape.total_pages >= 16_384;
        let still = shape.stability == Stability::Paused && !shape.dedup;
        prop_assert_eq!(chosen.full, large && still && clean * 16 <= shape.total_pages);
    }

    // spec: CST-07
    #[test]
    fn a_gap_is_filled_only_where_that_is_true_and_cheaper(
        shape in shapes(),
        name in prop::sample::select(&NAMES[..]),
    ) {
        let model = model(name);
        let gap = model.gap_pages(&shape);
        prop_assert!(gap <= 8 && 2 * gap * model.page_ns() <= model.extent_ns);
        let longer = 2 * (gap + 1) * model.page_ns();
        prop_assert!(gap == 0 || gap == 8 || longer > model.extent_ns);
        let may = shape.stability == Stability::Paused && !shape.dedup;
        prop_assert!(gap == 0 || may && shape.total_pages >= 16_384);
    }
}

// spec: CST-01
#[test]
fn the_figures_are_those_of_the_table() {
    assert_eq!(model("nfs"), model("ext4"));
    assert_eq!(model("0x1234"), model("ext4"));
    assert_eq!(model("memory"), model("tmpfs"));
    assert_eq!(CostModel::default(), model("ext4"));
    let spec = include_str!("../../../../../specs/10-capture-choices.md");
    for (start, name) in [
        ("| ext4, and all others |", "ext4"),
        ("| xfs |", "xfs"),
        ("| btrfs |", "btrfs"),
        ("| tmpfs |", "tmpfs"),
    ] {
        let row = spec.lines().find_map(|line| line.strip_prefix(start));
        let model = model(name);
        let gap = model.gap_pages(&shape(262_144, 1, 1));
        let sparse = |pages: &u64| model.is_sparse_cheap(&shape(262_144, *pages, 1));
        let mean_run = (1..=4096).find(sparse).unwrap();
        let said: Vec<String> = row
            .unwrap()
            .split('|')
            .map(str::trim)
            .map(str::to_owned)
            .collect();
        let found = [
            thousands(model.extent_ns),
            thousands(model.bytes_per_us),
            thousands(model.page_ns()),
            said[3].clone(),
            gap.to_string(),
            format!("{mean_run} pages"),
        ];
        assert_eq!(said[..6], found, "{name}");
    }
}

fn thousands(number: u64) -> String {
    match (number / 1000, number % 1000) {
        (0, rest) => rest.to_string(),
        (thousands, rest) => format!("{thousands},{rest:03}"),
    }
}

// spec: CST-05
#[test]
fn scattered_pages_are_packed_and_huge_pages_stay_mappable() {
    for name in NAMES {
        let layout = |dirty, runs| choose(&model(name), &shape(262_144, dirty, runs)).data_layout;
        let scattered = match name {
            "tmpfs" | "memory" => DataLayout::Sparse,
            _ => DataLayout::Packed,
        };
        assert_eq!(layout(2_621 * 3, 2_600), scattered, "{name}");
        assert_eq!(layout(131_072, 65_536), DataLayout::Packed, "{name}");
        assert_eq!(layout(20 * 512, 20), DataLayout::Sparse, "{name}");
        assert_eq!(layout(0, 0), DataLayout::Packed, "{name}");
    }
}

// spec: CST-06
#[test]
fn a_layout_that_is_named_is_used_for_a_diff_of_everything() {
    let memory = mapped(&layout(&[(0, SMALL_GUEST_PAGES)]));
    fill(&memory, PageRange::new(5, 9), 7);
    let mut chain = Chain::new(Arc::new(MemBackend::new()));
    chain.take(&memory, None, Stability::Paused).unwrap();
    let dirty = DirtyBitmap::all_set(SMALL_GUEST_PAGES);
    let named = [
        (LayoutChoice::Sparse, DataLayout::Sparse),
        (LayoutChoice::Packed, DataLayout::Packed),
    ];
    for (depth, (choice, layout)) in (2..).zip(named) {
        chain.options = CaptureOptions::default().layout(choice);
        let written = chain.take(&memory, Some(&dirty), Stability::Paused);
        let written = written.unwrap();
        assert_eq!(written.stats.layout, Some(layout));
        assert_eq!(written.dependencies.len(), depth);
    }
}
