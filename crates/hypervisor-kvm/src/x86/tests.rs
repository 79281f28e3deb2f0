//! The order of requests, without KVM.

#![expect(clippy::panic, reason = "an unexpected variant fails the test")]

mod recorder;

use hypervisor_bridge::testing::fake_paused;
use hypervisor_bridge::{ClockPolicy, StateCapture, StateRestore};
use kvm_bindings as kvm;
use recorder::Recorder;
use snapshot_format::state::{
    Clock, IoApic, Msr, Pic, Pit, Reason, SpecialRegisters, VcpuX86, VmX86,
};
use snapshot_format::{SectionOffers, SectionPayload, StatePayload};

use super::machine::{KvmMachine, KvmOptions};
use super::msrs::MsrPolicy;
use super::vm::KernelDevices;
use crate::error::KvmError;

fn machine(recorder: &Recorder, vcpu_count: usize) -> KvmMachine<'static> {
    let options = KvmOptions::new(KernelDevices::ALL);
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
        "0: KVM_GET_LAPIC",
        "0: KVM_GET_TSC_KHZ",
        "0: KVM_GET_DEVICE_ATTR 0/0",
        "0: KVM_GET_CPUID2",
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
        "vm: KVM_SET_CLOCK".to_owned(),
        "vm: KVM_GET_CLOCK".to_owned(),
        "0: KVM_GET_TSC_KHZ".to_owned(),
        "0: KVM_GET_DEVICE_ATTR 0/0".to_owned(),
        "0: KVM_GET_MSRS".to_owned(),
    ];
    expected.extend(of_vcpu(0));
    expected.extend(of_vcpu(1));
    expected.push("vm: KVM_SET_PIT2".to_owned());
    expected.extend((0..3).map(|_| "vm: KVM_SET_IRQCHIP".to_owned()));
    assert_eq!(recorder.made(), expected);
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
    assert!(
        made.contains(&"0: KVM_SET_MSRS 0x10 0x277 0x38f 0x6e0".to_owned()),
        "{made:?}"
    );
}

#[test]
fn a_deadline_that_fired_between_pause_and_save_fires_again() {
    for (entry, expected) in [(2 << 17, 77), (2 << 17 | 1 << 16, 0), (1 << 17, 0)] {
        let recorder = Recorder::default();
        let mut machine = machine(&recorder, 1);
        let mut saved = vcpu(0);
        crate::lists::write(&mut saved.lapic, 0x320, &u32::to_le(entry));
        restore(&mut machine, &[saved]).unwrap();
        assert_eq!(
            recorder.msr(0x6e0),
            Some(expected),
            "timer entry {entry:#x}"
        );
    }
}

// spec: STA-07
#[test]
fn a_refused_register_is_named_unless_the_policy_drops_it() {
    let recorder = Recorder::default();
    recorder.refuse_msr(0x277);
    let mut strict = machine(&recorder, 1);
    let error = restore(&mut strict, &[vcpu(0)]).unwrap_err();
    let error = error.downcast_ref::<KvmError>();
    let Some(KvmError::MsrRefused { index, value, .. }) = error else {
        panic!("{error:?}");
    };
    assert_eq!((*index, *value), (0x277, 6));

    let mut options = KvmOptions::new(KernelDevices::ALL);
    options.msrs = MsrPolicy::default().drop_refused(0x277);
    let mut lenient = with_options(&recorder, 1, options);
    restore(&mut lenient, &[vcpu(0)]).unwrap();
    // What comes after the refused one is still written.
    let made = recorder.made();
    assert!(
        made.contains(&"0: KVM_SET_MSRS 0x38f 0x6e0".to_owned()),
        "{made:?}"
    );
}

#[test]
fn a_register_that_cannot_be_read_is_skipped_and_those_after_it_are_not() {
    let recorder = Recorder::default();
    recorder.refuse_msr(0x174);
    let mut machine = machine(&recorder, 1);
    let saved = machine.save_vcpu(0, &fake_paused()).unwrap();
    let indices: Vec<u32> = saved.msrs.iter().map(|msr| msr.index).collect();
    assert!(
        !indices.contains(&0x174) && indices.contains(&0x175),
        "{indices:x?}"
    );
    assert_eq!(indices.last(), Some(&0x6e0));
    assert!(!indices.contains(&0x49), "a command register was saved");
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
    let options = KvmOptions::new(KernelDevices::NONE);
    let mut bare = with_options(&recorder, 1, options);
    let reasons = bare
        .take(&mut offers(&[vcpu(0)]), ClockPolicy::Frozen)
        .unwrap();
    assert_eq!(reasons.len(), 2, "controllers and timer: {reasons:?}");
    assert_eq!(recorder.made(), Vec::<String>::new());
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
fn state_that_does_not_fit_this_host_is_refused() {
    let recorder = Recorder::default();
    let mut machine = machine(&recorder, 1);
    let mut saved = vcpu(0);
    saved.xsave = vec![0; 8192];
    restore(&mut machine, &[saved.clone()]).unwrap();
    saved.xsave[5000] = 1;
    let error = restore(&mut machine, &[saved]).unwrap_err();
    assert_eq!(error.to_string(), "vCPU 0: XSAVE does not fit this host");
}

#[test]
fn a_kernel_of_another_interface_version_is_refused() {
    let recorder = Recorder::default();
    recorder.answer_version(13);
    let options = KvmOptions::new(KernelDevices::ALL);
    let refused = KvmMachine::with_calls(Box::new(recorder), 1, options).unwrap_err();
    assert!(matches!(refused, KvmError::ApiVersion { found: 13 }));
}
