//! The command under watch: it stops on both sides of every call of [`point::watched`].

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitStatus};

use nix::errno::Errno;
use nix::sys::ptrace;
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use super::error::BlockError;
use super::point::{self, Call, Side, Watched};
use super::registers::Registers;
use super::spawn;

/// The longest path that the kernel takes.
const MAX_PATH_BYTES: usize = 4096;

/// A process that this one traces. Dropping it kills it.
#[derive(Debug)]
pub(crate) struct Tracee {
    pid: Pid,
    store: String,
    /// The watched call that each thread is in.
    pending: BTreeMap<Pid, Pending>,
    /// The thread that stopped last and waits to go on.
    stopped: Option<Pid>,
    has_ended: bool,
}

#[derive(Clone, Debug)]
struct Pending {
    call: Call,
    is_failed_by_us: bool,
}

/// Why the command stopped.
#[derive(Debug)]
pub(crate) enum Stop {
    /// It is beside a watched call.
    Call(Side, Call),
    /// It has ended.
    Ended(ExitStatus),
}

impl Tracee {
    /// Starts `command`, stopped at its first instruction; `store` is taken off the paths that it
    /// works on.
    pub(crate) fn start(command: &mut Command, store: &str) -> Result<Self, BlockError> {
        let pid = spawn::traced(command)?;
        // From here on dropping it kills the process.
        let tracee = Self {
            pid,
            store: store.to_owned(),
            pending: BTreeMap::new(),
            stopped: Some(pid),
            has_ended: false,
        };
        waitpid(pid, None).map_err(BlockError::trace("wait for the first stop"))?;
        let options = ptrace::Options::PTRACE_O_TRACESYSGOOD
            | ptrace::Options::PTRACE_O_TRACECLONE
            | ptrace::Options::PTRACE_O_TRACEFORK
            | ptrace::Options::PTRACE_O_TRACEVFORK
            | ptrace::Options::PTRACE_O_TRACEEXEC
            | ptrace::Options::PTRACE_O_EXITKILL;
        ptrace::setoptions(pid, options).map_err(BlockError::trace("set options"))?;
        Ok(tracee)
    }

    /// Lets it run to the next watched call, or to its end.
    pub(crate) fn next_stop(&mut self) -> Result<Stop, BlockError> {
        if let Some(thread) = self.stopped.take() {
            resume(thread, None)?;
        }
        loop {
            // Other threads of this process may wait for children of their own.
            let status = waitpid(None, Some(WaitPidFlag::__WALL | WaitPidFlag::__WNOTHREAD))
                .map_err(BlockError::trace("wait for a stop"))?;
            match status {
                WaitStatus::PtraceSyscall(thread) => {
                    if let Some((side, call)) = self.at_call(thread)? {
                        self.stopped = Some(thread);
                        return Ok(Stop::Call(side, call));
                    }
                    resume(thread, None)?;
                }
                WaitStatus::PtraceEvent(thread, ..)
                | WaitStatus::Stopped(thread, Signal::SIGSTOP) => {
                    resume(thread, None)?;
                }
                WaitStatus::Stopped(thread, signal) => resume(thread, Some(signal))?,
                WaitStatus::Exited(pid, code) if pid == self.pid => {
                    self.has_ended = true;
                    return Ok(Stop::Ended(ExitStatus::from_raw(code << 8)));
                }
                WaitStatus::Signaled(pid, signal, _) if pid == self.pid => {
                    self.has_ended = true;
                    return Ok(Stop::Ended(ExitStatus::from_raw(signal as i32)));
                }
                _ => {}
            }
        }
    }

    /// Keeps the call from happening that it is before, and lets it fail with an I/O error.
    pub(crate) fn fail_call(&mut self) -> Result<(), BlockError> {
        let Some(thread) = self.stopped else {
            return Ok(());
        };
        Registers::of(thread)?.skip_call()?;
        if let Some(pending) = self.pending.get_mut(&thread) {
            pending.is_failed_by_us = true;
        }
        Ok(())
    }

    /// The watched call that `thread` is entering or leaving.
    fn at_call(&mut self, thread: Pid) -> Result<Option<(Side, Call)>, BlockError> {
        let info = match ptrace::syscall_info(thread) {
            Ok(info) => info,
            // Killed meanwhile, by its own process: its end is reported next.
            Err(Errno::ESRCH) => return Ok(None),
            Err(errno) => return Err(BlockError::trace("look at a call")(errno)),
        };
        if info.op == libc::PTRACE_SYSCALL_INFO_EXIT {
            let Some(pending) = self.pending.remove(&thread) else {
                return Ok(None);
            };
            if pending.is_failed_by_us {
                Registers::of(thread)?.fail_with(Errno::EIO)?;
            }
            return Ok(Some((Side::After, pending.call)));
        }
        let registers = Registers::of(thread)?;
        let Some((name, watched)) = point::watched(registers.call_number()) else {
            return Ok(None);
        };
        let target = match watched {
            Watched::Sync => self.place_of_descriptor(thread, registers.argument(0)),
            Watched::SyncAll => String::new(),
            Watched::Names(arguments) => {
                let names = arguments
                    .iter()
                    .map(|&n| read_path(thread, registers.argument(n)));
                let places = names.map(|name| point::place(&name, &self.store));
                places.collect::<Vec<_>>().join(" -> ")
            }
        };
        let call = Call { name, target };
        let pending = Pending {
            call: call.clone(),
            is_failed_by_us: false,
        };
        self.pending.insert(thread, pending);
        Ok(Some((Side::Before, call)))
    }

    fn place_of_descriptor(&self, thread: Pid, descriptor: u64) -> String {
        let link = format!("/proc/{thread}/fd/{descriptor}");
        let path = fs::read_link(link).unwrap_or_default();
        point::place(&path.to_string_lossy(), &self.store)
    }
}

impl Drop for Tracee {
    fn drop(&mut self) {
        if !self.has_ended {
            // It may be gone already; then there is nothing to kill or to wait for.
            let _ = nix::sys::signal::kill(self.pid, Signal::SIGKILL);
            let _ = waitpid(self.pid, Some(WaitPidFlag::__WALL));
        }
    }
}

fn resume(thread: Pid, signal: Option<Signal>) -> Result<(), BlockError> {
    match ptrace::syscall(thread, signal) {
        // Killed meanwhile, by its own process: its end is reported next.
        Ok(()) | Err(Errno::ESRCH) => Ok(()),
        Err(errno) => Err(BlockError::trace("let it go on")(errno)),
    }
}

/// The path at `address` of a stopped thread; as much of it as can be read.
fn read_path(thread: Pid, address: u64) -> String {
    let mut bytes = Vec::new();
    while bytes.len() < MAX_PATH_BYTES {
        let at = address.wrapping_add(bytes.len() as u64);
        let Ok(word) = ptrace::read(thread, at as ptrace::AddressType) else {
            break;
        };
        #[expect(
            clippy::host_endian_bytes,
            reason = "the memory of a process of this host"
        )]
        let word = word.to_ne_bytes();
        let end = word.iter().position(|&byte| byte == 0);
        bytes.extend_from_slice(word.get(..end.unwrap_or(word.len())).unwrap_or_default());
        if end.is_some() {
            break;
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests;
