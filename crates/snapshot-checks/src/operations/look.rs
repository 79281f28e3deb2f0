//! What changes nothing: everything verified, one snapshot restored.

use std::ops::ControlFlow;

use snapshot_memory::backend::{Backend, MemBackend, RelPath};
use snapshot_store::{Selection, StoreError};

use super::model::Model;
use super::plan::{Hands, Plan};
use crate::random::Random;

/// Verifies everything, or one snapshot with all that it needs.
pub(super) fn verify(model: &Model, random: &mut Random) -> Option<Plan> {
    let (key, _) = model.pick_live(random)?;
    let key = random.is_one_in(2).then_some(key);
    let what = format!("verify {key:?}");
    Some(Plan::new(what, model.clone(), move |hands| {
        let selection = match key {
            Some(key) => Selection::One(hands.id(key)?),
            None => Selection::All,
        };
        let mut go_on = |_| ControlFlow::Continue(());
        let report = hands.store.verify(selection, &mut go_on)?;
        if let Some(problem) = report.errors.first() {
            hands.violation = Some(format!("it does not verify: {}", problem.message));
        }
        Ok(())
    }))
}

/// Restores a snapshot to a raw image.
pub(super) fn restore(model: &Model, random: &mut Random) -> Option<Plan> {
    let (key, kept) = model.pick_live(random)?;
    let expected = std::sync::Arc::clone(&kept.image);
    Some(Plan::new(
        format!("restore {key}"),
        model.clone(),
        move |hands| {
            let found = restored(hands, key)?;
            if found != *expected {
                hands.violation = Some(format!("{key} restores to other bytes"));
            }
            Ok(())
        },
    ))
}

fn restored(hands: &Hands<'_>, key: u64) -> Result<Vec<u8>, StoreError> {
    let io = |source| StoreError::Io {
        action: "restore to",
        path: RelPath::root(),
        source,
    };
    let out = MemBackend::new();
    let path = RelPath::root();
    let path = path
        .join("out")
        .map_err(|error| io(std::io::Error::other(error)))?;
    let mut file = out.create(&path).map_err(io)?;
    let mut go_on = |_| ControlFlow::Continue(());
    let id = hands.id(key)?;
    hands.store.restore(id, file.as_mut(), "out", &mut go_on)?;
    drop(file);
    let file = out.open(&path).map_err(io)?;
    let mut bytes = vec![0; usize::try_from(file.len().map_err(io)?).unwrap_or_default()];
    file.read_exact_at(0, &mut bytes).map_err(io)?;
    Ok(bytes)
}
