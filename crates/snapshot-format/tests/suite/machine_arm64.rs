//! An aarch64 machine whose every field has another value, so that two fields of a payload that
//! change places are found.

use std::array::from_fn;

use snapshot_format::state::{
    BankedRegister, Capability, CoreArm64, CounterOffset, DebugTraps, Fingerprint,
    FingerprintArm64, GicBlob, GicRegister, GicV2, GicV3, GicV3Config, GicVersion, Hypervisor,
    HypervisorRegister, Its, KvmInit, MsiFrame, PendingArm64, PowerState, Redistributor,
    RedistributorRegion, SError, SimdArm64, SmeArm64, SveArm64, SystemRegister, SystemRegisterId,
    Timer, TimersArm64, VcpuArm64, VmArm64,
};
use snapshot_format::{Arch, SectionPayload, StateFile};

use crate::cases::FULL;
use crate::machine::Count;

/// One section of each kind of machine state.
pub(crate) struct MachineArm64 {
    pub(crate) vcpu: VcpuArm64,
    pub(crate) vm: VmArm64,
    pub(crate) gic: GicV3,
    pub(crate) gic_v2: GicV2,
    pub(crate) blob: GicBlob,
    pub(crate) fingerprint: Fingerprint,
}

pub(crate) fn state_file() -> StateFile {
    let machine = machine();
    StateFile {
        id: FULL,
        parent: None,
        arch: Arch::Aarch64,
        sections: vec![
            SectionPayload::of(0, &machine.vcpu),
            SectionPayload::of(0, &machine.vm),
            SectionPayload::of(0, &machine.gic),
            SectionPayload::of(0, &machine.gic_v2),
            SectionPayload::of(0, &machine.blob),
            SectionPayload::of(0, &machine.fingerprint),
        ],
    }
}

pub(crate) fn machine() -> MachineArm64 {
    let mut c = Count(0);
    MachineArm64 {
        vcpu: vcpu(&mut c),
        vm: VmArm64 {
            hypervisor: Hypervisor::KVM,
            vcpu_count: c.u32(),
            address_bits: c.u8(),
            counter_hz: c.u64(),
            counter_offset: CounterOffset::Separate,
            wall_clock_ns: c.u64(),
            gic: GicVersion::V3,
            el2: true,
        },
        gic: gic(&mut c),
        gic_v2: gic_v2(&mut c),
        blob: GicBlob {
            hypervisor: Hypervisor::HVF,
            producer: "hv_gic_state".to_owned(),
            version: "24A335".to_owned(),
            bytes: c.bytes(9),
        },
        fingerprint: fingerprint(&mut c),
    }
}

fn vcpu(c: &mut Count) -> VcpuArm64 {
    let sme = SmeArm64 {
        vector_bytes: 16,
        streaming: true,
        za_enabled: true,
        z: c.bytes(32 * 16),
        p: c.bytes(2 * 16),
        za: c.bytes(16 * 16),
        zt0: c.bytes(64),
    };
    let sve = SveArm64 {
        vector_bytes: 32,
        lengths: [0b11, 0, 0, 0, 0, 0, 0, 0],
        z: c.bytes(32 * 32),
        p: c.bytes(2 * 32),
        ffr: c.bytes(4),
    };
    let v = |n: usize| {
        let vector = sme.z.chunks_exact(16).nth(n).expect("32 vectors");
        u128::from_le_bytes(vector.try_into().expect("16 bytes"))
    };
    VcpuArm64 {
        id: c.u32(),
        mpidr: c.u64(),
        power: PowerState::OnPending {
            entry: c.u64(),
            context: c.u64(),
        },
        core: CoreArm64 {
            x: from_fn(|_| c.u64()),
            pc: c.u64(),
            pstate: c.u64(),
            sp_el0: c.u64(),
            sp_el1: c.u64(),
            elr_el1: c.u64(),
            spsr_el1: c.u64(),
            spsr_aarch32: from_fn(|_| c.u64()),
        },
        simd: SimdArm64 {
            v: from_fn(v),
            fpcr: c.u64(),
            fpsr: c.u64(),
        },
        sve: Some(sve),
        sme: Some(sme),
        system: vec![
            register(c, SystemRegisterId::MDSCR_EL1),
            register(c, SystemRegisterId::SCTLR_EL1),
            register(c, SystemRegisterId::HCR_EL2),
        ],
        timers: TimersArm64 {
            virtual_count: c.u64(),
            physical_count: c.u64(),
            virtual_timer: timer(c),
            physical_timer: timer(c),
            virtual_masked: true,
        },
        pending: PendingArm64 {
            serror: Some(SError {
                syndrome: Some(c.u64()),
            }),
            external_abort: true,
            irq: false,
            fiq: true,
        },
        icc: vec![
            register(c, SystemRegisterId::ICC_PMR_EL1),
            register(c, SystemRegisterId::ICC_SRE_EL1),
        ],
        debug_traps: DebugTraps {
            exceptions: false,
            register_accesses: true,
        },
        stolen_time_address: Some(c.u64()),
        pmu_interrupt: Some(c.u32()),
        kvm_init: Some(KvmInit {
            target: c.u32(),
            features: from_fn(|_| c.u32()),
        }),
        extras: vec![HypervisorRegister {
            hypervisor: Hypervisor::KVM,
            id: c.u64(),
            value: c.u64(),
        }],
    }
}

