//! `vmsnap thaw REF`.

use clap::Args;
use serde::Serialize;
use snapshot_format::{SnapshotId, SnapshotName};
use snapshot_memory::CaptureOptions;
use snapshot_store::{Access, Location, Reference, Store};
use snapshot_vault::{ArchivedSnapshot, ThawBase, ThawName, ThawOptions, Thawed};

use crate::answer::Answer;
use crate::command::reference;
use crate::context::Context;
use crate::failure::{Failure, printable};
use crate::pacing::Pacing;
use crate::quantity::show_bytes;
use crate::vault::{OpenVault, Use, VaultOptions};
use crate::view::short;

/// Brings an archived snapshot back under its id, or a copy of one.
#[derive(Args, Debug)]
pub(crate) struct Thaw {
    /// The snapshot, as it was archived
    #[arg(value_name = "REF", value_parser = reference)]
    reference: Reference,

    #[command(flatten)]
    vault: VaultOptions,

    /// A copy under a new id, which the snapshot may be beside
    #[arg(long)]
    new_id: bool,

    /// Another name for it; where it is still in the store or in the trash, for a copy of it
    #[arg(long, conflicts_with = "no_name")]
    name: Option<SnapshotName>,

    /// No name; where it is still in the store or in the trash, for a copy of it
    #[arg(long)]
    no_name: bool,

    /// The snapshot of the store that unchanged pages are inherited from; its own parent without it
    #[arg(long, value_name = "REF", value_parser = reference, conflicts_with = "full", requires = "new_id")]
    parent: Option<Reference>,

    /// Inherit no page, as nothing does that is brought back
    #[arg(long, requires = "new_id")]
    full: bool,

    #[command(flatten)]
    pacing: Pacing,
}

/// How a snapshot is brought back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Way {
    /// From the vault under its id, unless it is in use.
    Return,
    /// From the trash, where all of it still is.
    Undelete,
    /// From the vault under a new id.
    Copy,
}

#[derive(Serialize)]
struct Document {
    id: SnapshotId,
    archived: SnapshotId,
    archive: String,
    vault: String,
    base: Option<SnapshotId>,
    vm: String,
    seq: u64,
    name: Option<String>,
    pages: Option<Pages>,
    bytes_stored: u64,
}

#[derive(Serialize)]
struct Pages {
    present: u64,
    zero: u64,
    inherited: u64,
    total: u64,
}

impl Thaw {
    pub(crate) fn run(&self, context: &Context) -> Result<Answer, Failure> {
        self.pacing.begin()?;
        let store = context.open(Access::ReadWrite)?;
        let vault = match &self.reference {
            Reference::Named { vm, .. } | Reference::Latest { vm } => {
                self.vault.by_policy(context, &store, vm)?
            }
            // Whose it is, only the vault says.
            Reference::Id(_) | Reference::Part(_) => self.vault.clone(),
        };
        let vault = vault.open(context, Use::Reads)?;
        let (domain, found) = vault.find(&self.reference)?;
        let mut options = ThawOptions::default();
        options.name = match &self.name {
            Some(name) => ThawName::New(name.clone()),
            None if self.no_name => ThawName::Dropped,
            None => ThawName::Kept,
        };
        options.base = match &self.parent {
            Some(parent) => ThawBase::Snapshot(context.resolve(&store, parent)?),
            None if self.full => ThawBase::Nothing,
            None => ThawBase::Parent,
        };
        let progress = context.progress("thaw", found.manifest.layout.len_bytes());
        let control = self.pacing.control(progress);
        options.capture = CaptureOptions::default()
            .threads(CaptureOptions::best_threads())
            .control(control.cancel(context.interrupt.cancel()));
        let failed = |error| vault.failure(&error);
        let thawed = match self.way(&store, found.manifest.id) {
            Way::Return => Some(domain.bring_back(found.archive, &store, &options)),
            Way::Copy => Some(domain.thaw(found.archive, &store, &options)),
            Way::Undelete => None,
        };
        let thawed = thawed.transpose().map_err(failed)?;
        if thawed.is_none() {
            let undeleted = store.undelete(found.manifest.id);
            undeleted.map_err(|error| context.failure(&error))?;
        }
        let document = document(context, &store, &vault, &found, thawed)?;
        context.answer("vmsnap.thaw.v1", &document, tell)
    }

    fn way(&self, store: &Store, id: SnapshotId) -> Way {
        let is_live = store.snapshot(id).is_ok();
        let is_deleted = store.resolve_in_trash(&Reference::Id(id)).is_ok();
        // What is there keeps its name, so another one, or none, is that of a copy.
        let is_renamed = self.name.is_some() || self.no_name;
        match (is_live || is_deleted, is_renamed) {
            _ if self.new_id => Way::Copy,
            (true, true) => Way::Copy,
            (true, false) if is_deleted => Way::Undelete,
            _ => Way::Return,
        }
    }
}

/// What was brought back; from the trash where nothing was thawed.
fn document(
    context: &Context,
    store: &Store,
    vault: &OpenVault,
    found: &ArchivedSnapshot,
    thawed: Option<Thawed>,
) -> Result<Document, Failure> {
    let failed = |error| context.failure(&error);
    let id = thawed.map_or(found.manifest.id, |thawed| thawed.id);
    let record = store.snapshot(id).map_err(failed)?;
    let stored = store.allocated_bytes(Location::Live, id);
    let stats = thawed.and_then(|thawed| thawed.stats);
    Ok(Document {
        id,
        archived: found.manifest.id,
        archive: found.archive.to_string(),
        vault: vault.path.display().to_string(),
        base: thawed.and_then(|thawed| thawed.base),
        vm: record.vm.to_string(),
        seq: record.seq,
        name: record.metadata.name.as_ref().map(ToString::to_string),
        pages: stats.map(|stats| Pages {
            present: stats.present,
            zero: stats.zero,
            inherited: stats.inherited,
            total: record.layout.page_count(),
        }),
        bytes_stored: stored.map_err(failed)?,
    })
}

fn tell(document: &Document) -> String {
    let base = match document.base {
        Some(base) => format!(", relative to {}", short(base)),
        None => String::new(),
    };
    let copy = if document.archived == document.id {
        String::new()
    } else {
        format!("{} as ", short(document.archived))
    };
    printable(&format!(
        "thawed {copy}{}, number {} of {}: {} on disk{base}",
        document.id,
        document.seq,
        document.vm,
        show_bytes(document.bytes_stored),
    ))
}
