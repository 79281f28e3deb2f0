//! Version 1 of the aarch64 vCPU payload. Frozen: a change is version 2.

use super::{
    CoreArm64, DebugTraps, KvmInit, PendingArm64, SError, SimdArm64, SmeArm64, SveArm64, Timer,
    TimersArm64, VcpuArm64,
};
use crate::state::hypervisor::HypervisorRegister;
use crate::state::mirror::wire;
use crate::state::system_register::SystemRegister;

#[derive(crate::codec::Encode, crate::codec::Decode)]
pub(super) enum PowerStateV1 {
    On,
    Off,
    OnPending { entry: u64, context: u64 },
    Suspended,
    WaitingForInterrupt,
}

wire! {
    struct CoreV1 for CoreArm64 {
        x: [u64; 31],
        pc: u64,
        pstate: u64,
        sp_el0: u64,
        sp_el1: u64,
        elr_el1: u64,
        spsr_el1: u64,
        spsr_aarch32: [u64; 4],
    }

    struct SimdV1 for SimdArm64 {
        v: [u128; 32],
        fpcr: u64,
        fpsr: u64,
    }

    struct SveV1 for SveArm64 {
        vector_bytes: u16,
        lengths: [u64; 8],
        z: Vec<u8>,
        p: Vec<u8>,
        ffr: Vec<u8>,
    }

    struct SmeV1 for SmeArm64 {
        vector_bytes: u16,
        streaming: bool,
        za_enabled: bool,
        z: Vec<u8>,
        p: Vec<u8>,
        za: Vec<u8>,
        zt0: Vec<u8>,
    }

    struct VcpuRegisterV1 for SystemRegister {
        id: u16,
        value: u64,
    }

    struct TimerV1 for Timer {
        control: u64,
        compare: u64,
    }

    struct TimersV1 for TimersArm64 {
        virtual_count: u64,
        physical_count: u64,
        virtual_timer: TimerV1,
        physical_timer: TimerV1,
        virtual_masked: bool,
    }

    struct SErrorV1 for SError {
        syndrome: Option<u64>,
    }

    struct PendingV1 for PendingArm64 {
        serror: Option<SErrorV1>,
        external_abort: bool,
        irq: bool,
        fiq: bool,
    }

    struct DebugTrapsV1 for DebugTraps {
        exceptions: bool,
        register_accesses: bool,
    }

    struct KvmInitV1 for KvmInit {
        target: u32,
        features: [u32; 7],
    }

    struct HypervisorRegisterV1 for HypervisorRegister {
        hypervisor: u16,
        id: u64,
        value: u64,
    }

    struct VcpuArm64V1 for VcpuArm64 {
        id: u32,
        mpidr: u64,
        power: PowerStateV1,
        core: CoreV1,
        simd: SimdV1,
        sve: Option<SveV1>,
        sme: Option<SmeV1>,
        system: Vec<VcpuRegisterV1>,
        timers: TimersV1,
        pending: PendingV1,
        icc: Vec<VcpuRegisterV1>,
        debug_traps: DebugTrapsV1,
        stolen_time_address: Option<u64>,
        pmu_interrupt: Option<u32>,
        kvm_init: Option<KvmInitV1>,
        extras: Vec<HypervisorRegisterV1>,
    }
}
