//! `vmsnap thaw REF`.

use clap::Args;
use serde::Serialize;
use snapshot_format::{SnapshotId, SnapshotName};
use snapshot_memory::CaptureOptions;
use snapshot_store::{Access, Location, Reference, Store};
use snapshot_vault::{ThawBase, ThawName, ThawOptions, Thawed};

use crate::answer::Answer;
use crate::command::reference;
use crate::context::Context;
use crate::failure::{Failure, printable};
use crate::pacing::Pacing;
use crate::quantity::show_bytes;
use crate::vault::{OpenVault, Use, VaultOptions};
use crate::view::short;

/// Brings an archived snapshot that is gone from the store back under its id, or a copy of one.
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

    /// Another name for it
    #[arg(long, conflicts_with = "no_name")]
    name: Option<SnapshotName>,

    /// No name
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
        let thawed = if self.new_id {
            domain.thaw(found.archive, &store, &options)
        } else {
            domain.bring_back(found.archive, &store, &options)
        };
        let thawed = thawed.map_err(|error| vault.failure(&error))?;
        let document = document(context, &store, &vault, &thawed)?;
        context.answer("vmsnap.thaw.v1", &document, tell)
    }
}

fn document(
    context: &Context,
    store: &Store,
    vault: &OpenVault,
    thawed: &Thawed,
) -> Result<Document, Failure> {
    let failed = |error| context.failure(&error);
    let record = store.snapshot(thawed.id).map_err(failed)?;
    let stored = store.allocated_bytes(Location::Live, thawed.id);
    Ok(Document {
        id: thawed.id,
        archived: thawed.archived,
        archive: thawed.archive.to_string(),
        vault: vault.path.display().to_string(),
        base: thawed.base,
        vm: record.vm.to_string(),
        seq: record.seq,
        name: record.metadata.name.as_ref().map(ToString::to_string),
        pages: thawed.stats.map(|stats| Pages {
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
