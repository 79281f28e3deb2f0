use std::error::Error;
use std::sync::Arc;

use super::*;
use crate::objects::{ObjectKind, ObjectName};
use crate::testing::{Before, Guest, archive, domain, domain_on, restored};
use crate::{Domain, MemoryObjects, ObjectId, Objects, Step, VaultError};

/// Everything goes that can: trash, packs that are half needed.
fn all() -> CollectOptions {
    CollectOptions {
        copy_below_percent: 100,
        expire_trash: true,
        ..CollectOptions::default()
    }
}

/// What a store holds, and what of it must stay.
struct Scene {
    objects: MemoryObjects,
    guest: Arc<Guest>,
    /// Archives that must restore to these bytes whatever happens.
    live: Vec<(ObjectId, Vec<u8>)>,
}

/// An archive that stays, a delta of it that stays, and one in the trash, whose chunks nobody else
/// has, in a pack with a leaf.
fn scene() -> Scene {
    let objects = MemoryObjects::new();
    let domain = domain(&objects);
    let guest = Guest::new(96, 1);
    let first = archive(&domain, 1, &guest, None).unwrap();
    let mut live = vec![(first.id, guest.image())];
    guest.write(3, 50);
    let second = archive(&domain, 2, &guest, Some((first.id, &[3]))).unwrap();
    assert_eq!(second.deltas, 1);
    live.push((second.id, guest.image()));
    (16..48).for_each(|page| guest.write(page, 500 + page as u64));
    let third = archive(&domain, 3, &guest, None).unwrap();
    domain.delete_archive(third.id).unwrap();
    Scene {
        objects,
        guest: Arc::new(guest),
        live,
    }
}

fn check(domain: &Domain, live: &[(ObjectId, Vec<u8>)], what: &str) {
    for (id, image) in live {
        match restored(domain, *id) {
            Ok(found) => assert!(found == *image, "{what}: archive {id} is another one"),
            Err(error) => panic!(
                "{what}: archive {id} is lost: {error}, {:?}",
                error.source()
            ),
        }
    }
}

/// How many puts and deletes `work` makes in the scene.
fn changes(work: impl Fn(&Domain)) -> usize {
    let scene = scene();
    let before = scene.objects.change_count();
    work(&domain(&scene.objects));
    scene.objects.change_count() - before
}

fn collect(domain: &Domain) {
    domain.collect(&all()).unwrap();
}

#[test]
fn what_no_archive_needs_goes_and_what_one_needs_stays() {
    let scene = scene();
    let domain = domain(&scene.objects);
    let packs = domain.list(ObjectKind::Pack).unwrap().len();
    let plan = domain.plan_collection(&CollectOptions::default()).unwrap();
    // The trash is needed until it is expired.
    assert!(plan.condemned.is_empty(), "{plan:?}");
    let dead = CollectOptions {
        expire_trash: true,
        copy_below_percent: 0,
        ..CollectOptions::default()
    };
    let collected = domain.collect(&dead).unwrap();
    assert_eq!((collected.expired, collected.deleted_packs), (1, 1));
    assert_eq!(collected.copied_chunks, 0);
    assert_eq!(domain.list(ObjectKind::Pack).unwrap().len(), packs - 1);
    check(&domain, &scene.live, "after the collection");
    // The first archive goes; its full chunk is the base of the second's delta.
    domain.delete_archive(scene.live[0].0).unwrap();
    let collected = domain.collect(&all()).unwrap();
    assert!(collected.copied_chunks > 0, "{collected:?}");
    check(&domain, &scene.live[1..], "after its base lost its archive");
    assert_eq!(domain.list(ObjectKind::Tombstone).unwrap(), []);
    // Nothing is left to do.
    let again = domain.collect(&CollectOptions::default()).unwrap();
    assert_eq!((again.deleted_packs, again.copied_chunks), (0, 0));
}

// spec: VGC-12, VGC-13
#[test]
fn a_collection_that_dies_at_any_call_is_ended_by_the_next() {
    let count = changes(collect);
    for number in 1..=count {
        for step in [Step::Dies, Step::Fails, Step::FailsDone] {
            let scene = scene();
            scene
                .objects
                .plan(scene.objects.change_count() + number, step);
            let died = domain(&scene.objects).collect(&all());
            assert!(died.is_ok() || step == Step::Dies, "{died:?}");
            let objects = scene.objects.copy();
            let what = format!("call {number}, {step:?}");
            check(&domain(&objects), &scene.live, &what);
            collect(&domain(&objects));
            check(&domain(&objects), &scene.live, &what);
            assert_eq!(
                domain(&objects).list(ObjectKind::Tombstone).unwrap(),
                [],
                "{what}"
            );
            collect(&domain(&objects));
            check(&domain(&objects), &scene.live, &what);
        }
    }
}

