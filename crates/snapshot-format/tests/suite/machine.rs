//! A machine whose every field has another value, so that two fields of a payload that change
//! places are found.

use snapshot_format::state::{
    Capability, Clock, CpuidEntry, DebugRegisters, DescriptorTable, DeviceState, EventInterrupt,
    EventNmi, EventSmi, ExceptionEvent, Fingerprint, GsiRoute, IoApic, Msr, Pic, Pit, PitChannel,
    Registers, Segment, SpecialRegisters, VcpuEvents, VcpuX86, VmX86, Xcr,
};
use snapshot_format::{Arch, SectionPayload, StateFile};

use crate::cases::FULL;

/// One section of each kind of machine state.
pub(crate) struct Machine {
    pub(crate) vcpu: VcpuX86,
    pub(crate) vm: VmX86,
    pub(crate) device: DeviceState,
    pub(crate) fingerprint: Fingerprint,
}

pub(crate) fn state_file(machine: &Machine) -> StateFile {
    StateFile {
        id: FULL,
        parent: None,
        arch: Arch::X86_64,
        sections: vec![
            SectionPayload::of(0, &machine.vcpu),
            SectionPayload::of(0, &machine.vm),
            SectionPayload::of(0, &machine.device),
            SectionPayload::of(0, &machine.fingerprint),
        ],
    }
}

/// As [`machine`], and with what version 2 of its payloads added.
pub(crate) fn machine_v2() -> Machine {
    let mut machine = machine();
    let mut count = Count(0x4000);
    machine.vcpu.armed_deadline = Some(count.u64());
    machine.vcpu.guest_ssp = Some(count.u64());
    machine.vm.split_lines = Some(count.u32());
    let mut route = || GsiRoute {
        gsi: count.u32(),
        kind: count.u32(),
        flags: count.u32(),
        words: std::array::from_fn(|_| count.u32()),
    };
    machine.vm.routes = Some(vec![route(), route()]);
    machine
}

/// What version 1 of the payloads holds.
pub(crate) fn machine() -> Machine {
    let mut count = Count(0);
    Machine {
        vcpu: vcpu(&mut count),
        vm: vm(&mut count),
        device: DeviceState {
            kind: "serial".to_owned(),
            instance: count.u32(),
            version: count.u32(),
            bytes: count.bytes(5),
        },
        fingerprint: fingerprint(&mut count),
    }
}

/// Gives out numbers that differ, in every width.
pub(crate) struct Count(pub(crate) u64);

impl Count {
    fn next(&mut self) -> [u8; 8] {
        self.0 += 1;
        (self.0 * 0x0001_0001_0001_0001).to_le_bytes()
    }

    pub(crate) fn u8(&mut self) -> u8 {
        self.next()[0]
    }

    pub(crate) fn u16(&mut self) -> u16 {
        let [a, b, ..] = self.next();
        u16::from_le_bytes([a, b])
    }

    pub(crate) fn u32(&mut self) -> u32 {
        let [a, b, c, d, ..] = self.next();
        u32::from_le_bytes([a, b, c, d])
    }

    pub(crate) fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.next())
    }

    pub(crate) fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.u8()).collect()
    }
}

fn vcpu(c: &mut Count) -> VcpuX86 {
    VcpuX86 {
        id: c.u32(),
        mp_state: c.u32(),
        registers: registers(c),
        special: special(c),
        debug: DebugRegisters {
            db: [c.u64(), c.u64(), c.u64(), c.u64()],
            dr6: c.u64(),
            dr7: c.u64(),
            flags: c.u64(),
        },
        xcrs: vec![Xcr {
            index: c.u32(),
            value: c.u64(),
        }],
        events: events(c),
        tsc_khz: c.u32(),
        tsc_offset: Some(c.u64()),
        cpuid: vec![cpuid(c), cpuid(c)],
        msrs: vec![msr(c), msr(c), msr(c)],
        xsave: c.bytes(7),
        lapic: c.bytes(6),
        nested: c.bytes(5),
        armed_deadline: None,
        guest_ssp: None,
    }
}

fn registers(c: &mut Count) -> Registers {
    Registers {
        rax: c.u64(),
        rbx: c.u64(),
        rcx: c.u64(),
        rdx: c.u64(),
        rsi: c.u64(),
        rdi: c.u64(),
        rsp: c.u64(),
        rbp: c.u64(),
        r8: c.u64(),
        r9: c.u64(),
        r10: c.u64(),
        r11: c.u64(),
        r12: c.u64(),
        r13: c.u64(),
        r14: c.u64(),
        r15: c.u64(),
        rip: c.u64(),
        rflags: c.u64(),
    }
}

