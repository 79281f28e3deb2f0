//! Controllers in the kernel, split, or not there; timers, routes, the clock.

use hypervisor_bridge::ClockPolicy;
use hypervisor_bridge::testing::{capture_state_suite, fake_paused};
use hypervisor_kvm::{KernelDevices, KvmOptions};
use kvm_bindings::{KVM_CAP_SPLIT_IRQCHIP, KVM_IRQCHIP_IOAPIC};
use snapshot_format::state::{GsiRoute, VcpuX86, VmX86};

use super::machine::{Machine, SVR, apic, enable, machine, machine_with, msr, set_apic, set_msr};

const FROZEN: ClockPolicy = ClockPolicy::Frozen;

fn split_machine() -> Option<Machine> {
    machine_with(2, |vm| enable(vm, KVM_CAP_SPLIT_IRQCHIP, 24))
}

/// Task priority, timer entry.
const TPR: usize = 0x80;
const LVT_TIMER: usize = 0x320;

// spec: KVX-20
#[test]
fn local_apics_alone_come_back_into_a_split_machine() {
    let (Some(source), Some(target)) = (split_machine(), split_machine()) else {
        return;
    };
    let options = KvmOptions::new(KernelDevices::split(24));
    let descriptors = source.descriptors();
    let mut adapter = descriptors.adapter(options.clone());
    capture_state_suite(&mut adapter, &fake_paused()).unwrap();

    set_apic(&source, 1, &[(SVR, 0x1ff), (TPR, 0x30)]);
    let saved = source.save(&options);
    let vm: VmX86 = saved.vm();
    assert_eq!((vm.split_lines, vm.ioapic, vm.pit), (Some(24), None, None));
    target.restore(&saved, &options, FROZEN).unwrap();
    assert_eq!(
        (apic(&target, 1, SVR), apic(&target, 1, TPR)),
        (0x1ff, 0x30)
    );

    // A machine with all controllers in the kernel is another one.
    let whole = machine(2).unwrap();
    let reasons = whole.reasons(&saved, &KvmOptions::new(KernelDevices::ALL));
    assert_eq!(reasons.len(), 5, "{reasons:?}");
}

// spec: KVX-20
#[test]
fn a_machine_whose_controllers_are_all_the_vmms_comes_back() {
    let bare = || machine_with(1, |_| ());
    let (Some(source), Some(target)) = (bare(), bare()) else {
        return;
    };
    let options = KvmOptions::new(KernelDevices::NONE);
    let mut regs = source.vcpus[0].get_regs().unwrap();
    regs.rbx = 0x1234;
    source.vcpus[0].set_regs(&regs).unwrap();
    let saved = source.save(&options);
    let vcpu: VcpuX86 = saved.vcpu(0);
    assert!(vcpu.lapic.is_empty());
    target.restore(&saved, &options, FROZEN).unwrap();
    assert_eq!(target.vcpus[0].get_regs().unwrap().rbx, 0x1234);
}

/// A line that leads to no chip, and the vector that it is routed to.
const LINE: u32 = 30;
const VECTOR: u32 = 0x51;

// spec: KVX-19
#[test]
fn an_interrupt_takes_the_route_that_came_back() {
    let (Some(source), Some(target)) = (machine(2), machine(2)) else {
        return;
    };
    let mut options = KvmOptions::new(KernelDevices::ALL);
    // To the second vCPU's local APIC.
    let message = GsiRoute::to_message(LINE, 0xfee0_1000, VECTOR, None);
    let timer = GsiRoute::to_chip(0, KVM_IRQCHIP_IOAPIC, 2);
    options.routes = Some(vec![timer, message]);
    set_apic(&source, 1, &[(SVR, 0x1ff)]);
    let saved = source.save(&options);

    let plain = KvmOptions::new(KernelDevices::ALL);
    target.restore(&saved, &plain, FROZEN).unwrap();
    let requested = 0x200 + 0x10 * (VECTOR as usize / 32);
    assert_eq!(apic(&target, 1, requested), 0);
    target.vm.set_irq_line(LINE, true).unwrap();
    assert_eq!(apic(&target, 1, requested), 1 << (VECTOR % 32));
    assert_eq!(apic(&target, 0, requested), 0);
}

