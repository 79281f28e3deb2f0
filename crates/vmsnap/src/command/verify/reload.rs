//! `vmsnap verify REF --reload`: the machine is restored, and captured again without having run.

use hypervisor_bridge::{ClockPolicy, Difference, ReloadReport};
use serde::Serialize;
use snapshot_format::{PageRange, SnapshotId};
use snapshot_store::Store;
use tinyvm::{Backend, GuestConfig, GuestError, Image, ImagePages, Purpose};

use crate::command::demo;
use crate::context::Context;
use crate::exit::Exit;
use crate::failure::{Failure, printable};
use crate::gate::{self, Overriding};
use crate::quantity::counted;

/// What was compared, and what differs.
#[derive(Serialize)]
pub(super) struct Reloaded {
    id: SnapshotId,
    backend: Backend,
    sections: usize,
    fields: usize,
    pages: u64,
    differences: Vec<Found>,
    allowed: Vec<Found>,
}

#[derive(Serialize)]
struct Found {
    section: String,
    instance: u32,
    field: String,
    saved: Option<String>,
    again: Option<String>,
    reason: Option<&'static str>,
}

impl From<Difference> for Found {
    fn from(found: Difference) -> Self {
        Self {
            section: found.section,
            instance: found.instance,
            field: found.field,
            saved: found.saved,
            again: found.again,
            reason: found.allowed,
        }
    }
}

impl Reloaded {
    fn new(id: SnapshotId, backend: Backend, report: ReloadReport) -> Self {
        let all = report.differences.into_iter();
        let (allowed, differences): (Vec<_>, Vec<_>) =
            all.partition(|found| found.allowed.is_some());
        Self {
            id,
            backend,
            sections: report.sections,
            fields: report.fields,
            pages: report.pages,
            differences: differences.into_iter().map(Found::from).collect(),
            allowed: allowed.into_iter().map(Found::from).collect(),
        }
    }

    /// Whether nothing differs but what moves on its own.
    pub(super) fn is_exact(&self) -> bool {
        self.differences.is_empty()
    }

    pub(super) fn tell(&self) -> String {
        let lines = self.differences.iter().chain(&self.allowed).map(|found| {
            let nothing = "nothing";
            let (saved, again) = (found.saved.as_deref(), found.again.as_deref());
            let mark = found.reason.map_or_else(
                || "DIFFERENT".to_owned(),
                |reason| format!("moves, {reason}"),
            );
            printable(&format!(
                "{} {}, {}: {} was saved, {} is there; {mark}",
                found.section,
                found.instance,
                found.field,
                saved.unwrap_or(nothing),
                again.unwrap_or(nothing)
            )) + "\n"
        });
        let verdict = if self.is_exact() {
            "the machine is what was saved".to_owned()
        } else {
            counted(self.differences.len() as u64, "difference")
        };
        format!(
            "{}restored and captured again: {}, {}, {}: {verdict}\n",
            lines.collect::<String>(),
            counted(self.sections as u64, "section"),
            counted(self.fields as u64, "field"),
            counted(self.pages, "page")
        )
    }
}

/// Restores the snapshot into a machine that never runs, and compares.
pub(super) fn reload(
    context: &Context,
    store: &Store,
    id: SnapshotId,
    overriding: &Overriding,
) -> Result<Reloaded, Failure> {
    let failed = |error| context.failure(&error);
    let record = store.snapshot(id).map_err(failed)?;
    let manifest = store.manifest(id).map_err(failed)?;
    let config = GuestConfig::from_bytes(&manifest.vm_config).map_err(|error| foreign(&error))?;
    let saved = gate::needs(context, store, id)?;
    let overrides = overriding.overrides();
    let mut reasons = saved.check(&gate::this_host(&saved)?);
    reasons.retain(|reason| !overrides.covers(reason));
    if !reasons.is_empty() {
        return Err(gate::refusal(&reasons));
    }
    let backend = gate::backend_of(&saved);
    let sections = store.state(id).map_err(failed)?;
    let stored = store.image(id).map_err(failed)?;
    let mut read = |pages: PageRange, out: &mut [u8]| {
        stored.image().read_pages(pages, out).map_err(Into::into)
    };
    let image = Image {
        config,
        pages: ImagePages::Copied(&mut read),
        sections,
        snapshot: record.reference(),
        purpose: Purpose::Resume(ClockPolicy::Frozen),
        overrides,
    };
    let report = tinyvm::reload(backend, image).map_err(|error| demo::failure(&error))?;
    Ok(Reloaded::new(id, backend, report))
}

/// Only the VMM that a snapshot is of can make its machine.
fn foreign(error: &GuestError) -> Failure {
    Failure::because(Exit::Incompatible, error).hint(
        "only snapshots of `vmsnap demo` can be reloaded here; a VMM does it with the `reload` of \
         hypervisor-bridge",
    )
}
