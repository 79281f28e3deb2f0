//! Reading the state of one vCPU on its thread, in the one right order.

use snapshot_format::state::{
    CoreArm64, DebugTraps, PendingArm64, SimdArm64, SmeArm64, SystemRegister,
    SystemRegisterId as Id, Timer, TimersArm64, VcpuArm64,
};

use crate::error::HvfError;
use crate::gic;
use crate::hv::{Flag, HostTime, Hv, Register, SmeRegister, VcpuHandle};
use crate::machine::{Profile, SmePolicy};
use crate::refusal::{HvCode, HvRefusal};
use crate::registers;

/// `CNTx_CTL_EL0.ISTATUS`: follows from the rest.
const TIMER_STATUS: u64 = 1 << 2;

/// One vCPU, on its own thread.
#[derive(Clone, Copy)]
pub(crate) struct OnThread<'a> {
    pub(crate) hv: &'a dyn Hv,
    pub(crate) handle: VcpuHandle,
    pub(crate) vcpu: usize,
}

/// What is read of one vCPU: its state, and its part of the interrupt controller.
#[derive(Debug)]
pub(crate) struct SavedVcpu {
    pub(crate) state: VcpuArm64,
    pub(crate) redistributor: Vec<snapshot_format::state::GicRegister>,
}

