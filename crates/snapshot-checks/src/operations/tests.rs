use std::collections::BTreeSet;
use std::sync::Arc;

use super::found::Allowed;
use super::life::{Failed, shrink};
use super::plan::{OPERATIONS, Plan};
use super::take;
use super::world::World;
use crate::random::Random;

/// A store with one snapshot.
fn world() -> World {
    let mut world = World::new().unwrap();
    let plan = take::full(&world.model, &mut Random::new(1)).unwrap();
    world.perform_undisturbed(plan).unwrap();
    world
}

#[test]
fn every_operation_has_a_name_of_its_own() {
    let names: BTreeSet<_> = OPERATIONS.iter().map(|one| one.name).collect();
    assert_eq!(names.len(), OPERATIONS.len());
}

#[test]
fn one_byte_that_differs_from_the_model_is_seen() {
    let mut world = world();
    let nothing = Plan::new("nothing", world.model.clone(), |_| Ok(()));
    world.settle(&nothing, Allowed::After).unwrap();
    let wrong = world.model.with(0, |kept| {
        Arc::make_mut(&mut kept.image)[70_000] ^= 1;
    });
    let nothing = Plan::new("nothing", wrong, |_| Ok(()));
    let problem = world.settle(&nothing, Allowed::After).unwrap_err();
    assert!(problem.contains("memory is not"), "{problem}");
}

#[test]
fn what_is_listed_and_should_not_be_is_seen_and_what_is_missing() {
    let mut world = world();
    let mut fewer = world.model.clone();
    fewer.snapshots.clear();
    let nothing = Plan::new("nothing", fewer, |_| Ok(()));
    let problem = world.settle(&nothing, Allowed::After).unwrap_err();
    assert!(problem.contains("should not be there"), "{problem}");
    let mut more = world.model.clone();
    more.snapshots.insert(9, more.snapshots[&0].clone());
    let nothing = Plan::new("nothing", more, |_| Ok(()));
    let problem = world.settle(&nothing, Allowed::After).unwrap_err();
    assert!(problem.contains("it is gone"), "{problem}");
}

#[test]
fn half_of_an_atomic_operation_is_seen() {
    let mut world = world();
    let two = take::full(&world.model, &mut Random::new(2)).unwrap();
    world.perform_undisturbed(two).unwrap();
    // One of two changes that belong together is made.
    let mut both = world.model.clone();
    both.snapshots.get_mut(&0).unwrap().is_live = false;
    both.snapshots.get_mut(&1).unwrap().is_live = false;
    let id = world.ids[&0];
    let plan = world.store.plan_delete(id).unwrap();
    world.store.delete(&plan).unwrap();
    let nothing = Plan::new("nothing", both.clone(), |_| Ok(()));
    let problem = world.settle(&nothing, Allowed::Either).unwrap_err();
    assert!(problem.contains("a part of the operation"), "{problem}");
    let pieces = Plan {
        is_atomic: false,
        ..Plan::new("nothing", both, |_| Ok(()))
    };
    world.settle(&pieces, Allowed::Either).unwrap();
    assert_eq!(world.model.live().count(), 1);
}

#[test]
fn a_list_of_steps_that_fails_is_told_in_its_shortest_form() {
    let mut tries = 0;
    let mut replay = |steps: &[u32]| {
        tries += 1;
        let mut seen = BTreeSet::new();
        let end = steps.iter().position(|step| {
            seen.insert(*step);
            seen.contains(&40) && seen.contains(&97)
        });
        end.map(|end| Failed {
            problem: "both".to_owned(),
            story: steps[..=end].iter().map(u32::to_string).collect(),
        })
    };
    let failed = shrink((0..200).collect(), &mut replay).unwrap();
    assert_eq!(failed.story, ["40", "97"]);
    assert!(shrink(vec![40, 41], &mut replay).is_none());
    assert!(tries < 400, "{tries} tries");
}
