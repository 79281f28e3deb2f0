//! Which registers a vCPU has under Hypervisor.framework, and which of them are saved.

use snapshot_format::state::SystemRegisterId as Id;

use crate::hv::Register;

/// System registers that every version of the framework has, but for those with a field of their
/// own in the state, debug registers and the registers of features.
pub(crate) const EL1: [Id; 35] = [
    Id::MDCCINT_EL1,
    Id::MDSCR_EL1,
    Id::SCTLR_EL1,
    Id::CPACR_EL1,
    Id::TTBR0_EL1,
    Id::TTBR1_EL1,
    Id::TCR_EL1,
    Id::APIAKEYLO_EL1,
    Id::APIAKEYHI_EL1,
    Id::APIBKEYLO_EL1,
    Id::APIBKEYHI_EL1,
    Id::APDAKEYLO_EL1,
    Id::APDAKEYHI_EL1,
    Id::APDBKEYLO_EL1,
    Id::APDBKEYHI_EL1,
    Id::APGAKEYLO_EL1,
    Id::APGAKEYHI_EL1,
    Id::AFSR0_EL1,
    Id::AFSR1_EL1,
    Id::ESR_EL1,
    Id::FAR_EL1,
    Id::PAR_EL1,
    Id::MAIR_EL1,
    Id::AMAIR_EL1,
    Id::VBAR_EL1,
    Id::CONTEXTIDR_EL1,
    Id::TPIDR_EL1,
    Id::CNTKCTL_EL1,
    Id::CSSELR_EL1,
    Id::TPIDR_EL0,
    Id::TPIDRRO_EL0,
    // Identity: read only, and compared with the target's.
    Id::MIDR_EL1,
    Id::ID_AA64PFR0_EL1,
    Id::ID_AA64PFR1_EL1,
    Id::ID_AA64DFR0_EL1,
];

/// What later versions added, or what only some CPUs have: saved where the framework answers.
pub(crate) const WHERE_ANSWERED: [Id; 14] = [
    Id::ID_AA64ZFR0_EL1,
    Id::ID_AA64SMFR0_EL1,
    Id::ID_AA64DFR1_EL1,
    Id::ID_AA64ISAR0_EL1,
    Id::ID_AA64ISAR1_EL1,
    Id::ID_AA64MMFR0_EL1,
    Id::ID_AA64MMFR1_EL1,
    Id::ID_AA64MMFR2_EL1,
    // macOS 15.0.
    Id::ACTLR_EL1,
    // macOS 15.2.
    Id::SCXTNUM_EL1,
    Id::SCXTNUM_EL0,
    Id::SMPRI_EL1,
    Id::SMCR_EL1,
    Id::TPIDR2_EL0,
];

/// Registers of a guest hypervisor: where the machine was created with EL2.
pub(crate) const EL2: [Id; 24] = [
    Id::SCTLR_EL2,
    Id::HCR_EL2,
    Id::VTTBR_EL2,
    Id::VTCR_EL2,
    Id::VBAR_EL2,
    Id::CNTVOFF_EL2,
    Id::CNTHCTL_EL2,
    // VPIDR, VMPIDR.
    Id::new(3, 4, 0, 0, 0),
    Id::new(3, 4, 0, 0, 5),
    // MDCR, CPTR.
    Id::new(3, 4, 1, 1, 1),
    Id::new(3, 4, 1, 1, 2),
    // TTBR0, TTBR1, TCR.
    Id::new(3, 4, 2, 0, 0),
    Id::new(3, 4, 2, 0, 1),
    Id::new(3, 4, 2, 0, 2),
    // SPSR, ELR.
    Id::new(3, 4, 4, 0, 0),
    Id::new(3, 4, 4, 0, 1),
    // ESR, FAR, HPFAR.
    Id::new(3, 4, 5, 2, 0),
    Id::new(3, 4, 6, 0, 0),
    Id::new(3, 4, 6, 0, 4),
    // MAIR, TPIDR.
    Id::new(3, 4, 10, 2, 0),
    Id::new(3, 4, 13, 0, 2),
    // CNTHP_CTL, CNTHP_CVAL; its TVAL is a view of CVAL.
    Id::new(3, 4, 14, 2, 1),
    Id::new(3, 4, 14, 2, 2),
    // SP_EL2.
    Id::new(3, 6, 4, 1, 0),
];

