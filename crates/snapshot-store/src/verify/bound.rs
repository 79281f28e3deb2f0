//! Memory in merged files, held against the manifests of the snapshot and of those it descends from.

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use snapshot_format::{DataFileRef, Manifest, SnapshotRef};
use snapshot_memory::{BoundCheck, MemoryImage};

use crate::error::StoreError;
use crate::placed::Placed;
use crate::record;
use crate::store::Store;
use crate::verify::report::Findings;

/// Checks that the flattened map leads to the memory that manifests speak of, and counts the pages of
/// which no manifest is left that does.
///
/// It is done where a file of the chain is a merged one: the others are bound by the manifest of the
/// snapshot that they belong to, each.
pub(super) fn check(
    store: &Store,
    placed: &Placed,
    findings: &mut Findings<'_>,
) -> Result<(), StoreError> {
    if placed.manifest.map_root.is_none() {
        return Ok(());
    }
    let image = store.open_image(placed)?;
    if !is_merged(&image)? {
        return Ok(());
    }
    let mut check = BoundCheck::of(&image);
    let mut problems = Vec::new();
    let mut stopped = Ok(());
    let mut seen = BTreeSet::new();
    let mut next = Some(placed.manifest.clone());
    let mut is_whole = false;
    while let Some(manifest) = next.take() {
        // Links that go in a circle end, too.
        if check.is_done() || !seen.insert(manifest.id) {
            break;
        }
        if let Some(map_root) = manifest.map_root {
            let first = DataFileRef {
                snapshot: manifest.id,
                index: 0,
                map_root,
            };
            // What is wrong with it is an error of the snapshot that it belongs to.
            let Ok(level) = store.open_data_file(&first) else {
                break;
            };
            let done = check.level(&level, &mut |error| problems.push(error), &mut |bytes| {
                stopped = findings.checked(bytes);
                match stopped {
                    Ok(()) => ControlFlow::Continue(()),
                    Err(_) => ControlFlow::Break(()),
                }
            });
            if done.is_break() {
                break;
            }
        }
        is_whole = manifest.parent.is_none();
        next = manifest.parent.and_then(|parent| find(store, parent));
    }
    stopped?;
    let unbound = check.finish(is_whole, &mut |error| problems.push(error));
    findings.unbound(unbound);
    for problem in problems {
        findings.keep(placed.manifest.id, StoreError::image(problem))?;
    }
    Ok(())
}

fn is_merged(image: &MemoryImage) -> Result<bool, StoreError> {
    for file in image.files() {
        if file.map_err(StoreError::image)?.is_merged() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The manifest of a parent, if it is there and the one that is named.
fn find(store: &Store, parent: SnapshotRef) -> Option<Manifest> {
    let location = store.whereabouts(parent.id).ok()??;
    let (manifest, digest) = record::read_manifest(store.backend(), location, parent.id).ok()?;
    (digest == parent.digest).then_some(manifest)
}
