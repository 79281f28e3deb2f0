//! What to do with a saved register that the kernel does not take.

use std::io;

use snapshot_format::state::SystemRegisterId;

use super::{abi, registers};
use crate::calls::Calls;
use crate::error::KvmError;

/// Which refused registers a restore does without.
///
/// There is none unless it is named. A guest that was shown the caches of one core and runs on
/// another, or whose counters of errors stay behind, may do without; a guest that lost its page
/// tables may not.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct RegisterPolicy {
    dropped: Vec<u64>,
}

impl RegisterPolicy {
    /// Drops this register, by its number in `KVM_GET_ONE_REG`, if the kernel refuses it.
    #[must_use]
    pub fn drop_refused(mut self, id: u64) -> Self {
        self.dropped.push(id);
        self
    }

    /// As [`drop_refused`](Self::drop_refused), by encoding.
    #[must_use]
    pub fn drop_refused_system(self, id: SystemRegisterId) -> Self {
        self.drop_refused(abi::system(id))
    }

    pub(super) fn drops(&self, id: u64) -> bool {
        self.dropped.contains(&id)
    }

    /// Writes a register; a refusal is an error that names it, unless the policy drops it.
    pub(super) fn write(
        &self,
        calls: &mut (dyn Calls + '_),
        vcpu: usize,
        id: u64,
        value: u64,
    ) -> Result<(), KvmError> {
        match registers::try_set(calls, vcpu, id, value) {
            Ok(()) => Ok(()),
            Err(error) if is_refusal(&error) && self.drops(id) => {
                tracing::warn!(vcpu, id, value, "a register was dropped by policy");
                Ok(())
            }
            Err(source) if is_refusal(&source) => Err(KvmError::RegisterRefused {
                vcpu,
                register: name(id),
                value,
                source,
            }),
            Err(source) => {
                let target = crate::calls::Target::Vcpu(vcpu);
                let request = crate::request::KVM_SET_ONE_REG;
                Err(crate::calls::refused(target, request, source))
            }
        }
    }

    /// As [`write`](Self::write), but only if the vCPU does not have the value already: registers
    /// that describe the CPU cannot be written on every kernel, nor on every core.
    pub(super) fn write_if_other(
        &self,
        calls: &mut (dyn Calls + '_),
        vcpu: usize,
        id: u64,
        value: u64,
    ) -> Result<(), KvmError> {
        match registers::get(calls, vcpu, id) {
            Ok(found) if found == value => Ok(()),
            // Whether it can be written says the write.
            Ok(_) | Err(_) => self.write(calls, vcpu, id, value),
        }
    }
}

/// Whether the kernel knows no such register, or not with this value.
pub(super) fn is_refusal(error: &io::Error) -> bool {
    let refusals = [libc::EINVAL, libc::ENOENT, libc::EPERM, libc::EBUSY];
    error
        .raw_os_error()
        .is_some_and(|errno| refusals.contains(&errno))
}

/// A register for people: by name where it is one of the architecture.
pub(super) fn name(id: u64) -> String {
    if id & abi::GROUP_MASK == abi::SYSREG {
        let [low, high, ..] = id.to_le_bytes();
        SystemRegisterId(u16::from_le_bytes([low, high])).to_string()
    } else {
        format!("{id:#x}")
    }
}
