//! Every vCPU comes to a stop, on its own thread.

use std::sync::Arc;
use std::time::Duration;

use hypervisor_bridge::VcpuStop;
use hypervisor_bridge::testing::fake_paused;
use hypervisor_hvf::fake::GuestStep;
use hypervisor_hvf::{
    CpuOn, Crew, Exit, Hv, HvCode, HvfError, HvfMachine, HvfOptions, HvfVcpu, HvfVcpus, Lines,
    Register, VmConfig,
};
use snapshot_format::state::PowerState;

use super::rig::{CPU_ON, DEVICE, DEVICE_SAYS, PATIENCE, Shape, Vmm, host, mpidr, noon};

// spec: HVF-03
#[test]
fn vcpus_that_run_that_are_off_and_that_wait_all_come_and_all_go_on() {
    let vmm = Vmm::new(&host(noon()), &Shape::bare(4));
    vmm.load(1, vec![GuestStep::Wait, GuestStep::Call]);
    vmm.crew.set_power(1, PowerState::On);
    vmm.crew.set_power(3, PowerState::Suspended);
    vmm.crew.meeting().release();
    let deadline = std::time::Instant::now() + PATIENCE;
    while vmm.crew.power(1) != Some(PowerState::WaitingForInterrupt) {
        assert!(std::time::Instant::now() < deadline);
        std::thread::yield_now();
    }
    for _ in 0..20 {
        let mut vcpus = vmm.vcpus();
        vcpus.stop().unwrap();
        vcpus.resume().unwrap();
    }
    let states = [0, 1, 2, 3].map(|vcpu| vmm.crew.power(vcpu).unwrap());
    let expected = [
        PowerState::On,
        PowerState::WaitingForInterrupt,
        PowerState::Off,
        PowerState::Suspended,
    ];
    assert_eq!(states, expected);
    // An interrupt ends the wait: behind it, the guest calls.
    let irq = Lines {
        irq: true,
        fiq: false,
    };
    vmm.crew.set_lines(1, irq).unwrap();
    vmm.run_until_exits(1);
    assert_eq!(vmm.exits(), [(1, Exit::Call)]);
}

// spec: HVF-04
#[test]
fn an_access_is_answered_before_the_state_is_read() {
    let mut vmm = Vmm::new(&host(noon()), &Shape::bare(1));
    let load = |register, size, wide| GuestStep::Load {
        address: DEVICE,
        register,
        size,
        signed: false,
        wide,
    };
    let steps = vec![
        load(4, 3, true),
        // The zero register: the answer is dropped, and no program counter is overwritten.
        load(31, 3, true),
        GuestStep::Store {
            address: DEVICE + 8,
        },
        GuestStep::Spin,
    ];
    vmm.set_register(0, Register::General(0), 0xaabb_ccdd_eeff);
    vmm.load(0, steps);
    // The stop is asked for while the first access is on its way.
    vmm.run_until_exits(1);
    let saved = vmm.machine.save_vcpu(0, &fake_paused()).unwrap();
    assert_eq!(saved.core.x[4], DEVICE_SAYS);
    assert!(saved.core.pc >= 4, "{:#x}", saved.core.pc);
    vmm.run_until_exits(3);
    let stored = |exit: &(usize, Exit)| match exit.1 {
        Exit::Store { address, value, .. } => Some((address, value)),
        _ => None,
    };
    let stores: Vec<_> = vmm.exits().iter().filter_map(stored).collect();
    assert_eq!(stores, [(DEVICE + 8, 0xccdd_eeff)]);
    assert_eq!(vmm.register(0, Register::PC), 12);
}

// spec: HVF-01
#[test]
fn another_thread_in_the_place_of_a_vcpu_is_found_out() {
    let hv = host(noon());
    hv.create_vm(VmConfig::default()).unwrap();
    let crew = Crew::new(Arc::new(hv.clone()), 1);
    let vcpu = HvfVcpu::create(crew.clone(), 0, mpidr(0)).unwrap();
    std::thread::scope(|scope| {
        crew.meeting().request();
        let impostor = crew.clone();
        scope.spawn(move || impostor.meeting().wait(0));
        let refused = HvfVcpus::new(crew.clone(), PATIENCE).stop().unwrap_err();
        let source = refused.source().unwrap().to_string();
        assert!(source.contains("HV_BAD_ARGUMENT"), "{source}");
        let machine = HvfMachine::new(crew.clone(), HvfOptions::default());
        let saved = machine.unwrap().save_vcpu(0, &fake_paused());
        assert!(matches!(
            saved,
            Err(HvfError::Vcpu { vcpu: 0, source, .. }) if source.code == HvCode::BadArgument
        ));
        crew.meeting().release();
    });
    drop(vcpu);
    // Nobody is there now.
    let gone = HvfVcpus::new(crew.clone(), Duration::ZERO).stop();
    gone.unwrap_err();
    let machine = HvfMachine::new(crew, HvfOptions::default());
    let saved = machine.unwrap().save_vcpu(0, &fake_paused());
    assert!(matches!(saved, Err(HvfError::NoSuchVcpu { .. })));
}

