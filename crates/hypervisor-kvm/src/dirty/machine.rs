//! What both ways of tracking ask of a machine.

use std::io;

use kvm_bindings::{
    KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, KVM_CAP_MEMORY_ATTRIBUTES, KVM_MEM_LOG_DIRTY_PAGES,
    kvm_enable_cap,
};
use snapshot_memory::{DirtyBitmap, DirtyError};

use super::slots::{KvmSlots, SlotTable};
use crate::calls::{Calls, DirtyCalls, Target};
use crate::error::KvmError;
use crate::request::KVM_ENABLE_CAP;

impl dyn DirtyCalls + '_ {
    /// The same machine, for every other request.
    fn requests(&mut self) -> &mut (dyn Calls + '_) {
        self
    }

    /// What the machine answers for an extension: 0 means that it has none.
    pub(super) fn extension(&mut self, capability: u32) -> Result<u64, KvmError> {
        self.requests().extension(capability)
    }

    /// Switches on a capability of the machine.
    pub(super) fn enable(&mut self, capability: u32, argument: u64) -> Result<(), KvmError> {
        let mut enable = kvm_enable_cap {
            cap: capability,
            ..Default::default()
        };
        enable.args[0] = argument;
        self.requests().set(Target::Vm, KVM_ENABLE_CAP, enable)
    }

    /// Sets how the dirty log is cleared. A kernel that cannot is left alone where nothing is
    /// asked for.
    pub(super) fn set_manual_protect(&mut self, flags: u32) -> Result<(), KvmError> {
        let known = self.extension(KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2)?;
        if u64::from(flags) & !known != 0 {
            return Err(KvmError::Unsupported {
                what: "manual protection of the dirty log (Linux 5.0; initially set: 5.7)",
            });
        }
        match known {
            0 => Ok(()),
            _ => self.enable(KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, flags.into()),
        }
    }

    /// Refuses machines whose memory nobody but the guest can read: what a snapshot would hold of
    /// it brings no guest back.
    pub(super) fn refuse_private_memory(&mut self) -> Result<(), KvmError> {
        if self.extension(KVM_CAP_MEMORY_ATTRIBUTES)? != 0 {
            return Err(KvmError::PrivateMemory {
                what: "a machine with private memory (SEV-SNP, TDX)",
            });
        }
        self.refuse_encrypted_memory()
    }

    /// Asks for the state of an SEV guest without the firmware's descriptor: a machine that is
    /// none says so before it looks for that.
    #[cfg(target_arch = "x86_64")]
    fn refuse_encrypted_memory(&mut self) -> Result<(), KvmError> {
        use std::mem::offset_of;

        use kvm_bindings::kvm_sev_cmd;

        use crate::calls::Arg;
        use crate::lists::write;
        use crate::request::KVM_MEMORY_ENCRYPT_OP;

        // Id, data, error, descriptor.
        let mut command = [0; size_of::<kvm_sev_cmd>()];
        let status = kvm_bindings::sev_cmd_id_KVM_SEV_GUEST_STATUS;
        write(&mut command, 0, &status);
        write(&mut command, offset_of!(kvm_sev_cmd, sev_fd), &u32::MAX);
        let arg = Arg::Bytes(&mut command);
        let answer = self.call(Target::Vm, KVM_MEMORY_ENCRYPT_OP, arg);
        let is_encrypted = match answer {
            Ok(_) => true,
            Err(error) => matches!(error.raw_os_error(), Some(libc::EBADF | libc::EIO)),
        };
        if is_encrypted {
            return Err(KvmError::PrivateMemory {
                what: "a machine with encrypted memory (SEV, SEV-ES)",
            });
        }
        Ok(())
    }

    #[cfg(not(target_arch = "x86_64"))]
    #[expect(
        clippy::unused_self,
        clippy::unnecessary_wraps,
        reason = "as on x86-64"
    )]
    fn refuse_encrypted_memory(&mut self) -> Result<(), KvmError> {
        Ok(())
    }

    /// Switches logging of all slots; what was switched on before a failure is switched off.
    pub(super) fn set_logging(
        &mut self,
        name: &'static str,
        slots: &SlotTable,
        on: bool,
    ) -> Result<(), DirtyError> {
        let log = if on { KVM_MEM_LOG_DIRTY_PAGES } else { 0 };
        let mut failed_at = None;
        for (at, slot) in slots.iter().enumerate() {
            let registered = slot.registered;
            if let Err(error) = self.set_slot_flags(registered, registered.flags | log) {
                failed_at = failed_at.or(Some((at, error)));
                if on {
                    break;
                }
            }
        }
        let Some((at, source)) = failed_at else {
            return Ok(());
        };
        for slot in slots.iter().take(if on { at } else { 0 }) {
            // The first failure is what is told.
            let _ = self.set_slot_flags(slot.registered, slot.registered.flags);
        }
        Err(failed(name, "KVM_SET_USER_MEMORY_REGION")(source))
    }
}

/// The slots of the new layout, as the VMM named them, and what of them counts as written.
pub(super) fn next_slots(
    name: &'static str,
    handle: &KvmSlots,
    old: &SlotTable,
    layout: &snapshot_format::MemoryLayout,
    changed: &DirtyBitmap,
) -> Result<SlotTable, DirtyError> {
    let slots = handle.take().ok_or(DirtyError::LayoutDiffers { name })?;
    let new = SlotTable::new(layout.clone(), &slots).map_err(|error| DirtyError::Invalid {
        name,
        what: error.to_string(),
    })?;
    old.mark_replaced(&new, changed);
    Ok(new)
}

pub(super) fn failed(name: &'static str, call: &'static str) -> impl Fn(io::Error) -> DirtyError {
    move |source| DirtyError::System { name, call, source }
}
