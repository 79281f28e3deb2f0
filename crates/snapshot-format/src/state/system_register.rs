//! System registers of aarch64, by the numbers of the architecture.

use std::fmt;

use serde::{Serialize, Serializer};

use crate::state::bytes::as_hex_number;
use crate::state::mirror::Mirror;

/// A system register by its encoding: op0 in bits 15:14, op1 in 13:11, CRn in 10:7, CRm in 6:3,
/// op2 in 2:0, as in the instructions that read and write it.
///
/// `KVM_REG_ARM64_SYSREG` of KVM, the registers of the CPU interface of its vGIC, `hv_sys_reg_t` and
/// `hv_gic_icc_reg_t` of Hypervisor.framework all use these same 16 bits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct SystemRegisterId(pub u16);

/// A system register and its value.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Serialize)]
pub struct SystemRegister {
    /// Which one.
    pub id: SystemRegisterId,
    /// Its value.
    #[serde(serialize_with = "as_hex_number")]
    pub value: u64,
}

impl SystemRegisterId {
    /// The register with these fields; each is cut to its width.
    #[must_use]
    pub const fn new(op0: u8, op1: u8, crn: u8, crm: u8, op2: u8) -> Self {
        Self(
            (op0 as u16 & 3) << 14
                | (op1 as u16 & 7) << 11
                | (crn as u16 & 15) << 7
                | (crm as u16 & 15) << 3
                | op2 as u16 & 7,
        )
    }

    /// Address of hardware breakpoint `n`, up to 15.
    #[must_use]
    pub const fn breakpoint_value(n: u8) -> Self {
        Self::new(2, 0, 0, n, 4)
    }

    /// Control of hardware breakpoint `n`, up to 15.
    #[must_use]
    pub const fn breakpoint_control(n: u8) -> Self {
        Self::new(2, 0, 0, n, 5)
    }

    /// Address of hardware watchpoint `n`, up to 15.
    #[must_use]
    pub const fn watchpoint_value(n: u8) -> Self {
        Self::new(2, 0, 0, n, 6)
    }

    /// Control of hardware watchpoint `n`, up to 15.
    #[must_use]
    pub const fn watchpoint_control(n: u8) -> Self {
        Self::new(2, 0, 0, n, 7)
    }

    /// The five fields: op0, op1, CRn, CRm, op2.
    #[must_use]
    pub const fn fields(self) -> [u8; 5] {
        let id = self.0;
        [
            (id >> 14) as u8,
            (id >> 11 & 7) as u8,
            (id >> 7 & 15) as u8,
            (id >> 3 & 15) as u8,
            (id & 7) as u8,
        ]
    }

    /// Whether it is a debug register.
    #[must_use]
    pub const fn is_debug(self) -> bool {
        self.0 >> 14 == 2
    }

    /// Whether it belongs to a guest hypervisor, at EL2.
    #[must_use]
    pub const fn is_el2(self) -> bool {
        let [op0, op1, ..] = self.fields();
        // The stack pointer of a level is encoded as if it were the next level's.
        let of_el2 = op0 == 3 && (op1 == 4 || op1 == 5) && self.0 != Self::SP_EL1.0;
        of_el2 || self.0 == Self::SP_EL2.0
    }

    /// Whether it says which features the CPU has: `ID_*`, `MVFR*`.
    #[must_use]
    pub const fn is_feature_id(self) -> bool {
        let [op0, op1, crn, crm, _] = self.fields();
        op0 == 3 && op1 == 0 && crn == 0 && crm >= 1 && crm <= 7
    }

    /// Its name in the architecture; `None` for one that this crate has no name for.
    #[must_use]
    pub fn name(self) -> Option<&'static str> {
        let known = NAMES.iter().find(|(id, _)| *id == self);
        known.map(|(_, name)| *name)
    }
}

macro_rules! registers {
    ($($name:ident = $op0:literal $op1:literal $crn:literal $crm:literal $op2:literal;)*) => {
        #[expect(missing_docs, reason = "the names are the architecture's")]
        impl SystemRegisterId {
            $(pub const $name: Self = Self::new($op0, $op1, $crn, $crm, $op2);)*
        }

        const NAMES: &[(SystemRegisterId, &str)] =
            &[$((SystemRegisterId::$name, stringify!($name)),)*];
    };
}

