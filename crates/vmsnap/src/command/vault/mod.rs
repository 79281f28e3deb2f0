//! `vmsnap vault …`: what is kept in a vault, its health, its space and its keys.

mod check;
mod gc;
mod key;
mod list;
mod scopes;
mod trash;

use clap::{Args, Subcommand};

use crate::answer::Answer;
use crate::context::Context;
use crate::failure::Failure;

/// What is kept in a vault, its health, its space and its keys.
#[derive(Args, Debug)]
pub(crate) struct VaultCommand {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand, Debug)]
enum Action {
    /// List the archives of a scope
    List(list::List),
    /// List the scopes, also those that there is no key to
    Scopes(scopes::Scopes),
    /// Check every byte of a scope, and that every archive is whole
    Verify(check::Verify),
    /// Delete the packs that no archive needs
    Gc(gc::Gc),
    /// Move an archive to the trash of its scope
    Delete(trash::Delete),
    /// Bring an archive back from the trash
    Undelete(trash::Undelete),
    /// The keys of a sealed scope
    #[command(subcommand)]
    Key(key::Key),
    /// Make a sealed scope unreadable for ever, by deleting its keys
    Destroy(key::Destroy),
}

impl VaultCommand {
    /// Whether it puts or deletes anything.
    pub(crate) fn changes(&self) -> bool {
        match &self.action {
            Action::List(_)
            | Action::Scopes(_)
            | Action::Verify(_)
            | Action::Key(key::Key::List(_)) => false,
            Action::Gc(gc) => !gc.dry_run,
            Action::Delete(delete) => !delete.dry_run,
            Action::Destroy(destroy) => !destroy.dry_run,
            Action::Undelete(_) | Action::Key(_) => true,
        }
    }

    pub(crate) fn run(&self, context: &Context) -> Result<Answer, Failure> {
        match &self.action {
            Action::List(command) => command.run(context),
            Action::Scopes(command) => command.run(context),
            Action::Verify(command) => command.run(context),
            Action::Gc(command) => command.run(context),
            Action::Delete(command) => command.run(context),
            Action::Undelete(command) => command.run(context),
            Action::Key(command) => command.run(context),
            Action::Destroy(command) => command.run(context),
        }
    }
}
