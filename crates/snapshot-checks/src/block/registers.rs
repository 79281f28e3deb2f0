//! The registers of a traced thread at a system call, as x86_64 passes them.

use nix::errno::Errno;
use nix::sys::ptrace;
use nix::unistd::Pid;

use super::error::BlockError;

/// The registers of one stopped thread.
#[derive(Debug)]
pub(crate) struct Registers {
    thread: Pid,
    values: libc::user_regs_struct,
}

impl Registers {
    /// Reads them.
    pub(crate) fn of(thread: Pid) -> Result<Self, BlockError> {
        let values = ptrace::getregs(thread).map_err(BlockError::trace("read registers"))?;
        Ok(Self { thread, values })
    }

    /// Which system call.
    pub(crate) fn call_number(&self) -> i64 {
        self.values.orig_rax.cast_signed()
    }

    /// The argument `index` of the call, of six.
    pub(crate) fn argument(&self, index: usize) -> u64 {
        let values = &self.values;
        match index {
            0 => values.rdi,
            1 => values.rsi,
            2 => values.rdx,
            3 => values.r10,
            4 => values.r8,
            _ => values.r9,
        }
    }

    /// At the entry of a call: lets the kernel do nothing instead.
    pub(crate) fn skip_call(mut self) -> Result<(), BlockError> {
        self.values.orig_rax = u64::MAX;
        self.write()
    }

    /// At the exit of a call: lets it return `errno`.
    pub(crate) fn fail_with(mut self, errno: Errno) -> Result<(), BlockError> {
        self.values.rax = i64::from(-(errno as i32)).cast_unsigned();
        self.write()
    }

    fn write(&self) -> Result<(), BlockError> {
        ptrace::setregs(self.thread, self.values).map_err(BlockError::trace("write registers"))
    }
}
