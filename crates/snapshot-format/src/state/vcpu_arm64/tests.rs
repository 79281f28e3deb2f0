use super::*;
use crate::error::ErrorKind;
use crate::state::gic::{BankedRegister, GicBlob, GicRegister, GicV2, GicV3, Its, Redistributor};
use crate::state::hypervisor::Hypervisor;
use crate::state::system_register::SystemRegisterId;

fn refused<T: StatePayload>(value: &T) -> ErrorKind {
    let decoded = T::decode(T::VERSION, &value.encode());
    decoded.map(|_| ()).unwrap_err().kind()
}

fn accepted<T: StatePayload + PartialEq + std::fmt::Debug>(value: &T) {
    assert_eq!(T::decode(T::VERSION, &value.encode()).as_ref(), Ok(value));
}

fn registers(ids: impl IntoIterator<Item = u16>) -> Vec<SystemRegister> {
    let register = |id| SystemRegister {
        id: SystemRegisterId(id),
        value: u64::MAX - u64::from(id),
    };
    ids.into_iter().map(register).collect()
}

/// A vCPU with vectors of up to 256 bytes, and a matrix in use.
fn vectors() -> VcpuArm64 {
    let bytes = |len: usize| (0..=255).cycle().take(len).collect::<Vec<u8>>();
    let sve = SveArm64 {
        vector_bytes: 256,
        lengths: [0xffff, 0, 0, 0, 0, 0, 0, 0],
        z: bytes(32 * 256),
        p: bytes(2 * 256),
        ffr: bytes(32),
    };
    let sme = SmeArm64 {
        vector_bytes: 256,
        za_enabled: true,
        za: bytes(256 * 256),
        zt0: bytes(64),
        ..SmeArm64::default()
    };
    VcpuArm64 {
        simd: SimdArm64 {
            v: sve.low_halves(),
            ..SimdArm64::default()
        },
        sve: Some(sve),
        sme: Some(sme),
        ..VcpuArm64::default()
    }
}

// spec: ARM-03
#[test]
fn a_vcpu_with_every_list_at_its_cap_is_read() {
    let cap = u16::try_from(limits::MAX_SYSTEM_REGISTERS).unwrap();
    let extra = |id| HypervisorRegister {
        hypervisor: Hypervisor::KVM,
        id,
        value: !id,
    };
    accepted(&VcpuArm64 {
        system: registers(0..cap),
        icc: registers(0..64),
        extras: (0..limits::MAX_HYPERVISOR_REGISTERS as u64)
            .map(extra)
            .collect(),
        ..vectors()
    });
}

// spec: ARM-03
#[test]
fn every_list_of_a_vcpu_has_a_cap() {
    let mut over = vec![VcpuArm64::default(); 3];
    over[0].system = vec![SystemRegister::default(); limits::MAX_SYSTEM_REGISTERS + 1];
    over[1].icc = vec![SystemRegister::default(); limits::MAX_ICC_REGISTERS + 1];
    over[2].extras = vec![HypervisorRegister::default(); limits::MAX_HYPERVISOR_REGISTERS + 1];
    for (number, vcpu) in over.iter().enumerate() {
        assert_eq!(refused(vcpu), ErrorKind::Limit, "case {number}");
    }
}

// spec: ARM-04
#[test]
fn a_register_that_is_there_twice_or_out_of_order_is_refused() {
    for ids in [[5, 5], [6, 5]] {
        let system = registers(ids);
        let icc = registers(ids);
        assert_eq!(
            refused(&VcpuArm64 {
                system,
                ..VcpuArm64::default()
            }),
            ErrorKind::Corrupt
        );
        assert_eq!(
            refused(&VcpuArm64 {
                icc,
                ..VcpuArm64::default()
            }),
            ErrorKind::Corrupt
        );
    }
    let registers = [6_u32, 6].map(|offset| GicRegister { offset, value: 1 });
    for gic in [
        GicV3 {
            distributor: registers.to_vec(),
            ..GicV3::default()
        },
        GicV3 {
            redistributors: vec![Redistributor {
                registers: registers.to_vec(),
                ..Redistributor::default()
            }],
            ..GicV3::default()
        },
    ] {
        assert_eq!(refused(&gic), ErrorKind::Corrupt);
    }
    let banked = |vcpu, offset| BankedRegister {
        vcpu,
        offset,
        value: 1,
    };
    let mut gic = GicV2 {
        banked: vec![banked(0, 8), banked(1, 4)],
        ..GicV2::default()
    };
    accepted(&gic);
    gic.banked.reverse();
    assert_eq!(refused(&gic), ErrorKind::Corrupt);
}

