//! `vmsnap archive REF`.

use std::sync::Arc;

use clap::Args;
use serde::Serialize;
use snapshot_format::SnapshotId;
use snapshot_memory::FrameCodec;
use snapshot_store::{Access, Reference, Store};
use snapshot_vault::{ArchiveOptions, Archived, Domain, ErrorKind, Sealing};

use crate::answer::Answer;
use crate::command::reference;
use crate::context::Context;
use crate::failure::{Failure, printable};
use crate::quantity::{counted, show_bytes};
use crate::vault::{OpenVault, Use, VaultOptions, recipients};
use crate::view::short;

/// Copies a snapshot to a vault: what is there already is not stored again.
#[derive(Args, Debug)]
pub(crate) struct Archive {
    /// The snapshot
    #[arg(value_name = "REF", value_parser = reference)]
    reference: Reference,

    #[command(flatten)]
    vault: VaultOptions,

    /// An age recipient that a new scope is sealed for; may be given more than once
    #[arg(long, value_name = "AGE1…")]
    recipient: Vec<String>,

    /// How chunks are compressed: lz4, zstd or zstd:LEVEL
    #[arg(long, value_name = "CODEC", default_value = "zstd:1", value_parser = codec)]
    codec: FrameCodec,

    /// Then move the snapshot to the trash of the store
    #[arg(long)]
    delete: bool,
}

#[derive(Serialize)]
struct Document {
    id: SnapshotId,
    archive: String,
    vault: String,
    scope: String,
    domain: String,
    sealed: bool,
    stored: bool,
    memory_bytes: u64,
    new_chunks: u64,
    delta_chunks: u64,
    bytes_added: u64,
    deleted: bool,
}

impl Archive {
    pub(crate) fn run(&self, context: &Context) -> Result<Answer, Failure> {
        let access = if self.delete {
            Access::ReadWrite
        } else {
            Access::Auto
        };
        let store = context.open(access)?;
        let id = context.resolve(&store, &self.reference)?;
        let record = store
            .snapshot(id)
            .map_err(|error| context.failure(&error))?;
        let vault = self.vault.by_policy(context, &store, &record.vm)?;
        let vault = vault.open(context, Use::Makes)?;
        let domain = self.domain(&vault)?;
        let archived = {
            let progress = context.progress("archive", record.layout.len_bytes());
            let mut options = ArchiveOptions::default()
                .codec(self.codec)
                .all_cores()
                .cancel(context.interrupt.cancel());
            options.tell = Some(Arc::new(move |so_far| {
                progress.set(so_far.taken_bytes, so_far.total_bytes);
            }));
            let archived = domain.archive_snapshot(&store, id, &options);
            archived.map_err(|error| vault.failure(&error))?
        };
        if self.delete {
            delete(context, &store, id)?;
        }
        let document = self.document(&vault, &domain, &archived, record.layout.len_bytes());
        context.answer("vmsnap.archive.v1", &document, tell)
    }

    /// The domain to write to; a new one where the scope has none.
    fn domain(&self, vault: &OpenVault) -> Result<Domain, Failure> {
        match vault.vault.scope(&vault.scope, vault.keeper()) {
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Ok(domain) if !self.recipient.is_empty() => {
                let sealed = if domain.is_sealed() { "sealed" } else { "open" };
                return Err(Failure::usage(format!(
                    "scope {} is there and {sealed}: a recipient is named when it is made",
                    vault.scope
                ))
                .hint("see `vmsnap vault key add`, or name another --scope"));
            }
            found => return found.map_err(|error| vault.failure(&error)),
        }
        let passphrase = self.vault.keys.passphrase()?;
        let made = if !self.recipient.is_empty() {
            let keeper = recipients(&self.recipient)?;
            vault
                .vault
                .create_domain(&vault.scope, &Sealing::Sealed(&keeper))
        } else if let Some(keeper) = &passphrase {
            vault
                .vault
                .create_domain(&vault.scope, &Sealing::Sealed(keeper))
        } else if vault.keeper().is_some() {
            return Err(Failure::usage(format!(
                "scope {} is not there, and an identity seals nothing",
                vault.scope
            ))
            .hint("name whom it is sealed for with --recipient"));
        } else {
            vault.vault.create_domain(&vault.scope, &Sealing::Open)
        };
        made.map_err(|error| vault.failure(&error))
    }

    fn document(
        &self,
        vault: &OpenVault,
        domain: &Domain,
        archived: &Archived,
        memory_bytes: u64,
    ) -> Document {
        Document {
            id: archived.snapshot,
            archive: archived.id.to_string(),
            vault: vault.path.display().to_string(),
            scope: domain.scope().to_string(),
            domain: domain.id().to_string(),
            sealed: domain.is_sealed(),
            stored: archived.stored_bytes > 0,
            memory_bytes,
            new_chunks: archived.new_chunks,
            delta_chunks: archived.deltas,
            bytes_added: archived.stored_bytes,
            deleted: self.delete,
        }
    }
}

fn delete(context: &Context, store: &Store, id: SnapshotId) -> Result<(), Failure> {
    let plan = store
        .plan_delete(id)
        .map_err(|error| context.failure(&error))?;
    let deleted = store.delete(&plan);
    deleted.map_err(|error| {
        let failure = context.failure(&error);
        context.note(&format!(
            "snapshot {} is archived, and stays in the store",
            short(id)
        ));
        failure
    })
}

fn tell(document: &Document) -> String {
    let line = if document.stored {
        format!(
            "archived {} as {}: {} stored for {} of memory, {}, {} of them as differences",
            short(document.id),
            document.archive,
            show_bytes(document.bytes_added),
            show_bytes(document.memory_bytes),
            counted(document.new_chunks, "new chunk"),
            document.delta_chunks,
        )
    } else {
        format!(
            "nothing to do: {} is archived as {} already",
            short(document.id),
            document.archive
        )
    };
    let moved = if document.deleted {
        "; moved to the trash"
    } else {
        ""
    };
    printable(&format!("{line}{moved}"))
}

/// Reads `lz4`, `zstd` or `zstd:LEVEL`.
fn codec(text: &str) -> Result<FrameCodec, String> {
    let level = match text.split_once(':') {
        None if text == "lz4" => return Ok(FrameCodec::Lz4),
        None if text == "zstd" => return Ok(ArchiveOptions::CODEC),
        Some(("zstd", level)) => level,
        _ => return Err("it is lz4, zstd or zstd:LEVEL".to_owned()),
    };
    let level = level.parse().ok().filter(|level| (1..=22).contains(level));
    level
        .map(|level| FrameCodec::Zstd { level })
        .ok_or_else(|| "levels of zstd are 1 to 22".to_owned())
}
