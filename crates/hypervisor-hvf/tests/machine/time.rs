//! Counters and timers on another host.

use hypervisor_bridge::testing::fake_paused;
use hypervisor_bridge::{ClockPolicy, StateCapture, StateRestore};
use hypervisor_hvf::fake::GuestStep;
use hypervisor_hvf::{Exit, Flag, HostTime, Hv, Register};
use snapshot_format::state::{Fingerprint, PowerState, SystemRegisterId as Id};

use super::rig::{Shape, Vmm, host, noon};
use super::round_trip::{restore, sections};

const CONTROL: Register = Register::System(Id::CNTV_CTL_EL0.0);
const COMPARE: Register = Register::System(Id::CNTV_CVAL_EL0.0);

/// Where the guest's counter stands before the snapshot.
const COUNT: u64 = 1 << 40;

/// A machine whose guest has counted to [`COUNT`].
fn counted(shape: &Shape) -> Vmm {
    let vmm = Vmm::new(&host(noon()), shape);
    for vcpu in 0..shape.vcpus {
        let offset = noon().absolute - COUNT;
        vmm.set_register(vcpu, Register::VtimerOffset, offset);
    }
    vmm
}

/// What the guest of each vCPU reads when it runs on.
fn read_counters(vmm: &Vmm) -> Vec<u64> {
    for vcpu in 0..vmm.handles.len() {
        vmm.crew.set_power(vcpu, PowerState::On);
        vmm.set_register(vcpu, Register::PC, 0);
        let read = GuestStep::ReadCounter { register: 5 };
        vmm.load(vcpu, vec![read, GuestStep::Call, GuestStep::Spin]);
    }
    vmm.run_until_exits(vmm.exits().len() + vmm.handles.len());
    (0..vmm.handles.len())
        .map(|vcpu| vmm.register(vcpu, Register::General(5)))
        .collect()
}

// spec: HVF-08
#[test]
fn counters_go_on_alike_where_they_stopped_although_the_host_was_restarted() {
    let mut source = counted(&Shape::full(3));
    let rebooted = HostTime {
        absolute: 1000,
        wall_ns: noon().wall_ns + 3_600_000_000_000,
    };
    let mut target = Vmm::new(&host(rebooted), &Shape::full(3));
    restore(&mut source, &mut target);
    assert_eq!(read_counters(&target), [COUNT; 3]);
    let offset = target.register(0, Register::VtimerOffset);
    assert_eq!(offset, 1000_u64.wrapping_sub(COUNT));
}

// spec: HVF-08
#[test]
fn the_counter_stands_where_the_machine_stopped_and_not_where_it_was_read() {
    let mut source = counted(&Shape::bare(1));
    source.machine.notify_paused(0, &fake_paused()).unwrap();
    let mut later = noon();
    later.absolute += 5000;
    source.hv.set_time(later);
    let saved = source.machine.save_vcpu(0, &fake_paused()).unwrap();
    assert_eq!(saved.timers.virtual_count, COUNT);
}

// spec: HVF-09
#[test]
fn counters_that_advance_take_up_the_time_that_has_passed() {
    let mut source = counted(&Shape::full(2));
    let mut later = noon();
    later.wall_ns += 2_000_000_000;
    let mut target = Vmm::new(&host(later), &Shape::full(2));
    let mut offers = sections(&mut source);
    let _: Fingerprint = offers.take(0).unwrap();
    let machine = &mut target.machine;
    let reasons = machine.take(&mut offers, ClockPolicy::Advance).unwrap();
    assert_eq!(reasons, []);
    machine.prepare().unwrap();
    for vcpu in 0..2 {
        machine.restore_vcpu(vcpu).unwrap();
    }
    machine.restore_vm().unwrap();
    assert_eq!(read_counters(&target), [COUNT + 48_000_000; 2]);
}

// spec: HVF-17
#[test]
fn a_timer_of_the_physical_counter_keeps_what_was_left_of_it() {
    let compare = Register::System(Id::CNTP_CVAL_EL0.0);
    let mut source = Vmm::new(&host(noon()), &Shape::full(1));
    source.set_register(0, compare, noon().absolute + 321);
    let rebooted = HostTime {
        absolute: 9,
        ..noon()
    };
    let mut target = Vmm::new(&host(rebooted), &Shape::full(1));
    restore(&mut source, &mut target);
    assert_eq!(target.register(0, compare), 9 + 321);
}

// spec: HVF-17
#[test]
fn a_timer_that_fired_and_was_not_handled_is_reported_where_the_vmm_has_the_gic() {
    let mut source = counted(&Shape::bare(3));
    for vcpu in 0..3 {
        source.set_register(vcpu, CONTROL, 1);
        let later = if vcpu == 2 { 100 } else { 0 };
        source.set_register(vcpu, COMPARE, COUNT + later);
    }
    // The first has fired, the second will on its next run, the third is not due.
    source.load(0, vec![GuestStep::Spin]);
    source.run_until_exits(1);
    assert_eq!(source.exits(), [(0, Exit::Timer)]);
    let mut target = Vmm::new(&host(noon()), &Shape::bare(3));
    restore(&mut source, &mut target);
    assert_eq!(target.machine.report().timers_due, [0]);
    let masked = |vcpu| target.on(vcpu, |hv, handle| hv.flag(handle, Flag::VtimerMask));
    assert_eq!([0, 1, 2].map(masked), [Ok(true), Ok(false), Ok(false)]);
    target.crew.set_power(1, PowerState::On);
    target.run_until_exits(1);
    assert_eq!(target.exits(), [(1, Exit::Timer)]);
}

// spec: HVF-03
#[test]
fn a_vcpu_that_waits_for_its_timer_wakes_by_it_after_a_restore() {
    let mut source = counted(&Shape::bare(1));
    source.set_register(0, CONTROL, 1);
    // 24 MHz: 2 ms.
    source.set_register(0, COMPARE, COUNT + 48_000);
    source.crew.set_power(0, PowerState::WaitingForInterrupt);
    let mut target = Vmm::new(&host(noon()), &Shape::bare(1));
    restore(&mut source, &mut target);
    target.load(0, vec![GuestStep::Call, GuestStep::Spin]);
    target.run_until_exits(1);
    assert_eq!(target.exits(), [(0, Exit::Call)]);
}
