//! What is refused, and how.

use std::time::Duration;

use hypervisor_bridge::testing::{FakeDevices, Script, fake_paused};
use hypervisor_bridge::{
    ClockPolicy, Restore, RestoreError, RestoreTarget, StateCapture, StateRestore, VcpuStop,
};
use hypervisor_hvf::fake::{FakeHv, GuestStep};
use hypervisor_hvf::{
    GicWay, HostInfo, Hv, HvCode, HvfError, HvfVcpus, SmeMode, SmePolicy, VmConfig,
};
use snapshot_format::state::{
    Fingerprint, GicBlob, GicV3, Hypervisor, Its, Reason, SystemRegister, SystemRegisterId,
    VcpuArm64, VmArm64,
};
use snapshot_format::{SectionOffers, SectionPayload, StatePayload};

use super::rig::{Shape, Vmm, host, host_like, noon};
use super::round_trip::{fill, fill_gic};

fn saved(vmm: &mut Vmm) -> Vec<SectionPayload> {
    let paused = fake_paused();
    let vcpus = 0..vmm.handles.len();
    let mut sections: Vec<_> = vcpus
        .map(|vcpu| vmm.machine.capture_vcpu(vcpu, &paused).unwrap())
        .collect();
    sections.extend(vmm.machine.capture_vm(&paused).unwrap());
    sections
}

/// Changes the sections of one kind.
fn with<T: StatePayload>(sections: &mut [SectionPayload], change: impl Fn(&mut T)) {
    for section in sections
        .iter_mut()
        .filter(|section| section.kind == T::KIND)
    {
        let mut value: T = section.value().unwrap();
        change(&mut value);
        *section = SectionPayload::of(section.instance, &value);
    }
}

fn without<T: StatePayload>(sections: &mut Vec<SectionPayload>) {
    sections.retain(|section| section.kind != T::KIND);
}

fn reasons(target: &mut Vmm, sections: &[SectionPayload]) -> Vec<String> {
    let mut offers = SectionOffers::new(sections.to_vec());
    let _: Fingerprint = offers.take(0).unwrap();
    let reasons = target.machine.take(&mut offers, ClockPolicy::Frozen);
    reasons.unwrap().iter().map(ToString::to_string).collect()
}

fn updated() -> HostInfo {
    HostInfo {
        os_build: "25B77".to_owned(),
        ..FakeHv::host_with_everything()
    }
}

fn prepare(target: &mut Vmm, sections: Vec<SectionPayload>) -> Result<(), HvfError> {
    let mut offers = SectionOffers::new(sections);
    let _: Fingerprint = offers.take(0).unwrap();
    let reasons = target.machine.take(&mut offers, ClockPolicy::Frozen);
    assert_eq!(reasons.unwrap(), []);
    let prepared = target.machine.prepare();
    prepared.map_err(|error| *error.downcast().unwrap())
}

// spec: HVF-07
#[test]
fn opaque_state_that_an_update_refuses_is_replaced_by_registers_and_reported() {
    let mut source = Vmm::new(&host(noon()), &Shape::full(2));
    fill(&source, 0);
    fill(&source, 1);
    fill_gic(&source);
    let sections = saved(&mut source);
    let mut target = Vmm::new(&host_like(updated(), noon()), &Shape::full(2));
    // What is there before does not stay: bits are cleared before they are set.
    target.hv.set_distributor(0x204, 0xffff_ffff).unwrap();
    prepare(&mut target, sections.clone()).unwrap();
    let GicWay::Registers {
        refused: Some(refusal),
    } = target.machine.report().gic
    else {
        unreachable!("{:?}", target.machine.report());
    };
    assert_eq!(refusal.code, HvCode::Error);
    let again = saved(&mut target);
    let gic = |sections: &[SectionPayload]| {
        let mut found = sections
            .iter()
            .filter(|section| section.kind == GicV3::KIND);
        found.next().unwrap().value::<GicV3>().unwrap()
    };
    assert_eq!(gic(&again), gic(&sections));
    assert!(gic(&sections).distributor.iter().any(|r| r.value != 0));
    assert!(
        gic(&sections).redistributors[1]
            .registers
            .iter()
            .any(|r| r.value != 0)
    );
    // The level of a line is in no register.
    assert!(source.hv.line(77) && !target.hv.line(77));
}

// spec: HVF-07
#[test]
fn opaque_state_that_is_refused_without_registers_is_an_error_that_says_what_to_do() {
    let mut source = Vmm::new(&host(noon()), &Shape::full(1));
    let mut sections = saved(&mut source);
    without::<GicV3>(&mut sections);
    let mut target = Vmm::new(&host_like(updated(), noon()), &Shape::full(1));
    let refused = prepare(&mut target, sections.clone()).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "the GIC's state, made on build \"24F74\", is refused on \"25B77\", and the snapshot has \
         no copy of it by register; restore it on a host of its build"
    );
    // On the same build it is enough.
    let mut target = Vmm::new(&host(noon()), &Shape::full(1));
    prepare(&mut target, sections).unwrap();
}