fn register(c: &mut Count, id: SystemRegisterId) -> SystemRegister {
    SystemRegister { id, value: c.u64() }
}

fn timer(c: &mut Count) -> Timer {
    Timer {
        control: c.u64(),
        compare: c.u64(),
    }
}

/// Two registers, by ascending offset.
fn registers(c: &mut Count) -> Vec<GicRegister> {
    let mut register = || GicRegister {
        offset: c.u32(),
        value: c.u64(),
    };
    vec![register(), register()]
}

fn gic(c: &mut Count) -> GicV3 {
    GicV3 {
        config: GicV3Config {
            implementer: c.u32(),
            interrupts: c.u32(),
            distributor_base: c.u64(),
            redistributors: vec![RedistributorRegion {
                base: c.u64(),
                count: c.u32(),
            }],
            msi: Some(MsiFrame {
                base: c.u64(),
                first_interrupt: c.u32(),
                count: c.u32(),
            }),
        },
        distributor: registers(c),
        redistributors: vec![Redistributor {
            mpidr: c.u64(),
            registers: registers(c),
            lines: c.u32(),
        }],
        lines: vec![c.u32(), c.u32()],
        its: vec![Its {
            base: c.u64(),
            registers: registers(c),
        }],
    }
}

fn gic_v2(c: &mut Count) -> GicV2 {
    GicV2 {
        implementer: c.u32(),
        interrupts: c.u32(),
        distributor_base: c.u64(),
        interface_base: c.u64(),
        distributor: registers(c),
        banked: vec![banked(c), banked(c)],
        interfaces: vec![banked(c)],
    }
}

fn banked(c: &mut Count) -> BankedRegister {
    BankedRegister {
        vcpu: c.u32(),
        offset: c.u32(),
        value: c.u32(),
    }
}

fn fingerprint(c: &mut Count) -> Fingerprint {
    Fingerprint {
        arch: Arch::Aarch64.number(),
        vendor: "Arm".to_owned(),
        model: c.u32(),
        stepping: c.u32(),
        page_bytes: 65_536,
        capabilities: vec![Capability {
            number: c.u32(),
            value: c.u32(),
        }],
        kernel: "6.12.0".to_owned(),
        arm64: Some(FingerprintArm64 {
            hypervisor: Hypervisor::KVM,
            id_registers: vec![register(c, SystemRegisterId::ID_AA64PFR0_EL1)],
            counter_hz: c.u64(),
            address_bits: c.u8(),
            gic: GicVersion::V2,
            interrupts: c.u32(),
            sve_lengths: from_fn(|_| c.u64()),
            sme_lengths: from_fn(|_| c.u64()),
            features: c.u64(),
        }),
        ..Fingerprint::default()
    }
}
