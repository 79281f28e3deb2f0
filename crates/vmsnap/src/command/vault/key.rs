//! `vmsnap vault key …`, `vmsnap vault destroy`.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde::Serialize;
use snapshot_vault::{DomainSummary, KeyKeeper, ObjectId};

use crate::answer::Answer;
use crate::context::Context;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::quantity::counted;
use crate::vault::{OpenVault, Use, VaultOptions, passphrase, recipients};

/// The keys of a sealed scope.
#[derive(Subcommand, Debug)]
pub(crate) enum Key {
    /// List the wrapped keys of a sealed scope
    List(List),
    /// Wrap the key of a sealed scope for somebody else, too
    Add(Add),
    /// Delete a wrapped key; who had it may have kept what it wraps
    Remove(Remove),
}

/// Lists the wrapped keys.
#[derive(Args, Debug)]
pub(crate) struct List {
    #[command(flatten)]
    vault: VaultOptions,
}

/// Wraps a key for somebody else, too.
#[derive(Args, Debug)]
pub(crate) struct Add {
    #[command(flatten)]
    vault: VaultOptions,

    /// An age recipient to wrap it for; may be given more than once
    #[arg(
        long,
        value_name = "AGE1…",
        required_unless_present = "new_passphrase_file"
    )]
    recipient: Vec<String>,

    /// The passphrase to wrap it with: the first line of the file
    #[arg(long, value_name = "FILE", conflicts_with = "recipient")]
    new_passphrase_file: Option<PathBuf>,
}

/// Deletes a wrapped key, but never the last one.
#[derive(Args, Debug)]
pub(crate) struct Remove {
    /// The key, by its id
    key: ObjectId,

    #[command(flatten)]
    vault: VaultOptions,
}

/// Deletes every key of a scope: nobody can read it again who did not keep the key elsewhere.
#[derive(Args, Debug)]
pub(crate) struct Destroy {
    #[command(flatten)]
    vault: VaultOptions,

    /// Show what would be done, and do nothing
    #[arg(long)]
    pub(super) dry_run: bool,
}

#[derive(Serialize)]
struct Document {
    dry_run: bool,
    vault: String,
    scope: String,
    keys: Vec<View>,
}

#[derive(Serialize)]
struct View {
    key: String,
    domain: String,
}

impl Key {
    pub(crate) fn run(&self, context: &Context) -> Result<Answer, Failure> {
        match self {
            Self::List(command) => command.run(context),
            Self::Add(command) => command.run(context),
            Self::Remove(command) => command.run(context),
        }
    }
}

impl List {
    fn run(&self, context: &Context) -> Result<Answer, Failure> {
        let vault = self.vault.open(context, Use::Reads)?;
        let document = document(&vault, keys(&vault)?, false);
        context.answer("vmsnap.vault-key-list.v1", &document, |document| {
            let keys = document.keys.iter();
            let lines = keys.map(|view| format!("{}  of domain {}", view.key, view.domain));
            lines.collect::<Vec<_>>().join("\n")
        })
    }
}

impl Add {
    fn run(&self, context: &Context) -> Result<Answer, Failure> {
        let vault = self.vault.open(context, Use::Writes)?;
        let to: Box<dyn KeyKeeper> = match &self.new_passphrase_file {
            Some(path) => Box::new(passphrase(path)?),
            None => Box::new(recipients(&self.recipient)?),
        };
        let Some(from) = vault.keeper() else {
            return Err(
                Failure::new(Exit::KeyNeeded, "a key is wrapped by one who can open it")
                    .hint("give --identity or --passphrase-file"),
            );
        };
        let mut added = Vec::new();
        for domain in sealed(&vault)? {
            let key = vault.vault.share_key(domain.id, from, &*to);
            added.push((domain, key.map_err(|error| vault.failure(&error))?));
        }
        let document = document(&vault, added, false);
        context.answer("vmsnap.vault-key-add.v1", &document, |document| {
            format!(
                "added {}; those from before still open it",
                counted(document.keys.len() as u64, "key")
            )
        })
    }
}