// spec: ARM-05
#[test]
fn vectors_have_the_length_that_is_declared() {
    type Damage = fn(&mut VcpuArm64, &mut SveArm64, &mut SmeArm64);
    let damages: [Damage; 9] = [
        |_, sve, _| sve.vector_bytes = 0,
        |_, sve, _| sve.vector_bytes = 24,
        |_, sve, _| sve.lengths[0] = 0xff,
        |_, sve, _| sve.z.truncate(31 * 256),
        |_, sve, _| sve.p.push(0),
        |_, sve, _| sve.ffr.clear(),
        |_, _, sme| sme.za.truncate(255 * 256),
        |_, _, sme| sme.zt0.truncate(32),
        |_, _, sme| sme.z = vec![0; 32 * 256],
    ];
    accepted(&vectors());
    for (number, damage) in damages.iter().enumerate() {
        let mut vcpu = vectors();
        let (mut sve, mut sme) = (vcpu.sve.take().unwrap(), vcpu.sme.take().unwrap());
        damage(&mut vcpu, &mut sve, &mut sme);
        (vcpu.sve, vcpu.sme) = (Some(sve), Some(sme));
        assert_eq!(refused(&vcpu), ErrorKind::Corrupt, "case {number}");
    }
}

// spec: ARM-06
#[test]
fn the_low_halves_of_long_vectors_are_the_short_ones() {
    let mut vcpu = vectors();
    vcpu.simd.v[31] ^= 1 << 127;
    assert_eq!(refused(&vcpu), ErrorKind::Corrupt);
    // In streaming mode they are those of the streaming vectors.
    let mut streaming = vectors();
    let sme = streaming.sme.as_mut().unwrap();
    sme.streaming = true;
    sme.z = vec![7; 32 * 256];
    sme.p = vec![7; 2 * 256];
    assert_eq!(refused(&streaming), ErrorKind::Corrupt);
    streaming.simd.v = [u128::from_le_bytes([7; 16]); 32];
    accepted(&streaming);
}

// spec: ARM-03
#[test]
fn every_list_of_an_interrupt_controller_has_a_cap() {
    let registers = |count: usize| {
        (0..count)
            .map(|n| GicRegister {
                offset: u32::try_from(n).unwrap(),
                value: 0,
            })
            .collect::<Vec<_>>()
    };
    let of_cpu = registers(limits::MAX_REDISTRIBUTOR_REGISTERS + 1);
    let mut over = vec![GicV3::default(); 6];
    over[0].distributor = registers(limits::MAX_DISTRIBUTOR_REGISTERS + 1);
    over[1].redistributors = vec![Redistributor::default(); limits::MAX_VCPUS + 1];
    over[2].redistributors = vec![Redistributor {
        registers: of_cpu,
        ..Redistributor::default()
    }];
    over[3].lines = vec![0; limits::MAX_LINE_WORDS + 1];
    over[4].its = vec![Its::default(); limits::MAX_ITS + 1];
    over[5].its = vec![Its {
        registers: registers(limits::MAX_ITS_REGISTERS + 1),
        ..Its::default()
    }];
    for (number, gic) in over.iter().enumerate() {
        assert_eq!(refused(gic), ErrorKind::Limit, "case {number}");
    }
    let v2 = GicV2 {
        banked: vec![BankedRegister::default(); limits::MAX_BANKED_REGISTERS + 1],
        ..GicV2::default()
    };
    assert_eq!(refused(&v2), ErrorKind::Limit);
    let blob = |text: usize, bytes: usize| GicBlob {
        producer: "x".repeat(text),
        bytes: vec![1; bytes],
        ..GicBlob::default()
    };
    accepted(&blob(
        limits::MAX_HOST_TEXT_BYTES,
        limits::MAX_GIC_BLOB_BYTES,
    ));
    assert_eq!(
        refused(&blob(limits::MAX_HOST_TEXT_BYTES + 1, 0)),
        ErrorKind::Limit
    );
    assert_eq!(
        refused(&blob(0, limits::MAX_GIC_BLOB_BYTES + 1)),
        ErrorKind::Limit
    );
}

#[test]
fn a_vcpu_reads_well_as_json() {
    let vcpu = VcpuArm64 {
        power: PowerState::OnPending {
            entry: 0x8000_0000,
            context: 7,
        },
        system: registers([SystemRegisterId::SCTLR_EL1.0, 0xc001 | 7 << 11]),
        ..VcpuArm64::default()
    };
    let json = serde_json::to_value(&vcpu).unwrap();
    assert_eq!(json["power"]["state"], "on_pending");
    assert_eq!(json["power"]["entry"], "0x80000000");
    assert_eq!(json["system"][0]["id"], "SCTLR_EL1");
    assert_eq!(json["system"][1]["id"], "S3_7_C0_C0_1");
    assert_eq!(json["simd"]["v"][0], "0x0");
}
