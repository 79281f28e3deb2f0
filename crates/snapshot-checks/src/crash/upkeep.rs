//! Operations that keep a store sound.

use std::io;
use std::ops::ControlFlow;
use std::sync::Arc;

use snapshot_format::SnapshotId;
use snapshot_memory::backend::{MemBackend, RelPath};
use snapshot_store::{
    ErrorKind, ParityOptions, RepairOutcome, Selection, Store, StoreError, VerifyOptions,
};

use super::model::{Model, chain};
use super::scenario::{Operation, Run, opening};

/// Checks every byte, and lets the store remember it.
pub(super) fn verify(store: &Store) -> Result<Run, String> {
    let options = VerifyOptions::of(Selection::All).now_unix_ms(1);
    let checked = store.verify_with(&options, &mut |_| ControlFlow::Continue(()));
    let result = match checked.map(|report| report.errors) {
        Ok(errors) if errors.is_empty() => Ok(()),
        Ok(errors) => return Err(format!("damage without a crash: {errors:?}")),
        Err(error) => Err(error),
    };
    Ok(ran(result))
}

/// Repairs a snapshot, for which there is a copy of everything.
pub(super) fn repair(store: &Store, name: &str) -> Run {
    let repaired =
        find(store, name).and_then(|id| store.repair(id, None, &mut |_| ControlFlow::Continue(())));
    ran(repaired.and_then(|report| match report.outcome {
        RepairOutcome::Sound | RepairOutcome::Mended => Ok(()),
        // A file that a fault kept from being read counts as damaged: no repair is done.
        _ => Err(StoreError::Io {
            action: "repair",
            path: RelPath::root(),
            source: io::Error::other(format!("what has a copy stays damaged: {report:?}")),
        }),
    }))
}

/// Makes the parity of a snapshot.
pub(super) fn parity(store: &Store, id: SnapshotId) -> Result<(), StoreError> {
    let options = ParityOptions::default();
    let made = store.add_parity(id, &options, &mut |_| ControlFlow::Continue(()));
    made.map(drop)
}

/// Damages what a repair is to mend.
pub(super) fn damage_for(operation: Operation, tree: &MemBackend) -> Result<(), String> {
    let Operation::Repair(name) = operation else {
        return Ok(());
    };
    let text = |error: &dyn std::error::Error| chain(error);
    let store = Store::open(Arc::new(tree.snapshot()), &opening()).map_err(|e| text(&e))?;
    let id = find(&store, name).map_err(|e| text(&e))?.to_string();
    let parts = ["snapshots", &id, "memory.img"];
    let path = parts
        .iter()
        .try_fold(RelPath::root(), |path, part| path.join(part))
        .map_err(|e| text(&e))?;
    let spoilt = tree.tamper(&path, |bytes| {
        // Sixteen bits of each page that has any.
        for page in bytes
            .chunks_mut(4096)
            .filter(|page| page.iter().any(|b| *b != 0))
        {
            page.iter_mut().take(2).for_each(|byte| *byte ^= 0xff);
        }
    });
    spoilt.map_err(|e| text(&e))
}

/// What is left of a repair that was cut short, repaired: until then no memory is read that is not
/// right. Of any other operation, what is left.
pub(super) fn healed(
    operation: Operation,
    tree: &MemBackend,
    model: &Model,
) -> Result<MemBackend, String> {
    let tree = tree.snapshot();
    let Operation::Repair(name) = operation else {
        return Ok(tree);
    };
    let store = Store::open(Arc::new(tree.clone()), &opening());
    let store = store.map_err(|error| chain(&error))?;
    for (name, expected) in model
        .snapshots
        .iter()
        .filter(|(_, expected)| expected.is_live)
    {
        let id = find(&store, name).map_err(|error| chain(&error))?;
        match super::model::memory_of(&store, id) {
            Ok(memory) if memory == expected.image => {}
            Ok(_) => return Err(format!("{name} reads as wrong memory")),
            Err(error) if error.kind() == ErrorKind::Corrupt => {}
            Err(error) => return Err(format!("{name}: {}", chain(&error))),
        }
    }
    repair(&store, name).result.map_err(|error| chain(&error))?;
    Ok(tree)
}

fn find(store: &Store, name: &str) -> Result<SnapshotId, StoreError> {
    store.resolve(&name.parse()?)
}

fn ran(result: Result<(), StoreError>) -> Run {
    Run {
        result,
        attempt: None,
    }
}
