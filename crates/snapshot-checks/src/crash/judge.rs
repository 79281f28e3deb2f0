//! Opening what a crash left, and deciding whether it is right.

use std::ops::ControlFlow;
use std::sync::Arc;

use snapshot_format::{Digest, FileEntry};
use snapshot_memory::CaptureOptions;
use snapshot_memory::backend::{Backend, EntryKind, MemBackend, RelPath};
use snapshot_store::{Selection, Store};

use super::attempt::{Attempt, Title};
use super::model::{Model, chain};
use super::scenario::opening;

/// What a tree holds: equal trees have equal digests.
pub(super) fn fingerprint(tree: &MemBackend) -> Result<Digest, String> {
    let mut all = Vec::new();
    let mut open = vec![RelPath::root()];
    while let Some(dir) = open.pop() {
        for entry in tree.list(&dir).map_err(|error| chain(&error))? {
            let path = dir.join(&entry.name).map_err(|error| chain(&error))?;
            all.extend(path.as_str().as_bytes());
            if entry.kind == EntryKind::Directory {
                all.push(b'/');
                open.push(path);
                continue;
            }
            let file = tree.open(&path).map_err(|error| chain(&error))?;
            let len = file.len().map_err(|error| chain(&error))?;
            all.extend(len.to_le_bytes());
            let start = all.len();
            all.resize(start + usize::try_from(len).unwrap_or(0), 0);
            let bytes = all.get_mut(start..).unwrap_or_default();
            file.read_exact_at(0, bytes)
                .map_err(|error| chain(&error))?;
        }
    }
    Ok(Digest::of(&all))
}

/// Checks a tree: it opens, holds one of `allowed`, verifies, and takes a further snapshot.
pub(super) fn judge(tree: &MemBackend, allowed: &[&Model]) -> Result<(), String> {
    let tree = tree.snapshot();
    let backend: Arc<dyn Backend> = Arc::new(tree.clone());
    let store = Store::open_or_create(backend, &opening())
        .map_err(|error| format!("does not open: {}", chain(&error)))?;
    check_leftovers(&tree, &store)?;
    let mut differences = Vec::new();
    for model in allowed {
        match model.compare(&store) {
            Ok(()) => return judge_use(&store),
            Err(difference) => differences.push(difference),
        }
    }
    Err(format!("neither set: {}", differences.join("; or ")))
}

/// That opening removed whatever is no part of a snapshot.
fn check_leftovers(tree: &MemBackend, store: &Store) -> Result<(), String> {
    let names = |path: &RelPath| -> Result<Vec<String>, String> {
        let entries = tree.list(path).map_err(|error| chain(&error))?;
        Ok(entries.into_iter().map(|entry| entry.name).collect())
    };
    let below = |path: &RelPath, name: &str| path.join(name).map_err(|error| chain(&error));
    let snapshots = below(&RelPath::root(), "snapshots")?;
    let locks = below(&RelPath::root(), "locks")?;
    let of_work = [".", "place.", "cache."];
    let is_work = |name: &&String| of_work.iter().any(|start| name.starts_with(start));
    let cache = names(&below(&RelPath::root(), "cache")?)?;
    let (mut left, locks) = (names(&snapshots)?, names(&locks)?);
    left.extend(locks);
    left.extend(cache.iter().cloned());
    if let Some(name) = left.iter().find(is_work) {
        return Err(format!("{name} remains"));
    }
    let listing = store.list(None).map_err(|error| chain(&error))?;
    let is_live = |name: &&String| {
        let mut images = listing.snapshots.iter();
        images.any(|record| **name == format!("{}.img", record.id))
    };
    if let Some(name) = cache.iter().find(|name| !is_live(name)) {
        return Err(format!("{name} remains, and its snapshot is not in use"));
    }
    for record in listing.snapshots {
        let detail = store.detail(record.id).map_err(|error| chain(&error))?;
        let named: Vec<String> = detail.files.iter().map(FileEntry::file_name).collect();
        let found = names(&below(&snapshots, &record.id.to_string())?)?;
        let placed = ["memory.", "working-set."];
        let is_placed = |name: &&String| placed.iter().any(|start| name.starts_with(start));
        let mut placed = found.iter().filter(is_placed);
        if let Some(name) = placed.find(|name| !named.contains(name)) {
            return Err(format!("{name} of {} is named by nobody", record.id));
        }
    }
    Ok(())
}

/// That the store verifies, and goes on working.
fn judge_use(store: &Store) -> Result<(), String> {
    verify(store, Selection::All)?;
    let title = Title {
        vm: "web",
        name: "further",
        parent: None,
    };
    let attempt = Attempt::new(title, None, CaptureOptions::default())?;
    attempt.run(99);
    attempt
        .take(store)
        .map_err(|error| format!("takes no further snapshot: {}", chain(&error)))?;
    let further = "web/further".parse();
    let id = further.and_then(|reference| store.resolve(&reference));
    verify(store, Selection::One(id.map_err(|error| chain(&error))?))
}

fn verify(store: &Store, selection: Selection) -> Result<(), String> {
    let report = store
        .verify(selection, &mut |_| ControlFlow::Continue(()))
        .map_err(|error| format!("does not verify: {}", chain(&error)))?;
    match report.errors.first() {
        None => Ok(()),
        Some(problem) => Err(format!("does not verify: {}", problem.message)),
    }
}
