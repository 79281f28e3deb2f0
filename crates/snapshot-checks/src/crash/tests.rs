use std::num::NonZeroUsize;
use std::sync::Arc;

use snapshot_format::DataLayout;
use snapshot_memory::backend::{FaultBackend, MemBackend};
use snapshot_memory::{CaptureControl, Engine, EngineChoice, LayoutChoice, STAGE_PREFIX};
use snapshot_store::Store;

use super::scenario::Scenario;
use super::*;
use crate::Way;

// spec: STO-26
#[test]
fn a_part_of_all_crash_points_holds_the_old_set_or_the_new_one() {
    let report = enumerate(Effort::Reduced).unwrap();
    assert_eq!(report.violations, 0, "{:#?}", report.examples);
    assert!(report.points >= 300, "{} points", report.points);
    assert!(report.sites.len() >= 20, "{:#?}", report.sites);
}

// spec: VGC-16, VGC-20, VCM-10
#[test]
fn a_part_of_all_crash_points_of_a_vault_holds_what_was_told_as_done() {
    let report = cold::enumerate(Effort::Reduced).unwrap();
    assert_eq!(report.violations, 0, "{:#?}", report.examples);
    assert!(report.points >= 300, "{} points", report.points);
}

#[test]
fn every_way_makes_the_same_calls_with_one_thread_and_with_two() {
    for scenario in scenario::all().unwrap() {
        if !matches!(scenario.operation, scenario::Operation::Take(_)) {
            continue;
        }
        let [one, two] = [1, 2].map(|threads| {
            let backend = FaultBackend::new(&scenario.tree);
            let threads = NonZeroUsize::new(threads).unwrap();
            let options = scenario.options.clone().threads(threads);
            let Scenario {
                operation, before, ..
            } = &scenario;
            let run = scenario::run(*operation, Arc::new(backend.clone()), before, &options);
            run.unwrap().result.unwrap();
            let calls = backend.calls().into_iter();
            let calls = calls.map(|call| (call.operation, without_ids(&call.path)));
            calls.collect::<Vec<_>>()
        });
        assert_eq!(one, two, "{}", scenario.name);
    }
}

#[test]
fn images_are_built_both_ways() {
    for scenario in scenario::all().unwrap() {
        let scenario::Operation::Warm(name, blocks) = scenario.operation else {
            continue;
        };
        let backend = Arc::new(scenario.tree.snapshot());
        let store = Store::open(backend, &scenario::opening()).unwrap();
        let id = store.resolve(&name.parse().unwrap()).unwrap();
        let report = store.warm(id, &CaptureControl::default()).unwrap();
        let found = (
            report.built,
            report.shared_bytes > 0,
            report.copied_bytes > 0,
        );
        let expected = match (scenario.before.snapshots[name].is_warm, blocks) {
            (true, _) => (false, false, false),
            (false, scenario::Blocks::Shared) => (true, true, false),
            (false, scenario::Blocks::Copied) => (true, false, true),
        };
        assert_eq!(found, expected, "{}", scenario.name);
    }
}

/// A path without the identities in it: hyphenated UUIDs.
fn without_ids(path: &str) -> String {
    let parts = path.split(['/', ' ']).map(|part| {
        let is_id = |name: &str| name.len() == 36 && name.matches('-').count() == 4;
        let name = part.strip_prefix(STAGE_PREFIX).unwrap_or(part);
        if is_id(name) { "ID" } else { part }
    });
    parts.collect::<Vec<_>>().join("/")
}

#[test]
fn every_way_writes_as_it_says() {
    let title = attempt::Title {
        vm: "web",
        name: "base",
        parent: None,
    };
    for way in Way::ALL {
        let backend = Arc::new(MemBackend::new());
        let store = Store::create(backend, &scenario::opening()).unwrap();
        let options = way.options(NonZeroUsize::MIN);
        let attempt = attempt::Attempt::new(title, None, options).unwrap();
        attempt.run(5);
        let stats = attempt.take(&store).unwrap();
        assert!(stats.present > 0, "{way}: {stats:?}");
        let layout = match way.layout {
            LayoutChoice::Sparse => Some(DataLayout::Sparse),
            LayoutChoice::Packed => Some(DataLayout::Packed),
            _ => stats.layout,
        };
        assert!(
            layout.is_some() && stats.layout == layout,
            "{way}: {stats:?}"
        );
        let engine = match way.engine {
            EngineChoice::Vectored => Engine::Vectored,
            EngineChoice::Buffered => Engine::Buffered,
            // In memory nothing is refused, and nothing says what a file would take.
            _ => stats.engine,
        };
        assert_eq!(stats.engine, engine, "{way}: {stats:?}");
    }
}
