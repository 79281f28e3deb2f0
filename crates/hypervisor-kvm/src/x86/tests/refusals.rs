//! State that does not fit is refused with every reason at once, before the machine is touched.

use proptest::prelude::*;
use snapshot_format::state::{ByteStateError, GsiRoute, ReasonKind, Xcr};

use super::*;
use crate::x86::rehearsal::Rehearsal;

fn with_vm(vcpus: &[VcpuX86], vm: &VmX86) -> SectionOffers {
    let mut sections: Vec<_> = vcpus.iter().map(|v| SectionPayload::of(v.id, v)).collect();
    sections.push(SectionPayload::of(0, vm));
    SectionOffers::new(sections)
}

/// What is said against this state, by a machine that must not be changed.
fn reasons_of(
    recorder: &Recorder,
    options: KvmOptions,
    vcpus: &[VcpuX86],
    vm: &VmX86,
) -> Vec<Reason> {
    let mut machine = with_options(recorder, vcpus.len(), options);
    let reasons = machine
        .take(&mut with_vm(vcpus, vm), ClockPolicy::Frozen)
        .unwrap();
    let mut touched = recorder.changes();
    touched.retain(|call| !call.starts_with("scratch") && !call.starts_with("kvm"));
    assert_eq!(touched, Vec::<String>::new(), "the machine was touched");
    reasons
}

fn reasons(vcpus: &[VcpuX86]) -> Vec<Reason> {
    let options = KvmOptions::new(KernelDevices::ALL);
    let count = u32::try_from(vcpus.len()).unwrap();
    reasons_of(&Recorder::default(), options, vcpus, &vm(count))
}

// spec: STA-04
#[test]
fn another_machine_is_refused_before_it_is_touched() {
    let recorder = Recorder::default();
    let mut two = machine(&recorder, 2);
    let mut reasons =
        |vcpus: &[VcpuX86]| two.take(&mut offers(vcpus), ClockPolicy::Frozen).unwrap();
    let missing = Reason::MissingSection {
        section: VcpuX86::KIND,
        instance: 1,
    };
    let fewer = Reason::Shape {
        what: "vCPUs",
        saved: 1,
        target: 2,
    };
    assert_eq!(reasons(&[vcpu(0)]), [fewer]);
    assert_eq!(reasons(&[vcpu(0), vcpu(2)]), std::slice::from_ref(&missing));
    assert_eq!(reasons(&[vcpu(0), vcpu(0)]), [missing]);
    let more: Vec<_> = (0..5).map(vcpu).collect();
    let more = reasons(&more);
    let too_many = Reason::Shape {
        what: "vCPUs",
        saved: 5,
        target: 2,
    };
    assert_eq!(more, [too_many]);
    assert_eq!(recorder.changes(), Vec::<String>::new());
}

#[test]
fn a_machine_with_other_chips_in_the_kernel_is_refused() {
    let none = KvmOptions::new(KernelDevices::NONE);
    let reasons = reasons_of(&Recorder::default(), none, &[vcpu(0)], &vm(1));
    let kinds: Vec<_> = reasons.iter().map(Reason::kind).collect();
    // Controllers, i8259s, timer; and the local APIC of the vCPU.
    let machine = ReasonKind::Machine;
    assert_eq!(kinds, [machine, machine, machine, ReasonKind::State]);

    let split = KvmOptions::new(KernelDevices::split(24));
    let mut saved = VmX86 {
        vcpu_count: 1,
        split_lines: Some(16),
        ..VmX86::default()
    };
    let lines = Reason::Shape {
        what: "lines of a split interrupt controller",
        saved: 16,
        target: 24,
    };
    let recorder = Recorder::default();
    let reasons = |saved: &VmX86| reasons_of(&recorder, split.clone(), &[vcpu(0)], saved);
    assert_eq!(reasons(&saved), [lines]);
    saved.split_lines = Some(24);
    assert_eq!(reasons(&saved), []);
}

/// A vCPU that every host takes, with one thing changed.
fn spoiled(spoil: impl FnOnce(&mut VcpuX86)) -> VcpuX86 {
    let mut saved = vcpu(0);
    spoil(&mut saved);
    saved
}

