//! A bit of a file is flipped: whoever needs the file is told so or gets the right bytes, and
//! nobody else notices.

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use snapshot_format::SnapshotId;
use snapshot_memory::backend::{Backend, EntryKind, RelPath};
use snapshot_store::{ErrorKind, Selection};

use super::found::{self, Allowed, number};
use super::model::Key;
use super::plan::{End, Plan};
use super::world::{World, open};
use crate::random::Random;
use crate::stored_guest::tell;

/// The file that says what a store is.
const STORE_FILE: &str = "store.vms";

/// A file with a flipped bit.
pub(super) struct Damage {
    pub(super) path: RelPath,
    /// What it held, and holds.
    pub(super) bytes: (Vec<u8>, Vec<u8>),
    /// The snapshot that the file is of.
    owner: Option<SnapshotId>,
    /// Snapshots in use that may need the file.
    pub(super) needed_by: BTreeSet<Key>,
}

/// Flips a bit, looks at everything, does the operation, looks again, and flips the bit back.
pub(super) fn perform_beside(
    world: &mut World,
    mut plan: Plan,
    random: &mut Random,
) -> Result<(), String> {
    // Memory is a small part of the files, and most of what can be read wrong.
    let is_of_memory = random.is_one_in(2);
    let may_be = |path: &RelPath| !is_of_memory || holds_memory(path);
    let Some(damage) = Damage::choose(world, random, &may_be)? else {
        return world.perform_undisturbed(plan);
    };
    damage.put(world, &damage.bytes.0, &damage.bytes.1)?;
    let looked = damage.look(world).map_err(|problem| damage.tell(&problem));
    looked?;
    if damage.path.as_str() == STORE_FILE {
        let (damaged, sound) = (&damage.bytes.1, &damage.bytes.0);
        damage.put(world, damaged, sound)?;
        return world.perform_undisturbed(plan);
    }
    let (result, _) = world.perform(&mut plan, None);
    world.release();
    plan.after.held.clear();
    no_wrong_bytes(world, &plan)
        .map_err(|problem| damage.tell(&format!("afterwards: {problem}")))?;
    damage.put(world, &damage.bytes.1, &damage.bytes.0)?;
    let allowed = match &result {
        Ok(()) if plan.is_open => Allowed::Either,
        Ok(()) if plan.end == End::Refused => return Err("it was not refused".to_owned()),
        Ok(()) => Allowed::After,
        Err(error) if error.kind() == ErrorKind::DurabilityUncertain => Allowed::Either,
        Err(_) if plan.is_atomic => Allowed::Before,
        Err(_) => Allowed::Either,
    };
    world
        .settle(&plan, allowed)
        .map_err(|problem| damage.tell(&format!("when it is mended: {problem}")))
}

/// Whether it is a data file of a snapshot.
pub(super) fn holds_memory(path: &RelPath) -> bool {
    let name = path.name();
    name.starts_with("memory.") && name.rsplit('.').next() == Some("img")
}

impl Damage {
    /// A bit of any file that may be, locks excepted.
    pub(super) fn choose(
        world: &World,
        random: &mut Random,
        may_be: &dyn Fn(&RelPath) -> bool,
    ) -> Result<Option<Self>, String> {
        let mut files = files(world)?;
        files.retain(|(_, path)| may_be(path));
        files.sort();
        let Some((_, path)) = random.pick(&files) else {
            return Ok(None);
        };
        let sound = contents(world, path)?;
        let mut damaged = sound.clone();
        let at = usize::try_from(random.below(sound.len() as u64)).unwrap_or(0);
        let Some(byte) = damaged.get_mut(at) else {
            return Ok(None);
        };
        *byte ^= 1 << random.below(8);
        let owner = owner(path);
        let mut needed_by = BTreeSet::new();
        for (key, _) in world.model.live() {
            let id = world.ids.get(&key).copied();
            let id = id.ok_or_else(|| format!("{key} has no identity"))?;
            let detail = world.store.detail(id).map_err(|error| tell(&error))?;
            let mut needs = detail.dependencies.iter().map(|data| data.snapshot);
            if owner.is_some_and(|owner| owner == id || needs.any(|needed| needed == owner)) {
                needed_by.insert(key);
            }
        }
        Ok(Some(Self {
            path: path.clone(),
            bytes: (sound, damaged),
            owner,
            needed_by,
        }))
    }

    /// Puts `new` where the file holds `old`; it may have been moved to the trash or back, replaced
    /// or removed.
    pub(super) fn put(&self, world: &World, old: &[u8], new: &[u8]) -> Result<(), String> {
        let mut places = vec![self.path.clone()];
        let moved = [("snapshots/", "trash"), ("trash/", "snapshots")];
        for (from, to) in moved {
            if let Some(rest) = self.path.as_str().strip_prefix(from) {
                places.push(path(to, rest)?);
            }
        }
        for place in places {
            if contents(world, &place).is_ok_and(|bytes| bytes == old) {
                let put = world.tree.tamper(&place, |bytes| *bytes = new.to_vec());
                put.map_err(|error| format!("change {}: {error}", place.as_str()))?;
            }
        }
        Ok(())
    }

