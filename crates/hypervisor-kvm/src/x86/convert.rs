//! Between the kernel's structures and the format's types.

use kvm_bindings as kvm;
use snapshot_format::state::{
    Clock, CpuidEntry, DebugRegisters, DescriptorTable, EventInterrupt, EventNmi, EventSmi,
    ExceptionEvent, Msr, Pic, Pit, PitChannel, Registers, Segment, SpecialRegisters, VcpuEvents,
    Xcr,
};

/// Both conversions of two structures whose fields have the same names.
macro_rules! same_fields {
    ($kernel:ident, $ours:ident, $from:ident, $to:ident { $($field:ident),* $(,)? } $(.. $padding:expr)?) => {
        pub(super) fn $from(value: &kvm::$kernel) -> $ours {
            $ours { $($field: value.$field),* }
        }

        pub(super) fn $to(value: &$ours) -> kvm::$kernel {
            kvm::$kernel { $($field: value.$field,)* $(..$padding)? }
        }
    };
}

same_fields!(
    kvm_regs,
    Registers,
    from_regs,
    to_regs {
        rax,
        rbx,
        rcx,
        rdx,
        rsi,
        rdi,
        rsp,
        rbp,
        r8,
        r9,
        r10,
        r11,
        r12,
        r13,
        r14,
        r15,
        rip,
        rflags,
    }
);

same_fields!(
    kvm_pic_state,
    Pic,
    from_pic,
    to_pic {
        last_irr,
        irr,
        imr,
        isr,
        priority_add,
        irq_base,
        read_reg_select,
        poll,
        special_mask,
        init_state,
        auto_eoi,
        rotate_on_auto_eoi,
        special_fully_nested_mode,
        init4,
        elcr,
        elcr_mask,
    }
);

same_fields!(
    kvm_pit_channel_state,
    PitChannel,
    from_pit_channel,
    to_pit_channel {
        count,
        latched_count,
        count_latched,
        status_latched,
        status,
        read_state,
        write_state,
        write_latch,
        rw_mode,
        mode,
        bcd,
        gate,
        count_load_time,
    }
);

same_fields!(
    kvm_debugregs,
    DebugRegisters,
    from_debugregs,
    to_debugregs {
        db,
        dr6,
        dr7,
        flags,
    }..Default::default()
);

same_fields!(
    kvm_cpuid_entry2,
    CpuidEntry,
    from_cpuid,
    to_cpuid {
        function,
        index,
        flags,
        eax,
        ebx,
        ecx,
        edx,
    }..Default::default()
);

pub(super) fn from_msr(msr: &kvm::kvm_msr_entry) -> Msr {
    Msr {
        index: msr.index,
        value: msr.data,
    }
}

pub(super) fn to_msr(msr: Msr) -> kvm::kvm_msr_entry {
    kvm::kvm_msr_entry {
        index: msr.index,
        data: msr.value,
        ..Default::default()
    }
}

pub(super) fn from_clock(clock: &kvm::kvm_clock_data) -> Clock {
    Clock {
        clock_ns: clock.clock,
        flags: clock.flags,
        realtime_ns: clock.realtime,
        host_tsc: clock.host_tsc,
    }
}

pub(super) fn from_pit(pit: &kvm::kvm_pit_state2) -> Pit {
    Pit {
        channels: pit.channels.each_ref().map(from_pit_channel),
        flags: pit.flags,
    }
}

pub(super) fn to_pit(pit: &Pit) -> kvm::kvm_pit_state2 {
    kvm::kvm_pit_state2 {
        channels: pit.channels.each_ref().map(to_pit_channel),
        flags: pit.flags,
        ..Default::default()
    }
}

pub(super) fn from_xcrs(xcrs: &kvm::kvm_xcrs) -> Vec<Xcr> {
    let count = usize::try_from(xcrs.nr_xcrs).unwrap_or(usize::MAX);
    let xcr = |xcr: &kvm::kvm_xcr| Xcr {
        index: xcr.xcr,
        value: xcr.value,
    };
    xcrs.xcrs.iter().take(count).map(xcr).collect()
}

