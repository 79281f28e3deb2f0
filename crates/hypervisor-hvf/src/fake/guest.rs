//! What a guest of the fake does.

use super::machine::State;
use crate::hv::{Flag, RawExit, Register, VcpuHandle};
use crate::refusal::HvRefusal;

/// One instruction.
///
/// A step that ends the run happens again with the next one unless the program counter was
/// advanced, but for [`Call`](Self::Call): the CPU has advanced it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum GuestStep {
    /// Stores to an address: a fault where the guest may not write, a device where there is no
    /// memory.
    Store {
        /// Where.
        address: u64,
    },
    /// Has the CPU set the accessed flag of a page table: a fault that a walk causes.
    Walk {
        /// Where the table is.
        address: u64,
    },
    /// Loads from a device.
    Load {
        /// Where.
        address: u64,
        /// X0 to X30; 31 is the zero register.
        register: u32,
        /// 0 to 3: 1, 2, 4 or 8 bytes.
        size: u32,
        /// Whether the value is extended by its sign.
        signed: bool,
        /// Whether all 64 bits of the register are written.
        wide: bool,
    },
    /// Reads the virtual counter into a register.
    ReadCounter {
        /// X0 to X30.
        register: u32,
    },
    /// Waits for an interrupt.
    Wait,
    /// Calls the hypervisor.
    Call,
    /// Goes on until it is asked to leave. What comes after the last step, too.
    Spin,
}

/// `ESR_ELx`: exception classes, and the bits of a data abort.
const EC_SHIFT: u32 = 26;
const WAIT: u64 = 0x01 << EC_SHIFT;
const CALL: u64 = 0x16 << EC_SHIFT;
const DATA_ABORT: u64 = 0x24 << EC_SHIFT;
const WIDE_INSTRUCTION: u64 = 1 << 25;
const VALID: u64 = 1 << 24;
const SIGNED: u64 = 1 << 21;
const WIDE: u64 = 1 << 15;
const ON_WALK: u64 = 1 << 7;
const WRITE: u64 = 1 << 6;
const TRANSLATION_FAULT: u64 = 0x07;
const PERMISSION_FAULT: u64 = 0x0f;

/// `CNTV_CTL_EL0`: on, and neither masked nor anything else.
const TIMER_ON: u64 = 1;
const CNTV_CTL: Register = Register::System(0xdf19);
const CNTV_CVAL: Register = Register::System(0xdf1a);

impl State {
    /// What happens at the start of a run.
    pub(super) fn start_run(&mut self, vcpu: VcpuHandle) -> Result<(), HvRefusal> {
        self.vcpu("hv_vcpu_run", vcpu)?.has_run = true;
        Ok(())
    }

    /// Does steps until the run ends; `None` where the guest spins.
    pub(super) fn step(&mut self, handle: VcpuHandle) -> Result<Option<RawExit>, HvRefusal> {
        let exit = self.try_step(handle)?;
        if exit.is_some() {
            let flags = &mut self.vcpu("hv_vcpu_run", handle)?.flags;
            flags.remove(&Flag::PendingIrq);
            flags.remove(&Flag::PendingFiq);
        }
        Ok(exit)
    }

    fn try_step(&mut self, handle: VcpuHandle) -> Result<Option<RawExit>, HvRefusal> {
        let now = self.time.absolute;
        let has_gic = self.gic("hv_vcpu_run").is_ok();
        loop {
            let vcpu = self.vcpu("hv_vcpu_run", handle)?;
            if std::mem::take(&mut vcpu.exit_asked) {
                return Ok(Some(RawExit::Canceled));
            }
            let counter = now.wrapping_sub(vcpu.value(Register::VtimerOffset));
            let is_due = vcpu.value(CNTV_CTL) == TIMER_ON && vcpu.value(CNTV_CVAL) <= counter;
            if is_due && !has_gic && vcpu.flags.insert(Flag::VtimerMask) {
                return Ok(Some(RawExit::VtimerActivated));
            }
            let pc = vcpu.value(Register::PC);
            let index = usize::try_from(pc / 4).unwrap_or(usize::MAX);
            let next = pc + 4;
            match vcpu.program.get(index).copied() {
                None | Some(GuestStep::Spin) => return Ok(None),
                Some(GuestStep::ReadCounter { register }) => {
                    vcpu.put(Register::General(register), counter);
                    vcpu.put(Register::PC, next);
                }
                Some(GuestStep::Wait) => return Ok(Some(exception(WAIT, 0))),
                Some(GuestStep::Call) => {
                    vcpu.put(Register::PC, next);
                    return Ok(Some(exception(CALL, 0)));
                }
                Some(GuestStep::Load {
                    address,
                    register,
                    size,
                    signed,
                    wide,
                }) => {
                    let syndrome = VALID
                        | u64::from(size) << 22
                        | u64::from(register) << 16
                        | if signed { SIGNED } else { 0 }
                        | if wide { WIDE } else { 0 };
                    let syndrome = DATA_ABORT | syndrome | TRANSLATION_FAULT;
                    return Ok(Some(exception(syndrome, address)));
                }
                Some(GuestStep::Store { address }) => match self.store(address) {
                    Some(exit) => return Ok(Some(exit)),
                    None => self.vcpu("hv_vcpu_run", handle)?.put(Register::PC, next),
                },
                Some(GuestStep::Walk { address }) => {
                    if let Some(RawExit::Exception { .. }) = self.store(address) {
                        let syndrome = DATA_ABORT | ON_WALK | PERMISSION_FAULT;
                        return Ok(Some(exception(syndrome, address)));
                    }
                    self.vcpu("hv_vcpu_run", handle)?.put(Register::PC, next);
                }
            }
        }
    }

    fn store(&mut self, address: u64) -> Option<RawExit> {
        match self.memory.protection(address) {
            Some(protection) if protection.has_write() => {
                self.memory.stores.push(address);
                None
            }
            Some(_) => Some(exception(DATA_ABORT | WRITE | PERMISSION_FAULT, address)),
            // The word in X0.
            None => {
                let syndrome = DATA_ABORT | VALID | 2 << 22 | WRITE | TRANSLATION_FAULT;
                Some(exception(syndrome, address))
            }
        }
    }
}

fn exception(syndrome: u64, address: u64) -> RawExit {
    RawExit::Exception {
        syndrome: syndrome | WIDE_INSTRUCTION,
        virtual_address: address,
        physical_address: address,
    }
}
