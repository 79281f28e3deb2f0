use std::slice::from_ref;
use std::sync::Arc;

use snapshot_format::state::{
    Capability, Clock, CpuidEntry, DeviceState, Fingerprint, IoApic, Msr, Pic, Pit, Reason,
    VcpuArm64, VcpuX86, VmArm64, VmX86, Xcr,
};
use snapshot_format::{MemoryLayout, PAGE_BYTES, StatePayload};
use snapshot_memory::{MappedMemory, MappingOptions};

use super::*;
use crate::clock::ClockPolicy;
use crate::testing::{Break, FakeDevices, Script, fake_paused};

/// A machine that gives back what was written to it, but for what `spoil` does to it.
struct Echo {
    sections: Vec<SectionPayload>,
    spoil: Box<dyn Fn(&mut SectionPayload) + Send>,
    script: Script,
}

impl Echo {
    fn new(spoil: impl Fn(&mut SectionPayload) + Send + 'static) -> Self {
        Self {
            sections: Vec::new(),
            spoil: Box::new(spoil),
            script: Script::default(),
        }
    }

    fn all(&mut self, wanted: impl Fn(SectionKind) -> bool) -> Vec<SectionPayload> {
        let found = self.sections.iter().filter(|section| wanted(section.kind));
        let mut found: Vec<_> = found.cloned().collect();
        for section in &mut found {
            (self.spoil)(section);
        }
        found
    }
}

impl StateRestore for Echo {
    fn host(&mut self) -> Result<Fingerprint, StepError> {
        Ok(fingerprint())
    }

    fn take(
        &mut self,
        offers: &mut SectionOffers,
        _: ClockPolicy,
    ) -> Result<Vec<Reason>, StepError> {
        self.sections = vec![SectionPayload::of(0, &fingerprint())];
        for kind in [SectionKind::VCPU_X86_64, SectionKind::VM_X86_64] {
            self.sections.extend(offers.take_payload(kind, 0));
        }
        Ok(Vec::new())
    }

    fn prepare(&mut self) -> Result<(), StepError> {
        Ok(())
    }

    fn vcpu_count(&self) -> usize {
        1
    }

    fn restore_vcpu(&mut self, _: usize) -> Result<(), StepError> {
        Ok(())
    }

    fn restore_vm(&mut self) -> Result<(), StepError> {
        Ok(())
    }
}

impl StateCapture for Echo {
    fn vcpu_count(&self) -> usize {
        1
    }

    fn notify_paused(&mut self, _: usize, _: &Paused) -> Result<(), StepError> {
        Err("nothing was paused".into())
    }

    fn capture_vcpu(&mut self, _: usize, _: &Paused) -> Result<SectionPayload, StepError> {
        self.script.reach("capture vcpu")?;
        let vcpus = self.all(|kind| kind == SectionKind::VCPU_X86_64);
        vcpus.into_iter().next().ok_or_else(|| "no vCPU".into())
    }

    fn capture_vm(&mut self, _: &Paused) -> Result<Vec<SectionPayload>, StepError> {
        self.script.reach("capture vm")?;
        Ok(self.all(|kind| kind != SectionKind::VCPU_X86_64))
    }
}

fn vcpu() -> VcpuX86 {
    VcpuX86 {
        xcrs: vec![Xcr::default()],
        tsc_offset: Some(9),
        cpuid: vec![CpuidEntry::default(); 2],
        msrs: [0x10, 0x174].map(|index| Msr { index, value: 1 }).to_vec(),
        xsave: (0..=255).collect(),
        lapic: vec![3; 64],
        nested: vec![4; 64],
        armed_deadline: Some(1),
        guest_ssp: Some(2),
        ..VcpuX86::default()
    }
}

fn vm() -> VmX86 {
    VmX86 {
        vcpu_count: 1,
        pit: Some(Pit::default()),
        pic_master: Some(Pic::default()),
        pic_slave: Some(Pic::default()),
        ioapic: Some(IoApic::default()),
        clock: Some(Clock::default()),
        split_lines: Some(24),
        routes: Some(Vec::new()),
    }
}