    /// That who needs the file is told so or gets the right bytes, that nobody else notices, and
    /// that a check of everything notices what a reader does.
    fn look(&self, world: &World) -> Result<(), String> {
        let is_of_store = self.path.as_str() == STORE_FILE;
        match open(&world.tree) {
            Ok(_) => {}
            Err(error) if is_of_store && error.kind() == ErrorKind::Corrupt => {}
            Err(error) => return Err(format!("the store does not open: {}", tell(&error))),
        }
        let mut is_told = false;
        for (key, kept) in world.model.live() {
            let id = *world.ids.get(&key).ok_or("no identity")?;
            match found::read(&world.store, id, kept) {
                Ok(Ok(())) => {}
                Ok(Err(problem)) => return Err(format!("{key}: {problem}")),
                Err(error) if !self.needed_by.contains(&key) => {
                    return Err(format!("{key} does not need it: {}", tell(&error)));
                }
                Err(error) if error.kind() != ErrorKind::Corrupt => {
                    let kind = error.kind();
                    return Err(format!("{key} fails with {kind:?}: {}", tell(&error)));
                }
                Err(_) => is_told = true,
            }
        }
        self.others_are_listed(world)?;
        let report = world
            .store
            .verify(Selection::All, &mut |_| ControlFlow::Continue(()))
            .map_err(|error| format!("verify: {}", tell(&error)))?;
        if report.ok && is_told {
            return Err("verify is content with what cannot be read".to_owned());
        }
        Ok(())
    }

    /// One unreadable record hides no other.
    fn others_are_listed(&self, world: &World) -> Result<(), String> {
        let mut listed = BTreeSet::new();
        for listing in [world.store.list(None), world.store.trash()] {
            let listing = listing.map_err(|error| format!("list: {}", tell(&error)))?;
            listed.extend(listing.snapshots.iter().map(|record| record.id));
        }
        for key in world.model.snapshots.keys() {
            let id = *world.ids.get(key).ok_or("no identity")?;
            if self.owner != Some(id) && !listed.contains(&id) {
                return Err(format!("{key} is hidden"));
            }
        }
        Ok(())
    }

    pub(super) fn tell(&self, problem: &str) -> String {
        let pairs = self.bytes.0.iter().zip(&self.bytes.1);
        let at = pairs
            .take_while(|(sound, damaged)| sound == damaged)
            .count();
        let path = self.path.as_str();
        format!("byte {at} of {path} flipped: {problem}")
    }
}

/// That whatever can be read is right.
fn no_wrong_bytes(world: &World, plan: &Plan) -> Result<(), String> {
    let listing = world.store.list(None);
    let listing = listing.map_err(|error| format!("list: {}", tell(&error)))?;
    for record in listing.snapshots {
        let Some(key) = number(&record) else { continue };
        let Some(kept) = plan.after.snapshots.get(&key) else {
            continue;
        };
        if let Ok(Err(problem)) = found::read(&world.store, record.id, kept) {
            return Err(format!("{key}: {problem}"));
        }
    }
    Ok(())
}

/// Every file but locks, with a text that orders them the same way whatever the identities are.
fn files(world: &World) -> Result<Vec<(String, RelPath)>, String> {
    let mut files = Vec::new();
    let mut open = vec![RelPath::root()];
    while let Some(directory) = open.pop() {
        let entries = world.tree.list(&directory);
        for entry in entries.map_err(|error| format!("list: {error}"))? {
            let path = directory.join(&entry.name).map_err(|error| tell(&error))?;
            match entry.kind {
                EntryKind::Directory if path.as_str() == "locks" => {}
                EntryKind::Directory => open.push(path),
                _ => files.push((order(world, &path), path)),
            }
        }
    }
    Ok(files)
}

fn order(world: &World, path: &RelPath) -> String {
    let mut text = path.as_str().to_owned();
    for (key, id) in &world.ids {
        text = text.replace(&id.to_string(), &format!("{key:08}"));
    }
    text
}

/// The snapshot whose directory `path` is in.
fn owner(path: &RelPath) -> Option<SnapshotId> {
    let mut parts = path.as_str().split('/');
    let is_of_one = matches!(parts.next()?, "snapshots" | "trash");
    parts.next()?.parse().ok().filter(|_| is_of_one)
}

fn path(directory: &str, rest: &str) -> Result<RelPath, String> {
    let parts = std::iter::once(directory).chain(rest.split('/'));
    let mut path = RelPath::root();
    for part in parts {
        path = path.join(part).map_err(|error| tell(&error))?;
    }
    Ok(path)
}

pub(super) fn contents(world: &World, path: &RelPath) -> Result<Vec<u8>, String> {
    let read = || {
        let file = world.tree.open(path)?;
        let mut bytes = vec![0; usize::try_from(file.len()?).unwrap_or_default()];
        file.read_exact_at(0, &mut bytes)?;
        Ok(bytes)
    };
    read().map_err(|error: std::io::Error| format!("read {}: {error}", path.as_str()))
}
