//! Every command that changes a store is in the audit log of the store: before, and when it is done.

use std::sync::Arc;

use snapshot_memory::backend::{FsBackend, HostIdentity};
use snapshot_store::{Access, Actor, ErrorKind, Intent, OpenOptions, Store, StoreError};

use crate::answer::Answer;
use crate::context::Context;
use crate::failure::Failure;

/// What a command does to a store.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Change {
    /// The name of the command.
    pub(crate) command: &'static str,
    /// Whether it frees space, and so must not fail for want of it.
    pub(crate) frees_space: bool,
}

/// Runs a command that changes the store of `context`, with an intent before and an outcome after.
pub(crate) fn run(
    context: &Context,
    change: Change,
    perform: impl FnOnce() -> Result<Answer, Failure>,
) -> Result<Answer, Failure> {
    let store = open(context);
    let begun = match &store {
        Some(store) => begin(store, change),
        None => Ok(None),
    };
    let begun = match begun {
        Err(error) if change.frees_space && error.kind() == ErrorKind::NoSpace => {
            context.note("there is no space to write this down in the audit log");
            None
        }
        begun => begun.map_err(|error| context.failure(&error))?,
    };
    let ended = perform();
    let finished = match (&store, begun) {
        (Some(store), Some(intent)) => finish(store, &intent, &ended),
        (Some(_), None) => Ok(()),
        // The command may have made the store.
        (None, _) => open(context).map_or(Ok(()), |store| match begin(&store, change)? {
            Some(intent) => finish(&store, &intent, &ended),
            None => Ok(()),
        }),
    };
    if let Err(error) = finished {
        context.note(&format!("the audit log lacks the outcome: {error}"));
    }
    ended
}

/// The store, if there is one that can be written to. What is wrong with it the command says.
fn open(context: &Context) -> Option<Store> {
    let backend = FsBackend::open(context.store.as_deref()?).ok()?;
    let options = OpenOptions::default().access(Access::ReadWrite);
    Store::open(Arc::new(backend), &options.clean_up(false)).ok()
}

fn begin(store: &Store, change: Change) -> Result<Option<Intent>, StoreError> {
    let host = HostIdentity::current().map_or_else(|_| String::new(), |identity| identity.host);
    let actor = Actor {
        host,
        pid: std::process::id(),
        uid: nix::unistd::getuid().as_raw(),
    };
    let arguments = std::env::args_os().skip(1);
    let arguments: Vec<String> = arguments
        .map(|text| text.to_string_lossy().into_owned())
        .collect();
    store
        .audit_intent(actor, change.command, &arguments, &[])
        .map(Some)
}

fn finish(
    store: &Store,
    intent: &Intent,
    ended: &Result<Answer, Failure>,
) -> Result<(), StoreError> {
    let (result, message) = match ended {
        Ok(answer) => (answer.exit.name(), String::new()),
        Err(failure) => (failure.exit.name(), failure.to_string()),
    };
    store.audit_outcome(intent, result, &message, &[])
}
