//! Version 1 of the vCPU payload. Frozen; what did not change is in version 2, too.

use super::{
    CpuidEntry, DebugRegisters, DescriptorTable, EventInterrupt, EventNmi, EventSmi,
    ExceptionEvent, Msr, Registers, Segment, SpecialRegisters, VcpuEvents, VcpuX86, Xcr,
};
use crate::state::mirror::{replaced_wire, wire};

wire! {
    struct RegistersV1 for Registers {
        rax: u64,
        rbx: u64,
        rcx: u64,
        rdx: u64,
        rsi: u64,
        rdi: u64,
        rsp: u64,
        rbp: u64,
        r8: u64,
        r9: u64,
        r10: u64,
        r11: u64,
        r12: u64,
        r13: u64,
        r14: u64,
        r15: u64,
        rip: u64,
        rflags: u64,
    }

    struct SegmentV1 for Segment {
        base: u64,
        limit: u32,
        selector: u16,
        kind: u8,
        present: u8,
        dpl: u8,
        db: u8,
        s: u8,
        l: u8,
        g: u8,
        avl: u8,
        unusable: u8,
    }

    struct DescriptorTableV1 for DescriptorTable {
        base: u64,
        limit: u16,
    }

    struct SpecialRegistersV1 for SpecialRegisters {
        cs: SegmentV1,
        ds: SegmentV1,
        es: SegmentV1,
        fs: SegmentV1,
        gs: SegmentV1,
        ss: SegmentV1,
        tr: SegmentV1,
        ldt: SegmentV1,
        gdt: DescriptorTableV1,
        idt: DescriptorTableV1,
        cr0: u64,
        cr2: u64,
        cr3: u64,
        cr4: u64,
        cr8: u64,
        efer: u64,
        apic_base: u64,
        pdptrs: Option<[u64; 4]>,
        injected_interrupt: Option<u8>,
    }

    struct DebugRegistersV1 for DebugRegisters {
        db: [u64; 4],
        dr6: u64,
        dr7: u64,
        flags: u64,
    }

    struct XcrV1 for Xcr {
        index: u32,
        value: u64,
    }

    struct ExceptionEventV1 for ExceptionEvent {
        injected: u8,
        vector: u8,
        has_error_code: u8,
        pending: u8,
        error_code: u32,
        has_payload: u8,
        payload: u64,
    }

    struct EventInterruptV1 for EventInterrupt {
        injected: u8,
        vector: u8,
        soft: u8,
        shadow: u8,
    }

    struct EventNmiV1 for EventNmi {
        injected: u8,
        pending: u8,
        masked: u8,
    }

    struct EventSmiV1 for EventSmi {
        smm: u8,
        pending: u8,
        smm_inside_nmi: u8,
        latched_init: u8,
    }

    struct VcpuEventsV1 for VcpuEvents {
        exception: ExceptionEventV1,
        interrupt: EventInterruptV1,
        nmi: EventNmiV1,
        sipi_vector: u32,
        flags: u32,
        smi: EventSmiV1,
        triple_fault: u8,
    }

    struct CpuidEntryV1 for CpuidEntry {
        function: u32,
        index: u32,
        flags: u32,
        eax: u32,
        ebx: u32,
        ecx: u32,
        edx: u32,
    }

    struct MsrV1 for Msr {
        index: u32,
        value: u64,
    }
}

replaced_wire! {
    struct VcpuV1 for VcpuX86 {
        id: u32,
        mp_state: u32,
        registers: RegistersV1,
        special: SpecialRegistersV1,
        debug: DebugRegistersV1,
        xcrs: Vec<XcrV1>,
        events: VcpuEventsV1,
        tsc_khz: u32,
        tsc_offset: Option<u64>,
        cpuid: Vec<CpuidEntryV1>,
        msrs: Vec<MsrV1>,
        xsave: Vec<u8>,
        lapic: Vec<u8>,
        nested: Vec<u8>,
    }
}