/// What a guest hypervisor injects interrupts with, without the list registers and without what
/// follows from them. The `ICV` registers are another view of `VMCR` and `AP*R0`.
pub(crate) const ICH: [Id; 4] = [
    // AP0R0, AP1R0.
    Id::new(3, 4, 12, 8, 0),
    Id::new(3, 4, 12, 9, 0),
    // HCR, VMCR.
    Id::new(3, 4, 12, 11, 0),
    Id::new(3, 4, 12, 11, 7),
];

/// Registers of the GIC's interface to a vCPU, in the order of a restore: the system-register
/// interface before what is reached through it. The running priority is read-only, and follows
/// from the active priorities.
pub(crate) const ICC: [Id; 9] = [
    Id::ICC_SRE_EL1,
    Id::ICC_CTLR_EL1,
    Id::ICC_IGRPEN0_EL1,
    Id::ICC_IGRPEN1_EL1,
    Id::ICC_PMR_EL1,
    Id::ICC_BPR0_EL1,
    Id::ICC_BPR1_EL1,
    Id::ICC_AP0R0_EL1,
    Id::ICC_AP1R0_EL1,
];

/// `ICC_SRE_EL2`: where the machine has EL2.
pub(crate) const ICC_SRE_EL2: Id = Id::new(3, 4, 12, 9, 5);

/// The debug registers, by number.
pub(crate) fn debug() -> impl Iterator<Item = Id> {
    (0..16).flat_map(|n| {
        [
            Id::breakpoint_value(n),
            Id::breakpoint_control(n),
            Id::watchpoint_value(n),
            Id::watchpoint_control(n),
        ]
    })
}

/// The list registers of the GIC's virtualization.
pub(crate) fn list_registers() -> impl Iterator<Item = Id> {
    (0..16).map(|n| Id::new(3, 4, 12, 12 + n / 8, n % 8))
}

/// Where the framework keeps a system register of the state.
pub(crate) fn place(id: Id) -> Register {
    // `ICH_*`: encodings of EL2 in the frame of the GIC.
    if id.is_el2() && matches!(id.fields(), [_, _, 12, 8..=13, _]) && id != ICC_SRE_EL2 {
        Register::Ich(id.0)
    } else {
        Register::System(id.0)
    }
}

/// Whether a register says what the CPU is, and is never written: `MIDR`, `ID_*`, cache geometry.
pub(crate) fn is_identity(id: Id) -> bool {
    let [op0, _, crn, ..] = id.fields();
    // OSLSR_EL1 is a status.
    let is_status = id == Id::new(2, 0, 1, 1, 4);
    op0 == 3 && crn == 0 && id != Id::CSSELR_EL1 && !id.is_el2() || is_status
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encodings_are_those_of_the_framework() {
        for (id, number) in [
            (EL2[7], 0xe000),
            (EL2[8], 0xe005),
            (EL2[9], 0xe089),
            (EL2[10], 0xe08a),
            (EL2[18], 0xe304),
            (EL2[22], 0xe712),
            (EL2[23], 0xf208),
            (ICC_SRE_EL2, 0xe64d),
            (ICH[0], 0xe640),
            (ICH[3], 0xe65f),
        ] {
            assert_eq!(id.0, number, "{id}");
        }
        let lists: Vec<_> = list_registers().map(|id| id.0).collect();
        assert_eq!((lists[0], lists[15], lists.len()), (0xe660, 0xe66f, 16));
        assert_eq!(debug().count(), 64);
    }

    #[test]
    fn identity_is_told_from_state_and_each_register_has_its_place() {
        for id in [
            Id::MIDR_EL1,
            Id::ID_AA64MMFR2_EL1,
            Id::CLIDR_EL1,
            Id::CTR_EL0,
        ] {
            assert!(is_identity(id), "{id}");
        }
        for id in [Id::CSSELR_EL1, Id::SCTLR_EL1, Id::TPIDR_EL0, EL2[7]] {
            assert!(!is_identity(id), "{id}");
        }
        assert_eq!(place(ICH[2]), Register::Ich(0xe658));
        assert_eq!(place(Id::VBAR_EL2), Register::System(0xe600));
        assert!(list_registers().all(|id| matches!(place(id), Register::Ich(_))));
    }
}
