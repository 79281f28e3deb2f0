//! What is refused, and when.

use snapshot_format::state::{GicVersion, MsiFrame, ReasonKind, SmeArm64, SystemRegisterId as Id};

use super::super::policy::RegisterPolicy;
use super::controller::IIDR;
use super::vcpu::{CCSIDR, PSCI};
use super::*;
use crate::error::KvmError;

fn kinds(reasons: &[Reason]) -> Vec<ReasonKind> {
    reasons.iter().map(Reason::kind).collect()
}

/// The reasons against a machine that `change` made another.
fn against(has_sve: bool, change: impl FnOnce(&mut Saved)) -> Vec<Reason> {
    let mut saved = Saved::of(V3, has_sve);
    change(&mut saved);
    let target = fresh(Host::default(), V3);
    let reasons = saved.reasons(&target, V3);
    let state = target.state();
    assert!(
        state.vcpus.iter().all(|vcpu| vcpu.init.is_none()),
        "touched"
    );
    assert!(
        state.devices.iter().all(|device| !device.is_made),
        "touched"
    );
    reasons
}

fn shape(reasons: &[Reason]) -> Vec<&'static str> {
    let what = |reason: &Reason| match reason {
        Reason::Shape { what, .. } => Some(*what),
        _ => None,
    };
    reasons.iter().filter_map(what).collect()
}

fn kvm_error(error: &StepError) -> &KvmError {
    error.downcast_ref().unwrap()
}

// spec: KVA-16
#[test]
fn another_machine_is_refused_with_every_reason_before_it_is_touched() {
    let reasons = against(false, |saved| {
        saved.vcpus.truncate(1);
        saved.vm.gic = GicVersion::V2;
        saved.vm.counter_hz = 24_000_000;
        saved.gic().config.interrupts = 96;
        saved.gic().config.distributor_base = 0;
        saved.gic().its.clear();
    });
    let expected = [
        "vCPUs",
        "vCPU sections",
        "as version of the interrupt controller",
        "redistributors",
        "translation services",
        "interrupts",
        "as address of the distributor",
    ];
    assert_eq!(shape(&reasons), expected);
    assert!(kinds(&reasons).contains(&ReasonKind::State), "no gic-v2");
    assert!(kinds(&reasons).contains(&ReasonKind::CounterFrequency));
}

// spec: KVA-16
#[test]
fn state_that_kvm_has_no_place_for_is_refused() {
    let reasons = against(false, |saved| {
        saved.vcpus[0].sme = Some(SmeArm64 {
            vector_bytes: 16,
            ..SmeArm64::default()
        });
        saved.vcpus[1].pending.fiq = true;
        saved.gic().config.msi = Some(MsiFrame::default());
        let init = saved.vcpus[1].kvm_init.unwrap();
        saved.vcpus[1].kvm_init = Some(interface::with_feature(init, 1, true));
    });
    let expected = [
        "vCPUs with scalable matrices",
        "vCPUs whose IRQ or FIQ line is asserted",
        "vCPUs made otherwise than the first",
        "message frames",
    ];
    assert_eq!(shape(&reasons), expected);
}

// spec: ARM-09
#[test]
fn a_missing_section_is_a_reason() {
    for take_away in [
        |saved: &mut Saved| saved.gic_v3 = None,
        |saved: &mut Saved| saved.vcpus.clear(),
    ] {
        assert!(!against(false, take_away).is_empty());
    }
    let mut saved = Saved::of(V3, false);
    saved.gic_v3 = None;
    let target = fresh(Host::default(), V3);
    let missing = Reason::MissingSection {
        section: GicV3::KIND,
        instance: 0,
    };
    assert_eq!(saved.reasons(&target, V3), [missing]);
    // A blob of another hypervisor is no substitute, and no surplus.
    let mut sections = saved.sections();
    let blob = snapshot_format::state::GicBlob::default();
    sections.push(SectionPayload::of(0, &blob));
    let mut offers = SectionOffers::new(sections);
    let mut machine = machine(&target, V3);
    let reasons = machine.take(&mut offers, ClockPolicy::Frozen).unwrap();
    assert_eq!(kinds(&reasons), [ReasonKind::State]);
    assert_eq!(offers.finish(), Ok(()));
}

// spec: KVA-16
#[test]
fn a_register_that_the_host_does_not_have_or_take_is_named_before_the_target_is_touched() {
    let unknown = Id::new(3, 0, 11, 0, 0);
    let reasons = against(false, |saved| {
        set_system(&mut saved.vcpus[1], unknown, 5);
        set_system(&mut saved.vcpus[0], Id::ID_AA64PFR0_EL1, u64::MAX >> 1);
        for extra in saved.vcpus.iter_mut().flat_map(|vcpu| &mut vcpu.extras) {
            if extra.id == PSCI {
                extra.value = 0x1_0009;
            }
        }
    });
    let refused = |vcpu, what, number, value| Reason::Value {
        vcpu,
        what,
        number,
        value,
    };
    let expected = [
        refused(1, "system register", unknown.0.into(), 5),
        refused(0, "firmware register", PSCI, 0x1_0009),
        refused(
            0,
            "ID register",
            abi::system(Id::ID_AA64PFR0_EL1),
            u64::MAX >> 1,
        ),
    ];
    assert_eq!(reasons, expected);
}

