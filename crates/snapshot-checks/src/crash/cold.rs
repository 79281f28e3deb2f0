//! Cuts and failures of archives, thaws and collections: a store and a vault on one disk.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use snapshot_format::{
    MemoryLayout, PAGE_BYTES, PageRange, SnapshotId, SnapshotName, SnapshotRef, VmName,
};
use snapshot_memory::backend::{Backend, CrashState, Fault, FaultBackend, MemBackend};
use snapshot_memory::{DirtyBitmap, MappedMemory, MappingOptions, PageSource, Pages, Stability};
use snapshot_store::{GarbageOptions, NewSnapshot, Selection, Store};
use snapshot_vault::{
    ArchiveOptions, CollectOptions, Domain, FolderObjects, ObjectId, ScopeName, Sealing, ThawBase,
    ThawName, ThawOptions, Vault, VaultError,
};

use super::enumerate::Effort;
use super::model::chain;
use super::report::Report;
use super::scenario::opening;

/// One operation on a store and a vault.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Operation {
    /// A new vault, with a scope.
    Make,
    /// A snapshot of the store to the vault.
    Archive(&'static str),
    /// An archive to the trash of the vault.
    Discard(&'static str),
    /// An archive back from the trash.
    Recover(&'static str),
    /// What is in the trash ends, and packs go: what is needed of them is copied.
    Collect,
    /// An archive back into the store, under a name, relative to its parent or to nothing.
    Thaw(&'static str, &'static str, ThawBase),
    /// A snapshot of the store deleted and collected.
    Forget(&'static str),
    /// An archive back into the store, under the id that it had.
    Return(&'static str),
}

/// Names of scenarios and their operations, each on what the one before it left.
const PLAN: [(&str, Operation); 13] = [
    ("vault", Operation::Make),
    ("archive", Operation::Archive("base")),
    ("archive-diff", Operation::Archive("one")),
    ("archive-again", Operation::Archive("one")),
    ("thaw", Operation::Thaw("one", "again", ThawBase::Nothing)),
    (
        "thaw-diff",
        Operation::Thaw("one", "beside", ThawBase::Parent),
    ),
    ("discard", Operation::Discard("one")),
    ("recover", Operation::Recover("one")),
    ("discard-base", Operation::Discard("base")),
    // The packs of the base hold what the diff needs.
    ("collect", Operation::Collect),
    ("collect-again", Operation::Collect),
    ("forget", Operation::Forget("one")),
    ("return", Operation::Return("one")),
];

/// What a tree holds: memory by name, and which names are archived.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
struct Held {
    snapshots: BTreeMap<String, Vec<u8>>,
    archived: BTreeMap<String, Vec<u8>>,
}

/// Enumerates the crash points of every scenario. `Err` is a fault of the check itself.
pub(super) fn enumerate(effort: Effort) -> Result<Report, String> {
    let mut report = Report::default();
    let tree = MemBackend::new();
    let mut before = Held {
        snapshots: snapshots(&tree)?,
        ..Held::default()
    };
    let mut image = tree;
    for (name, operation) in PLAN {
        let whole = FaultBackend::new(&image);
        whole.trace_call_sites();
        run(operation, &whole)?;
        let after = after(operation, &before);
        let calls = whole.calls();
        let sites = calls.iter().map(|call| (call.operation, call.site.clone()));
        report.sites.extend(sites);
        judge_all(&whole, name, &[&after], &mut report);
        let step = if effort == Effort::Full { 1 } else { 7 };
        for number in (1..=calls.len()).step_by(step) {
            let name = format!("{name}, call {number}");
            let cut = FaultBackend::new(&image);
            cut.cut_at(number);
            let told = run(operation, &cut);
            let allowed = [&before, &after];
            judge_all(&cut, &name, allowed_by(&told, &allowed), &mut report);
            let failing = FaultBackend::new(&image);
            failing.fail_at(number, Fault::Error(io::ErrorKind::StorageFull));
            let told = run(operation, &failing);
            judge_all(&failing, &name, allowed_by(&told, &allowed), &mut report);
        }
        (image, before) = (whole.live(), after);
    }
    Ok(report)
}

/// What was told as done is there; of what was not, either all is or nothing.
fn allowed_by<'a>(told: &Result<(), String>, both: &'a [&'a Held; 2]) -> &'a [&'a Held] {
    let done = both.get(1..).unwrap_or_default();
    if told.is_ok() { done } else { both }
}

/// Judges every tree that may be found after losing power now.
fn judge_all(backend: &FaultBackend, name: &str, allowed: &[&Held], report: &mut Report) {
    for CrashState { what, image } in backend.crash_states() {
        let found = judge(&image, allowed);
        report.point(&|| format!("{name}: {what}"), found);
    }
}

fn judge(image: &MemBackend, allowed: &[&Held]) -> Result<(), String> {
    let backend: Arc<dyn Backend> = Arc::new(image.clone());
    let store = Store::open(Arc::clone(&backend), &opening()).map_err(|error| chain(&error))?;
    let found = held(&store, backend)?;
    if !allowed.contains(&&found) {
        let names =
            |held: &BTreeMap<String, Vec<u8>>| held.keys().cloned().collect::<Vec<_>>().join(" ");
        return Err(format!(
            "snapshots {}; archives {}; or other memory of them",
            names(&found.snapshots),
            names(&found.archived)
        ));
    }
    let verified = store.verify(Selection::All, &mut |_| std::ops::ControlFlow::Continue(()));
    let verified = verified.map_err(|error| chain(&error))?;
    match verified.errors.first() {
        None => Ok(()),
        Some(error) => Err(error.message.clone()),
    }
}

/// What a tree holds, before a collection of what the dead left and after it.
fn held(store: &Store, backend: Arc<dyn Backend>) -> Result<Held, String> {
    let mut held = Held::default();
    for record in store.list(None).map_err(|error| chain(&error))?.snapshots {
        let image = store.image(record.id).map_err(|error| chain(&error))?;
        let name = record.metadata.name.ok_or("a snapshot lost its name")?;
        held.snapshots.insert(name.to_string(), read(&image)?);
    }
    let Ok(domain) = domain(backend) else {
        return Ok(held);
    };
    held.archived = archived(&domain)?;
    let mut options = CollectOptions::default();
    options.withdraw_unfinished = true;
    options.copy_below_percent = 100;
    domain.collect(&options).map_err(|error| chain(&error))?;
    let report = domain.verify(0).map_err(|error| chain(&error))?;
    if !report.is_ok() || archived(&domain)? != held.archived {
        return Err("a collection after the crash took something".to_owned());
    }
    Ok(held)
}

/// The memory of every archive that is not in the trash.
fn archived(domain: &Domain) -> Result<BTreeMap<String, Vec<u8>>, String> {
    let catalog = domain.catalog().map_err(|error| chain(&error))?;
    if let Some((_, error)) = catalog.damaged.first() {
        return Err(chain(error));
    }
    let mut archived = BTreeMap::new();
    for found in catalog.archives.iter().filter(|found| !found.is_deleted) {
        let name = found.metadata.clone().and_then(|known| known.name);
        let name = name.ok_or("an archive lost its name")?;
        let cold = domain
            .open_archive(found.archive)
            .map_err(|error| chain(&error))?;
        let image = cold.memory().ok_or("an archive lost its memory")?;
        archived.insert(name.to_string(), read(&image)?);
    }
    Ok(archived)
}

fn read(image: &dyn PageSource) -> Result<Vec<u8>, String> {
    let pages = image.layout().page_count();
    let mut bytes = vec![0xEE; usize::try_from(pages * PAGE_BYTES).unwrap_or_default()];
    let read = image.read_pages(PageRange::new(0, pages), &mut bytes);
    read.map_err(|error| chain(&error))?;
    Ok(bytes)
}

/// What there is after an operation.
fn after(operation: Operation, before: &Held) -> Held {
    let mut after = before.clone();
    match operation {
        Operation::Make | Operation::Collect => {}
        Operation::Archive(name) | Operation::Recover(name) => {
            let memory = before.snapshots.get(name).cloned().unwrap_or_default();
            after.archived.insert(name.to_owned(), memory);
        }
        Operation::Discard(name) => drop(after.archived.remove(name)),
        Operation::Thaw(name, as_name, _) => {
            let memory = before.archived.get(name).cloned().unwrap_or_default();
            after.snapshots.insert(as_name.to_owned(), memory);
        }
        Operation::Forget(name) => drop(after.snapshots.remove(name)),
        Operation::Return(name) => {
            let memory = before.archived.get(name).cloned().unwrap_or_default();
            after.snapshots.insert(name.to_owned(), memory);
        }
    }
    after
}

/// Runs an operation. `Err`: it was told as failed.
fn run(operation: Operation, backend: &FaultBackend) -> Result<(), String> {
    let backend: Arc<dyn Backend> = Arc::new(backend.clone());
    if operation == Operation::Make {
        let objects = FolderObjects::open(backend).map_err(|error| chain(&error))?;
        let vault = Vault::open_or_create(Arc::new(objects)).map_err(|error| chain(&error))?;
        let made = vault.create_domain(&ScopeName::default_scope(), &Sealing::Open);
        return made.map(drop).map_err(|error| chain(&error));
    }
    let store = Store::open(Arc::clone(&backend), &opening()).map_err(|error| chain(&error))?;
    let domain = domain(backend)?;
    let done = match operation {
        Operation::Make => Ok(()),
        Operation::Archive(name) => {
            let id = stored(&store, name)?;
            let options = ArchiveOptions::default();
            domain.archive_snapshot(&store, id, &options).map(drop)
        }
        Operation::Discard(name) => domain.delete_archive(archive(&domain, name, false)?),
        Operation::Recover(name) => {
            let archive = archive(&domain, name, true)?;
            domain.undelete_archive(archive).map(drop)
        }
        Operation::Collect => {
            let mut options = CollectOptions::default();
            options.copy_below_percent = 100;
            options.expire_trash = true;
            domain.collect(&options).map(drop)
        }
        Operation::Thaw(name, as_name, base) => {
            let mut options = ThawOptions::default();
            let name_in_store = SnapshotName::new(as_name).map_err(|error| chain(&error))?;
            options.name = ThawName::New(name_in_store);
            options.base = base;
            let archive = archive(&domain, name, false)?;
            domain.thaw(archive, &store, &options).map(drop)
        }
        Operation::Forget(name) => {
            let id = stored(&store, name)?;
            let plan = store.plan_delete(id).map_err(|error| chain(&error))?;
            store.delete(&plan).map_err(|error| chain(&error))?;
            let collected = store.collect(&GarbageOptions::default());
            collected.map(drop).map_err(VaultError::from)
        }
        Operation::Return(name) => {
            let archive = archive(&domain, name, false)?;
            let options = ThawOptions::default();
            domain.bring_back(archive, &store, &options).map(drop)
        }
    };
    done.map_err(|error| chain(&error))
}

fn domain(backend: Arc<dyn Backend>) -> Result<Domain, String> {
    let objects = FolderObjects::open(backend).map_err(|error| chain(&error))?;
    let vault = Vault::open(Arc::new(objects)).map_err(|error| chain(&error))?;
    let domain = vault.scope(&ScopeName::default_scope(), None);
    domain.map_err(|error| chain(&error))
}

fn stored(store: &Store, name: &str) -> Result<SnapshotId, String> {
    let reference = format!("web/{name}").parse();
    let reference = reference.map_err(|error: snapshot_store::StoreError| chain(&error))?;
    store.resolve(&reference).map_err(|error| chain(&error))
}

fn archive(domain: &Domain, name: &str, is_deleted: bool) -> Result<ObjectId, String> {
    let catalog = domain.catalog().map_err(|error| chain(&error))?;
    let mut archives = catalog.archives.iter();
    let found = archives.find(|found| {
        let known = found
            .metadata
            .as_ref()
            .and_then(|known| known.name.as_ref());
        found.is_deleted == is_deleted && known.is_some_and(|known| known.as_str() == name)
    });
    found
        .map(|found| found.archive)
        .ok_or_else(|| format!("there is no archive of {name}"))
}

/// A store with a full snapshot and a diff; their memory by name.
fn snapshots(tree: &MemBackend) -> Result<BTreeMap<String, Vec<u8>>, String> {
    let backend = Arc::new(tree.clone());
    let store = Store::open_or_create(backend, &opening()).map_err(|error| chain(&error))?;
    let layout = MemoryLayout::single(PAGES * PAGE_BYTES).map_err(|error| chain(&error))?;
    let guest = MappedMemory::new(layout, MappingOptions::default());
    let guest = guest.map_err(|error| chain(&error))?;
    let write = |page: u64, seed: u8| {
        let noise: Vec<u8> = (0..4096_u32)
            .map(|at| (at.wrapping_mul(at) / 7).to_le_bytes()[0] ^ seed)
            .collect();
        guest
            .write(page * PAGE_BYTES, &noise)
            .map_err(|error| chain(&error))
    };
    for (page, seed) in (0..PAGES - 8).zip(1..) {
        write(page, seed)?;
    }
    let base = take(&store, &guest, "base", None)?;
    write(3, 200)?;
    write(PAGES - 2, 201)?;
    take(&store, &guest, "one", Some((base, &[3, PAGES - 2])))?;
    let mut memory = BTreeMap::new();
    for name in ["base", "one"] {
        let image = store
            .image(stored(&store, name)?)
            .map_err(|error| chain(&error))?;
        memory.insert(name.to_owned(), read(&image)?);
    }
    Ok(memory)
}

fn take(
    store: &Store,
    guest: &MappedMemory,
    name: &str,
    since: Option<(SnapshotRef, &[u64])>,
) -> Result<SnapshotRef, String> {
    let vm = VmName::new("web").map_err(|error| chain(&error))?;
    let name = SnapshotName::new(name).map_err(|error| chain(&error))?;
    let new = NewSnapshot::of(vm).name(name);
    let new = new.parent(since.map(|(parent, _)| parent));
    let mut stage = store.sink(new).stage().map_err(|error| chain(&error))?;
    let dirty = DirtyBitmap::new(PAGES);
    for page in since.iter().flat_map(|(_, pages)| *pages) {
        dirty.set_range(PageRange::new(*page, 1));
    }
    let pages = since.map_or(Pages::Full, |(base, _)| Pages::Since {
        base,
        dirty: &dirty,
    });
    let written = stage.memory(guest, pages, Stability::Paused);
    written.map_err(|error| chain(&error))?;
    let published = stage.seal().and_then(snapshot_store::StoreSealed::publish);
    Ok(published.map_err(|error| chain(&error))?.snapshot)
}

/// Pages of the guest: three chunks, the last of them not whole.
const PAGES: u64 = 44;