// spec: KVX-17
#[test]
fn each_thing_that_no_host_takes_is_its_own_reason() {
    type Spoil = fn(&mut VcpuX86);
    let spoils: [(&str, Spoil); 16] = [
        ("its number", |v| v.id = 7),
        ("a run state of another architecture", |v| v.mp_state = 5),
        ("a run state that does not exist", |v| v.mp_state = !0),
        ("INIT in system management mode", |v| {
            v.mp_state = 2;
            v.events.smi.smm = 1;
        }),
        ("a flag of a newer kernel's events", |v| {
            v.events.flags = 1 << 6;
        }),
        ("flags of debug registers", |v| v.debug.flags = 1),
        ("DR6 of more than 32 bits", |v| v.debug.dr6 = 1 << 32),
        ("DR7 of more than 32 bits", |v| v.debug.dr7 = 1 << 63),
        ("an extended control register that is not there", |v| {
            v.xcrs = vec![Xcr { index: 1, value: 1 }];
        }),
        ("XCR0 without x87", |v| {
            v.xcrs = vec![Xcr { index: 0, value: 2 }];
        }),
        ("XCR0 with what the host lacks", |v| {
            v.xcrs = vec![Xcr {
                index: 0,
                value: 1 | 1 << 62,
            }];
        }),
        ("a truncated XSAVE", |v| v.xsave.truncate(576)),
        ("XSAVE in the compacted format", |v| v.xsave[527] = 0x80),
        ("an XSAVE component that the host lacks", |v| {
            v.xsave[519] = 0x40;
        }),
        ("a truncated local APIC", |v| v.lapic.truncate(1000)),
        ("truncated nested state", |v| v.nested = vec![0; 64]),
    ];
    for (what, spoil) in spoils {
        let section = SectionPayload::of(0, &spoiled(spoil));
        let sections = vec![section, SectionPayload::of(0, &vm(1))];
        let recorder = Recorder::default();
        let mut machine = machine(&recorder, 1);
        let mut offers = SectionOffers::new(sections);
        let reasons = machine.take(&mut offers, ClockPolicy::Frozen).unwrap();
        assert_eq!(reasons.len(), 1, "{what}: {reasons:?}");
        assert!(!reasons[0].kind().can_be_overridden(), "{what}");
        assert_eq!(recorder.changes(), Vec::<String>::new(), "{what}");
    }
    assert_eq!(reasons(&[vcpu(0)]), []);
}

// spec: KVX-17
#[test]
fn everything_that_is_wrong_is_said_at_once() {
    let mut saved: Vec<_> = (0..4).map(vcpu).collect();
    saved[0].mp_state = 77;
    saved[1].xsave.truncate(1024);
    saved[1].lapic.clear();
    saved[2].events.flags = 1 << 4;
    let unknown = Msr {
        index: 0xdead_beef,
        value: 1,
    };
    saved[3].msrs.insert(0, unknown);
    let mut vm = vm(4);
    vm.pit = None;
    vm.routes = Some(vec![
        GsiRoute::to_chip(0, 2, 23),
        GsiRoute::to_chip(1, 2, 24),
        GsiRoute::to_message(24, 0xfee0_0000, 0x40, None),
        GsiRoute::default(),
    ]);
    let recorder = Recorder::default();
    recorder.refuse_msr(0xdead_beef);
    let options = KvmOptions::new(KernelDevices::ALL);
    let reasons = reasons_of(&recorder, options, &saved, &vm);
    let value = Reason::Value {
        vcpu: 3,
        what: "MSR",
        number: 0xdead_beef,
        value: 1,
    };
    let short = |what, stored, least| Reason::Bytes {
        vcpu: 1,
        what,
        problem: ByteStateError::Short { stored, least },
    };
    let payload = kvm::KVM_CAP_EXCEPTION_PAYLOAD;
    let expected = [
        Reason::Shape {
            what: "in-kernel timers",
            saved: 0,
            target: 1,
        },
        Reason::Route { gsi: 1, kind: 1 },
        Reason::Route { gsi: 0, kind: 0 },
        Reason::RunState { vcpu: 0, state: 77 },
        short("XSAVE", 1024, 4096),
        short("the local APIC", 0, 1024),
        Reason::NotEnabled {
            vcpu: 2,
            number: payload,
        },
        value,
    ];
    assert_eq!(reasons, expected);
}

