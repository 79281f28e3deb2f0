//! Numbers of KVM's interface on aarch64: `linux/kvm.h` and `asm/kvm.h`.
//!
//! The bindings have them only where they are compiled for aarch64; here they are for the tests of
//! any host, and compared with the bindings where those are there.

use snapshot_format::state::SystemRegisterId;

/// `KVM_REG_ARM64`: the architecture of a register.
pub(super) const REG_ARM64: u64 = 0x6000_0000_0000_0000;
/// The binary logarithm of a register's bytes, in bits 55:52.
pub(super) const SIZE_SHIFT: u32 = 52;
pub(super) const SIZE_U32: u64 = 2 << SIZE_SHIFT;
pub(super) const SIZE_U64: u64 = 3 << SIZE_SHIFT;
pub(super) const SIZE_U128: u64 = 4 << SIZE_SHIFT;
pub(super) const SIZE_U256: u64 = 5 << SIZE_SHIFT;
pub(super) const SIZE_U512: u64 = 6 << SIZE_SHIFT;
pub(super) const SIZE_U2048: u64 = 8 << SIZE_SHIFT;

/// `KVM_REG_ARM_COPROC_MASK`, and the groups of registers.
pub(super) const GROUP_MASK: u64 = 0x0fff_0000;
pub(super) const CORE: u64 = 0x0010_0000;
pub(super) const SYSREG: u64 = 0x0013_0000;
pub(super) const FIRMWARE: u64 = 0x0014_0000;
pub(super) const SVE: u64 = 0x0015_0000;
pub(super) const FIRMWARE_BITMAP: u64 = 0x0016_0000;

/// Offsets in `struct kvm_regs`, in bytes.
pub(super) const CORE_X0: u64 = 0;
pub(super) const CORE_SP_EL0: u64 = 248;
pub(super) const CORE_PC: u64 = 256;
pub(super) const CORE_PSTATE: u64 = 264;
pub(super) const CORE_SP_EL1: u64 = 272;
pub(super) const CORE_ELR_EL1: u64 = 280;
pub(super) const CORE_SPSR: u64 = 288;
pub(super) const CORE_V0: u64 = 336;
pub(super) const CORE_FPSR: u64 = 848;
pub(super) const CORE_FPCR: u64 = 852;

/// Bits of `kvm_vcpu_init.features`.
pub(super) const VCPU_POWER_OFF: u32 = 0;
pub(super) const VCPU_PSCI_0_2: u32 = 2;
pub(super) const VCPU_PMU_V3: u32 = 3;
pub(super) const VCPU_SVE: u32 = 4;
pub(super) const VCPU_PTRAUTH_ADDRESS: u32 = 5;
pub(super) const VCPU_PTRAUTH_GENERIC: u32 = 6;
pub(super) const VCPU_HAS_EL2: u32 = 7;

/// Extensions.
pub(super) const CAP_IRQCHIP: u32 = 0;
pub(super) const CAP_MP_STATE: u32 = 14;
pub(super) const CAP_VCPU_EVENTS: u32 = 41;
pub(super) const CAP_ONE_REG: u32 = 70;
pub(super) const CAP_DEVICE_CTRL: u32 = 89;
pub(super) const CAP_ARM_PSCI_0_2: u32 = 102;
pub(super) const CAP_ARM_PMU_V3: u32 = 126;
pub(super) const CAP_IMMEDIATE_EXIT: u32 = 136;
pub(super) const CAP_ARM_INJECT_SERROR_ESR: u32 = 158;
pub(super) const CAP_ARM_VM_IPA_SIZE: u32 = 165;
pub(super) const CAP_ARM_SVE: u32 = 170;
pub(super) const CAP_ARM_PTRAUTH_ADDRESS: u32 = 171;
pub(super) const CAP_ARM_PTRAUTH_GENERIC: u32 = 172;
pub(super) const CAP_STEAL_TIME: u32 = 187;
pub(super) const CAP_ARM_SYSTEM_SUSPEND: u32 = 216;
pub(super) const CAP_COUNTER_OFFSET: u32 = 227;
/// Not in the bindings yet: Linux 6.16.
pub(super) const CAP_ARM_EL2: u32 = 240;

/// Run states.
pub(super) const MP_RUNNABLE: u32 = 0;
pub(super) const MP_STOPPED: u32 = 5;
pub(super) const MP_SUSPENDED: u32 = 10;