pub(super) fn to_xcrs(saved: &[Xcr]) -> kvm::kvm_xcrs {
    let mut xcrs = kvm::kvm_xcrs::default();
    for (target, xcr) in xcrs.xcrs.iter_mut().zip(saved) {
        target.xcr = xcr.index;
        target.value = xcr.value;
        xcrs.nr_xcrs += 1;
    }
    xcrs
}

fn from_segment(segment: &kvm::kvm_segment) -> Segment {
    Segment {
        base: segment.base,
        limit: segment.limit,
        selector: segment.selector,
        kind: segment.type_,
        present: segment.present,
        dpl: segment.dpl,
        db: segment.db,
        s: segment.s,
        l: segment.l,
        g: segment.g,
        avl: segment.avl,
        unusable: segment.unusable,
    }
}

fn to_segment(segment: &Segment) -> kvm::kvm_segment {
    kvm::kvm_segment {
        base: segment.base,
        limit: segment.limit,
        selector: segment.selector,
        type_: segment.kind,
        present: segment.present,
        dpl: segment.dpl,
        db: segment.db,
        s: segment.s,
        l: segment.l,
        g: segment.g,
        avl: segment.avl,
        unusable: segment.unusable,
        padding: 0,
    }
}

fn from_table(table: &kvm::kvm_dtable) -> DescriptorTable {
    DescriptorTable {
        base: table.base,
        limit: table.limit,
    }
}

fn to_table(table: &DescriptorTable) -> kvm::kvm_dtable {
    kvm::kvm_dtable {
        base: table.base,
        limit: table.limit,
        padding: [0; 3],
    }
}

macro_rules! special_registers {
    ($from:ident, $to:ident, $kernel:ident) => {
        fn $from(sregs: &kvm::$kernel) -> SpecialRegisters {
            SpecialRegisters {
                cs: from_segment(&sregs.cs),
                ds: from_segment(&sregs.ds),
                es: from_segment(&sregs.es),
                fs: from_segment(&sregs.fs),
                gs: from_segment(&sregs.gs),
                ss: from_segment(&sregs.ss),
                tr: from_segment(&sregs.tr),
                ldt: from_segment(&sregs.ldt),
                gdt: from_table(&sregs.gdt),
                idt: from_table(&sregs.idt),
                cr0: sregs.cr0,
                cr2: sregs.cr2,
                cr3: sregs.cr3,
                cr4: sregs.cr4,
                cr8: sregs.cr8,
                efer: sregs.efer,
                apic_base: sregs.apic_base,
                pdptrs: None,
                injected_interrupt: None,
            }
        }

        fn $to(special: &SpecialRegisters) -> kvm::$kernel {
            kvm::$kernel {
                cs: to_segment(&special.cs),
                ds: to_segment(&special.ds),
                es: to_segment(&special.es),
                fs: to_segment(&special.fs),
                gs: to_segment(&special.gs),
                ss: to_segment(&special.ss),
                tr: to_segment(&special.tr),
                ldt: to_segment(&special.ldt),
                gdt: to_table(&special.gdt),
                idt: to_table(&special.idt),
                cr0: special.cr0,
                cr2: special.cr2,
                cr3: special.cr3,
                cr4: special.cr4,
                cr8: special.cr8,
                efer: special.efer,
                apic_base: special.apic_base,
                ..Default::default()
            }
        }
    };
}

special_registers!(common_from_sregs, common_to_sregs, kvm_sregs);
special_registers!(common_from_sregs2, common_to_sregs2, kvm_sregs2);

/// `KVM_SREGS2_FLAGS_PDPTRS_VALID`
pub(super) const PDPTRS_VALID: u64 = 1;

