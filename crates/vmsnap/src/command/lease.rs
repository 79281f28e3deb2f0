//! `vmsnap lease REF -- COMMAND…`.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::process::{Command, Stdio};

use clap::Args;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use serde::Serialize;
use snapshot_format::SnapshotId;
use snapshot_store::{Access, Reference};

use crate::answer::Answer;
use crate::command::reference;
use crate::context::Context;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::view::short;

/// Runs a command, and keeps a snapshot and all that it needs from being destroyed meanwhile.
#[derive(Args, Debug)]
pub(crate) struct Lease {
    /// The snapshot
    #[arg(value_name = "REF", value_parser = reference)]
    reference: Reference,

    /// The command. It has the lease as well, and so have its own commands: the lease lasts until
    /// the last of them has ended, or has closed it
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

#[derive(Serialize)]
struct Leased {
    id: SnapshotId,
    /// How the command ended, in the system's words.
    ended: String,
    /// Its exit code; `null` where a signal ended it.
    exit_code: Option<i32>,
}

impl Lease {
    pub(crate) fn run(&self, context: &Context) -> Result<Answer, Failure> {
        let store = context.open(Access::ReadWrite)?;
        let id = context.resolve(&store, &self.reference)?;
        let lease = store.lease(id).map_err(|error| context.failure(&error))?;
        if let Some(lock) = lease.descriptor() {
            let failed = |error: io::Error| Failure::because(Exit::Failed, &error);
            pass_on(lock).map_err(failed)?;
        }
        let Some((program, arguments)) = self.command.split_first() else {
            return Err(Failure::usage("there is no command to run"));
        };
        let program = Path::new(program);
        let failed = |error| Failure::io("run the command", program, &error);
        let mut command = Command::new(program);
        command.args(arguments);
        if context.json {
            // The one document is all that stands on standard output.
            let other = io::stderr().as_fd().try_clone_to_owned().map_err(failed)?;
            command.stdout(Stdio::from(other));
        }
        let status = command.status().map_err(failed)?;
        let leased = Leased {
            id,
            ended: status.to_string(),
            exit_code: status.code(),
        };
        let exit = if status.success() {
            Exit::Done
        } else {
            Exit::Failed
        };
        let answer = context.answer("vmsnap.lease.v1", &leased, tell)?;
        Ok(answer.ending(exit))
    }
}

/// Has the commands that this process runs inherit the descriptor.
fn pass_on(lock: BorrowedFd<'_>) -> io::Result<()> {
    fcntl(lock, FcntlArg::F_SETFD(FdFlag::empty()))?;
    Ok(())
}

fn tell(leased: &Leased) -> String {
    format!(
        "snapshot {} was kept; the command ended with {}\n",
        short(leased.id),
        leased.ended
    )
}