// spec: VGC-02, VGC-03
#[test]
fn a_writer_that_is_frozen_at_any_call_while_others_collect_has_an_archive() {
    let write = |domain: &Domain, guest: &Guest| archive(domain, 9, guest, None).unwrap().id;
    let guest = Arc::clone(&scene().guest);
    // More calls than the writer makes alone: it stores again what is collected.
    for number in 1..=changes(move |domain| _ = write(domain, &guest)) + 3 {
        for rounds in 1..=2 {
            let scene = scene();
            let act = move |objects: &MemoryObjects| {
                (0..rounds).for_each(|_| collect(&domain(objects)));
            };
            let frozen = Before::new(&scene.objects, number, act);
            // It takes chunks of the archive in the trash, which is expired meanwhile.
            let id = write(&domain_on(Arc::new(frozen)), &scene.guest);
            let mut live = scene.live.clone();
            live.push((id, scene.guest.image()));
            let what = format!("frozen before call {number}, {rounds} collections");
            check(&domain(&scene.objects), &live, &what);
            collect(&domain(&scene.objects));
            check(&domain(&scene.objects), &live, &what);
        }
    }
}

// spec: VGC-11
#[test]
fn a_collection_that_is_frozen_at_any_call_while_others_write_loses_nothing_of_them() {
    for number in 1..=changes(collect) {
        let scene = scene();
        let written = Arc::new(std::sync::Mutex::new(None));
        let (guest, told) = (Arc::clone(&scene.guest), Arc::clone(&written));
        let act = move |objects: &MemoryObjects| {
            let archived = archive(&domain(objects), 9, &guest, None).unwrap();
            *told.lock().unwrap() = Some(archived.id);
        };
        let frozen = Before::new(&scene.objects, number, act);
        collect(&domain_on(Arc::new(frozen)));
        let mut live = scene.live.clone();
        let id = written.lock().unwrap().unwrap();
        live.push((id, scene.guest.image()));
        let what = format!("frozen before call {number}");
        check(&domain(&scene.objects), &live, &what);
        collect(&domain(&scene.objects));
        check(&domain(&scene.objects), &live, &what);
    }
}

// spec: VGC-14
#[test]
fn two_collections_of_which_one_is_frozen_at_any_call_never_rely_on_what_the_other_deletes() {
    // Chunks lie in two packs each: both collections could hold the other's copy for the one to keep.
    let twice = |scene: &Scene| {
        let names = scene.objects.names();
        let own = domain(&scene.objects);
        let packs = ObjectName::folder(ObjectKind::Pack, own.id());
        let hidden: Vec<_> = names
            .iter()
            .filter(|name| name.as_str().starts_with(packs.as_str()))
            .map(|name| (name.clone(), scene.objects.bytes(name).unwrap()))
            .collect();
        for (name, _) in &hidden {
            scene.objects.delete(name).unwrap();
        }
        archive(&own, 4, &scene.guest, None).unwrap();
        for (name, bytes) in hidden {
            scene.objects.put(&name, &bytes).unwrap();
        }
    };
    for number in 1..=changes(collect) + 4 {
        let scene = scene();
        twice(&scene);
        let act = |objects: &MemoryObjects| {
            collect(&domain(objects));
            collect(&domain(objects));
        };
        let frozen = Before::new(&scene.objects, number, act);
        // The frozen one may find that what it condemned is gone, and nothing worse.
        drop(domain_on(Arc::new(frozen)).collect(&all()));
        let what = format!("frozen before call {number}");
        check(&domain(&scene.objects), &scene.live, &what);
        collect(&domain(&scene.objects));
        check(&domain(&scene.objects), &scene.live, &what);
    }
}

// spec: VGC-15
#[test]
fn what_cannot_be_read_ends_a_collection_before_it_deletes_anything() {
    for kind in [ObjectKind::Recipe, ObjectKind::Pack, ObjectKind::Tombstone] {
        let scene = scene();
        let domain = domain(&scene.objects);
        if kind == ObjectKind::Tombstone {
            let packs = std::collections::BTreeSet::new();
            let body = crate::tombstone::encode(&packs);
            domain.put(kind, ObjectId([7; 16]), &body).unwrap();
        }
        let (id, _) = domain.list(kind).unwrap()[0];
        let name = domain.name(kind, id);
        let mut bytes = scene.objects.bytes(&name).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        scene.objects.tamper(&name, bytes);
        let names = scene.objects.names();
        let kept = CollectOptions {
            expire_trash: false,
            ..all()
        };
        let refused = domain.collect(&kept);
        assert!(
            matches!(refused, Err(VaultError::Damaged { .. })),
            "{kind:?}: {refused:?}"
        );
        assert_eq!(scene.objects.names(), names, "{kind:?}");
    }
}