impl Remove {
    fn run(&self, context: &Context) -> Result<Answer, Failure> {
        let vault = self.vault.open(context, Use::Writes)?;
        let keys = keys(&vault)?;
        let Some((domain, _)) = keys.iter().find(|(_, key)| *key == self.key) else {
            let missing = format!("scope {} has no key {}", vault.scope, self.key);
            return Err(Failure::new(Exit::NotFound, missing).at(&vault.path));
        };
        if keys.iter().filter(|(of, _)| of.id == domain.id).count() < 2 {
            let last = format!("it is the last key of domain {}", domain.id);
            return Err(Failure::new(Exit::Refused, last)
                .hint("add another one first, or see `vmsnap vault destroy`"));
        }
        let destroyed = vault.vault.destroy_key(domain.id, self.key);
        destroyed.map_err(|error| vault.failure(&error))?;
        let document = document(&vault, vec![(domain.clone(), self.key)], false);
        context.answer("vmsnap.vault-key-remove.v1", &document, |_| {
            "removed the key; whoever opened the scope by it may have kept what it wraps, and reads what is in the \
             scope and what will be: to keep them out, archive into a new scope"
                .to_owned()
        })
    }
}

impl Destroy {
    pub(crate) fn run(&self, context: &Context) -> Result<Answer, Failure> {
        let used = if self.dry_run {
            Use::Reads
        } else {
            Use::Writes
        };
        let vault = self.vault.open(context, used)?;
        let keys = keys(&vault)?;
        if !self.dry_run {
            for (domain, key) in &keys {
                let destroyed = vault.vault.destroy_key(domain.id, *key);
                destroyed.map_err(|error| vault.failure(&error))?;
            }
        }
        let document = document(&vault, keys, self.dry_run);
        context.answer("vmsnap.vault-destroy.v1", &document, |document| {
            let done = if document.dry_run { "would destroy" } else { "destroyed" };
            format!(
                "{done} {} of scope {}: without a copy of one elsewhere nothing in it can be read again",
                counted(document.keys.len() as u64, "key"),
                document.scope
            )
        })
    }
}

/// The sealed domains of the scope: at least one.
fn sealed(vault: &OpenVault) -> Result<Vec<DomainSummary>, Failure> {
    let (domains, _) = vault
        .vault
        .domains()
        .map_err(|error| vault.failure(&error))?;
    let own = domains
        .into_iter()
        .filter(|domain| domain.scope == vault.scope);
    let (sealed, open): (Vec<_>, Vec<_>) = own.partition(|domain| domain.is_sealed);
    if !sealed.is_empty() {
        return Ok(sealed);
    }
    Err(if open.is_empty() {
        Failure::new(
            Exit::NotFound,
            format!("scope {} does not exist", vault.scope),
        )
        .at(&vault.path)
    } else {
        Failure::usage(format!(
            "scope {} is not sealed: it has no keys",
            vault.scope
        ))
    })
}

/// All wrapped keys of the scope.
fn keys(vault: &OpenVault) -> Result<Vec<(DomainSummary, ObjectId)>, Failure> {
    let mut keys = Vec::new();
    for domain in sealed(vault)? {
        let own = vault.vault.keys(domain.id);
        let own = own.map_err(|error| vault.failure(&error))?;
        keys.extend(own.into_iter().map(|key| (domain.clone(), key)));
    }
    Ok(keys)
}

fn document(vault: &OpenVault, keys: Vec<(DomainSummary, ObjectId)>, dry_run: bool) -> Document {
    let keys = keys.into_iter().map(|(domain, key)| View {
        key: key.to_string(),
        domain: domain.id.to_string(),
    });
    Document {
        dry_run,
        vault: vault.path.display().to_string(),
        scope: vault.scope.to_string(),
        keys: keys.collect(),
    }
}
