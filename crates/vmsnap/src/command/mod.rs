//! The commands, one a file.

mod access;
mod analyze;
mod archive;
mod attach;
mod audit;
mod branch;
mod check;
mod consolidate;
mod delete;
mod demo;
mod df;
mod diff;
mod gc;
mod import;
mod inspect;
mod lease;
mod list;
mod map;
mod merge;
mod parity;
mod policy;
mod profile;
mod prune;
mod reindex;
mod relayout;
mod repair;
mod restore;
#[cfg(target_os = "linux")]
mod serve;
mod show;
mod thaw;
mod trash;
mod tree;
mod undelete;
mod vault;
mod verify;
mod warm;
mod working_set;

use clap::Subcommand;
use snapshot_format::{LabelKey, LabelValue};
use snapshot_store::Reference;

use crate::answer::Answer;
use crate::audited::{self, Change};
use crate::context::Context;
use crate::failure::Failure;

/// What can be done.
#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    /// Snapshot and restore a real guest, end to end, and check every byte
    Demo(demo::Demo),
    /// Take a memory file of another VMM as a snapshot
    Import(Box<import::Import>),
    /// Write the memory, and the state, of a snapshot to files
    Restore(restore::Restore),
    /// Serve the memory of a snapshot to VMs of other processes, page by page
    #[cfg(target_os = "linux")]
    Serve(serve::Serve),
    /// Lay the pages of a snapshot out anew: to be mapped, or to take less space
    Relayout(relayout::Relayout),
    /// Merge the data files that a snapshot needs, so that it needs fewer
    Consolidate(consolidate::Consolidate),
    /// Build the memory of a snapshot as one file that clones can map
    Warm(warm::Warm),
    /// Run a command, and keep a snapshot from being destroyed meanwhile
    Lease(lease::Lease),
    /// List the snapshots
    List(list::List),
    /// Show all that is known of one snapshot
    Show(show::Show),
    /// Show where the memory of a snapshot lies, and how it would be brought back
    Map(map::Map),
    /// Draw the snapshots of a VM by descent
    Tree(tree::Tree),
    /// Say whether a host can run a snapshot, and every reason why not
    Check(check::Check),
    /// Move a snapshot to the trash
    Delete(delete::Delete),
    /// Bring a snapshot back from the trash
    Undelete(undelete::Undelete),
    /// List the deleted snapshots
    Trash(trash::Trash),
    /// Check every byte of one snapshot, or of all
    Verify(verify::Verify),
    /// Mend a snapshot, and all that it needs, from copies whose digests prove them
    Repair(repair::Repair),
    /// Make parity beside a snapshot, or take it away
    #[command(subcommand)]
    Parity(parity::ParityCommand),
    /// Show what a file of a snapshot holds, also a damaged or a newer one
    Inspect(inspect::Inspect),
    /// Show, record or drop the pages that a guest touches first
    WorkingSet(working_set::WorkingSetCommand),
    /// Copy a snapshot to a vault, where what many have in common is stored once
    Archive(archive::Archive),
    /// Publish an archived snapshot in the store again
    Thaw(thaw::Thaw),
    /// What is kept in a vault, its health, its space and its keys
    Vault(vault::VaultCommand),
    /// Show, set or try what is kept of the snapshots of a VM
    #[command(subcommand)]
    Policy(policy::PolicyCommand),
    /// Move the snapshots to the trash that a policy does not keep
    Prune(prune::Prune),
    /// Give the space of deleted snapshots and superseded files back
    Gc(gc::Gc),
    /// Show how much space the snapshots take
    Df(df::Df),
    /// Make a branch that starts at a snapshot
    Branch(branch::Branch),
    /// List the branches of a VM
    Branches(branch::Branches),
    /// Say which branch a VM is on
    Switch(branch::Switch),
    /// Put the state of one branch onto another, as a new snapshot
    Merge(merge::MergeCommand),
    /// Make a snapshot anew from its parent
    Recreate(merge::Recreate),
    /// Add tags to a snapshot, or remove them
    Tag(attach::TagCommand),
    /// Set labels of a snapshot, or remove them
    Label(attach::LabelCommand),
    /// Name a snapshot, or describe it
    Describe(attach::Describe),
    /// Keep a snapshot from being deleted
    Protect(attach::Protect),
    /// Compare two snapshots
    Diff(diff::Diff),
    /// Show what takes space, and what deleting would free
    Analyze(analyze::Analyze),
    /// Show the data files that the memory of a snapshot lies in
    ChainInfo(analyze::ChainInfo),
    /// Look for what is worth doing something about
    Diagnose(analyze::Diagnose),
    /// Show how long each phase of another command takes
    Profile(profile::Profile),
    /// Show who changed the store, and check the log of it
    Audit(audit::Audit),
    /// Show or say who may read what the store publishes
    Access(access::AccessCommand),
    /// Make the index of the store anew
    Reindex(reindex::Reindex),
    /// The part of `demo` that runs in a process of its own
    #[command(name = "demo-restore", hide = true)]
    DemoRestore(demo::DemoRestore),
}