// spec: VGC-07
#[test]
fn an_archive_in_the_trash_comes_back_until_it_is_expired() {
    let scene = scene();
    let domain = domain(&scene.objects);
    let id = scene.live[0].0;
    domain.delete_archive(id).unwrap();
    let back = domain.undelete_archive(id).unwrap();
    assert_ne!(back, id);
    collect(&domain);
    check(&domain, &[(back, scene.live[0].1.clone())], "undeleted");
    let late = domain.undelete_archive(id);
    assert!(matches!(late, Err(VaultError::NotFound { .. })), "{late:?}");
}

// spec: VGC-08
#[test]
fn expiring_leaves_no_archive_whatever_call_it_dies_at() {
    for number in 1..=3 {
        let scene = scene();
        scene
            .objects
            .plan(scene.objects.change_count() + number, Step::Dies);
        drop(domain(&scene.objects).collect(&all()));
        let objects = scene.objects.copy();
        let list = domain(&objects).archives().unwrap();
        let counted = list.archives.iter().filter(|archive| !archive.is_deleted);
        assert_eq!(counted.count(), 2, "call {number}");
        collect(&domain(&objects));
        assert_eq!(domain(&objects).list(ObjectKind::Trash).unwrap(), []);
        assert_eq!(domain(&objects).list(ObjectKind::Commit).unwrap().len(), 2);
    }
}

// spec: VGC-10
#[test]
fn a_withdrawal_stays_when_its_recipe_is_gone() {
    let scene = scene();
    let domain = domain(&scene.objects);
    let recipe = domain.recipe(scene.live[0].0).unwrap();
    let id = ObjectId([8; 16]);
    domain
        .put(ObjectKind::Recipe, id, &recipe.encode())
        .unwrap();
    let withdraw = CollectOptions {
        withdraw_unfinished: true,
        ..all()
    };
    assert_eq!(domain.collect(&withdraw).unwrap().withdrawn, 1);
    domain.collect(&withdraw).unwrap();
    assert!(domain.exists(ObjectKind::Withdrawal, id).unwrap());
    assert!(!domain.exists(ObjectKind::Recipe, id).unwrap());
}

// spec: VGC-18
#[test]
fn a_recipe_of_a_dead_writer_of_which_chunks_are_lost_holds_up_no_collection() {
    let scene = scene();
    let own = domain(&scene.objects);
    // A writer that died before it looked whether its packs are still there: a leaf is lost in
    // one case, a chunk of a file in the other.
    let recipe = own.recipe(scene.live[0].0).unwrap();
    let lost = crate::ChunkId([0xAB; 32]);
    let mut without_leaf = recipe.clone();
    without_leaf.leaves[0].1 = lost;
    let mut without_piece = recipe;
    without_piece.files[0].chunks[0] = lost;
    for (number, recipe) in (1..).zip([without_leaf, without_piece]) {
        own.put(ObjectKind::Recipe, ObjectId([number; 16]), &recipe.encode())
            .unwrap();
    }
    assert!(own.verify(0).unwrap().is_ok());
    own.collect(&all()).unwrap();
    let list = own.archives().unwrap();
    assert!(list.unfinished.is_empty(), "{list:?}");
    check(&own, &scene.live, "after dead writers");
    // With a commit it is an archive that is damaged, and nothing is deleted.
    let mut recipe = own.recipe(scene.live[0].0).unwrap();
    recipe.files[0].chunks[0] = lost;
    let id = ObjectId([9; 16]);
    own.put(ObjectKind::Recipe, id, &recipe.encode()).unwrap();
    own.put(ObjectKind::Commit, id, &[]).unwrap();
    own.delete_archive(scene.live[0].0).unwrap();
    let packs = own.list(ObjectKind::Pack).unwrap();
    let refused = own.collect(&all());
    assert!(
        matches!(refused, Err(VaultError::Lost { .. })),
        "{refused:?}"
    );
    for (pack, _) in packs {
        assert!(own.exists(ObjectKind::Pack, pack).unwrap());
    }
}