registers! {
    MDCCINT_EL1 = 2 0 0 2 0;
    MDSCR_EL1 = 2 0 0 2 2;
    MIDR_EL1 = 3 0 0 0 0;
    MPIDR_EL1 = 3 0 0 0 5;
    REVIDR_EL1 = 3 0 0 0 6;
    ID_AA64PFR0_EL1 = 3 0 0 4 0;
    ID_AA64PFR1_EL1 = 3 0 0 4 1;
    ID_AA64PFR2_EL1 = 3 0 0 4 2;
    ID_AA64ZFR0_EL1 = 3 0 0 4 4;
    ID_AA64SMFR0_EL1 = 3 0 0 4 5;
    ID_AA64FPFR0_EL1 = 3 0 0 4 7;
    ID_AA64DFR0_EL1 = 3 0 0 5 0;
    ID_AA64DFR1_EL1 = 3 0 0 5 1;
    ID_AA64ISAR0_EL1 = 3 0 0 6 0;
    ID_AA64ISAR1_EL1 = 3 0 0 6 1;
    ID_AA64ISAR2_EL1 = 3 0 0 6 2;
    ID_AA64MMFR0_EL1 = 3 0 0 7 0;
    ID_AA64MMFR1_EL1 = 3 0 0 7 1;
    ID_AA64MMFR2_EL1 = 3 0 0 7 2;
    ID_AA64MMFR3_EL1 = 3 0 0 7 3;
    ID_AA64MMFR4_EL1 = 3 0 0 7 4;
    SCTLR_EL1 = 3 0 1 0 0;
    ACTLR_EL1 = 3 0 1 0 1;
    CPACR_EL1 = 3 0 1 0 2;
    ZCR_EL1 = 3 0 1 2 0;
    SMPRI_EL1 = 3 0 1 2 4;
    SMCR_EL1 = 3 0 1 2 6;
    TTBR0_EL1 = 3 0 2 0 0;
    TTBR1_EL1 = 3 0 2 0 1;
    TCR_EL1 = 3 0 2 0 2;
    APIAKEYLO_EL1 = 3 0 2 1 0;
    APIAKEYHI_EL1 = 3 0 2 1 1;
    APIBKEYLO_EL1 = 3 0 2 1 2;
    APIBKEYHI_EL1 = 3 0 2 1 3;
    APDAKEYLO_EL1 = 3 0 2 2 0;
    APDAKEYHI_EL1 = 3 0 2 2 1;
    APDBKEYLO_EL1 = 3 0 2 2 2;
    APDBKEYHI_EL1 = 3 0 2 2 3;
    APGAKEYLO_EL1 = 3 0 2 3 0;
    APGAKEYHI_EL1 = 3 0 2 3 1;
    SPSR_EL1 = 3 0 4 0 0;
    ELR_EL1 = 3 0 4 0 1;
    SP_EL0 = 3 0 4 1 0;
    ICC_PMR_EL1 = 3 0 4 6 0;
    AFSR0_EL1 = 3 0 5 1 0;
    AFSR1_EL1 = 3 0 5 1 1;
    ESR_EL1 = 3 0 5 2 0;
    FAR_EL1 = 3 0 6 0 0;
    PAR_EL1 = 3 0 7 4 0;
    MAIR_EL1 = 3 0 10 2 0;
    AMAIR_EL1 = 3 0 10 3 0;
    VBAR_EL1 = 3 0 12 0 0;
    ICC_BPR0_EL1 = 3 0 12 8 3;
    ICC_AP0R0_EL1 = 3 0 12 8 4;
    ICC_AP0R1_EL1 = 3 0 12 8 5;
    ICC_AP0R2_EL1 = 3 0 12 8 6;
    ICC_AP0R3_EL1 = 3 0 12 8 7;
    ICC_AP1R0_EL1 = 3 0 12 9 0;
    ICC_AP1R1_EL1 = 3 0 12 9 1;
    ICC_AP1R2_EL1 = 3 0 12 9 2;
    ICC_AP1R3_EL1 = 3 0 12 9 3;
    ICC_RPR_EL1 = 3 0 12 11 3;
    ICC_BPR1_EL1 = 3 0 12 12 3;
    ICC_CTLR_EL1 = 3 0 12 12 4;
    ICC_SRE_EL1 = 3 0 12 12 5;
    ICC_IGRPEN0_EL1 = 3 0 12 12 6;
    ICC_IGRPEN1_EL1 = 3 0 12 12 7;
    CONTEXTIDR_EL1 = 3 0 13 0 1;
    TPIDR_EL1 = 3 0 13 0 4;
    SCXTNUM_EL1 = 3 0 13 0 7;
    CNTKCTL_EL1 = 3 0 14 1 0;
    CCSIDR_EL1 = 3 1 0 0 0;
    CLIDR_EL1 = 3 1 0 0 1;
    CSSELR_EL1 = 3 2 0 0 0;
    CTR_EL0 = 3 3 0 0 1;
    DCZID_EL0 = 3 3 0 0 7;
    PMCR_EL0 = 3 3 9 12 0;
    TPIDR_EL0 = 3 3 13 0 2;
    TPIDRRO_EL0 = 3 3 13 0 3;
    TPIDR2_EL0 = 3 3 13 0 5;
    SCXTNUM_EL0 = 3 3 13 0 7;
    CNTFRQ_EL0 = 3 3 14 0 0;
    CNTPCT_EL0 = 3 3 14 0 1;
    CNTVCT_EL0 = 3 3 14 0 2;
    CNTP_TVAL_EL0 = 3 3 14 2 0;
    CNTP_CTL_EL0 = 3 3 14 2 1;
    CNTP_CVAL_EL0 = 3 3 14 2 2;
    CNTV_TVAL_EL0 = 3 3 14 3 0;
    CNTV_CTL_EL0 = 3 3 14 3 1;
    CNTV_CVAL_EL0 = 3 3 14 3 2;
    SCTLR_EL2 = 3 4 1 0 0;
    HCR_EL2 = 3 4 1 1 0;
    VTTBR_EL2 = 3 4 2 1 0;
    VTCR_EL2 = 3 4 2 1 2;
    SP_EL1 = 3 4 4 1 0;
    VBAR_EL2 = 3 4 12 0 0;
    CNTVOFF_EL2 = 3 4 14 0 3;
    CNTHCTL_EL2 = 3 4 14 1 0;
    SP_EL2 = 3 6 4 1 0;
}