#[test]
fn timer_and_chips_come_back() {
    let (Some(source), Some(target)) = (machine(1), machine(1)) else {
        return;
    };
    let options = KvmOptions::new(KernelDevices::ALL);
    let mut pit = source.vm.get_pit2().unwrap();
    (pit.channels[0].mode, pit.channels[0].count) = (2, 0x1234);
    source.vm.set_pit2(&pit).unwrap();
    let mut saved = source.save(&options);
    let place = saved
        .sections
        .iter()
        .position(|s| s.value::<VmX86>().is_ok());
    let mut vm = saved.vm();
    vm.ioapic.as_mut().unwrap().redirection[5] = 0x1_0000 | 0x45;
    vm.pic_master.as_mut().unwrap().imr = 0xa5;
    vm.pic_slave.as_mut().unwrap().irq_base = 0x70;
    saved.sections[place.unwrap()] = snapshot_format::SectionPayload::of(0, &vm);
    target.restore(&saved, &options, FROZEN).unwrap();
    let again = target.save(&options).vm();
    assert_eq!(again.pit.unwrap().channels[0].count, 0x1234);
    assert_eq!(again.ioapic, vm.ioapic);
    assert_eq!(
        (again.pic_master, again.pic_slave),
        (vm.pic_master, vm.pic_slave)
    );
}

// spec: KVX-16
#[test]
fn an_armed_deadline_is_armed_again() {
    let (Some(source), Some(target)) = (machine(1), machine(1)) else {
        return;
    };
    let options = KvmOptions::new(KernelDevices::ALL);
    // Deadline mode, vector 0x40.
    set_apic(&source, 0, &[(SVR, 0x1ff), (LVT_TIMER, 2 << 17 | 0x40)]);
    let deadline = msr(&source.vcpus[0], 0x10).unwrap() + (1 << 40);
    set_msr(&source.vcpus[0], 0x6e0, deadline);
    let saved = source.save(&options);
    assert_eq!(saved.vcpu(0).armed_deadline, Some(deadline));
    target.restore(&saved, &options, FROZEN).unwrap();
    // Zero if the mode of the timer had not been there before it.
    assert_eq!(msr(&target.vcpus[0], 0x6e0), Some(deadline));
}

// spec: KVX-12
#[test]
fn a_clock_goes_on_where_it_stopped_or_takes_up_what_has_passed() {
    let options = KvmOptions::new(KernelDevices::ALL);
    let Some(source) = machine(1) else {
        return;
    };
    let saved = source.save(&options);
    let stopped_at = saved.vm().clock.unwrap().clock_ns;
    std::thread::sleep(std::time::Duration::from_millis(300));
    let resumed = |policy| {
        let target = machine(1).unwrap();
        let report = target.restore(&saved, &options, policy).unwrap();
        let clock = target.vm.get_clock().unwrap().clock;
        assert!(clock >= stopped_at + report.clock_advanced_ns);
        clock - stopped_at
    };
    let (frozen, advanced) = (resumed(FROZEN), resumed(ClockPolicy::Advance));
    assert!(frozen < 250_000_000, "{frozen} ns passed");
    assert!(advanced >= 300_000_000, "{advanced} ns passed");
    assert!(advanced < 20_000_000_000, "{advanced} ns passed");
}

#[test]
fn a_timer_that_the_target_has_not_is_refused() {
    let Some(source) = machine(1) else {
        return;
    };
    let saved = source.save(&KvmOptions::new(KernelDevices::ALL));
    let no_timer = machine_with(1, |vm| vm.create_irq_chip().unwrap()).unwrap();
    let mut devices = KernelDevices::ALL;
    devices.pit = false;
    let reasons = no_timer.reasons(&saved, &KvmOptions::new(devices));
    assert_eq!(reasons.len(), 1, "{reasons:?}");
}
