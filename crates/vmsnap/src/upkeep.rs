//! What is done for a machine once a snapshot of it is published.

use serde::Serialize;
use snapshot_format::SnapshotId;
use snapshot_memory::CaptureControl;
use snapshot_store::{ConsolidationReport, Store};

use crate::context::Context;
use crate::quantity::counted;

/// What became of the chain of a new snapshot.
#[derive(Serialize)]
pub(crate) struct Upkeep {
    /// That its chain was made shorter, if it was.
    consolidation: Option<ConsolidationReport>,
    /// Why it could not be. The snapshot is published all the same.
    consolidation_problem: Option<String>,
}

impl Upkeep {
    /// Makes the chain of a snapshot shorter where the policy of its machine says so. Without such a
    /// policy nothing is begun, and no progress is told.
    pub(crate) fn after(
        context: &Context,
        store: &Store,
        id: SnapshotId,
        control: impl FnOnce() -> CaptureControl,
    ) -> Self {
        let policy = store
            .snapshot(id)
            .and_then(|record| store.policy(&record.vm));
        if policy.is_ok_and(|policy| policy.consolidation.is_none()) {
            return Self {
                consolidation: None,
                consolidation_problem: None,
            };
        }
        let control = control().cancel(context.interrupt.cancel());
        let done = store.consolidate_due(id, &control);
        let consolidation_problem = done.as_ref().err().map(|error| {
            tracing::warn!(
                error = error as &dyn std::error::Error,
                "the chain is as it was"
            );
            error.to_string()
        });
        Self {
            consolidation: done.ok().flatten(),
            consolidation_problem,
        }
    }

    /// What to tell people; nothing where nothing was to be done.
    pub(crate) fn tell(&self) -> String {
        match (&self.consolidation, &self.consolidation_problem) {
            (Some(report), _) => format!(
                "\nit needed {}, and needs {} now",
                counted(report.files_before as u64, "data file"),
                report.files_after
            ),
            (None, Some(problem)) => format!("\nits chain was not made shorter: {problem}"),
            (None, None) => String::new(),
        }
    }
}
