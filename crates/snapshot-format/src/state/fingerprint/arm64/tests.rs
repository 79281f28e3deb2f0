use super::*;
use crate::state::{Capability, ReasonKind};

fn register(id: SystemRegisterId, value: u64) -> SystemRegister {
    SystemRegister { id, value }
}

/// A host with 48 bits of physical address, SVE of up to 64 bytes, and a GICv3.
fn host() -> Fingerprint {
    Fingerprint {
        arch: 2,
        vendor: "Arm".into(),
        model: 0xd40,
        page_bytes: 4096,
        capabilities: vec![Capability {
            number: 170,
            value: 1,
        }],
        arm64: Some(FingerprintArm64 {
            hypervisor: Hypervisor::KVM,
            id_registers: vec![
                register(SystemRegisterId::ID_AA64PFR0_EL1, 0x1111_0001_1100_1111),
                register(SystemRegisterId::ID_AA64MMFR0_EL1, 0x0000_0000_0010_1125),
            ],
            counter_hz: 25_000_000,
            address_bits: 48,
            gic: GicVersion::V3,
            interrupts: 1024,
            sve_lengths: [0b1011, 0, 0, 0, 0, 0, 0, 0],
            sme_lengths: [0; 8],
            features: FingerprintArm64::ITS | FingerprintArm64::PMU,
        }),
        ..Fingerprint::default()
    }
}

/// The reasons against a snapshot of [`host`] that `change` made another.
fn against(change: impl FnOnce(&mut FingerprintArm64)) -> Vec<Reason> {
    let mut saved = host();
    saved.arm64.as_mut().map(change).unwrap();
    saved.check(&host())
}

fn kinds(reasons: &[Reason]) -> Vec<ReasonKind> {
    reasons.iter().map(Reason::kind).collect()
}

// spec: ARM-13
#[test]
fn a_host_can_run_what_it_saved() {
    assert_eq!(host().check(&host()), []);
}

// spec: ARM-13
// spec: ARM-17
#[test]
fn every_reason_of_an_arm_machine_is_given_at_once() {
    let reasons = against(|arm| {
        arm.hypervisor = Hypervisor::HVF;
        arm.id_registers[0].value |= 2 << 28;
        arm.counter_hz = 24_000_000;
        arm.address_bits = 52;
        arm.interrupts = 2048;
        arm.sve_lengths = [0b1_1011, 0, 0, 0, 0, 0, 0, 0];
        arm.features |= FingerprintArm64::STOLEN_TIME;
    });
    let expected = [
        ReasonKind::Hypervisor,
        ReasonKind::IdRegister,
        ReasonKind::CounterFrequency,
        ReasonKind::AddressBits,
        ReasonKind::Gic,
        ReasonKind::VectorLengths,
        ReasonKind::Features,
    ];
    assert_eq!(kinds(&reasons), expected);
}

// spec: ARM-14
#[test]
fn a_field_is_compared_by_its_own_sign() {
    // Floating point: 0 is there, 15 is not. The guest of a host without it runs on one with it.
    let reasons = against(|arm| arm.id_registers[0].value |= 0xf << 16);
    assert_eq!(reasons, []);
    let mut lesser = host();
    lesser.arm64.as_mut().unwrap().id_registers[0].value |= 0xff << 16;
    let lacking = Reason::IdRegister {
        register: SystemRegisterId::ID_AA64PFR0_EL1,
        shift: 20,
        saved: 0,
        host: 15,
    };
    let reasons = host().check(&lesser);
    assert!(reasons.contains(&lacking), "{reasons:?}");
    assert_eq!(reasons.len(), 2);
    // Pages of 16 KiB are an unsigned field: 15 would be more than 1.
    let reasons = against(|arm| arm.id_registers[1].value |= 0xf << 20);
    assert_eq!(kinds(&reasons), [ReasonKind::IdRegister]);
}

// spec: ARM-14
#[test]
fn a_register_that_the_host_does_not_have_reads_as_zero() {
    let id = SystemRegisterId::new(3, 0, 0, 6, 3);
    assert_eq!(against(|arm| arm.id_registers.push(register(id, 0))), []);
    let reasons = against(|arm| arm.id_registers.push(register(id, 1)));
    assert_eq!(kinds(&reasons), [ReasonKind::IdRegister]);
}

// spec: ARM-14
#[test]
fn single_bits_and_cache_geometry_are_no_numbers() {
    let check = |id, saved, host| {
        let mut reasons = Vec::new();
        lower_fields(id, saved, host, &mut reasons);
        reasons.len()
    };
    let smfr0 = SystemRegisterId::ID_AA64SMFR0_EL1;
    // F64F64 is not made up for by a bit above it, and SMEver is a number.
    assert_eq!(check(smfr0, 1 << 48, 1 << 49), 1);
    assert_eq!(check(smfr0, 1 << 56, 2 << 56), 0);
    assert_eq!(check(smfr0, 2 << 56, 1 << 56), 1);
    let ctr = SystemRegisterId::CTR_EL0;
    assert_eq!(check(ctr, 0x8444_c004, 0x8222_c004), 1);
    assert_eq!(check(ctr, 0xb444_c004, 0x8444_c004), 1);
    assert_eq!(check(ctr, 0x8444_c003, 0x9444_8004), 0);
}

// spec: ARM-15
#[test]
fn a_host_hides_long_vectors_and_no_others() {
    let lengths = |word| [word, 0, 0, 0, 0, 0, 0, 0];
    assert!(can_offer(&lengths(0b1011), &lengths(0b1011)));
    assert!(can_offer(&lengths(0b0011), &lengths(0b1011)));
    assert!(can_offer(&lengths(0), &lengths(0)));
    // The host has a length between the guest's that it cannot hide.
    assert!(!can_offer(&lengths(0b1001), &lengths(0b1011)));
    // The host lacks one.
    assert!(!can_offer(&lengths(0b1111), &lengths(0b1011)));
    assert!(can_offer(&lengths(1), &[1, 1, 0, 0, 0, 0, 0, 0]));
    assert!(!can_offer(&[1, 1, 0, 0, 0, 0, 0, 0], &lengths(1)));
}

// spec: ARM-16
#[test]
fn capabilities_of_one_hypervisor_are_not_asked_of_another() {
    let mut saved = host();
    saved.arm64.as_mut().unwrap().hypervisor = Hypervisor::HVF;
    saved.capabilities[0].number = 9_999;
    assert_eq!(kinds(&saved.check(&host())), [ReasonKind::Hypervisor]);
    saved.arm64.as_mut().unwrap().hypervisor = Hypervisor::KVM;
    assert_eq!(kinds(&saved.check(&host())), [ReasonKind::Capability]);
    // A host that does not say what it is cannot be trusted to be the same.
    let mut silent = host();
    silent.arm64 = None;
    assert_eq!(kinds(&host().check(&silent)), [ReasonKind::Hypervisor]);
    assert_eq!(kinds(&silent.check(&host())), [ReasonKind::Hypervisor]);
}
