//! The commands, one a file.

mod check;
mod delete;
mod demo;
mod df;
mod import;
mod inspect;
mod lease;
mod list;
mod map;
mod relayout;
mod restore;
#[cfg(target_os = "linux")]
mod serve;
mod show;
mod trash;
mod tree;
mod undelete;
mod verify;
mod warm;
mod working_set;

use clap::Subcommand;
use snapshot_store::Reference;

use crate::answer::Answer;
use crate::context::Context;
use crate::failure::Failure;

/// What can be done.
#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    /// Snapshot and restore a real guest, end to end, and check every byte
    Demo(demo::Demo),
    /// Take a memory file of another VMM as a snapshot
    Import(import::Import),
    /// Write the memory, and the state, of a snapshot to files
    Restore(restore::Restore),
    /// Serve the memory of a snapshot to VMs of other processes, page by page
    #[cfg(target_os = "linux")]
    Serve(serve::Serve),
    /// Lay the pages of a snapshot out anew: to be mapped, or to take less space
    Relayout(relayout::Relayout),
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
    /// Show what a file of a snapshot holds, also a damaged or a newer one
    Inspect(inspect::Inspect),
    /// Show, record or drop the pages that a guest touches first
    WorkingSet(working_set::WorkingSetCommand),
    /// Show how much space the snapshots take
    Df(df::Df),
    /// The part of `demo` that runs in a process of its own
    #[command(name = "demo-restore", hide = true)]
    DemoRestore(demo::DemoRestore),
}

impl Command {
    pub(crate) fn run(&self, context: &Context) -> Result<Answer, Failure> {
        match self {
            Self::Demo(command) => command.run(context),
            Self::Import(command) => command.run(context),
            Self::Restore(command) => command.run(context),
            #[cfg(target_os = "linux")]
            Self::Serve(command) => command.run(context),
            Self::Relayout(command) => command.run(context),
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
            Self::Inspect(command) => command.run(context),
            Self::WorkingSet(command) => command.run(context),
            Self::Df(command) => command.run(context),
            Self::DemoRestore(command) => command.run(context),
        }
    }
}

/// Reads a REF; what is none is told with the forms that there are.
fn reference(text: &str) -> Result<Reference, String> {
    let parsed = text.parse::<Reference>();
    parsed.map_err(|error| format!("{error}; {}", error.hint()))
}