// spec: KVA-04
#[test]
fn vectors_and_features_that_the_host_lacks_are_refused() {
    // 48 bytes, which the host has not, below 64.
    let reasons = against(true, |saved| {
        for sve in saved.vcpus.iter_mut().filter_map(|vcpu| vcpu.sve.as_mut()) {
            sve.lengths[0] = 0b1111;
        }
    });
    assert_eq!(kinds(&reasons), [ReasonKind::VectorLengths]);
    // A host without vectors at all.
    let saved = Saved::of(V3, true);
    let host = Host {
        lengths: [0; 8],
        ..Host::default()
    };
    let target = fresh(host, V3);
    let reasons = saved.reasons(&target, V3);
    assert_eq!(kinds(&reasons), [ReasonKind::State], "{reasons:?}");
    let mut machine = machine(&target, V3);
    let offered = machine.host().unwrap();
    let by_fingerprint = kinds(&saved.fingerprint.check(&offered));
    assert!(by_fingerprint.contains(&ReasonKind::VectorLengths));
    assert!(by_fingerprint.contains(&ReasonKind::Capability));
}

// spec: KVA-05
#[test]
fn a_vcpu_of_another_affinity_is_refused() {
    let mut saved = Saved::of(V3, false);
    saved.vcpus[1].mpidr = 0x8000_0100;
    saved.gic().redistributors[1].mpidr = 0x8000_0100;
    // A vCPU that the VMM has made is asked before anything is touched.
    let made = running(Host::default(), V3, features(false));
    let reasons = saved.reasons(&made, V3);
    let expected = Reason::Value {
        vcpu: 1,
        what: "system register",
        number: Id::MPIDR_EL1.0.into(),
        value: 0x8000_0100,
    };
    assert_eq!(reasons, [expected]);
    // One that was not, when it is made.
    let target = fresh(Host::default(), V3);
    let error = saved.restore(&mut machine(&target, V3)).unwrap_err();
    let KvmError::OtherAffinity {
        vcpu,
        saved,
        target,
    } = kvm_error(&error)
    else {
        unreachable!("{error:?}");
    };
    assert_eq!((*vcpu, *saved, *target), (1, 0x8000_0100, 0x8000_0001));
}

// spec: KVA-17
#[test]
fn another_counter_frequency_is_refused_twice() {
    let saved = Saved::of(V3, false);
    let host = Host {
        hz: 1_000_000_000,
        ..Host::default()
    };
    let target = fresh(host, V3);
    let expected = Reason::CounterFrequency {
        saved_hz: 25_000_000,
        host_hz: 1_000_000_000,
    };
    let offered = machine(&target, V3).host().unwrap();
    let expected = [expected];
    assert_eq!(saved.fingerprint.check(&offered), expected);
    assert_eq!(saved.reasons(&target, V3), expected);
}

// spec: KVA-09
#[test]
fn a_clock_cannot_advance_from_a_time_that_nobody_wrote_down() {
    let mut saved = Saved::of(V3, false);
    saved.vm.wall_clock_ns = 0;
    let target = fresh(Host::default(), V3);
    let mut machine = machine(&target, V3);
    let reasons = machine
        .take(&mut saved.offers(), ClockPolicy::Advance)
        .unwrap();
    assert_eq!(kinds(&reasons), [ReasonKind::Clock]);
}

// spec: KVA-18
#[test]
fn other_caches_stop_a_restore_unless_the_policy_drops_them() {
    let saved = Saved::of(V3, false);
    let host = Host {
        cache: 0x700f_e03a,
        ..Host::default()
    };
    let target = fresh(host.clone(), V3);
    let error = saved.restore(&mut machine(&target, V3)).unwrap_err();
    let KvmError::RegisterRefused {
        register, value, ..
    } = kvm_error(&error)
    else {
        unreachable!("{error:?}");
    };
    assert_eq!(register, &format!("{CCSIDR:#x}"));
    assert_eq!(*value, 0x700f_e01a);
    let mut options = KvmOptions::new(V3);
    options.registers = RegisterPolicy::default().drop_refused(CCSIDR);
    let target = fresh(host, V3);
    saved.restore(&mut with_options(&target, options)).unwrap();
    let state = target.state();
    let kept = &state.vcpus[0].registers[&CCSIDR];
    assert_eq!(
        u32::from_le_bytes(kept.clone().try_into().unwrap()),
        0x700f_e03a
    );
}