fn special(c: &mut Count) -> SpecialRegisters {
    SpecialRegisters {
        cs: segment(c),
        ds: segment(c),
        es: segment(c),
        fs: segment(c),
        gs: segment(c),
        ss: segment(c),
        tr: segment(c),
        ldt: segment(c),
        gdt: descriptor_table(c),
        idt: descriptor_table(c),
        cr0: c.u64(),
        cr2: c.u64(),
        cr3: c.u64(),
        cr4: c.u64(),
        cr8: c.u64(),
        efer: c.u64(),
        apic_base: c.u64(),
        pdptrs: Some([c.u64(), c.u64(), c.u64(), c.u64()]),
        injected_interrupt: Some(c.u8()),
    }
}

fn segment(c: &mut Count) -> Segment {
    Segment {
        base: c.u64(),
        limit: c.u32(),
        selector: c.u16(),
        kind: c.u8(),
        present: c.u8(),
        dpl: c.u8(),
        db: c.u8(),
        s: c.u8(),
        l: c.u8(),
        g: c.u8(),
        avl: c.u8(),
        unusable: c.u8(),
    }
}

fn descriptor_table(c: &mut Count) -> DescriptorTable {
    DescriptorTable {
        base: c.u64(),
        limit: c.u16(),
    }
}

fn events(c: &mut Count) -> VcpuEvents {
    VcpuEvents {
        exception: ExceptionEvent {
            injected: c.u8(),
            vector: c.u8(),
            has_error_code: c.u8(),
            pending: c.u8(),
            error_code: c.u32(),
            has_payload: c.u8(),
            payload: c.u64(),
        },
        interrupt: EventInterrupt {
            injected: c.u8(),
            vector: c.u8(),
            soft: c.u8(),
            shadow: c.u8(),
        },
        nmi: EventNmi {
            injected: c.u8(),
            pending: c.u8(),
            masked: c.u8(),
        },
        sipi_vector: c.u32(),
        flags: c.u32(),
        smi: EventSmi {
            smm: c.u8(),
            pending: c.u8(),
            smm_inside_nmi: c.u8(),
            latched_init: c.u8(),
        },
        triple_fault: c.u8(),
    }
}

fn cpuid(c: &mut Count) -> CpuidEntry {
    CpuidEntry {
        function: c.u32(),
        index: c.u32(),
        flags: c.u32(),
        eax: c.u32(),
        ebx: c.u32(),
        ecx: c.u32(),
        edx: c.u32(),
    }
}

fn msr(c: &mut Count) -> Msr {
    Msr {
        index: c.u32(),
        value: c.u64(),
    }
}

fn vm(c: &mut Count) -> VmX86 {
    VmX86 {
        vcpu_count: 1,
        pit: Some(Pit {
            channels: [pit_channel(c), pit_channel(c), pit_channel(c)],
            flags: c.u32(),
        }),
        pic_master: Some(pic(c)),
        pic_slave: Some(pic(c)),
        ioapic: Some(IoApic {
            base_address: c.u64(),
            ioregsel: c.u32(),
            id: c.u32(),
            irr: c.u32(),
            redirection: std::array::from_fn(|_| c.u64()),
        }),
        clock: Some(Clock {
            clock_ns: c.u64(),
            flags: c.u32(),
            realtime_ns: c.u64(),
            host_tsc: c.u64(),
        }),
        split_lines: None,
        routes: None,
    }
}

fn pit_channel(c: &mut Count) -> PitChannel {
    PitChannel {
        count: c.u32(),
        latched_count: c.u16(),
        count_latched: c.u8(),
        status_latched: c.u8(),
        status: c.u8(),
        read_state: c.u8(),
        write_state: c.u8(),
        write_latch: c.u8(),
        rw_mode: c.u8(),
        mode: c.u8(),
        bcd: c.u8(),
        gate: c.u8(),
        count_load_time: -i64::from(c.u32()),
    }
}

fn pic(c: &mut Count) -> Pic {
    Pic {
        last_irr: c.u8(),
        irr: c.u8(),
        imr: c.u8(),
        isr: c.u8(),
        priority_add: c.u8(),
        irq_base: c.u8(),
        read_reg_select: c.u8(),
        poll: c.u8(),
        special_mask: c.u8(),
        init_state: c.u8(),
        auto_eoi: c.u8(),
        rotate_on_auto_eoi: c.u8(),
        special_fully_nested_mode: c.u8(),
        init4: c.u8(),
        elcr: c.u8(),
        elcr_mask: c.u8(),
    }
}

fn fingerprint(c: &mut Count) -> Fingerprint {
    Fingerprint {
        arch: Arch::X86_64.number(),
        vendor: "AuthenticAMD".to_owned(),
        family: c.u32(),
        model: c.u32(),
        stepping: c.u32(),
        page_bytes: 4096,
        tsc_khz: c.u32(),
        tsc_scaling: 1,
        cpuid: vec![cpuid(c)],
        msrs: vec![c.u32(), c.u32()],
        capabilities: vec![Capability {
            number: c.u32(),
            value: c.u32(),
        }],
        kernel: "6.1.0".to_owned(),
        arm64: None,
    }
}