pub(super) fn from_sregs2(sregs: &kvm::kvm_sregs2) -> SpecialRegisters {
    SpecialRegisters {
        pdptrs: (sregs.flags & PDPTRS_VALID != 0).then_some(sregs.pdptrs),
        ..common_from_sregs2(sregs)
    }
}

pub(super) fn to_sregs2(special: &SpecialRegisters) -> kvm::kvm_sregs2 {
    kvm::kvm_sregs2 {
        flags: special.pdptrs.map_or(0, |_| PDPTRS_VALID),
        pdptrs: special.pdptrs.unwrap_or_default(),
        ..common_to_sregs2(special)
    }
}

pub(super) fn from_sregs(sregs: &kvm::kvm_sregs) -> SpecialRegisters {
    let word = sregs.interrupt_bitmap.iter().position(|&word| word != 0);
    let vector = word.and_then(|word| {
        let bits = sregs.interrupt_bitmap.get(word)?;
        u8::try_from(word * 64 + bits.trailing_zeros() as usize).ok()
    });
    SpecialRegisters {
        injected_interrupt: vector,
        ..common_from_sregs(sregs)
    }
}

pub(super) fn to_sregs(special: &SpecialRegisters) -> kvm::kvm_sregs {
    let mut sregs = common_to_sregs(special);
    if let Some(vector) = special.injected_interrupt {
        let word = sregs.interrupt_bitmap.get_mut(usize::from(vector / 64));
        if let Some(word) = word {
            *word = 1 << (vector % 64);
        }
    }
    sregs
}

pub(super) fn from_events(events: &kvm::kvm_vcpu_events) -> VcpuEvents {
    VcpuEvents {
        exception: ExceptionEvent {
            injected: events.exception.injected,
            vector: events.exception.nr,
            has_error_code: events.exception.has_error_code,
            pending: events.exception.pending,
            error_code: events.exception.error_code,
            has_payload: events.exception_has_payload,
            payload: events.exception_payload,
        },
        interrupt: EventInterrupt {
            injected: events.interrupt.injected,
            vector: events.interrupt.nr,
            soft: events.interrupt.soft,
            shadow: events.interrupt.shadow,
        },
        nmi: EventNmi {
            injected: events.nmi.injected,
            pending: events.nmi.pending,
            masked: events.nmi.masked,
        },
        sipi_vector: events.sipi_vector,
        flags: events.flags,
        smi: EventSmi {
            smm: events.smi.smm,
            pending: events.smi.pending,
            smm_inside_nmi: events.smi.smm_inside_nmi,
            latched_init: events.smi.latched_init,
        },
        triple_fault: events.triple_fault.pending,
    }
}

pub(super) fn to_events(saved: &VcpuEvents) -> kvm::kvm_vcpu_events {
    let mut events = kvm::kvm_vcpu_events {
        sipi_vector: saved.sipi_vector,
        flags: saved.flags,
        exception_has_payload: saved.exception.has_payload,
        exception_payload: saved.exception.payload,
        ..Default::default()
    };
    events.exception.injected = saved.exception.injected;
    events.exception.nr = saved.exception.vector;
    events.exception.has_error_code = saved.exception.has_error_code;
    events.exception.pending = saved.exception.pending;
    events.exception.error_code = saved.exception.error_code;
    events.interrupt.injected = saved.interrupt.injected;
    events.interrupt.nr = saved.interrupt.vector;
    events.interrupt.soft = saved.interrupt.soft;
    events.interrupt.shadow = saved.interrupt.shadow;
    events.nmi.injected = saved.nmi.injected;
    events.nmi.pending = saved.nmi.pending;
    events.nmi.masked = saved.nmi.masked;
    events.smi.smm = saved.smi.smm;
    events.smi.pending = saved.smi.pending;
    events.smi.smm_inside_nmi = saved.smi.smm_inside_nmi;
    events.smi.latched_init = saved.smi.latched_init;
    events.triple_fault.pending = saved.triple_fault;
    events
}

#[cfg(test)]
mod tests;
