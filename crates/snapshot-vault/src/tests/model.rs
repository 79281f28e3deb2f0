//! Random operations against a map of images.

use std::collections::BTreeMap;

use proptest::prelude::*;

use crate::testing::{Guest, archive, domain, restored};
use crate::{CollectOptions, MemoryObjects, ObjectId, Step};

const PAGES: usize = 64;

/// What is done next. Numbers are taken modulo what there is.
#[derive(Clone, Debug)]
enum Act {
    /// Pages change; 0 makes a page zero.
    Write(Vec<(usize, u64)>),
    /// The guest is archived, relative to the archive that it was taken from last if there is one.
    Archive,
    Delete(usize),
    Undelete(usize),
    Collect {
        copy_below_percent: u8,
        expire_trash: bool,
    },
    /// The next act dies at this put or delete.
    Die(usize),
}

/// What there must be.
#[derive(Debug, Default)]
struct Model {
    live: BTreeMap<ObjectId, Vec<u8>>,
    trash: BTreeMap<ObjectId, Vec<u8>>,
    /// The last archive of the guest, and the pages that changed since.
    near: Option<ObjectId>,
    changed: Vec<usize>,
    number: u8,
}

fn act() -> impl Strategy<Value = Act> {
    let page = (0..PAGES, 0..9_u64);
    prop_oneof![
        3 => prop::collection::vec(page, 1..12).prop_map(Act::Write),
        4 => Just(Act::Archive),
        2 => any::<usize>().prop_map(Act::Delete),
        1 => any::<usize>().prop_map(Act::Undelete),
        2 => (0..=100_u8, any::<bool>()).prop_map(|(copy_below_percent, expire_trash)| {
            Act::Collect { copy_below_percent, expire_trash }
        }),
        1 => (1..12_usize).prop_map(Act::Die),
    ]
}

fn pick<T>(map: &BTreeMap<ObjectId, T>, number: usize) -> Option<ObjectId> {
    let keys: Vec<_> = map.keys().copied().collect();
    keys.get(number % keys.len().max(1)).copied()
}

impl Model {
    /// Does one act; what it does to the model where it succeeds.
    fn step(&mut self, objects: &MemoryObjects, guest: &Guest, act: &Act) {
        let domain = domain(objects);
        match act {
            Act::Write(pages) => {
                for (page, seed) in pages {
                    guest.write(*page, *seed);
                    self.changed.push(*page);
                }
            }
            Act::Archive => {
                self.number = self.number.wrapping_add(1);
                let near = self.near.map(|near| (near, self.changed.as_slice()));
                if let Ok(archived) = archive(&domain, self.number, guest, near) {
                    self.live.insert(archived.id, guest.image());
                    self.near = Some(archived.id);
                    self.changed.clear();
                }
            }
            Act::Delete(number) => {
                if let Some(id) = pick(&self.live, *number)
                    && domain.delete_archive(id).is_ok()
                    && let Some(image) = self.live.remove(&id)
                {
                    self.trash.insert(id, image);
                }
            }
            Act::Undelete(number) => {
                if let Some(id) = pick(&self.trash, *number)
                    && let Ok(back) = domain.undelete_archive(id)
                    && let Some(image) = self.trash.get(&id)
                {
                    self.live.insert(back, image.clone());
                }
            }
            Act::Collect {
                copy_below_percent,
                expire_trash,
            } => {
                let options = CollectOptions {
                    copy_below_percent: *copy_below_percent,
                    expire_trash: *expire_trash,
                    ..CollectOptions::default()
                };
                drop(domain.collect(&options));
                if *expire_trash {
                    // Some of it may be left by one that died: it is as good as gone.
                    self.near = self.near.filter(|near| !self.trash.contains_key(near));
                    self.trash.clear();
                }
            }
            Act::Die(_) => {}
        }
    }

    /// Takes up what one who died has done although it was not told.
    fn recover(&mut self, objects: &MemoryObjects) {
        let list = domain(objects).archives().unwrap();
        let deleted = list.archives.iter().filter(|found| found.is_deleted);
        for found in deleted {
            if let Some(image) = self.live.remove(&found.id) {
                self.trash.insert(found.id, image);
            }
        }
        // An archive that was not told as one: the guest is archived without it.
        self.near = self.near.filter(|near| self.live.contains_key(near));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn every_archive_restores_to_its_bytes_after_whatever_is_done(
        acts in prop::collection::vec(act(), 1..40),
    ) {
        let mut objects = MemoryObjects::new();
        let guest = Guest::new(PAGES, 1);
        let mut model = Model::default();
        let mut dies_at = None;
        for act in &acts {
            if let Act::Die(number) = act {
                dies_at = Some(*number);
                continue;
            }
            if let Some(number) = dies_at.take() {
                objects.plan(objects.change_count() + number, Step::Dies);
                model.step(&objects, &guest, act);
                // Its process is gone; the objects are what they are.
                objects = objects.copy();
                model.recover(&objects);
            } else {
                model.step(&objects, &guest, act);
            }
            for (id, image) in &model.live {
                let found = restored(&domain(&objects), *id);
                prop_assert!(found.is_ok_and(|found| found == *image), "{id} after {act:?}");
            }
        }
        let report = domain(&objects).verify(1).unwrap();
        prop_assert!(report.is_ok(), "{report:?}");
    }
}