// spec: HVF-10
#[test]
fn a_guest_turns_its_vcpus_on_once() {
    let vmm = Vmm::new(&host(noon()), &Shape::bare(2));
    vmm.load(0, vec![GuestStep::Call, GuestStep::Spin]);
    vmm.load(1, vec![GuestStep::Spin, GuestStep::Call, GuestStep::Spin]);
    for (x, value) in [CPU_ON, 1, 4, 0x77].into_iter().enumerate() {
        let register = Register::General(u32::try_from(x).unwrap());
        vmm.set_register(0, register, value);
    }
    vmm.run_until_exits(2);
    assert_eq!(vmm.register(0, Register::General(0)), 0);
    assert_eq!(vmm.register(1, Register::General(0)), 0x77);
    assert_eq!(vmm.crew.turn_on(1, 0, 0), CpuOn::AlreadyOn);
    assert_eq!(vmm.crew.turn_on(2, 0, 0).code(), -2);
    vmm.crew.set_power(1, PowerState::Off);
    assert_eq!(vmm.crew.turn_on(1, 0, 0), CpuOn::Success);
    assert_eq!(vmm.crew.turn_on(1, 0, 0), CpuOn::OnPending);
}

// spec: HVF-01
#[test]
fn a_place_belongs_to_one_thread() {
    let hv = host(noon());
    hv.create_vm(VmConfig::default()).unwrap();
    let crew = Crew::new(Arc::new(hv.clone()), 1);
    let vcpu = HvfVcpu::create(crew.clone(), 0, mpidr(0)).unwrap();
    std::thread::scope(|scope| {
        let second = scope.spawn(|| HvfVcpu::create(crew.clone(), 0, mpidr(1)).err());
        let refused = second.join().unwrap().unwrap();
        assert!(matches!(
            refused,
            HvfError::NoSuchVcpu { vcpu: 0, count: 1 }
        ));
    });
    drop(vcpu);
    // The vCPU that found no place was destroyed.
    hv.destroy_vm().unwrap();
}

// spec: HVF-01
#[test]
fn a_vcpu_that_the_vmm_made_is_taken_over_and_left_to_it() {
    let hv = host(noon());
    hv.create_vm(VmConfig::default()).unwrap();
    let crew = Crew::new(Arc::new(hv.clone()), 1);
    let handle = hv.create_vcpu().unwrap();
    hv.set_register(handle, Register::MPIDR, mpidr(0)).unwrap();
    let mut vcpu = HvfVcpu::adopt(crew.clone(), 0, handle).unwrap();
    hv.load(handle, vec![GuestStep::Call]).unwrap();
    assert_eq!(vcpu.run().unwrap(), Exit::Call);
    let nothing = vcpu.complete(0).unwrap_err();
    assert!(matches!(nothing, HvfError::NothingPending { vcpu: 0 }));
    drop(vcpu);
    assert_eq!(hv.register(handle, Register::PC), Ok(4));
    // Its place is free again.
    HvfVcpu::adopt(crew, 0, handle).unwrap();
    hv.destroy_vcpu(handle).unwrap();
}

// spec: HVF-04
#[test]
fn an_access_that_says_nothing_of_itself_is_an_error() {
    let hv = host(noon());
    hv.create_vm(VmConfig::default()).unwrap();
    let crew = Crew::new(Arc::new(hv.clone()), 1);
    let mut vcpu = HvfVcpu::create(crew, 0, mpidr(0)).unwrap();
    // A page table where there is no memory.
    hv.load(vcpu.handle(), vec![GuestStep::Walk { address: DEVICE }])
        .unwrap();
    let refused = vcpu.run().unwrap_err();
    let is_there = matches!(
        refused,
        HvfError::NoSyndrome {
            address: DEVICE,
            ..
        }
    );
    assert!(is_there, "{refused}");
}
