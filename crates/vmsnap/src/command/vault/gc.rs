//! `vmsnap vault gc`.

use clap::Args;
use serde::Serialize;
use snapshot_vault::CollectOptions;

use crate::answer::Answer;
use crate::context::Context;
use crate::failure::Failure;
use crate::quantity::{counted, show_bytes};
use crate::vault::{Use, VaultOptions};

/// Deletes packs that no archive needs, and copies what is needed out of packs that hold little of it.
#[derive(Args, Debug)]
pub(crate) struct Gc {
    #[command(flatten)]
    vault: VaultOptions,

    /// Archives in the trash go, and cannot be undeleted any more
    #[arg(long)]
    expire: bool,

    /// What writers left that died is withdrawn; one that lives archives again
    #[arg(long)]
    unfinished: bool,

    /// Copy what is needed out of packs that need less than so many hundredths; 0 copies nothing
    #[arg(long, value_name = "PERCENT", default_value_t = 50, value_parser = clap::value_parser!(u8).range(0..=100))]
    copy_below: u8,

    /// Show what would be done, and do nothing
    #[arg(long)]
    pub(super) dry_run: bool,
}

#[derive(Serialize, Default)]
struct Collected {
    dry_run: bool,
    vault: String,
    scope: String,
    packs: u64,
    bytes_freed: Option<u64>,
    bytes_copied: u64,
    chunks_copied: Option<u64>,
    archives_expired: u64,
    recipes_withdrawn: u64,
}

impl Gc {
    pub(crate) fn run(&self, context: &Context) -> Result<Answer, Failure> {
        let used = if self.dry_run {
            Use::Reads
        } else {
            Use::Writes
        };
        let vault = self.vault.open(context, used)?;
        let mut options = CollectOptions::default();
        options.copy_below_percent = self.copy_below;
        options.expire_trash = self.expire;
        options.withdraw_unfinished = self.unfinished;
        let mut done = Collected {
            dry_run: self.dry_run,
            vault: vault.path.display().to_string(),
            scope: vault.scope.to_string(),
            ..Collected::default()
        };
        for domain in vault.domains()? {
            context.check_interrupt()?;
            let failed = |error| vault.failure(&error);
            if self.dry_run {
                let plan = domain.plan_collection(&options).map_err(failed)?;
                done.packs += plan.condemned.len() as u64;
                done.bytes_copied += plan
                    .condemned
                    .iter()
                    .map(|pack| pack.needed_bytes)
                    .sum::<u64>();
                *done.bytes_freed.get_or_insert(0) += plan.freed_bytes();
            } else {
                let collected = domain.collect(&options).map_err(failed)?;
                done.packs += collected.deleted_packs;
                done.bytes_copied += collected.copied_bytes;
                *done.chunks_copied.get_or_insert(0) += collected.copied_chunks;
                done.archives_expired += collected.expired;
                done.recipes_withdrawn += collected.withdrawn;
            }
        }
        context.answer("vmsnap.vault-gc.v1", &done, tell)
    }
}

fn tell(done: &Collected) -> String {
    let would = if done.dry_run {
        "would delete"
    } else {
        "deleted"
    };
    let mut parts = vec![
        format!("{would} {}", counted(done.packs, "pack")),
        format!("{} copied out of them", show_bytes(done.bytes_copied)),
    ];
    if let Some(freed) = done.bytes_freed {
        parts.push(format!("{} freed", show_bytes(freed)));
    }
    if done.archives_expired > 0 {
        let expired = counted(done.archives_expired, "archive");
        parts.push(format!("{expired} expired"));
    }
    if done.recipes_withdrawn > 0 {
        let withdrawn = counted(done.recipes_withdrawn, "recipe");
        parts.push(format!("{withdrawn} withdrawn"));
    }
    parts.join(", ")
}