// spec: KVA-18
#[test]
fn a_refused_register_is_named_by_the_architecture() {
    let saved = Saved::of(V3, false);
    let mut host = Host::default();
    host.identity.insert(Id::CLIDR_EL1, 0x21);
    let target = fresh(host.clone(), V3);
    let error = saved.restore(&mut machine(&target, V3)).unwrap_err();
    assert!(
        error.to_string().contains("refuses CLIDR_EL1 = 0xa2000023"),
        "{error}"
    );
    let mut options = KvmOptions::new(V3);
    options.registers = RegisterPolicy::default().drop_refused_system(Id::CLIDR_EL1);
    saved
        .restore(&mut with_options(&fresh(host, V3), options))
        .unwrap();
}

// spec: KVA-11
#[test]
fn a_controller_of_another_maker_or_under_a_running_vcpu_is_not_written() {
    let mut saved = Saved::of(V3, false);
    assert_eq!(u64::from(saved.gic().config.implementer), IIDR);
    saved.gic().config.implementer = 0x43b | 9 << 12;
    let target = fresh(Host::default(), V3);
    let error = saved.restore(&mut machine(&target, V3)).unwrap_err();
    assert_eq!(error.to_string(), "KVM_SET_DEVICE_ATTR");

    let saved = Saved::of(V3, false);
    let target = fresh(Host::default(), V3);
    let mut machine = machine(&target, V3);
    let taken = machine.take(&mut saved.offers(), ClockPolicy::Frozen);
    assert_eq!(taken.unwrap(), []);
    machine.prepare().unwrap();
    target.state().is_running = true;
    let error = machine.restore_vm().unwrap_err();
    let KvmError::Ioctl { source, .. } = kvm_error(&error) else {
        unreachable!("{error:?}");
    };
    assert_eq!(source.raw_os_error(), Some(libc::EBUSY));
}

// spec: KVA-14
#[test]
fn damaged_tables_of_a_translation_service_end_the_restore() {
    let saved = Saved::of(V3, false);
    let target = fresh(Host::default(), V3);
    target.refuse("its0: set restore tables", libc::EINVAL);
    saved.restore(&mut machine(&target, V3)).unwrap_err();
    let made = target.made();
    assert!(
        !made.contains(&"its0: set GITS_CTLR".to_owned()),
        "it serves"
    );
}

// spec: KVA-19
#[test]
fn what_no_snapshot_holds_is_not_captured() {
    let capture = |change: fn(&Kernel)| {
        let (kernel, mut machine) = source(V3, false);
        change(&kernel);
        machine
            .save_vcpu(0, &fake_paused())
            .unwrap_err()
            .to_string()
    };
    let tags = capture(|kernel| {
        let id = abi::system(Id::ID_AA64PFR1_EL1);
        kernel.state().vcpus[0].put(id, 0x200);
    });
    assert!(tags.contains("memory tags"), "{tags}");
    let wide = capture(|kernel| {
        let id = abi::REG_ARM64 | abi::SIZE_U128 | 0x0017_0000;
        kernel.state().vcpus[0].put(id, 1);
    });
    assert!(wide.contains("has a register 0x6040000000170000"), "{wide}");
    let state = capture(|kernel| kernel.state().vcpus[0].run_state = 3);
    assert!(state.contains("run state"), "{state}");
    // Nor a machine of which nobody says what it was made with.
    let kernel = running(Host::default(), V3, features(false));
    let mut machine = machine(&kernel, V3);
    machine.save_vcpu(0, &fake_paused()).unwrap_err();
}

// spec: KVA-20
#[test]
fn damaged_sections_are_refused_before_the_target_is_touched() {
    let saved = Saved::of(V3, true);
    for kind in [VcpuArm64::KIND, VmArm64::KIND, GicV3::KIND] {
        let mut sections = saved.sections();
        for section in sections.iter_mut().filter(|section| section.kind == kind) {
            section.bytes.truncate(section.bytes.len() / 2);
        }
        let target = fresh(Host::default(), V3);
        let mut machine = machine(&target, V3);
        let mut offers = SectionOffers::new(sections);
        machine.take(&mut offers, ClockPolicy::Frozen).unwrap_err();
        machine.prepare().unwrap_err();
        machine.restore_vcpu(0).unwrap_err();
        machine.restore_vm().unwrap_err();
        assert!(target.made().iter().all(|call| !call.contains("set")));
    }
}

#[test]
fn a_kernel_of_another_interface_version_is_refused() {
    let host = Host {
        version: 13,
        ..Host::default()
    };
    let kernel = fresh(host, V3);
    let made = KvmMachine::with_calls(Box::new(kernel), 2, KvmOptions::new(V3));
    assert!(matches!(made, Err(KvmError::ApiVersion { found: 13 })));
}

#[test]
fn more_registers_than_there_is_room_for_are_asked_for_again() {
    let (kernel, mut machine) = source(V3, false);
    let firmware = (2..1_000).map(|n| PSCI + n);
    firmware.for_each(|id| kernel.state().vcpus[0].put(id, id));
    let saved = machine.save_vcpu(0, &fake_paused()).unwrap();
    assert_eq!(saved.extras.len(), 1_000);
}