/// Attributes of a vCPU: group and number.
pub(super) const PMU: u32 = 0;
pub(super) const PMU_IRQ: u64 = 0;
pub(super) const PMU_INIT: u64 = 1;
pub(super) const PVTIME: u32 = 2;
pub(super) const PVTIME_IPA: u64 = 0;

/// Kinds of devices, and the flag that only asks whether there is one.
pub(super) const DEVICE_VGIC_V2: u32 = 5;
pub(super) const DEVICE_VGIC_V3: u32 = 7;
pub(super) const DEVICE_VGIC_ITS: u32 = 8;
pub(super) const CREATE_DEVICE_TEST: u32 = 1;

/// Groups of attributes of an interrupt controller.
pub(super) const GIC_ADDR: u32 = 0;
pub(super) const GIC_DIST_REGS: u32 = 1;
pub(super) const GIC_CPU_REGS: u32 = 2;
pub(super) const GIC_NR_IRQS: u32 = 3;
pub(super) const GIC_CTRL: u32 = 4;
pub(super) const GIC_REDIST_REGS: u32 = 5;
pub(super) const GIC_CPU_SYSREGS: u32 = 6;
pub(super) const GIC_LEVEL_INFO: u32 = 7;
pub(super) const GIC_ITS_REGS: u32 = 8;

/// Attributes of the group of addresses.
pub(super) const ADDR_V2_DIST: u64 = 0;
pub(super) const ADDR_V2_CPU: u64 = 1;
pub(super) const ADDR_V3_DIST: u64 = 2;
pub(super) const ADDR_V3_REDIST: u64 = 3;
pub(super) const ADDR_ITS: u64 = 4;
pub(super) const ADDR_V3_REDIST_REGION: u64 = 5;

/// Attributes of the group of commands.
pub(super) const CTRL_INIT: u64 = 0;
pub(super) const CTRL_ITS_SAVE_TABLES: u64 = 1;
pub(super) const CTRL_ITS_RESTORE_TABLES: u64 = 2;
pub(super) const CTRL_SAVE_PENDING_TABLES: u64 = 3;

/// A register of `struct kvm_regs`.
pub(super) const fn core(offset_bytes: u64, size: u64) -> u64 {
    REG_ARM64 | size | CORE | (offset_bytes / 4)
}

/// A system register.
pub(super) const fn system(id: SystemRegisterId) -> u64 {
    // `From` is not const.
    REG_ARM64 | SIZE_U64 | SYSREG | id.0 as u64
}

/// Vector register `n`.
pub(super) const fn z(n: u64) -> u64 {
    REG_ARM64 | SVE | SIZE_U2048 | n << 5
}

/// Predicate register `n`.
pub(super) const fn p(n: u64) -> u64 {
    REG_ARM64 | SVE | SIZE_U256 | 0x400 | n << 5
}

/// The first-fault register.
pub(super) const FFR: u64 = REG_ARM64 | SVE | SIZE_U256 | 0x600;

/// The lengths of vectors.
pub(super) const SVE_VLS: u64 = REG_ARM64 | SVE | SIZE_U512 | 0xffff;

/// Registers of the generic timers. The numbers of the virtual timer's comparator and of its count
/// are those of each other's system register, by a mistake that became the interface: they are
/// named here, and nothing computes them.
pub(super) const VTIMER_CTL: u64 = 0x6030_0000_0013_df19;
pub(super) const VTIMER_CVAL: u64 = 0x6030_0000_0013_df02;
pub(super) const VTIMER_CNT: u64 = 0x6030_0000_0013_df1a;
pub(super) const PTIMER_CTL: u64 = 0x6030_0000_0013_df11;
pub(super) const PTIMER_CVAL: u64 = 0x6030_0000_0013_df12;
pub(super) const PTIMER_CNT: u64 = 0x6030_0000_0013_df01;

#[cfg(target_arch = "aarch64")]
mod same_as_the_bindings {
    use std::mem::{offset_of, size_of};

    use kvm_bindings as kvm;

    use super::*;

    macro_rules! same {
        ($($ours:expr => $theirs:expr;)*) => {
            $(const _: () = assert!($ours as u64 == $theirs as u64);)*
        };
    }