fn fingerprint() -> Fingerprint {
    Fingerprint {
        arch: 1,
        vendor: "AuthenticAMD".into(),
        cpuid: vec![CpuidEntry::default()],
        msrs: vec![1, 2],
        capabilities: vec![Capability {
            number: 1,
            value: 2,
        }],
        ..Fingerprint::default()
    }
}

fn run(target: &mut Echo, moving: &[Moving]) -> Result<ReloadReport, ReloadError> {
    let sections = vec![
        SectionPayload::of(0, &vcpu()),
        SectionPayload::of(0, &vm()),
        SectionPayload::of(0, &fingerprint()),
        // What the fake devices give.
        SectionPayload::of(0, &DeviceState::default()),
    ];
    let script = Script::default();
    let target = ReloadTarget {
        memory: &mut FakeDevices(script.clone()),
        state: target,
        devices: &mut FakeDevices(script),
        paused: &fake_paused(),
    };
    let restore = Restore::resume(ClockPolicy::Frozen);
    reload(restore, target, SectionOffers::new(sections), moving)
}

// spec: RES-18
#[test]
fn a_machine_that_keeps_everything_is_exact() {
    let report = run(&mut Echo::new(|_| {}), &[]).unwrap();
    assert_eq!(report.differences, []);
    assert!(report.is_exact());
    assert_eq!(report.sections, 4);
    assert!(report.fields > 100, "{}", report.fields);
}

/// Changes one value, and gives the names of the fields that show it.
fn planted<T: StatePayload>(value: &T, change: impl FnOnce(&mut T)) -> Vec<String> {
    let saved = [SectionPayload::of(0, value)];
    let mut again: T = saved[0].value().unwrap();
    change(&mut again);
    let again = [SectionPayload::of(0, &again)];
    let report = compare_sections(&saved, &again, &[]).unwrap();
    assert!(!report.is_exact());
    let names = report.differences.into_iter().map(|found| {
        assert_ne!(found.saved, found.again, "{found}");
        found.field
    });
    names.collect()
}

// spec: RES-18
#[test]
fn a_planted_difference_in_every_class_of_vcpu_state_is_found_by_its_name() {
    let found = |change: fn(&mut VcpuX86)| planted(&vcpu(), change);
    assert_eq!(found(|v| v.mp_state = 3), ["mp_state"]);
    assert_eq!(found(|v| v.registers.rip = 1), ["registers.rip"]);
    assert_eq!(found(|v| v.special.cs.base = 1), ["special.cs.base"]);
    assert_eq!(found(|v| v.special.gdt.limit = 1), ["special.gdt.limit"]);
    assert_eq!(found(|v| v.special.cr3 = 1), ["special.cr3"]);
    assert_eq!(found(|v| v.debug.dr7 = 1), ["debug.dr7"]);
    assert_eq!(found(|v| v.xcrs[0].value = 1), ["xcrs[0].value"]);
    assert_eq!(found(|v| v.events.nmi.pending = 1), ["events.nmi.pending"]);
    assert_eq!(found(|v| v.tsc_khz = 1), ["tsc_khz"]);
    assert_eq!(found(|v| v.tsc_offset = None), ["tsc_offset"]);
    assert_eq!(found(|v| v.cpuid[1].edx = 1), ["cpuid[1].edx"]);
    assert_eq!(found(|v| v.msrs[1].value = 2), ["msrs[0x174].value"]);
    assert_eq!(
        found(|v| v.msrs.swap(0, 1)),
        ["msrs.order[0]", "msrs.order[1]"]
    );
    assert_eq!(found(|v| v.xsave[200] = 0), ["xsave[0xc8]"]);
    assert_eq!(found(|v| v.lapic[63] = 0), ["lapic[0x38]"]);
    assert_eq!(
        found(|v| v.nested.truncate(56)),
        ["nested.len", "nested[0x38]"]
    );
    assert_eq!(found(|v| v.armed_deadline = None), ["armed_deadline"]);
    assert_eq!(found(|v| v.guest_ssp = Some(3)), ["guest_ssp"]);
    let dropped = found(|v| v.msrs.truncate(1));
    let names = [
        "msrs.len",
        "msrs.order[1]",
        "msrs[0x174].index",
        "msrs[0x174].value",
    ];
    assert_eq!(dropped, names);
}

