//! Operations that keep a store sound.

use std::ops::ControlFlow;

use snapshot_store::{Selection, Store, VerifyOptions};

use super::scenario::Run;

/// Checks every byte, and lets the store remember it.
pub(super) fn verify(store: &Store) -> Result<Run, String> {
    let options = VerifyOptions::of(Selection::All).now_unix_ms(1);
    let checked = store.verify_with(&options, &mut |_| ControlFlow::Continue(()));
    let result = match checked.map(|report| report.errors) {
        Ok(errors) if errors.is_empty() => Ok(()),
        Ok(errors) => return Err(format!("damage without a crash: {errors:?}")),
        Err(error) => Err(error),
    };
    Ok(Run {
        result,
        attempt: None,
    })
}
