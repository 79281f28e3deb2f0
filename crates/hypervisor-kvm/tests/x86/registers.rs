//! Registers and events that are easily lost.

use hypervisor_bridge::ClockPolicy;
use hypervisor_kvm::{KernelDevices, KvmOptions};
use kvm_bindings::{
    KVM_CAP_EXCEPTION_PAYLOAD, KVM_CAP_X86_TRIPLE_FAULT_EVENT, KVM_VCPUEVENT_VALID_PAYLOAD,
    KVM_VCPUEVENT_VALID_TRIPLE_FAULT,
};
use snapshot_format::state::Reason;

use super::machine::{Machine, enable, machine, machine_with, msr, set_msr, set_up_machine_check};

const FROZEN: ClockPolicy = ClockPolicy::Frozen;

fn options() -> KvmOptions {
    KvmOptions::new(KernelDevices::ALL)
}

/// That registers that were written in one machine have their value in another.
fn come_back(values: &[(u32, u64)]) {
    let (Some(source), Some(target)) = (machine(2), machine(2)) else {
        return;
    };
    // Of the second vCPU, so that none is taken from the first.
    for (index, value) in values {
        set_msr(&source.vcpus[1], *index, *value);
    }
    let saved = source.save(&options());
    let report = target.restore(&saved, &options(), FROZEN).unwrap();
    assert_eq!(report.dropped_msrs, []);
    for (index, value) in values {
        assert_eq!(
            msr(&target.vcpus[1], *index),
            Some(*value),
            "MSR {index:#x}"
        );
        assert_ne!(
            msr(&target.vcpus[0], *index),
            Some(*value),
            "MSR {index:#x}"
        );
    }
}

// spec: KVX-08
#[test]
fn every_memory_type_range_comes_back() {
    let Some(machine) = machine(1) else {
        return;
    };
    let count = msr(&machine.vcpus[0], 0xfe).unwrap() & 0xff;
    let last = 0x200 + 2 * (u32::try_from(count).unwrap() - 1);
    let ranges = [
        (0x2ff, 0xc06),
        (0x200, 6),
        (0x201, 0xff_c000_0800),
        (last, 0xc000_0000),
        (last + 1, 0xff_c000_0800),
        (0x250, 0x0606_0606_0606_0606),
        (0x26f, 0x0505_0505_0505_0505),
        (0x277, 0x0007_0406_0007_0401),
    ];
    come_back(&ranges);
}

// spec: KVX-08
#[test]
fn registers_of_the_paravirtual_interface_come_back() {
    // System time, steal time, the vector of asynchronous page faults.
    let registers = [
        (0x4b56_4d01, 0x3001),
        (0x4b56_4d03, 0x4001),
        (0x4b56_4d06, 0x41),
    ];
    come_back(&registers);
    // The wall clock is the machine's, whichever vCPU it is set on.
    let (Some(source), Some(target)) = (machine(2), machine(2)) else {
        return;
    };
    set_msr(&source.vcpus[1], 0x4b56_4d00, 0x2000);
    let saved = source.save(&options());
    target.restore(&saved, &options(), FROZEN).unwrap();
    assert_eq!(msr(&target.vcpus[0], 0x4b56_4d00), Some(0x2000));
}

// spec: KVX-06
#[test]
fn machine_check_banks_come_back_with_what_was_logged() {
    let banks = 10;
    let capabilities = 1 << 24 | 1 << 8 | banks;
    let logged = [
        (0x17b, 0),
        (0x404, 0),
        (0x405, 1 << 63 | 0x123),
        (0x406, 0xabc0_0000),
    ];
    let (Some(source), Some(target)) = (machine(1), machine(1)) else {
        return;
    };
    set_up_machine_check(&source.vcpus[0], capabilities);
    for (index, value) in logged {
        set_msr(&source.vcpus[0], index, value);
    }
    let saved = source.save(&options());
    target.restore(&saved, &options(), FROZEN).unwrap();
    assert_eq!(msr(&target.vcpus[0], 0x179), Some(capabilities));
    for (index, value) in logged {
        assert_eq!(msr(&target.vcpus[0], index), Some(value), "MSR {index:#x}");
    }
    // No bank more than there was.
    assert_eq!(msr(&target.vcpus[0], 0x400 + 4 * 10), None);
}

fn with_events(enabled: bool) -> Option<Machine> {
    machine_with(1, |vm| {
        vm.create_irq_chip().unwrap();
        vm.create_pit2(kvm_bindings::kvm_pit_config::default())
            .unwrap();
        if enabled {
            enable(vm, KVM_CAP_EXCEPTION_PAYLOAD, 1);
            enable(vm, KVM_CAP_X86_TRIPLE_FAULT_EVENT, 1);
        }
    })
}

// spec: KVX-05
#[test]
fn a_page_fault_on_its_way_in_keeps_its_address() {
    let (Some(source), Some(target)) = (with_events(true), with_events(true)) else {
        return;
    };
    let mut events = source.vcpus[0].get_vcpu_events().unwrap();
    let both = KVM_VCPUEVENT_VALID_PAYLOAD | KVM_VCPUEVENT_VALID_TRIPLE_FAULT;
    assert_eq!(events.flags & both, both);
    events.exception.pending = 1;
    events.exception.nr = 14;
    events.exception.has_error_code = 1;
    events.exception.error_code = 6;
    events.exception_has_payload = 1;
    events.exception_payload = 0xdead_b000;
    source.vcpus[0].set_vcpu_events(&events).unwrap();
    let saved = source.save(&options());
    target.restore(&saved, &options(), FROZEN).unwrap();
    let found = target.vcpus[0].get_vcpu_events().unwrap();
    assert_eq!(
        (found.exception.pending, found.exception.nr),
        (1, 14),
        "{found:?}"
    );
    assert_eq!(
        (found.exception_has_payload, found.exception_payload),
        (1, 0xdead_b000)
    );

    // A machine that was made without would lose it.
    let lesser = with_events(false).unwrap();
    let not_enabled = |number| Reason::NotEnabled { vcpu: 0, number };
    assert_eq!(
        lesser.reasons(&saved, &options()),
        [
            not_enabled(KVM_CAP_EXCEPTION_PAYLOAD),
            not_enabled(KVM_CAP_X86_TRIPLE_FAULT_EVENT)
        ]
    );
}

#[test]
fn cpuid_is_what_the_kernel_answers() {
    let Some(machine) = machine(1) else {
        return;
    };
    let answered = machine.vcpus[0].get_cpuid2(256).unwrap();
    let saved = machine.save(&options()).vcpu(0).cpuid;
    let answered: Vec<_> = (answered.as_slice().iter())
        .map(|entry| (entry.function, entry.index, entry.eax, entry.ecx))
        .collect();
    let saved: Vec<_> = (saved.iter())
        .map(|entry| (entry.function, entry.index, entry.eax, entry.ecx))
        .collect();
    assert_eq!(saved, answered);
}
