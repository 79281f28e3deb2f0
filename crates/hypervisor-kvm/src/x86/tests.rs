//! The order of requests, without KVM.

#![expect(clippy::panic, reason = "an unexpected variant fails the test")]

mod counters;
mod recorder;
mod refusals;
mod registers;

use hypervisor_bridge::testing::fake_paused;
use hypervisor_bridge::{ClockPolicy, StateCapture, StateRestore};
use kvm_bindings as kvm;
use recorder::Recorder;
use snapshot_format::state::{
    Clock, GsiRoute, IoApic, Msr, Pic, Pit, Reason, SpecialRegisters, VcpuX86, VmX86,
};
use snapshot_format::{SectionOffers, SectionPayload, StatePayload};

use super::machine::KvmMachine;
use super::msr_policy::{DroppedMsr, MsrPolicy};
use super::options::KvmOptions;
use super::rehearsal::Rehearsal;
use super::tsc::{TscOutcome, TscPolicy};
use super::vm::KernelDevices;
use crate::error::KvmError;

fn machine(recorder: &Recorder, vcpu_count: usize) -> KvmMachine<'static> {
    // What another vCPU is asked has tests of its own.
    let options = KvmOptions {
        rehearsal: Rehearsal::WhenInDoubt,
        ..KvmOptions::new(KernelDevices::ALL)
    };
    with_options(recorder, vcpu_count, options)
}

fn with_options(
    recorder: &Recorder,
    vcpu_count: usize,
    options: KvmOptions,
) -> KvmMachine<'static> {
    let calls = Box::new(recorder.clone());
    let machine = KvmMachine::with_calls(calls, vcpu_count, options).unwrap();
    recorder.forget();
    machine
}

/// A vCPU with something in every field that decides about a request.
fn vcpu(id: u32) -> VcpuX86 {
    let msr = |index, value| Msr { index, value };
    VcpuX86 {
        id,
        tsc_khz: 1_000_000,
        tsc_offset: Some(5),
        msrs: vec![
            msr(0x10, 77),
            msr(0x3a, 5),
            msr(0x277, 6),
            msr(0x38f, 1),
            msr(0x6e0, 0),
        ],
        xsave: vec![0; 4096],
        lapic: vec![0; 1024],
        ..VcpuX86::default()
    }
}

fn vm(vcpu_count: u32) -> VmX86 {
    VmX86 {
        vcpu_count,
        pit: Some(Pit::default()),
        pic_master: Some(Pic::default()),
        pic_slave: Some(Pic::default()),
        ioapic: Some(IoApic::default()),
        clock: Some(Clock {
            clock_ns: 1_000,
            flags: kvm::KVM_CLOCK_HOST_TSC,
            realtime_ns: 0,
            host_tsc: 100,
        }),
        split_lines: None,
        routes: None,
    }
}

fn offers(vcpus: &[VcpuX86]) -> SectionOffers {
    let mut sections: Vec<_> = vcpus.iter().map(|v| SectionPayload::of(v.id, v)).collect();
    let count = u32::try_from(vcpus.len()).unwrap();
    sections.push(SectionPayload::of(0, &vm(count)));
    SectionOffers::new(sections)
}

fn restore(
    machine: &mut KvmMachine<'_>,
    vcpus: &[VcpuX86],
) -> Result<(), hypervisor_bridge::StepError> {
    machine.take(&mut offers(vcpus), ClockPolicy::Frozen)?;
    machine.prepare()?;
    for vcpu in 0..vcpus.len() {
        machine.restore_vcpu(vcpu)?;
    }
    machine.restore_vm()
}

// spec: KVX-02
#[test]
fn a_vcpu_is_read_with_its_run_state_first_and_its_events_last() {
    let recorder = Recorder::default();
    let mut machine = machine(&recorder, 1);
    machine.capture_vcpu(0, &fake_paused()).unwrap();
    let made = recorder.made();
    let expected = [
        "0: KVM_GET_MP_STATE",
        "0: KVM_GET_REGS",
        "0: KVM_GET_SREGS2",
        "0: KVM_GET_XSAVE2",
        "0: KVM_GET_XCRS",
        "0: KVM_GET_DEBUGREGS",
        // The deadline, before the timer can fire into the APIC unseen.
        "0: KVM_GET_MSRS",
        "0: KVM_GET_LAPIC",
        "0: KVM_GET_TSC_KHZ",
        "0: KVM_GET_DEVICE_ATTR 0/0",
        "0: KVM_GET_CPUID2",
        // How many MTRRs and machine check banks there are, then all registers.
        "0: KVM_GET_MSRS",
        "0: KVM_GET_MSRS",
        "0: KVM_GET_NESTED_STATE",
        "0: KVM_GET_VCPU_EVENTS",
    ];
    let of_vcpu: Vec<_> = made.iter().filter(|call| call.starts_with("0:")).collect();
    assert_eq!(of_vcpu, expected);
}

