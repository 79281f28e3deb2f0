//! What is captured comes back.

use hypervisor_bridge::testing::{capture_state_suite, state_round_trip_suite};
use snapshot_format::state::{
    CounterOffset, Hypervisor, HypervisorRegister, PowerState, SystemRegisterId, register_value,
};

use super::*;

// spec: KVA-01
#[test]
fn every_register_of_a_machine_comes_back() {
    for (devices, has_sve) in [
        (V3, true),
        (V3, false),
        (KernelDevices::GIC_V2, true),
        (KernelDevices::NONE, false),
    ] {
        let (_, mut source) = source(devices, has_sve);
        let target = fresh(Host::default(), devices);
        let mut target = machine(&target, devices);
        state_round_trip_suite(&mut source, &mut target, &fake_paused(), &mut settle).unwrap();
    }
}

#[test]
fn an_adapter_that_captures_satisfies_its_own_host() {
    for has_sve in [true, false] {
        let (_, mut machine) = source(V3, has_sve);
        capture_state_suite(&mut machine, &fake_paused()).unwrap();
    }
}

// spec: KVA-02
#[test]
fn a_captured_machine_has_something_in_every_register() {
    let saved = Saved::of(V3, true);
    let vcpu = &saved.vcpus[0];
    assert!(vcpu.core.x.iter().all(|x| *x != 0));
    assert_ne!(vcpu.core.spsr_aarch32, [0; 4]);
    assert!(vcpu.simd.v.iter().all(|v| *v != 0));
    let sve = vcpu.sve.as_ref().unwrap();
    // The longest of 16, 32 and 64 bytes.
    assert_eq!(
        (sve.vector_bytes, sve.z.len(), sve.ffr.len()),
        (64, 2048, 8)
    );
    assert!(sve.z.iter().all(|byte| *byte != 0));
    let pending = vcpu.pending.serror.unwrap();
    assert_eq!(pending.syndrome, Some(0x2a));
    assert_eq!(saved.vcpus[1].power, PowerState::Off);
    assert_eq!(vcpu.pmu_interrupt, Some(23));
    assert_eq!(vcpu.stolen_time_address, Some(0x4000_0040));
    assert_eq!(saved.vcpus[1].mpidr, 0x8000_0001);
    // What has a place of its own is not repeated.
    for id in [
        SystemRegisterId::MPIDR_EL1,
        SystemRegisterId::CNTV_CVAL_EL0,
        SystemRegisterId::CNTVCT_EL0,
    ] {
        assert_eq!(register_value(&vcpu.system, id), None, "{id}");
    }
    let gic = saved.gic_v3.as_ref().unwrap();
    let route = gic.distributor.iter().find(|r| r.offset == 0x6100);
    assert!(route.unwrap().value >> 32 != 0, "a route has 64 bits");
    assert_eq!(gic.lines, [0x8001]);
    assert_ne!(gic.redistributors[1].lines, 0);
    let fingerprint = saved.fingerprint.arm64.as_ref().unwrap();
    assert_eq!(fingerprint.sve_lengths, [0b1011, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(
        (saved.fingerprint.vendor.as_str(), saved.fingerprint.model),
        ("Arm", 0xd4f)
    );
}

// spec: ARM-08
// spec: KVA-08
#[test]
fn a_shared_offset_is_set_once_and_the_guest_goes_on_where_it_stopped() {
    let (kernel, mut machine) = source(V3, false);
    // The source's counters have one offset.
    let offset = kernel.state().virtual_offset;
    kernel.state().physical_offset = offset;
    let paused = fake_paused();
    let vm = machine.save_vm(&paused).unwrap();
    assert_eq!(vm.counter_offset, CounterOffset::Shared);

    let mut saved = Saved::of(V3, false);
    saved.vm.counter_offset = CounterOffset::Shared;
    saved.vcpus[0].timers.virtual_count = 5_000_000;
    saved.vcpus[1].timers.virtual_count = 9_000_000;
    // The host was started after the guest was: its counter is behind.
    let host = Host {
        count: 100,
        ..Host::default()
    };
    let target = fresh(host, V3);
    saved.restore(&mut self::machine(&target, V3)).unwrap();
    let made = target.made();
    let set = made.iter().filter(|c| c.contains("COUNTER_OFFSET")).count();
    assert_eq!(
        set, 2,
        "no offset to read the host's count, then the guest's"
    );
    assert!(!made.iter().any(|call| call.contains("set virtual count")));
    let state = target.state();
    let now = state.host.count.wrapping_sub(state.virtual_offset);
    assert!((5_000_000..5_001_000).contains(&now), "{now}");
    assert_eq!(state.physical_offset, state.virtual_offset);
}

// spec: KVA-08
#[test]
fn separate_counters_are_set_on_the_first_vcpu_alone() {
    let mut saved = Saved::of(V3, false);
    assert_eq!(saved.vm.counter_offset, CounterOffset::Separate);
    saved.vcpus[0].timers.virtual_count = 7_000;
    saved.vcpus[0].timers.physical_count = 90_000;
    let target = fresh(Host::default(), V3);
    saved.restore(&mut machine(&target, V3)).unwrap();
    let made = target.made();
    let counts = made
        .iter()
        .filter(|c| c.ends_with(" count") && c.contains("set"));
    let counts: Vec<_> = counts.collect();
    assert_eq!(counts, ["0: set virtual count", "0: set physical count"]);
    let state = target.state();
    let now = state.host.count.wrapping_sub(state.virtual_offset);
    assert!((7_000..8_000).contains(&now), "{now}");
    let physical = state.host.count.wrapping_sub(state.physical_offset);
    assert!((90_000..91_000).contains(&physical), "{physical}");
}

// spec: KVA-08
#[test]
fn a_host_without_the_offset_sets_the_virtual_count() {
    let mut saved = Saved::of(V3, false);
    saved.vm.counter_offset = CounterOffset::Shared;
    saved.vcpus[0].timers.virtual_count = 7_000;
    let host = Host {
        lacking: vec![abi::CAP_COUNTER_OFFSET],
        ..Host::default()
    };
    let target = fresh(host, V3);
    saved.restore(&mut machine(&target, V3)).unwrap();
    let made = target.made();
    assert!(
        made.contains(&"0: set virtual count".to_owned()),
        "{made:?}"
    );
    assert!(!made.iter().any(|call| call.contains("COUNTER_OFFSET")));
    let state = target.state();
    let now = state.host.count.wrapping_sub(state.virtual_offset);
    assert!((7_000..8_000).contains(&now), "{now}");
}

// spec: KVA-09
#[test]
fn a_clock_that_advances_takes_the_time_that_has_passed() {
    let mut saved = Saved::of(V3, false);
    saved.vcpus[0].timers.virtual_count = 0;
    // As long ago as the counter needs for this many ticks, at the least.
    saved.vm.wall_clock_ns -= 40_000_000_000;
    let target = fresh(Host::default(), V3);
    let mut machine = machine(&target, V3);
    let taken = machine.take(&mut saved.offers(), ClockPolicy::Advance);
    assert_eq!(taken.unwrap(), []);
    machine.prepare().unwrap();
    let state = target.state();
    let now = state.host.count.wrapping_sub(state.virtual_offset);
    assert!(now >= 40 * 25_000_000, "{now}");
}

// spec: ARM-11
#[test]
fn a_vcpu_that_is_to_start_begins_from_a_reset() {
    let mut saved = Saved::of(V3, false);
    saved.vcpus[1].power = PowerState::OnPending {
        entry: 0x4020_0000,
        context: 0x77,
    };
    let target = fresh(Host::default(), V3);
    saved.restore(&mut machine(&target, V3)).unwrap();
    let state = target.state();
    let vcpu = &state.vcpus[1];
    let value = |id| u64::from_le_bytes(vcpu.registers[&id].clone().try_into().unwrap());
    let core = |offset| value(abi::core(offset, abi::SIZE_U64));
    assert_eq!(core(abi::CORE_PC), 0x4020_0000);
    assert_eq!(core(abi::CORE_X0), 0x77);
    assert_eq!(core(abi::CORE_X0 + 8), 0);
    assert_eq!(core(abi::CORE_PSTATE), 0x3c5);
    assert_eq!(value(abi::system(SystemRegisterId::TTBR0_EL1)), 0);
    assert_eq!(vcpu.run_state, abi::MP_RUNNABLE);
}

// spec: ARM-12
#[test]
fn run_states_go_to_what_the_kernel_has_for_them() {
    for (power, expected) in [
        (PowerState::On, abi::MP_RUNNABLE),
        (PowerState::WaitingForInterrupt, abi::MP_RUNNABLE),
        (PowerState::Off, abi::MP_STOPPED),
        (PowerState::Suspended, abi::MP_SUSPENDED),
    ] {
        let mut saved = Saved::of(V3, false);
        saved.vcpus[0].power = power;
        let target = fresh(Host::default(), V3);
        saved.restore(&mut machine(&target, V3)).unwrap();
        assert_eq!(target.state().vcpus[0].run_state, expected, "{power:?}");
    }
}

// spec: KVA-03
#[test]
fn a_vcpu_is_never_made_powered_off() {
    let mut saved = Saved::of(V3, false);
    for vcpu in &mut saved.vcpus {
        let init = vcpu.kvm_init.unwrap();
        vcpu.kvm_init = Some(interface::with_feature(init, abi::VCPU_POWER_OFF, true));
    }
    let target = fresh(Host::default(), V3);
    saved.restore(&mut machine(&target, V3)).unwrap();
    let state = target.state();
    assert!(state.vcpus.iter().all(|v| !v.has(abi::VCPU_POWER_OFF)));
    // Off is a run state.
    assert_eq!(state.vcpus[1].run_state, abi::MP_STOPPED);
}

// spec: ARM-16
#[test]
fn a_vcpu_of_another_hypervisor_is_made_as_this_one_prefers() {
    let mut saved = Saved::of(V3, false);
    saved.vm.hypervisor = Hypervisor::HVF;
    for vcpu in &mut saved.vcpus {
        vcpu.kvm_init = None;
        vcpu.pmu_interrupt = None;
        vcpu.extras = vec![HypervisorRegister {
            hypervisor: Hypervisor::HVF,
            id: 0x1234,
            value: 1,
        }];
    }
    let target = fresh(Host::default(), V3);
    saved.restore(&mut machine(&target, V3)).unwrap();
    let state = target.state();
    let vcpu = &state.vcpus[0];
    assert_eq!(vcpu.init.unwrap()[0], 5);
    // The guest was shown both kinds of pointer authentication.
    assert!(vcpu.has(abi::VCPU_PTRAUTH_ADDRESS) && vcpu.has(abi::VCPU_PTRAUTH_GENERIC));
}

// spec: ARM-10
#[test]
fn registers_of_the_controller_go_by_affinity() {
    let saved = Saved::of(V3, false);
    let target = fresh(Host::default(), V3);
    saved.restore(&mut machine(&target, V3)).unwrap();
    let state = target.state();
    let of_second = 0x1 << 32;
    let values = &state.devices[0].values;
    let enabled = values[&(abi::GIC_REDIST_REGS, of_second | 0x1_0100)];
    let saved = &saved.gic_v3.as_ref().unwrap().redistributors[1];
    let register = saved.registers.iter().find(|r| r.offset == 0x1_0100);
    assert_eq!(enabled, register.unwrap().value);
    // Aff3 of the register is the highest byte of the attribute.
    let mpidr = 0x12_8034_5678;
    assert_eq!(super::super::gicv3::affinity(mpidr), 0x1234_5678);
}

// spec: KVA-16
#[test]
fn the_field_of_the_controller_goes_by_the_controller() {
    let id = SystemRegisterId::ID_AA64PFR0_EL1;
    let field = |value: Option<u64>| value.unwrap() >> 24 & 0xf;
    let mut saved = Saved::of(V3, false);
    assert_eq!(field(register_value(&saved.vcpus[0].system, id)), 1);
    let needs = saved.fingerprint.arm64.as_ref().unwrap();
    assert_eq!(field(register_value(&needs.id_registers, id)), 0);
    // A feature is taken away, so that the register is written: on a machine with a controller,
    // though the one that it is tried on has none.
    let shown = register_value(&saved.vcpus[0].system, id).unwrap() - (1 << 60);
    for vcpu in &mut saved.vcpus {
        set_system(vcpu, id, shown);
    }
    let target = fresh(Host::default(), V3);
    saved.restore(&mut machine(&target, V3)).unwrap();
    let state = target.state();
    let written = state.vcpus[1].registers[&abi::system(id)].clone();
    assert_eq!(u64::from_le_bytes(written.try_into().unwrap()), shown);
}

// spec: KVA-06
#[test]
fn what_the_vmm_has_done_before_is_no_error_if_it_is_the_same() {
    let saved = Saved::of(V3, false);
    let address = saved.vcpus[1].stolen_time_address.unwrap();
    for (interrupt, address, is_same) in [
        (23, address, true),
        (22, address, false),
        (23, address + 64, false),
    ] {
        let target = fresh(Host::default(), V3);
        let done = [
            ((abi::PMU, abi::PMU_IRQ), interrupt),
            ((abi::PMU, abi::PMU_INIT), 0),
            ((abi::PVTIME, abi::PVTIME_IPA), address),
        ];
        target.state().vcpus[1].attributes.extend(done);
        let restored = saved.restore(&mut machine(&target, V3));
        assert_eq!(restored.is_ok(), is_same, "{restored:?}");
    }
}