impl fmt::Display for SystemRegisterId {
    /// The name, or the spelling that assemblers take for any register: `S3_0_C1_C0_0`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(name) = self.name() {
            return f.write_str(name);
        }
        let [op0, op1, crn, crm, op2] = self.fields();
        write!(f, "S{op0}_{op1}_C{crn}_C{crm}_{op2}")
    }
}

impl fmt::Debug for SystemRegisterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SystemRegisterId({self})")
    }
}

impl Serialize for SystemRegisterId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl Mirror<u16> for SystemRegisterId {
    fn mirror(&self) -> u16 {
        self.0
    }
}

impl Mirror<SystemRegisterId> for u16 {
    fn mirror(&self) -> SystemRegisterId {
        SystemRegisterId(*self)
    }
}

/// The value of a register in a list.
#[must_use]
pub fn register_value(list: &[SystemRegister], id: SystemRegisterId) -> Option<u64> {
    let found = list.iter().find(|register| register.id == id);
    found.map(|register| register.value)
}

#[cfg(test)]
mod tests {
    use super::*;

    // spec: ARM-01
    #[test]
    fn encodings_are_those_of_both_hypervisors() {
        // As in `hv_sys_reg_t` and `hv_gic_icc_reg_t` of Apple's headers.
        for (id, apple) in [
            (SystemRegisterId::breakpoint_value(0), 0x8004),
            (SystemRegisterId::watchpoint_control(15), 0x807f),
            (SystemRegisterId::MDSCR_EL1, 0x8012),
            (SystemRegisterId::MIDR_EL1, 0xc000),
            (SystemRegisterId::ID_AA64MMFR2_EL1, 0xc03a),
            (SystemRegisterId::SCTLR_EL1, 0xc080),
            (SystemRegisterId::APGAKEYHI_EL1, 0xc119),
            (SystemRegisterId::PAR_EL1, 0xc3a0),
            (SystemRegisterId::CSSELR_EL1, 0xd000),
            (SystemRegisterId::TPIDRRO_EL0, 0xde83),
            (SystemRegisterId::CNTV_CTL_EL0, 0xdf19),
            (SystemRegisterId::CNTV_CVAL_EL0, 0xdf1a),
            (SystemRegisterId::SP_EL1, 0xe208),
            (SystemRegisterId::ICC_PMR_EL1, 0xc230),
            (SystemRegisterId::ICC_IGRPEN1_EL1, 0xc667),
        ] {
            assert_eq!(id.0, apple, "{id}");
        }
    }

    #[test]
    fn every_name_is_of_another_register_and_fields_go_both_ways() {
        let mut ids: Vec<_> = NAMES.iter().map(|(id, _)| *id).collect();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), NAMES.len());
        for id in ids {
            let [op0, op1, crn, crm, op2] = id.fields();
            assert_eq!(SystemRegisterId::new(op0, op1, crn, crm, op2), id);
        }
        assert_eq!(SystemRegisterId(0xc001).to_string(), "S3_0_C0_C0_1");
    }
}