#[test]
fn the_machine_is_read_timer_and_clock_before_its_chips() {
    let recorder = Recorder::default();
    let mut machine = machine(&recorder, 1);
    machine.capture_vcpu(0, &fake_paused()).unwrap();
    recorder.forget();
    machine.capture_vm(&fake_paused()).unwrap();
    let expected = [
        "vm: KVM_GET_PIT2",
        "vm: KVM_GET_CLOCK",
        "vm: KVM_GET_IRQCHIP",
        "vm: KVM_GET_IRQCHIP",
        "vm: KVM_GET_IRQCHIP",
    ];
    assert_eq!(recorder.made(), expected);
}

// spec: STA-08
// spec: STA-09
// spec: KVX-03
#[test]
fn a_restore_sets_the_clock_then_each_vcpu_then_the_chips() {
    let recorder = Recorder::default();
    let mut machine = machine(&recorder, 2);
    restore(&mut machine, &[vcpu(0), vcpu(1)]).unwrap();
    let of_vcpu = |vcpu: u32| {
        [
            "KVM_SET_CPUID2",
            "KVM_SET_MSRS 0x3a",
            "KVM_SET_SREGS2",
            "KVM_SET_REGS",
            "KVM_SET_XCRS",
            "KVM_SET_XSAVE",
            "KVM_SET_DEBUGREGS",
            "KVM_SET_LAPIC",
            "KVM_SET_DEVICE_ATTR 0/0",
            "KVM_GET_DEVICE_ATTR 0/0",
            // Not the TSC, which the offset sets; the deadline last.
            "KVM_SET_MSRS 0x277 0x38f 0x6e0",
            "KVM_SET_VCPU_EVENTS",
            "KVM_SET_MP_STATE",
            "KVM_KVMCLOCK_CTRL",
        ]
        .map(|call| format!("{vcpu}: {call}"))
    };
    let mut expected = vec![
        // Looked at, before anything is touched.
        "0: KVM_GET_VCPU_EVENTS".to_owned(),
        "0: KVM_GET_MSRS".to_owned(),
        "1: KVM_GET_MSRS".to_owned(),
        "vm: KVM_SET_CLOCK".to_owned(),
        "vm: KVM_GET_CLOCK".to_owned(),
    ];
    expected.extend(of_vcpu(0));
    expected.extend(of_vcpu(1));
    expected.push("vm: KVM_SET_PIT2".to_owned());
    expected.extend((0..3).map(|_| "vm: KVM_SET_IRQCHIP".to_owned()));
    assert_eq!(recorder.made(), expected);
}

// spec: KVX-19
#[test]
fn routes_travel_with_the_machine_and_are_set_after_its_chips() {
    let recorder = Recorder::default();
    let mut options = KvmOptions::new(KernelDevices::ALL);
    let routes = vec![
        GsiRoute::to_chip(4, kvm::KVM_IRQCHIP_IOAPIC, 4),
        GsiRoute::to_message(24, 0xfee0_1000, 0x41, None),
    ];
    options.routes = Some(routes.clone());
    let mut source = with_options(&recorder, 1, options);
    let saved = source.save_vm(&fake_paused()).unwrap();
    assert_eq!(saved.routes.as_ref(), Some(&routes));

    let mut target = machine(&recorder, 1);
    let sections = vec![
        SectionPayload::of(0, &vcpu(0)),
        SectionPayload::of(0, &saved),
    ];
    let mut offers = SectionOffers::new(sections);
    let reasons = target.take(&mut offers, ClockPolicy::Frozen).unwrap();
    assert_eq!(reasons, []);
    target.prepare().unwrap();
    target.restore_vcpu(0).unwrap();
    target.restore_vm().unwrap();
    let made = recorder.changes();
    assert_eq!(
        made.last().map(String::as_str),
        Some("vm: KVM_SET_GSI_ROUTING")
    );
    let set: Vec<[u32; 12]> =
        crate::lists::decode_list(8, &recorder.argument("KVM_SET_GSI_ROUTING"));
    assert_eq!(set[0][..6], [4, 1, 0, 0, 2, 4]);
    assert_eq!(set[1][..7], [24, 2, 0, 0, 0xfee0_1000, 0, 0x41]);
    // The VMM goes on from the table that came back.
    assert_eq!(target.routes(), Some(routes.as_slice()));
}