// spec: HVF-07
#[test]
fn the_registers_alone_are_enough_and_bytes_of_others_are_not_tried() {
    let mut source = Vmm::new(&host(noon()), &Shape::full(1));
    let mut sections = saved(&mut source);
    with::<GicBlob>(&mut sections, |blob| blob.hypervisor = Hypervisor::KVM);
    let mut target = Vmm::new(&host(noon()), &Shape::full(1));
    target.hv.forget_calls();
    prepare(&mut target, sections.clone()).unwrap();
    let way = GicWay::Registers { refused: None };
    assert_eq!(target.machine.report().gic, way);
    let calls = target.hv.calls();
    assert!(!calls.contains(&"hv_gic_set_state".to_owned()));
    without::<GicV3>(&mut sections);
    let missing = reasons(&mut target, &sections);
    assert_eq!(missing.len(), 1, "{missing:?}");
    assert!(missing[0].contains("gic"), "{missing:?}");
}

// spec: HVF-12
#[test]
fn another_counter_frequency_is_refused_before_anything_is_touched() {
    let mut source = Vmm::new(&host(noon()), &Shape::full(1));
    let sections = saved(&mut source);
    // The same Mac, and a VMM that was linked against another SDK.
    let relinked = HostInfo {
        counter_hz: 1_000_000_000,
        ..FakeHv::host_with_everything()
    };
    let mut target = Vmm::new(&host_like(relinked, noon()), &Shape::full(1));
    target.hv.forget_calls();
    let script = Script::default();
    let refused = Restore::resume(ClockPolicy::Frozen).run(
        RestoreTarget {
            memory: &mut FakeDevices(script.clone()),
            state: &mut target.machine,
            devices: &mut FakeDevices(script.clone()),
        },
        SectionOffers::new(sections),
    );
    let Err(RestoreError::Incompatible { reasons }) = refused else {
        unreachable!("{refused:?}");
    };
    let expected = Reason::CounterFrequency {
        saved_hz: 24_000_000,
        host_hz: 1_000_000_000,
    };
    assert_eq!(reasons, [expected]);
    assert!(script.reached().is_empty());
    let calls = target.hv.calls();
    let is_write = |call: &&String| call.starts_with("set ") || call.contains("_set_");
    assert_eq!(calls.iter().find(is_write), None);
}

// spec: HVF-12
#[test]
fn everything_that_does_not_fit_is_said_at_once() {
    let mut source = Vmm::new(&host(noon()), &Shape::full(2));
    let mut sections = saved(&mut source);
    let odd = SystemRegister {
        id: SystemRegisterId(0xfff8),
        value: 3,
    };
    with::<VcpuArm64>(&mut sections, |vcpu| {
        vcpu.system.push(odd);
        vcpu.core.spsr_aarch32[0] = 1;
        vcpu.pending.external_abort = true;
        vcpu.pmu_interrupt = Some(23);
        vcpu.stolen_time_address = Some(0x1000);
    });
    with::<VmArm64>(&mut sections, |vm| vm.el2 = false);
    with::<GicV3>(&mut sections, |gic| gic.config.distributor_base += 0x1_0000);
    let mut target = Vmm::new(&host(noon()), &Shape::full(3));
    let said = reasons(&mut target, &sections).join("\n");
    for expected in [
        "2 vCPUs, the target has 3",
        "0 guest hypervisors, the target has 1",
        "address of the distributor",
        "32-bit guests",
        "pending external aborts",
        "performance monitors",
        "records of stolen time",
        "vCPU 0: the host refuses 0x3 in system register 0xfff8",
        "vCPU 1: the host refuses 0x3 in system register 0xfff8",
    ] {
        assert!(said.contains(expected), "{expected:?} is not in {said}");
    }
    let nothing = target
        .machine
        .take(&mut SectionOffers::default(), ClockPolicy::Frozen);
    assert_eq!(nothing.unwrap().len(), 1);
    // Nothing was taken, so nothing is written.
    target.machine.prepare().unwrap_err();
    target.machine.restore_vcpu(0).unwrap_err();
    target.machine.restore_vm().unwrap_err();
}

// spec: HVF-12
#[test]
fn registers_of_a_gic_that_the_framework_lacks_are_refused_where_they_would_be_used() {
    let mut source = Vmm::new(&host(noon()), &Shape::full(1));
    let mut sections = saved(&mut source);
    without::<GicBlob>(&mut sections);
    with::<GicV3>(&mut sections, |gic| {
        // PROPBASER: interrupts by message, of an ITS.
        let mut register = gic.redistributors[0].registers[0];
        (register.offset, register.value) = (0x70, 0x8000_0000);
        gic.redistributors[0].registers.insert(0, register);
        gic.its.push(Its::default());
    });
    let mut target = Vmm::new(&host(noon()), &Shape::full(1));
    let said = reasons(&mut target, &sections).join("\n");
    assert!(said.contains("redistributor register 0x70"), "{said}");
    assert!(said.contains("interrupt translation services"), "{said}");
}

