//! Writing the state of one vCPU on its thread, in the one right order.

use snapshot_format::state::{
    Reason, SimdArm64, SmeArm64, SystemRegisterId as Id, Timer, VcpuArm64, register_value,
};

use crate::error::HvfError;
use crate::hv::{Flag, Register, SmeMode, SmeRegister};
use crate::machine::{Profile, SmePolicy};
use crate::registers;
use crate::save::OnThread;

/// How the counters of a restored machine stand.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Counters {
    /// The offset of the virtual counter, of every vCPU.
    pub(crate) offset: u64,
    /// `mach_absolute_time` when it was computed.
    pub(crate) absolute: u64,
}

impl OnThread<'_> {
    /// Gives the vCPU its affinity: before the GIC's state, which is by affinity.
    pub(crate) fn restore_affinity(self, mpidr: u64) -> Result<(), HvfError> {
        if self.get(Register::MPIDR)? == mpidr {
            return Ok(());
        }
        self.set(Register::MPIDR, mpidr)
    }

    /// Writes everything else. The state of the GIC is in place.
    ///
    /// The interface to the GIC, system registers, general and vector registers, the timers, what
    /// is pending.
    pub(crate) fn restore(
        self,
        saved: &VcpuArm64,
        profile: Profile,
        counters: Counters,
    ) -> Result<(), HvfError> {
        if profile.has_gic {
            let el2 = profile.has_el2.then_some(registers::ICC_SRE_EL2);
            for id in el2.into_iter().chain(registers::ICC) {
                if let Some(value) = register_value(&saved.icc, id) {
                    self.set(Register::Icc(id.0), value)?;
                }
            }
        }
        for register in &saved.system {
            if !registers::is_identity(register.id) && self.takes(register.id)? {
                self.set(registers::place(register.id), register.value)?;
            }
        }
        self.restore_core(saved)?;
        self.restore_vectors(&saved.simd, saved.sme.as_ref(), profile)?;
        self.restore_timers(saved, profile, counters)?;
        // Dropped at the end of the next run, and asserted again before it by whoever keeps them.
        self.set_flag(Flag::PendingIrq, saved.pending.irq)?;
        self.set_flag(Flag::PendingFiq, saved.pending.fiq)?;
        let traps = saved.debug_traps;
        self.set_flag(Flag::TrapDebugExceptions, traps.exceptions)?;
        self.set_flag(Flag::TrapDebugAccesses, traps.register_accesses)
    }

    fn restore_core(&self, saved: &VcpuArm64) -> Result<(), HvfError> {
        let core = &saved.core;
        for (number, value) in (0..).zip(core.x) {
            self.set(Register::General(number), value)?;
        }
        self.set(Register::System(Id::SP_EL0.0), core.sp_el0)?;
        self.set(Register::System(Id::SP_EL1.0), core.sp_el1)?;
        self.set(Register::System(Id::ELR_EL1.0), core.elr_el1)?;
        self.set(Register::System(Id::SPSR_EL1.0), core.spsr_el1)?;
        self.set(Register::PC, core.pc)?;
        self.set(Register::CPSR, core.pstate)
    }

    fn restore_vectors(
        &self,
        simd: &SimdArm64,
        sme: Option<&SmeArm64>,
        profile: Profile,
    ) -> Result<(), HvfError> {
        // The mode first: changing it clears vectors and sets every flag of FPSR.
        if profile.vector_bytes > 0 && profile.sme == SmePolicy::Keep {
            let mode = SmeMode {
                streaming: sme.is_some_and(|sme| sme.streaming),
                matrix: sme.is_some_and(|sme| sme.za_enabled),
            };
            let set = self.hv.set_sme_mode(self.handle, mode);
            set.map_err(|source| self.refused("set the SME mode".to_owned(), source))?;
        }
        for (number, value) in (0..).zip(simd.v) {
            let set = self.hv.set_vector(self.handle, number, value);
            set.map_err(|source| self.refused(format!("write Q{number}"), source))?;
        }
        if let Some(sme) = sme {
            self.restore_sme(sme)?;
        }
        self.set(Register::FPCR, simd.fpcr)?;
        self.set(Register::FPSR, simd.fpsr)
    }

    fn restore_sme(&self, sme: &SmeArm64) -> Result<(), HvfError> {
        let bytes = usize::from(sme.vector_bytes);
        let groups: [(&mut dyn Iterator<Item = SmeRegister>, &[u8]); 4] = [
            (&mut (0..32).map(SmeRegister::Z), &sme.z),
            (&mut (0..16).map(SmeRegister::P), &sme.p),
            (&mut [SmeRegister::Za].into_iter(), &sme.za),
            (&mut [SmeRegister::Zt0].into_iter(), &sme.zt0),
        ];
        for (registers, all) in groups {
            // What is not in use has no bytes.
            let mut rest = all;
            for register in registers {
                let Some((value, after)) = rest.split_at_checked(register.len_bytes(bytes)) else {
                    break;
                };
                let set = self.hv.set_sme_register(self.handle, register, value);
                set.map_err(|source| self.refused(format!("write {register:?}"), source))?;
                rest = after;
            }
        }
        Ok(())
    }

    fn restore_timers(
        &self,
        saved: &VcpuArm64,
        profile: Profile,
        counters: Counters,
    ) -> Result<(), HvfError> {
        let timers = &saved.timers;
        self.set(Register::VtimerOffset, counters.offset)?;
        let set = |timer: Timer, control: Id, compare: Id| {
            self.set(Register::System(compare.0), timer.compare)?;
            self.set(Register::System(control.0), timer.control)
        };
        set(timers.virtual_timer, Id::CNTV_CTL_EL0, Id::CNTV_CVAL_EL0)?;
        if profile.has_gic {
            // The physical counter is the host's own: its timer keeps what was left of it.
            let moved = counters.absolute.wrapping_sub(timers.physical_count);
            let physical = Timer {
                compare: timers.physical_timer.compare.wrapping_add(moved),
                ..timers.physical_timer
            };
            set(physical, Id::CNTP_CTL_EL0, Id::CNTP_CVAL_EL0)?;
        }
        self.set_flag(Flag::VtimerMask, timers.virtual_masked)
    }

    /// Whether the vCPU has the register.
    fn takes(&self, id: Id) -> Result<bool, HvfError> {
        Ok(self.get_if_there(registers::place(id))?.is_some())
    }

    /// The registers of `saved` that hold something and that this vCPU does not have.
    pub(crate) fn missing(self, saved: &VcpuArm64) -> Result<Vec<Reason>, HvfError> {
        let mut reasons = Vec::new();
        let mut missing = |what, number: Id, value| {
            reasons.push(Reason::Value {
                vcpu: saved.id,
                what,
                number: number.0.into(),
                value,
            });
        };
        for register in &saved.system {
            let counts = register.value != 0 && !registers::is_identity(register.id);
            if counts && !self.takes(register.id)? {
                missing("system register", register.id, register.value);
            }
        }
        for register in &saved.icc {
            let is_known =
                registers::ICC.contains(&register.id) || register.id == registers::ICC_SRE_EL2;
            if register.value != 0 && !is_known && register.id != Id::ICC_RPR_EL1 {
                missing("ICC register", register.id, register.value);
            }
        }
        Ok(reasons)
    }
}
