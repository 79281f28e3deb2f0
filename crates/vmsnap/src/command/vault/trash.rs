//! `vmsnap vault delete REF`, `vmsnap vault undelete ARCHIVE`.

use clap::Args;
use serde::Serialize;
use snapshot_store::Reference;
use snapshot_vault::ObjectId;

use crate::answer::Answer;
use crate::command::reference;
use crate::context::Context;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::vault::{Use, VaultOptions};

/// Moves an archive to the trash of its scope. `gc --expire` ends what is there.
#[derive(Args, Debug)]
pub(crate) struct Delete {
    /// The snapshot, as it was archived
    #[arg(value_name = "REF", value_parser = reference)]
    reference: Reference,

    #[command(flatten)]
    vault: VaultOptions,

    /// Show what would be done, and do nothing
    #[arg(long)]
    pub(super) dry_run: bool,
}

/// Brings an archive back from the trash, under a new id.
#[derive(Args, Debug)]
pub(crate) struct Undelete {
    /// The archive, by its id
    archive: ObjectId,

    #[command(flatten)]
    vault: VaultOptions,
}

#[derive(Serialize)]
struct Document {
    dry_run: bool,
    archive: String,
    vault: String,
    scope: String,
}

impl Delete {
    pub(crate) fn run(&self, context: &Context) -> Result<Answer, Failure> {
        let used = if self.dry_run {
            Use::Reads
        } else {
            Use::Writes
        };
        let vault = self.vault.open(context, used)?;
        let (domain, found) = vault.find(&self.reference)?;
        if !self.dry_run {
            let deleted = domain.delete_archive(found.archive);
            deleted.map_err(|error| vault.failure(&error))?;
        }
        let document = Document {
            dry_run: self.dry_run,
            archive: found.archive.to_string(),
            vault: vault.path.display().to_string(),
            scope: vault.scope.to_string(),
        };
        context.answer("vmsnap.vault-delete.v1", &document, |document| {
            let moved = if document.dry_run {
                "would move"
            } else {
                "moved"
            };
            format!("{moved} archive {} to the trash", document.archive)
        })
    }
}

impl Undelete {
    pub(crate) fn run(&self, context: &Context) -> Result<Answer, Failure> {
        let vault = self.vault.open(context, Use::Writes)?;
        for domain in vault.domains()? {
            let failed = |error| vault.failure(&error);
            let list = domain.archives().map_err(failed)?;
            let mut archives = list.archives.iter();
            if !archives.any(|archive| archive.id == self.archive && archive.is_deleted) {
                continue;
            }
            let again = domain.undelete_archive(self.archive).map_err(failed)?;
            let document = Document {
                dry_run: false,
                archive: again.to_string(),
                vault: vault.path.display().to_string(),
                scope: vault.scope.to_string(),
            };
            return context.answer("vmsnap.vault-undelete.v1", &document, |document| {
                format!("archive {} is what was in the trash", document.archive)
            });
        }
        let missing = format!("archive {} is not in the trash", self.archive);
        Err(Failure::new(Exit::NotFound, missing).at(&vault.path))
    }
}