// spec: HVF-09
#[test]
fn a_clock_that_cannot_advance_is_a_reason() {
    let mut source = Vmm::new(&host(noon()), &Shape::bare(1));
    let mut sections = saved(&mut source);
    with::<VmArm64>(&mut sections, |vm| vm.wall_clock_ns = 0);
    let mut target = Vmm::new(&host(noon()), &Shape::bare(1));
    let mut offers = SectionOffers::new(sections);
    let reasons = target.machine.take(&mut offers, ClockPolicy::Advance);
    assert!(matches!(reasons.unwrap()[..], [Reason::WallClock { .. }]));
}

// spec: HVF-16
#[test]
fn matrix_state_is_kept_or_refused_and_never_dropped() {
    let mut hidden = Shape::bare(1);
    hidden.options.sme = SmePolicy::Hidden;
    let mut source = Vmm::new(&host(noon()), &hidden);
    assert_eq!(
        source.machine.save_vcpu(0, &fake_paused()).unwrap().sme,
        None
    );
    source.on(0, |hv, handle| {
        let mode = SmeMode {
            streaming: false,
            matrix: true,
        };
        hv.set_sme_mode(handle, mode).unwrap();
    });
    let used = source.machine.save_vcpu(0, &fake_paused());
    assert!(matches!(used, Err(HvfError::HiddenSme { vcpu: 0 })));

    let mut source = Vmm::new(&host(noon()), &Shape::bare(1));
    let sections = saved(&mut source);
    let without_sme = HostInfo {
        sme_vector_bytes: 0,
        ..FakeHv::host_with_everything()
    };
    let hosts = [host(noon()), host_like(without_sme, noon())];
    for (host, shape) in hosts.iter().zip([hidden, Shape::bare(1)]) {
        let mut target = Vmm::new(host, &shape);
        let said = reasons(&mut target, &sections).join("\n");
        assert!(said.contains("bytes of a streaming vector"), "{said}");
    }
}

#[test]
fn a_refusal_names_the_vcpu_and_the_register() {
    let mut vmm = Vmm::new(&host(noon()), &Shape::bare(2));
    vmm.hv
        .refuse("get 2 system register 0xc080", HvCode::IllegalGuestState);
    let refused = vmm.machine.save_vcpu(1, &fake_paused()).unwrap_err();
    assert_eq!(refused.to_string(), "vCPU 1: read system register 0xc080");
    vmm.hv.refuse_nothing();
    vmm.machine.save_vcpu(1, &fake_paused()).unwrap();
    // What came with later systems may be missing; the machine is saved without it.
    let since = "macOS 15.2";
    vmm.hv
        .refuse("get 2 system register 0xc687", HvCode::TooOld { since });
    let saved = vmm.machine.save_vcpu(1, &fake_paused()).unwrap();
    let id = SystemRegisterId::SCXTNUM_EL1;
    assert!(saved.system.iter().all(|register| register.id != id));
    let machine = &mut vmm.machine;
    machine.save_vm(&fake_paused()).unwrap_err();
}

#[test]
fn a_process_without_the_entitlement_is_told_what_it_lacks() {
    let hv = host(noon());
    hv.refuse("hv_vm_create", HvCode::Denied);
    let refused = hv.create_vm(VmConfig::default()).unwrap_err();
    let text = refused.to_string();
    assert!(text.contains("com.apple.security.hypervisor"), "{text}");
}

// spec: HVF-03
#[test]
fn a_vcpu_that_cannot_be_told_to_stop_is_named_and_goes_on() {
    let vmm = Vmm::new(&host(noon()), &Shape::bare(1));
    vmm.load(0, vec![GuestStep::Spin]);
    vmm.hv.forget_calls();
    vmm.crew.meeting().release();
    while !vmm.hv.calls().contains(&"hv_vcpu_run 1".to_owned()) {
        std::thread::yield_now();
    }
    // In the guest, from where only the framework gets it.
    vmm.hv.refuse("hv_vcpus_exit", HvCode::Error);
    let mut vcpus = HvfVcpus::new(vmm.crew.clone(), Duration::from_millis(50));
    let late = vcpus.stop().unwrap_err().to_string();
    assert_eq!(late, "vCPUs [0] did not stop within 50 ms");
    vcpus.resume().unwrap();
    vmm.hv.refuse_nothing();
    vcpus.stop().unwrap();
}