// spec: KVX-05
#[test]
fn events_count_only_where_the_vmm_enabled_them() {
    let flag = |flags| {
        spoiled(|v| {
            v.events.flags = flags;
        })
    };
    let (payload, triple_fault) = (
        kvm::KVM_VCPUEVENT_VALID_PAYLOAD,
        kvm::KVM_VCPUEVENT_VALID_TRIPLE_FAULT,
    );
    for (flag_bit, number) in [
        (payload, kvm::KVM_CAP_EXCEPTION_PAYLOAD),
        (triple_fault, kvm::KVM_CAP_X86_TRIPLE_FAULT_EVENT),
    ] {
        let refused = Reason::NotEnabled { vcpu: 0, number };
        assert_eq!(reasons(&[flag(flag_bit)]), [refused]);
        let enabled = Recorder::default();
        enabled.answer_events(kvm::kvm_vcpu_events {
            flags: flag_bit,
            ..Default::default()
        });
        let options = KvmOptions::new(KernelDevices::ALL);
        let none = reasons_of(&enabled, options, &[flag(flag_bit)], &vm(1));
        assert_eq!(none, []);

        // A snapshot of such a machine says so, and one of another does not.
        let needs = |kernel: &Recorder| {
            let mut machine = machine(kernel, 1);
            let needed = machine.fingerprint(&fake_paused()).unwrap().capabilities;
            needed.iter().any(|capability| capability.number == number)
        };
        assert!(needs(&enabled));
        assert!(!needs(&Recorder::default()));
    }
}

// spec: STA-05
#[test]
fn bytes_that_this_host_has_no_place_for_are_refused_unless_they_are_zero() {
    let mut saved = vcpu(0);
    saved.xsave = vec![0; 8192];
    saved.lapic = vec![0; 4096];
    saved.nested = vec![0; 4096];
    crate::lists::write(&mut saved.nested, 4, &4096_u32);
    assert_eq!(reasons(&[saved.clone()]), []);
    restore(&mut machine(&Recorder::default(), 1), &[saved.clone()]).unwrap();
    saved.xsave[5000] = 1;
    saved.lapic[1024] = 1;
    saved.nested[128] = 1;
    let lost = |what, stored, wanted, first_lost| Reason::Bytes {
        vcpu: 0,
        what,
        problem: ByteStateError::Lost {
            stored,
            wanted,
            first_lost,
        },
    };
    let expected = [
        lost("XSAVE", 8192, 4096, 5000),
        lost("the local APIC", 4096, 1024, 1024),
        lost("nested state", 4096, 128, 128),
    ];
    assert_eq!(reasons(&[saved]), expected);
}

#[test]
fn a_component_that_lies_beyond_the_saved_area_is_a_truncated_one() {
    let mut saved = vcpu(0);
    let tiles = snapshot_format::state::CpuidEntry {
        function: 0xd,
        index: 18,
        eax: 8192,
        ebx: 2816,
        ..Default::default()
    };
    saved.cpuid.push(tiles);
    let host = Recorder::default();
    host.answer_cpuid(kvm::kvm_cpuid_entry2 {
        function: 0xd,
        eax: 1 << 18 | 7,
        ..Default::default()
    });
    let options = KvmOptions::new(KernelDevices::ALL);
    let reasons =
        |saved: &VcpuX86| reasons_of(&host, options.clone(), std::slice::from_ref(saved), &vm(1));
    assert_eq!(reasons(&saved), []);
    saved.xsave[514] = 1 << 2;
    let problem = ByteStateError::Short {
        stored: 4096,
        least: 11008,
    };
    let what = "XSAVE";
    let short = Reason::Bytes {
        vcpu: 0,
        what,
        problem,
    };
    assert_eq!(reasons(&saved), [short]);
}

#[test]
fn nested_state_that_is_not_in_use_needs_no_nested_host() {
    let plain = Recorder::default();
    plain.lack(kvm::KVM_CAP_NESTED_STATE);
    let options = KvmOptions::new(KernelDevices::ALL);
    let mut saved = vcpu(0);
    saved.nested = vec![0; 128];
    crate::lists::write(&mut saved.nested, 4, &128_u32);
    crate::lists::write(&mut saved.nested, 8, &u64::MAX);
    let reasons =
        |saved: &VcpuX86| reasons_of(&plain, options.clone(), std::slice::from_ref(saved), &vm(1));
    assert_eq!(reasons(&saved), []);
    restore(&mut machine(&plain, 1), &[saved.clone()]).unwrap();
    crate::lists::write(&mut saved.nested, 8, &0x1000_u64);
    let number = kvm::KVM_CAP_NESTED_STATE;
    assert_eq!(reasons(&saved), [Reason::Capability { number }]);
}