// spec: RES-18
#[test]
fn a_planted_difference_in_every_other_section_is_found_by_its_name() {
    let found = |change: fn(&mut VmX86)| planted(&vm(), change);
    assert_eq!(found(|v| v.vcpu_count = 2), ["vcpu_count"]);
    assert_eq!(
        found(|v| v.pit.as_mut().unwrap().channels[2].count = 1),
        ["pit.channels[2].count"]
    );
    assert_eq!(
        found(|v| v.pic_slave.as_mut().unwrap().irr = 1),
        ["pic_slave.irr"]
    );
    assert_eq!(
        found(|v| v.ioapic.as_mut().unwrap().redirection[23] = 1),
        ["ioapic.redirection[23]"]
    );
    assert_eq!(
        found(|v| v.clock.as_mut().unwrap().flags = 1),
        ["clock.flags"]
    );
    assert_eq!(found(|v| v.split_lines = None), ["split_lines"]);

    let device = DeviceState {
        kind: "uart".into(),
        bytes: vec![1; 40],
        ..DeviceState::default()
    };
    let found = |change: fn(&mut DeviceState)| planted(&device, change);
    assert_eq!(found(|d| d.kind = "rtc".into()), ["kind"]);
    assert_eq!(found(|d| d.version = 7), ["version"]);
    assert_eq!(found(|d| d.bytes[9] = 0), ["bytes[0x8]"]);

    let found = |change: fn(&mut Fingerprint)| planted(&fingerprint(), change);
    assert_eq!(found(|f| f.vendor = "G".into()), ["vendor"]);
    assert_eq!(found(|f| f.msrs[1] = 3), ["msrs[1]"]);
    assert_eq!(
        found(|f| f.capabilities[0].value = 0),
        ["capabilities[1].value"]
    );

    let arm = planted(&VcpuArm64::default(), |v| v.core.x[3] = 1);
    assert_eq!(arm, ["core.x[3]"]);
    let arm = planted(&VmArm64::default(), |v| v.vcpu_count = 1);
    assert_eq!(arm, ["vcpu_count"]);
}

/// Single-bit changes all over a payload that is still a payload, and says something else.
fn every_flip<T: StatePayload + PartialEq>(value: &T) -> usize {
    let saved = SectionPayload::of(0, value);
    let mut found = 0;
    // A step that no byte divides: in the end all bits of bytes are met.
    for at in (0..saved.bytes.len() * 8).step_by(5) {
        let mut again = saved.clone();
        again.bytes[at / 8] ^= 1 << (at % 8);
        if again.value::<T>().is_ok_and(|other| other != *value) {
            let pair = ([saved.clone()], [again]);
            let report = compare_sections(&pair.0, &pair.1, &[]).unwrap();
            assert!(!report.is_exact(), "bit {at} passes for equal");
            let first = &report.differences[0];
            assert_ne!(first.field, "a field without a name", "bit {at}");
            found += 1;
        }
    }
    found
}

// spec: RES-18
#[test]
fn no_bit_of_a_payload_can_change_without_a_field_that_shows_it() {
    assert!(every_flip(&vcpu()) > 200);
    assert!(every_flip(&vm()) > 20);
    assert!(every_flip(&fingerprint()) > 20);
    assert!(every_flip(&DeviceState::default()) > 1);
}

#[test]
fn sections_that_are_missing_or_new_or_unknown_are_told() {
    let unknown = |bytes: &[u8]| SectionPayload::raw(SectionKind::CALLER, 0, 1, bytes.to_vec());
    let one = SectionPayload::of(0, &DeviceState::default());
    let two = SectionPayload::of(1, &DeviceState::default());
    let differences = |saved: &[SectionPayload], again: &[SectionPayload]| {
        let report = compare_sections(saved, again, &[]).unwrap();
        let all = report.differences.into_iter();
        all.map(|found| (found.instance, found.field, found.saved.is_some()))
            .collect::<Vec<_>>()
    };
    let section = || "the section".to_owned();
    assert_eq!(
        differences(&[one.clone(), two.clone()], from_ref(&one)),
        [(1, section(), true)]
    );
    assert_eq!(
        differences(from_ref(&one), &[one.clone(), two]),
        [(1, section(), false)]
    );
    assert_eq!(differences(&[unknown(&[1; 20])], &[unknown(&[1; 20])]), []);
    let mut other = [1; 20];
    other[17] = 2;
    assert_eq!(
        differences(&[unknown(&[1; 20])], &[unknown(&other)]),
        [(0, "bytes[0x10]".to_owned(), true)]
    );
}

