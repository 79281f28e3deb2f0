//! That the fake refuses what Apple's framework refuses.

use super::*;

fn everything() -> FakeHv {
    FakeHv::new(FakeHv::host_with_everything())
}

fn code<T: fmt::Debug>(result: Result<T, HvRefusal>) -> HvCode {
    result.unwrap_err().code
}

#[test]
fn a_vcpu_answers_its_own_thread_only() {
    let hv = everything();
    hv.create_vm(VmConfig::default()).unwrap();
    let vcpu = hv.create_vcpu().unwrap();
    hv.set_register(vcpu, Register::PC, 8).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            assert_eq!(code(hv.register(vcpu, Register::PC)), HvCode::BadArgument);
            assert_eq!(code(hv.run_vcpu(vcpu)), HvCode::BadArgument);
            assert_eq!(code(hv.destroy_vcpu(vcpu)), HvCode::BadArgument);
            hv.exit_vcpus(&[vcpu]).unwrap();
        });
    });
    assert_eq!(hv.run_vcpu(vcpu), Ok(RawExit::Canceled));
    // A thread has one vCPU.
    assert_eq!(code(hv.create_vcpu()), HvCode::Busy);
}

#[test]
fn a_process_has_one_machine_and_lets_it_go_after_its_vcpus() {
    let hv = everything();
    assert_eq!(code(hv.create_vcpu()), HvCode::NoDevice);
    hv.create_vm(VmConfig::default()).unwrap();
    assert_eq!(code(hv.create_vm(VmConfig::default())), HvCode::Exists);
    let vcpu = hv.create_vcpu().unwrap();
    assert_eq!(code(hv.destroy_vm()), HvCode::Busy);
    hv.destroy_vcpu(vcpu).unwrap();
    hv.destroy_vm().unwrap();
    hv.create_vm(VmConfig::default()).unwrap();
    hv.refuse("hv_vm_create", HvCode::Denied);
    assert_eq!(code(hv.create_vm(VmConfig::default())), HvCode::Denied);
}

#[test]
fn the_gic_comes_before_vcpus_and_its_state_after_all_of_them() {
    let hv = everything();
    hv.create_vm(VmConfig::default()).unwrap();
    hv.create_gic(&GicConfig::default()).unwrap();
    assert_eq!(code(hv.create_gic(&GicConfig::default())), HvCode::Error);
    let vcpu = hv.create_vcpu().unwrap();
    hv.set_register(vcpu, Register::MPIDR, 1 << 31).unwrap();
    hv.set_distributor(0x104, 1).unwrap();
    hv.set_line(40, true).unwrap();
    let state = hv.gic_state().unwrap();

    let other = everything();
    other.create_vm(VmConfig::default()).unwrap();
    let early = other.create_vcpu().unwrap();
    assert_eq!(code(other.create_gic(&GicConfig::default())), HvCode::Error);
    other.destroy_vcpu(early).unwrap();
    other.create_gic(&GicConfig::default()).unwrap();
    assert_eq!(code(other.set_gic_state(&state)), HvCode::Error);
    let vcpu = other.create_vcpu().unwrap();
    // The affinity comes first: the redistributors belong to it.
    assert_eq!(code(other.set_gic_state(&state)), HvCode::Error);
    other.set_register(vcpu, Register::MPIDR, 1 << 31).unwrap();
    other.set_gic_state(&state).unwrap();
    assert_eq!(other.distributor(0x104), Ok(1));
    assert!(other.line(40));
    assert_eq!(
        code(other.set_register(vcpu, Register::MPIDR, 5)),
        HvCode::Busy
    );
    other.exit_vcpus(&[vcpu]).unwrap();
    other.run_vcpu(vcpu).unwrap();
    assert_eq!(code(other.set_gic_state(&state)), HvCode::Busy);
}