    same! {
        REG_ARM64 => kvm::KVM_REG_ARM64;
        SIZE_SHIFT => kvm::KVM_REG_SIZE_SHIFT;
        SIZE_U32 => kvm::KVM_REG_SIZE_U32;
        SIZE_U64 => kvm::KVM_REG_SIZE_U64;
        SIZE_U128 => kvm::KVM_REG_SIZE_U128;
        SIZE_U256 => kvm::KVM_REG_SIZE_U256;
        SIZE_U512 => kvm::KVM_REG_SIZE_U512;
        SIZE_U2048 => kvm::KVM_REG_SIZE_U2048;
        GROUP_MASK => kvm::KVM_REG_ARM_COPROC_MASK;
        CORE => kvm::KVM_REG_ARM_CORE;
        SYSREG => kvm::KVM_REG_ARM64_SYSREG;
        FIRMWARE => kvm::KVM_REG_ARM_FW;
        FIRMWARE_BITMAP => kvm::KVM_REG_ARM_FW_FEAT_BMAP;
        SVE => kvm::KVM_REG_ARM64_SVE;
        0x400 => kvm::KVM_REG_ARM64_SVE_PREG_BASE;
        0x600 => kvm::KVM_REG_ARM64_SVE_FFR_BASE;
        CORE_X0 => offset_of!(kvm::user_pt_regs, regs);
        CORE_SP_EL0 => offset_of!(kvm::user_pt_regs, sp);
        CORE_PC => offset_of!(kvm::user_pt_regs, pc);
        CORE_PSTATE => offset_of!(kvm::user_pt_regs, pstate);
        0 => offset_of!(kvm::kvm_regs, regs);
        CORE_SP_EL1 => offset_of!(kvm::kvm_regs, sp_el1);
        CORE_ELR_EL1 => offset_of!(kvm::kvm_regs, elr_el1);
        CORE_SPSR => offset_of!(kvm::kvm_regs, spsr);
        CORE_V0 => offset_of!(kvm::kvm_regs, fp_regs) + offset_of!(kvm::user_fpsimd_state, vregs);
        CORE_FPSR => offset_of!(kvm::kvm_regs, fp_regs) + offset_of!(kvm::user_fpsimd_state, fpsr);
        CORE_FPCR => offset_of!(kvm::kvm_regs, fp_regs) + offset_of!(kvm::user_fpsimd_state, fpcr);
        size_of::<[u32; 8]>() => size_of::<kvm::kvm_vcpu_init>();
        size_of::<[u64; 8]>() => size_of::<kvm::kvm_vcpu_events>();
        size_of::<[u32; 3]>() => size_of::<kvm::kvm_create_device>();
        size_of::<[u64; 2]>() => size_of::<kvm::kvm_arm_counter_offset>();
        VCPU_POWER_OFF => kvm::KVM_ARM_VCPU_POWER_OFF;
        VCPU_PSCI_0_2 => kvm::KVM_ARM_VCPU_PSCI_0_2;
        VCPU_PMU_V3 => kvm::KVM_ARM_VCPU_PMU_V3;
        VCPU_SVE => kvm::KVM_ARM_VCPU_SVE;
        VCPU_PTRAUTH_ADDRESS => kvm::KVM_ARM_VCPU_PTRAUTH_ADDRESS;
        VCPU_PTRAUTH_GENERIC => kvm::KVM_ARM_VCPU_PTRAUTH_GENERIC;
        VCPU_HAS_EL2 => kvm::KVM_ARM_VCPU_HAS_EL2;
        CAP_IRQCHIP => kvm::KVM_CAP_IRQCHIP;
        CAP_MP_STATE => kvm::KVM_CAP_MP_STATE;
        CAP_VCPU_EVENTS => kvm::KVM_CAP_VCPU_EVENTS;
        CAP_ONE_REG => kvm::KVM_CAP_ONE_REG;
        CAP_DEVICE_CTRL => kvm::KVM_CAP_DEVICE_CTRL;
        CAP_ARM_PSCI_0_2 => kvm::KVM_CAP_ARM_PSCI_0_2;
        CAP_ARM_PMU_V3 => kvm::KVM_CAP_ARM_PMU_V3;
        CAP_IMMEDIATE_EXIT => kvm::KVM_CAP_IMMEDIATE_EXIT;
        CAP_ARM_INJECT_SERROR_ESR => kvm::KVM_CAP_ARM_INJECT_SERROR_ESR;
        CAP_ARM_VM_IPA_SIZE => kvm::KVM_CAP_ARM_VM_IPA_SIZE;
        CAP_ARM_SVE => kvm::KVM_CAP_ARM_SVE;
        CAP_ARM_PTRAUTH_ADDRESS => kvm::KVM_CAP_ARM_PTRAUTH_ADDRESS;
        CAP_ARM_PTRAUTH_GENERIC => kvm::KVM_CAP_ARM_PTRAUTH_GENERIC;
        CAP_STEAL_TIME => kvm::KVM_CAP_STEAL_TIME;
        CAP_ARM_SYSTEM_SUSPEND => kvm::KVM_CAP_ARM_SYSTEM_SUSPEND;
        CAP_COUNTER_OFFSET => kvm::KVM_CAP_COUNTER_OFFSET;
        MP_RUNNABLE => kvm::KVM_MP_STATE_RUNNABLE;
        MP_STOPPED => kvm::KVM_MP_STATE_STOPPED;
        MP_SUSPENDED => kvm::KVM_MP_STATE_SUSPENDED;
        PMU => kvm::KVM_ARM_VCPU_PMU_V3_CTRL;
        PMU_IRQ => kvm::KVM_ARM_VCPU_PMU_V3_IRQ;
        PMU_INIT => kvm::KVM_ARM_VCPU_PMU_V3_INIT;
        PVTIME => kvm::KVM_ARM_VCPU_PVTIME_CTRL;
        PVTIME_IPA => kvm::KVM_ARM_VCPU_PVTIME_IPA;
        DEVICE_VGIC_V2 => kvm::kvm_device_type_KVM_DEV_TYPE_ARM_VGIC_V2;
        DEVICE_VGIC_V3 => kvm::kvm_device_type_KVM_DEV_TYPE_ARM_VGIC_V3;
        DEVICE_VGIC_ITS => kvm::kvm_device_type_KVM_DEV_TYPE_ARM_VGIC_ITS;
        CREATE_DEVICE_TEST => kvm::KVM_CREATE_DEVICE_TEST;
        GIC_ADDR => kvm::KVM_DEV_ARM_VGIC_GRP_ADDR;
        GIC_DIST_REGS => kvm::KVM_DEV_ARM_VGIC_GRP_DIST_REGS;
        GIC_CPU_REGS => kvm::KVM_DEV_ARM_VGIC_GRP_CPU_REGS;
        GIC_NR_IRQS => kvm::KVM_DEV_ARM_VGIC_GRP_NR_IRQS;
        GIC_CTRL => kvm::KVM_DEV_ARM_VGIC_GRP_CTRL;
        GIC_REDIST_REGS => kvm::KVM_DEV_ARM_VGIC_GRP_REDIST_REGS;
        GIC_CPU_SYSREGS => kvm::KVM_DEV_ARM_VGIC_GRP_CPU_SYSREGS;
        GIC_LEVEL_INFO => kvm::KVM_DEV_ARM_VGIC_GRP_LEVEL_INFO;
        GIC_ITS_REGS => kvm::KVM_DEV_ARM_VGIC_GRP_ITS_REGS;
        ADDR_V2_DIST => kvm::KVM_VGIC_V2_ADDR_TYPE_DIST;
        ADDR_V2_CPU => kvm::KVM_VGIC_V2_ADDR_TYPE_CPU;
        ADDR_V3_DIST => kvm::KVM_VGIC_V3_ADDR_TYPE_DIST;
        ADDR_V3_REDIST => kvm::KVM_VGIC_V3_ADDR_TYPE_REDIST;
        ADDR_ITS => kvm::KVM_VGIC_ITS_ADDR_TYPE;
        ADDR_V3_REDIST_REGION => kvm::KVM_VGIC_V3_ADDR_TYPE_REDIST_REGION;
        CTRL_INIT => kvm::KVM_DEV_ARM_VGIC_CTRL_INIT;
        CTRL_ITS_SAVE_TABLES => kvm::KVM_DEV_ARM_ITS_SAVE_TABLES;
        CTRL_ITS_RESTORE_TABLES => kvm::KVM_DEV_ARM_ITS_RESTORE_TABLES;
        CTRL_SAVE_PENDING_TABLES => kvm::KVM_DEV_ARM_VGIC_SAVE_PENDING_TABLES;
    }
}
