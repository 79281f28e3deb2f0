//! Starting a process that its parent traces.

// UNSAFETY: the step between fork and exec in which a child asks to be traced.
#![expect(unsafe_code, reason = "asks for tracing between fork and exec")]

use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

use nix::sys::ptrace;
use nix::unistd::Pid;

use super::error::BlockError;
use crate::mount::MountError;

/// Starts `command`; it stops at its first instruction and is the calling thread's to trace.
pub(crate) fn traced(command: &mut Command) -> Result<Pid, BlockError> {
    let ask = || ptrace::traceme().map_err(io::Error::from);
    // SAFETY: the closure makes one system call, allocates nothing and takes no lock.
    unsafe { command.pre_exec(ask) };
    let child = command.spawn().map_err(|source| MountError::Start {
        program: command.get_program().to_string_lossy().into_owned(),
        source,
    })?;
    let pid = i32::try_from(child.id()).unwrap_or(i32::MAX);
    // The tracer waits for it by its number; a child that is dropped is neither waited for nor
    // killed.
    Ok(Pid::from_raw(pid))
}