#[test]
fn opaque_state_of_another_build_is_refused() {
    let hv = everything();
    hv.create_vm(VmConfig::default()).unwrap();
    assert_eq!(code(hv.gic_state()), HvCode::NoDevice);
    hv.create_gic(&GicConfig::default()).unwrap();
    let state = hv.gic_state().unwrap();
    let updated = HostInfo {
        os_build: "25A100".to_owned(),
        ..FakeHv::host_with_everything()
    };
    let updated = FakeHv::new(updated);
    updated.create_vm(VmConfig::default()).unwrap();
    updated.create_gic(&GicConfig::default()).unwrap();
    assert_eq!(code(updated.set_gic_state(&state)), HvCode::Error);
    hv.set_gic_state(&state).unwrap();
    assert_eq!(code(hv.set_gic_state(&state[..20])), HvCode::Error);
}

#[test]
fn registers_that_are_read_only_or_not_there_are_refused() {
    let hv = everything();
    hv.create_vm(VmConfig::default()).unwrap();
    let vcpu = hv.create_vcpu().unwrap();
    let set = |register| code(hv.set_register(vcpu, register, 1));
    assert_eq!(set(Register::System(0xc000)), HvCode::BadArgument);
    assert_eq!(set(Register::System(0xc020)), HvCode::BadArgument);
    assert_eq!(set(Register::System(0xd123)), HvCode::BadArgument);
    assert_eq!(set(Register::General(35)), HvCode::BadArgument);
    // Without a GIC, and without EL2.
    assert_eq!(set(Register::Icc(0xc230)), HvCode::Unsupported);
    assert_eq!(set(Register::System(0xdf12)), HvCode::Unsupported);
    assert_eq!(set(Register::System(0xe088)), HvCode::Unsupported);
    hv.set_register(vcpu, Register::System(0xe208), 1).unwrap();
    assert_eq!(code(hv.distributor(0)), HvCode::NoDevice);
}

#[test]
fn a_line_is_dropped_when_a_run_ends() {
    let hv = everything();
    hv.create_vm(VmConfig::default()).unwrap();
    let vcpu = hv.create_vcpu().unwrap();
    hv.set_flag(vcpu, Flag::PendingFiq, true).unwrap();
    hv.exit_vcpus(&[vcpu]).unwrap();
    hv.run_vcpu(vcpu).unwrap();
    assert_eq!(hv.flag(vcpu, Flag::PendingFiq), Ok(false));
}

#[test]
fn protection_goes_by_pages_of_16_kib_and_ends_the_run_of_a_store() {
    let hv = everything();
    hv.create_vm(VmConfig::default()).unwrap();
    hv.map(0x8000, 0x8000, Protection::ALL).unwrap();
    let vcpu = hv.create_vcpu().unwrap();
    let read_only = Protection::ALL.without_write();
    for (start, len) in [(0x9000, 0x4000), (0x8000, 0x1000), (0x8000, 0xc000), (0, 0)] {
        let refused = hv.protect(start, len, read_only);
        assert_eq!(code(refused), HvCode::BadArgument, "{start:#x} {len:#x}");
    }
    hv.protect(0xc000, 0x4000, read_only).unwrap();
    let store = |address| GuestStep::Store { address };
    hv.load(vcpu, vec![store(0x8000), store(0xc004)]).unwrap();
    let RawExit::Exception {
        syndrome,
        physical_address,
        ..
    } = hv.run_vcpu(vcpu).unwrap()
    else {
        unreachable!("the store is a fault");
    };
    assert_eq!((syndrome >> 26, physical_address), (0x24, 0xc004));
    assert_eq!(hv.stores(), [0x8000]);
    hv.protect(0xc000, 0x4000, Protection::ALL).unwrap();
    hv.exit_vcpus(&[vcpu]).unwrap();
    hv.run_vcpu(vcpu).unwrap();
    hv.load(vcpu, vec![GuestStep::Spin, store(0xc004), GuestStep::Call])
        .unwrap();
    hv.run_vcpu(vcpu).unwrap();
    assert_eq!(hv.stores(), [0x8000, 0xc004]);
}