// spec: KVX-18
#[test]
fn a_register_in_doubt_is_tried_on_a_vcpu_that_is_made_for_it() {
    // The machine's own vCPU has no CPUID yet, so it cannot be asked.
    let recorder = Recorder::default();
    recorder.hide_msr(0x277);
    let options = KvmOptions {
        rehearsal: Rehearsal::WhenInDoubt,
        ..KvmOptions::new(KernelDevices::ALL)
    };
    let none = reasons_of(&recorder, options.clone(), &[vcpu(0)], &vm(1));
    assert_eq!(none, []);
    let tried = recorder.changes();
    let expected = [
        "kvm: make a machine to try out",
        "scratch: KVM_SET_CPUID2",
        "scratch: KVM_SET_MSRS 0x277",
    ];
    assert_eq!(tried, expected);

    // Where the host refuses it there, too, that is the reason; unless it may be dropped.
    recorder.refuse_msr(0x277);
    let reasons = reasons_of(&recorder, options.clone(), &[vcpu(0)], &vm(1));
    let refused = Reason::Value {
        vcpu: 0,
        what: "MSR",
        number: 0x277,
        value: 6,
    };
    assert_eq!(reasons, [refused]);
    let lenient = KvmOptions {
        msrs: MsrPolicy::default().drop_refused(0x277),
        ..options
    };
    assert_eq!(reasons_of(&recorder, lenient, &[vcpu(0)], &vm(1)), []);
}

// spec: KVX-18
#[test]
fn where_no_other_machine_can_be_made_only_what_is_in_doubt_is_refused() {
    let recorder = Recorder::default();
    recorder.refuse("make a machine to try out", libc::EMFILE);
    let options = KvmOptions::new(KernelDevices::ALL);
    let reasons = |recorder: &Recorder| reasons_of(recorder, options.clone(), &[vcpu(0)], &vm(1));
    assert_eq!(reasons(&recorder), []);
    recorder.hide_msr(0x277);
    let refused = Reason::Value {
        vcpu: 0,
        what: "MSR",
        number: 0x277,
        value: 6,
    };
    assert_eq!(reasons(&recorder), [refused]);
}

// spec: KVX-18
#[test]
fn a_full_rehearsal_finds_every_value_that_is_refused() {
    let recorder = Recorder::default();
    recorder.constant_msr(0x277, 7);
    recorder.refuse("KVM_SET_XCRS", libc::EINVAL);
    let options = KvmOptions::new(KernelDevices::ALL);
    let mut saved = vcpu(0);
    saved.xcrs = vec![Xcr { index: 0, value: 3 }];
    let reasons = reasons_of(&recorder, options, &[saved], &vm(1));
    let refused = |what, number, value| Reason::Value {
        vcpu: 0,
        what,
        number,
        value,
    };
    let expected = [
        refused("extended control register", 0, 3),
        refused("MSR", 0x277, 6),
    ];
    assert_eq!(reasons, expected);
}

/// A vCPU whose decisive fields are anything.
fn any_vcpu() -> impl Strategy<Value = VcpuX86> {
    let bytes = || proptest::collection::vec(any::<u8>(), 0..5000);
    let words = (any::<u32>(), any::<u32>(), any::<u32>(), any::<u64>());
    let msrs = proptest::collection::vec((any::<u32>(), any::<u64>()), 0..6);
    (words, bytes(), bytes(), bytes(), msrs).prop_map(|(words, xsave, lapic, nested, msrs)| {
        let (id, mp_state, flags, wide) = words;
        let mut saved = vcpu(id % 3);
        saved.mp_state = mp_state % 12;
        saved.events.flags = flags % 128;
        saved.debug.dr6 = wide;
        saved.tsc_offset = Some(wide);
        saved.tsc_khz = flags;
        saved.armed_deadline = Some(wide);
        saved.xsave = xsave;
        saved.lapic = lapic;
        saved.nested = nested;
        let msrs = msrs.into_iter().map(|(index, value)| Msr { index, value });
        saved.msrs.extend(msrs);
        saved
    })
}

proptest! {
    // spec: KVX-17
    #[test]
    fn no_state_makes_it_panic_or_touches_a_machine_that_refuses_it(
        vcpus in proptest::collection::vec(any_vcpu(), 0..4),
        count in 0..5_u32,
        routes in proptest::collection::vec((any::<u32>(), 0..8_u32, any::<[u32; 8]>()), 0..4),
    ) {
        let recorder = Recorder::default();
        let mut machine = machine(&recorder, 3);
        let routes = routes.into_iter().map(|(gsi, kind, words)| GsiRoute {
            gsi,
            kind,
            flags: 0,
            words,
        });
        let vm = VmX86 { routes: Some(routes.collect()), ..vm(count) };
        let reasons = machine.take(&mut with_vm(&vcpus, &vm), ClockPolicy::Advance);
        prop_assert_eq!(recorder.changes(), Vec::<String>::new());
        // What is not refused is restored without a panic; the kernel may still say no.
        if reasons.is_ok_and(|reasons| reasons.is_empty()) {
            let _ = machine.prepare();
            for vcpu in 0..3 {
                let _ = machine.restore_vcpu(vcpu);
            }
            let _ = machine.restore_vm();
        }
    }
}