impl Command {
    /// Runs the command; one that changes a store is in its audit log.
    pub(crate) fn run(&self, context: &Context) -> Result<Answer, Failure> {
        match self.change(context) {
            Some(change) => audited::run(context, change, || self.perform(context)),
            None => self.perform(context),
        }
    }

    /// What it does to the store, if it changes anything there.
    fn change(&self, context: &Context) -> Option<Change> {
        let (command, changes) = match self {
            Self::Demo(_) => ("demo", context.store.is_some()),
            Self::Import(_) => ("import", true),
            #[cfg(target_os = "linux")]
            Self::Serve(serve) => ("serve", serve.changes()),
            Self::Relayout(_) => ("relayout", true),
            Self::Consolidate(_) => ("consolidate", true),
            Self::Warm(_) => ("warm", true),
            Self::Delete(delete) => ("delete", delete.changes()),
            Self::Undelete(undelete) => ("undelete", undelete.changes()),
            Self::WorkingSet(working_set) => ("working-set", working_set.changes()),
            Self::Archive(_) => ("archive", true),
            Self::Thaw(_) => ("thaw", true),
            Self::Vault(vault) => ("vault", vault.changes()),
            Self::Repair(repair) => ("repair", repair.changes()),
            Self::Parity(_) => ("parity", true),
            Self::Branch(_) => ("branch", true),
            Self::Switch(_) => ("switch", true),
            Self::Merge(_) => ("merge", true),
            Self::Recreate(_) => ("recreate", true),
            Self::Tag(_) => ("tag", true),
            Self::Label(_) => ("label", true),
            Self::Describe(_) => ("describe", true),
            Self::Protect(_) => ("protect", true),
            Self::Access(access) => ("access", access.changes()),
            Self::Policy(policy) => ("policy", policy.changes()),
            Self::Prune(prune) => ("prune", prune.changes()),
            Self::Gc(gc) => ("gc", gc.changes()),
            _ => return None,
        };
        changes.then_some(Change {
            command,
            // What is deleted can be collected then.
            frees_space: matches!(self, Self::Delete(_) | Self::Prune(_) | Self::Gc(_)),
        })
    }

    fn perform(&self, context: &Context) -> Result<Answer, Failure> {
        match self {
            Self::Demo(command) => command.run(context),
            Self::Import(command) => command.run(context),
            Self::Restore(command) => command.run(context),
            #[cfg(target_os = "linux")]
            Self::Serve(command) => command.run(context),
            Self::Relayout(command) => command.run(context),
            Self::Consolidate(command) => command.run(context),
            Self::Warm(command) => command.run(context),
            Self::Lease(command) => command.run(context),
            Self::List(command) => command.run(context),
            Self::Show(command) => command.run(context),
            Self::Map(command) => command.run(context),
            Self::Tree(command) => command.run(context),
            Self::Check(command) => command.run(context),
            Self::Delete(command) => command.run(context),
            Self::Undelete(command) => command.run(context),
            Self::Trash(command) => command.run(context),
            Self::Verify(command) => command.run(context),
            Self::Repair(command) => command.run(context),
            Self::Parity(command) => command.run(context),
            Self::Inspect(command) => command.run(context),
            Self::WorkingSet(command) => command.run(context),
            Self::Archive(command) => command.run(context),
            Self::Thaw(command) => command.run(context),
            Self::Vault(command) => command.run(context),
            Self::Policy(command) => command.run(context),
            Self::Prune(command) => command.run(context),
            Self::Gc(command) => command.run(context),
            Self::Df(command) => command.run(context),
            Self::Branch(command) => command.run(context),
            Self::Branches(command) => command.run(context),
            Self::Switch(command) => command.run(context),
            Self::Merge(command) => command.run(context),
            Self::Recreate(command) => command.run(context),
            Self::Tag(command) => command.run(context),
            Self::Label(command) => command.run(context),
            Self::Describe(command) => command.run(context),
            Self::Protect(command) => command.run(context),
            Self::Diff(command) => command.run(context),
            Self::Analyze(command) => command.run(context),
            Self::ChainInfo(command) => command.run(context),
            Self::Diagnose(command) => command.run(context),
            Self::Profile(command) => command.run(context),
            Self::Audit(command) => command.run(context),
            Self::Access(command) => command.run(context),
            Self::Reindex(command) => command.run(context),
            Self::DemoRestore(command) => command.run(context),
        }
    }
}

/// Reads a REF; what is none is told with the forms that there are.
fn reference(text: &str) -> Result<Reference, String> {
    let parsed = text.parse::<Reference>();
    parsed.map_err(|error| format!("{error}; {}", error.hint()))
}

/// Reads a label that is set.
fn label(text: &str) -> Result<(LabelKey, LabelValue), String> {
    let (key, value) = text
        .split_once('=')
        .ok_or_else(|| format!("{text:?} is no label: write KEY=VALUE"))?;
    let key = LabelKey::new(key).map_err(|error| error.to_string())?;
    let value = LabelValue::new(value).map_err(|error| error.to_string())?;
    Ok((key, value))
}
