//! Materialised images that are changed, replaced and planted behind the back of a store.

use std::ops::ControlFlow;
use std::sync::Arc;

use snapshot_format::{PAGE_BYTES, SnapshotId};
use snapshot_memory::CaptureControl;
use snapshot_memory::backend::{Backend, MemBackend, Planted, RelPath};
use snapshot_store::{Selection, Store};

use super::store::{Fallible, Known, Published, options, publish, read, read_image};
use crate::hostile::Tally;

/// What stands in the place of a file.
pub(super) enum Instead {
    Bytes(Vec<u8>),
    Other(Planted),
    Directory,
    Nothing,
}

/// Puts everything in the place of every image, and of one that is being built.
pub(super) fn run(tally: &mut Tally) -> Fallible<()> {
    let Published { tree, snapshots } = publish()?;
    let store = open(&tree)?;
    let mut images = Vec::new();
    for known in &snapshots {
        let report = store.warm(known.id, &CaptureControl::default())?;
        images.push((known, path(&report.file)?));
    }
    drop(store);
    judge(&tree, &snapshots, None).map_err(|why| format!("nothing was changed: {why}"))?;
    for (known, image) in &images {
        let bytes = read(&tree, image)?;
        for (what, instead) in changes(&bytes, &images, &tree, image)? {
            try_instead(tally, &tree, &snapshots, (known, image), &what, &instead);
        }
    }
    Ok(())
}

/// What may be found in the place of an image.
fn changes(
    bytes: &[u8],
    images: &[(&Known, RelPath)],
    tree: &MemBackend,
    own: &RelPath,
) -> Fallible<Vec<(String, Instead)>> {
    let mut changes = vec![
        (
            "a symbolic link".to_owned(),
            Instead::Other(Planted::SymbolicLink),
        ),
        ("a pipe".to_owned(), Instead::Other(Planted::Pipe)),
        ("a directory".to_owned(), Instead::Directory),
    ];
    for at in (0..bytes.len()).step_by(127) {
        let mut flipped = bytes.to_vec();
        if let Some(byte) = flipped.get_mut(at) {
            *byte ^= 1 << (at % 8);
        }
        changes.push((format!("byte {at} flipped"), Instead::Bytes(flipped)));
    }
    for end in (0..bytes.len()).step_by(1999) {
        let cut = bytes.get(..end).unwrap_or_default();
        changes.push((format!("cut at {end}"), Instead::Bytes(cut.to_vec())));
    }
    for more in [1, 4095, 4096] {
        let mut longer = bytes.to_vec();
        longer.resize(bytes.len() + more, 0);
        changes.push((format!("{more} bytes more"), Instead::Bytes(longer)));
    }
    for (other, image) in images {
        let found = read(tree, image)?;
        if image != own && found != bytes {
            let what = format!("the image of snapshot {}", other.id);
            changes.push((what, Instead::Bytes(found)));
        }
    }
    Ok(changes)
}

fn try_instead(
    tally: &mut Tally,
    tree: &MemBackend,
    snapshots: &[Known],
    (known, image): (&Known, &RelPath),
    what: &str,
    instead: &Instead,
) {
    let verdict = tally.count(image.as_str(), what, || {
        let tree = tree.snapshot();
        put(&tree, image, instead).map_err(|error| error.to_string())?;
        judge(&tree, snapshots, Some(known.id))?;
        rebuild(&tree, known, image).map_err(|why| format!("then {why}"))?;
        // The same where one is being built: it is never offered, and in nobody's way for long.
        let unfinished = format!("cache/.{}.img.new", known.id);
        let unfinished = path(&unfinished).map_err(|error| error.to_string())?;
        put(&tree, &unfinished, instead).map_err(|error| error.to_string())?;
        judge(&tree, snapshots, None).map_err(|why| format!("unfinished: {why}"))
    });
    if let Some(Err(why)) = verdict {
        tally.accept_wrong(image.as_str(), format_args!("{what}: {why}"));
    }
}

pub(super) fn put(tree: &MemBackend, at: &RelPath, instead: &Instead) -> Fallible<()> {
    if tree.metadata(at).is_ok() {
        tree.remove_file(at)?;
    }
    match instead {
        Instead::Bytes(bytes) => tree.create(at)?.write_all_at(0, bytes)?,
        Instead::Other(planted) => tree.plant(at, *planted)?,
        Instead::Directory => tree.create_dir(at)?,
        Instead::Nothing => {}
    }
    Ok(())
}

/// Uses a store of which the image of `changed` is not what was built.
fn judge(
    tree: &MemBackend,
    snapshots: &[Known],
    changed: Option<SnapshotId>,
) -> Result<(), String> {
    let store = open(tree).map_err(|error| format!("the store does not open: {error}"))?;
    for known in snapshots {
        // The digests of the snapshot decide, not the cache.
        match read_image(&store, known) {
            Ok(image) if image == known.image => {}
            Ok(_) => return Err(format!("{} restores to other bytes", known.id)),
            Err(error) => return Err(format!("{} does not restore: {error}", known.id)),
        }
        let offered = store.cached_image(known.id);
        let is_changed = changed == Some(known.id);
        match offered {
            Ok(None) => return Err(format!("the image of {} is gone", known.id)),
            Ok(Some(image)) if image.len_bytes() != known.image.len() as u64 => {
                return Err("an image of another length is offered".to_owned());
            }
            Err(error) if !is_changed => return Err(format!("a sound image: {error}")),
            Ok(Some(_)) | Err(_) => {}
        }
    }
    let report = store
        .verify(Selection::All, &mut |_| ControlFlow::Continue(()))
        .map_err(|error| format!("verify fails: {error}"))?;
    let told: Vec<_> = report.errors.iter().map(|error| error.snapshot).collect();
    match changed {
        Some(id) if told != [id] => Err(format!("verify tells of {told:?}")),
        None if !report.ok => Err(format!("verify tells of {told:?}")),
        _ => Ok(()),
    }
}

/// That the image can be dropped and built anew, whatever stands in its place.
fn rebuild(tree: &MemBackend, known: &Known, image: &RelPath) -> Result<(), String> {
    let store = open(tree).map_err(|error| error.to_string())?;
    if store.drop_cached(known.id).is_err() {
        // A directory is not removed by whoever expects a file.
        tree.remove_dir(image).map_err(|error| error.to_string())?;
    }
    let control = CaptureControl::default();
    let report = store.warm(known.id, &control);
    let report = report.map_err(|error| format!("it is not built anew: {error}"))?;
    let bytes = read(tree, image).map_err(|error| error.to_string())?;
    if report.built && bytes == known.image && report.len_bytes % PAGE_BYTES == 0 {
        return Ok(());
    }
    Err("another image is built".to_owned())
}

fn open(tree: &MemBackend) -> Fallible<Store> {
    let backend: Arc<dyn Backend> = Arc::new(tree.clone());
    Ok(Store::open(backend, &options())?)
}

pub(super) fn path(text: &str) -> Fallible<RelPath> {
    let mut parts = text.split('/');
    Ok(parts.try_fold(RelPath::root(), |path, part| path.join(part))?)
}