impl OnThread<'_> {
    /// Reads a register.
    pub(crate) fn get(&self, register: Register) -> Result<u64, HvfError> {
        let value = self.hv.register(self.handle, register);
        value.map_err(|source| self.refused(format!("read {register:?}"), source))
    }

    /// Writes a register.
    pub(crate) fn set(&self, register: Register, value: u64) -> Result<(), HvfError> {
        let set = self.hv.set_register(self.handle, register, value);
        set.map_err(|source| self.refused(format!("write {value:#x} to {register:?}"), source))
    }

    /// Reads a register; `None` where the framework or the CPU has none.
    pub(crate) fn get_if_there(&self, register: Register) -> Result<Option<u64>, HvfError> {
        match self.hv.register(self.handle, register) {
            Ok(value) => Ok(Some(value)),
            Err(refusal) if is_absence(refusal) => Ok(None),
            Err(source) => Err(self.refused(format!("read {register:?}"), source)),
        }
    }

    pub(crate) fn flag(&self, flag: Flag) -> Result<bool, HvfError> {
        let on = self.hv.flag(self.handle, flag);
        on.map_err(|source| self.refused(format!("read {flag:?}"), source))
    }

    pub(crate) fn set_flag(&self, flag: Flag, on: bool) -> Result<(), HvfError> {
        let set = self.hv.set_flag(self.handle, flag, on);
        set.map_err(|source| self.refused(format!("set {flag:?}"), source))
    }

    pub(crate) fn refused(&self, what: String, source: HvRefusal) -> HvfError {
        HvfError::Vcpu {
            vcpu: self.vcpu,
            what,
            source,
        }
    }

    /// Reads everything that the framework keeps of the vCPU. Its last exit was answered.
    ///
    /// Registers, system registers, the interface to the GIC, the timers, what is pending.
    pub(crate) fn save(self, profile: Profile, paused_at: HostTime) -> Result<SavedVcpu, HvfError> {
        let mut state = VcpuArm64 {
            id: u32::try_from(self.vcpu).unwrap_or(u32::MAX),
            core: self.core()?,
            sme: self.sme(profile)?,
            simd: self.simd()?,
            mpidr: self.get(Register::MPIDR)?,
            system: self.system(profile)?,
            ..VcpuArm64::default()
        };
        if profile.has_gic {
            state.icc = self.icc(profile)?;
        }
        state.timers = self.timers(profile, paused_at)?;
        state.pending = PendingArm64 {
            irq: self.flag(Flag::PendingIrq)?,
            fiq: self.flag(Flag::PendingFiq)?,
            ..PendingArm64::default()
        };
        state.debug_traps = DebugTraps {
            exceptions: self.flag(Flag::TrapDebugExceptions)?,
            register_accesses: self.flag(Flag::TrapDebugAccesses)?,
        };
        let redistributor = if profile.saves_gic_registers {
            gic::save_redistributor(self)?
        } else {
            Vec::new()
        };
        Ok(SavedVcpu {
            state,
            redistributor,
        })
    }

    fn core(&self) -> Result<CoreArm64, HvfError> {
        let mut core = CoreArm64::default();
        for (number, x) in (0..).zip(&mut core.x) {
            *x = self.get(Register::General(number))?;
        }
        core.pc = self.get(Register::PC)?;
        core.pstate = self.get(Register::CPSR)?;
        core.sp_el0 = self.get(Register::System(Id::SP_EL0.0))?;
        core.sp_el1 = self.get(Register::System(Id::SP_EL1.0))?;
        core.elr_el1 = self.get(Register::System(Id::ELR_EL1.0))?;
        core.spsr_el1 = self.get(Register::System(Id::SPSR_EL1.0))?;
        Ok(core)
    }

    fn simd(&self) -> Result<SimdArm64, HvfError> {
        let mut simd = SimdArm64::default();
        for (number, v) in (0..).zip(&mut simd.v) {
            let value = self.hv.vector(self.handle, number);
            *v = value.map_err(|source| self.refused(format!("read Q{number}"), source))?;
        }
        simd.fpcr = self.get(Register::FPCR)?;
        simd.fpsr = self.get(Register::FPSR)?;
        Ok(simd)
    }

    fn sme(&self, profile: Profile) -> Result<Option<SmeArm64>, HvfError> {
        if profile.vector_bytes == 0 {
            return Ok(None);
        }
        let mode = self.hv.sme_mode(self.handle);
        let mode = mode.map_err(|source| self.refused("read the SME mode".to_owned(), source))?;
        if profile.sme == SmePolicy::Hidden {
            if mode.streaming || mode.matrix {
                return Err(HvfError::HiddenSme { vcpu: self.vcpu });
            }
            return Ok(None);
        }
        let mut sme = SmeArm64 {
            vector_bytes: profile.vector_bytes,
            streaming: mode.streaming,
            za_enabled: mode.matrix,
            ..SmeArm64::default()
        };
        let bytes = usize::from(profile.vector_bytes);
        let read = |registers: &mut dyn Iterator<Item = SmeRegister>, into: &mut Vec<u8>| {
            for register in registers {
                let start = into.len();
                into.resize(start + register.len_bytes(bytes), 0);
                let out = into.get_mut(start..).unwrap_or_default();
                match self.hv.sme_register(self.handle, register, out) {
                    Ok(()) => {}
                    // The first version of the extension has no ZT0.
                    Err(refusal) if register == SmeRegister::Zt0 && is_absence(refusal) => {
                        into.truncate(start);
                    }
                    Err(source) => return Err(self.refused(format!("read {register:?}"), source)),
                }
            }
            Ok::<(), HvfError>(())
        };
        if mode.streaming {
            read(&mut (0..32).map(SmeRegister::Z), &mut sme.z)?;
            read(&mut (0..16).map(SmeRegister::P), &mut sme.p)?;
        }
        if mode.matrix {
            read(&mut [SmeRegister::Za].into_iter(), &mut sme.za)?;
            read(&mut [SmeRegister::Zt0].into_iter(), &mut sme.zt0)?;
        }
        Ok(Some(sme))
    }

    fn system(&self, profile: Profile) -> Result<Vec<SystemRegister>, HvfError> {
        let mut system = Vec::new();
        for id in registers::EL1 {
            let value = self.get(registers::place(id))?;
            system.push(SystemRegister { id, value });
        }
        for id in registers::WHERE_ANSWERED
            .into_iter()
            .chain(registers::debug())
        {
            if let Some(value) = self.get_if_there(registers::place(id))? {
                system.push(SystemRegister { id, value });
            }
        }
        if profile.has_el2 {
            for id in registers::EL2 {
                let value = self.get(registers::place(id))?;
                system.push(SystemRegister { id, value });
            }
        }
        if profile.has_el2 && profile.has_gic {
            for id in registers::ICH
                .into_iter()
                .chain(registers::list_registers())
            {
                // CPUs have as many list registers as `ICH_VTR_EL2` says.
                if let Some(value) = self.get_if_there(registers::place(id))? {
                    system.push(SystemRegister { id, value });
                }
            }
        }
        system.sort_unstable();
        Ok(system)
    }

    fn icc(&self, profile: Profile) -> Result<Vec<SystemRegister>, HvfError> {
        let el2 = profile.has_el2.then_some(registers::ICC_SRE_EL2);
        let mut icc = Vec::new();
        for id in registers::ICC.into_iter().chain(el2) {
            let value = self.get(Register::Icc(id.0))?;
            icc.push(SystemRegister { id, value });
        }
        icc.sort_unstable();
        Ok(icc)
    }

    fn timers(&self, profile: Profile, paused_at: HostTime) -> Result<TimersArm64, HvfError> {
        let offset = self.get(Register::VtimerOffset)?;
        let timer = |control: Id, compare: Id| {
            Ok::<_, HvfError>(Timer {
                control: self.get(Register::System(control.0))? & !TIMER_STATUS,
                compare: self.get(Register::System(compare.0))?,
            })
        };
        let physical_timer = if profile.has_gic {
            timer(Id::CNTP_CTL_EL0, Id::CNTP_CVAL_EL0)?
        } else {
            Timer::default()
        };
        Ok(TimersArm64 {
            virtual_count: paused_at.absolute.wrapping_sub(offset),
            physical_count: paused_at.absolute,
            virtual_timer: timer(Id::CNTV_CTL_EL0, Id::CNTV_CVAL_EL0)?,
            physical_timer,
            virtual_masked: self.flag(Flag::VtimerMask)?,
        })
    }
}

/// Whether a refusal says that there is no such thing.
pub(crate) fn is_absence(refusal: HvRefusal) -> bool {
    matches!(
        refusal.code,
        HvCode::BadArgument | HvCode::Unsupported | HvCode::TooOld { .. }
    )
}