// spec: RES-19
#[test]
fn only_what_is_named_may_differ_and_its_reason_is_told() {
    let why = "it counts";
    let moving = |field| Moving {
        section: SectionKind::VCPU_X86_64,
        field,
        bits: u64::MAX,
        why,
    };
    let mut target = Echo::new(|section| {
        if let Ok(mut vcpu) = section.value::<VcpuX86>() {
            vcpu.msrs[0].value = 77;
            vcpu.xsave[0] = 77;
            *section = SectionPayload::of(0, &vcpu);
        }
    });
    let named = [moving("msrs[0x10].value"), moving("xsave*]")];
    let report = run(&mut target, &named).unwrap();
    assert!(report.is_exact());
    let told: Vec<_> = report.differences.iter().map(|one| one.allowed).collect();
    assert_eq!(told, [Some(why), Some(why)]);
    // One of them alone, or the same fields of another section, are not enough.
    assert!(!run(&mut target, &named[..1]).unwrap().is_exact());
    let elsewhere = named.map(|moving| Moving {
        section: SectionKind::VM_X86_64,
        ..moving
    });
    assert!(!run(&mut target, &elsewhere).unwrap().is_exact());
    // Of a number, only the bits that are named.
    let changes = [(0x40, false), (0x41, false), (1, true)];
    for (bits, exact) in changes {
        let saved = [SectionPayload::of(0, &vm())];
        let mut again = vm();
        again.pic_master.as_mut().unwrap().irr = bits;
        let again = [SectionPayload::of(0, &again)];
        let tick = Moving {
            section: SectionKind::VM_X86_64,
            field: "pic_master.irr",
            bits: 1,
            why,
        };
        let report = compare_sections(&saved, &again, &[tick]).unwrap();
        assert_eq!(report.is_exact(), exact, "{bits:#x}");
    }
}

#[test]
fn a_capture_that_fails_is_told_by_its_step() {
    for (name, step) in [
        ("capture vcpu", Step::CaptureVcpu),
        ("capture vm", Step::CaptureVm),
    ] {
        let mut target = Echo::new(|_| {});
        target.script = Script::breaking(name, Break::Error);
        let failed = run(&mut target, &[]).map(|_| ()).unwrap_err();
        let told = matches!(&failed, ReloadError::Capture { step: at, .. } if *at == step);
        assert!(told, "{failed}");
    }
}

// spec: RES-20
#[test]
fn a_page_that_is_not_the_image_is_told() {
    let layout = MemoryLayout::single(600 * PAGE_BYTES).unwrap();
    let memory = Arc::new(MappedMemory::new(layout, MappingOptions::default()).unwrap());
    let image = memory.clone();
    let mut read = |pages: snapshot_format::PageRange, out: &mut [u8]| {
        image.read(pages.start.0 * PAGE_BYTES, out)?;
        if let Some(page) = 300_u64.checked_sub(pages.start.0) {
            let at = usize::try_from(page * PAGE_BYTES + 9)?;
            out.get_mut(at).into_iter().for_each(|byte| *byte = 7);
        }
        Ok(())
    };
    let mut report = ReloadReport::default();
    compare_memory(&mut report, &*memory, &mut read).unwrap();
    assert_eq!(report.pages, 600);
    let told: Vec<_> = report.differences.iter().map(ToString::to_string).collect();
    assert_eq!(
        told,
        ["memory 0, page 300, byte 0x9: 0x07 was saved, 0x00 is there"]
    );
    assert!(!report.is_exact());
}