// spec: KVX-20
#[test]
fn only_what_the_kernel_models_is_read() {
    let chips = |devices| {
        let recorder = Recorder::default();
        let mut machine = with_options(&recorder, 1, KvmOptions::new(devices));
        machine.capture_vcpu(0, &fake_paused()).unwrap();
        machine.capture_vm(&fake_paused()).unwrap();
        let made = recorder.made();
        let count = |part| made.iter().filter(|call| call.contains(part)).count();
        [
            count("GET_LAPIC"),
            count("GET_IRQCHIP"),
            count("GET_PIT2"),
            count("GET_CLOCK"),
        ]
    };
    assert_eq!(chips(KernelDevices::ALL), [1, 3, 1, 1]);
    assert_eq!(chips(KernelDevices::split(24)), [1, 0, 0, 1]);
    assert_eq!(chips(KernelDevices::NONE), [0, 0, 0, 1]);
}

#[test]
fn an_older_kernel_is_asked_for_what_it_has() {
    let recorder = Recorder::default();
    recorder.lack(kvm::KVM_CAP_SREGS2);
    recorder.lack(kvm::KVM_CAP_XSAVE2);
    recorder.lack(kvm::KVM_CAP_NESTED_STATE);
    recorder.refuse("KVM_GET_DEVICE_ATTR 0/0", libc::ENXIO);
    let mut machine = machine(&recorder, 1);
    let saved = machine.save_vcpu(0, &fake_paused()).unwrap();
    assert_eq!((saved.tsc_offset, saved.xsave.len()), (None, 4096));
    let made = recorder.made();
    assert!(made.contains(&"0: KVM_GET_SREGS".to_owned()), "{made:?}");
    assert!(made.contains(&"0: KVM_GET_XSAVE".to_owned()), "{made:?}");
    assert!(
        !made.contains(&"0: KVM_GET_NESTED_STATE".to_owned()),
        "{made:?}"
    );

    // Its interrupt travels in the old structure, also on a newer kernel; its TSC by value.
    let newer = Recorder::default();
    let mut target = self::machine(&newer, 1);
    let mut old = vcpu(0);
    old.tsc_offset = None;
    old.special = SpecialRegisters {
        injected_interrupt: Some(32),
        ..SpecialRegisters::default()
    };
    restore(&mut target, &[old]).unwrap();
    let made = newer.made();
    assert!(made.contains(&"0: KVM_SET_SREGS".to_owned()), "{made:?}");
    let at = |call: &str| made.iter().position(|made| made == call);
    let (tsc, rest) = (
        at("0: KVM_SET_MSRS 0x10"),
        at("0: KVM_SET_MSRS 0x277 0x38f 0x6e0"),
    );
    assert!(tsc.is_some() && tsc < rest, "{made:?}");
    let report = target.report();
    assert_eq!(report.tsc, Some(TscOutcome::ByValue));
}

#[test]
fn a_watchdog_notice_to_a_guest_without_the_clock_is_no_error() {
    let recorder = Recorder::default();
    recorder.refuse("KVM_KVMCLOCK_CTRL", libc::EINVAL);
    let mut machine = machine(&recorder, 1);
    machine.notify_paused(0, &fake_paused()).unwrap();
    recorder.refuse("KVM_KVMCLOCK_CTRL", libc::EFAULT);
    machine.notify_paused(0, &fake_paused()).unwrap_err();
}

#[test]
fn a_kernel_of_another_interface_version_is_refused() {
    let recorder = Recorder::default();
    recorder.answer_version(13);
    let options = KvmOptions::new(KernelDevices::ALL);
    let refused = KvmMachine::with_calls(Box::new(recorder), 1, options).unwrap_err();
    assert!(matches!(refused, KvmError::ApiVersion { found: 13 }));
}
