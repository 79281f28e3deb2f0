use super::*;
use crate::error::{DecodeError, ErrorKind};
use crate::limits;
use crate::section::{SectionPayload, StatePayload};

/// A vCPU of a usual size.
fn vcpu() -> VcpuX86 {
    VcpuX86 {
        cpuid: vec![CpuidEntry::default(); 60],
        msrs: (0..120)
            .map(|index| Msr {
                index,
                value: 1 << 40 | u64::from(index),
            })
            .collect(),
        xsave: (0..2696_u32).map(|n| n.to_le_bytes()[0]).collect(),
        lapic: vec![7; 1024],
        ..VcpuX86::default()
    }
}

fn refused<T: StatePayload>(value: &T) -> ErrorKind {
    let decoded = T::decode(T::VERSION, &value.encode());
    decoded.map(|_| ()).unwrap_err().kind()
}

// spec: STA-02
#[test]
fn a_payload_of_an_unknown_version_is_refused() {
    fn check<T: StatePayload + Default>() {
        for version in [0, T::VERSION + 1, u16::MAX] {
            let decoded = T::decode(version, &T::default().encode()).map(|_| ());
            let Err(DecodeError::Version { found, reads, .. }) = decoded else {
                unreachable!("version {version} gave {decoded:?}");
            };
            assert_eq!((found, reads), (version, T::VERSION));
        }
    }
    check::<VcpuX86>();
    check::<VmX86>();
    check::<VcpuArm64>();
    check::<VmArm64>();
    check::<GicV3>();
    check::<GicV2>();
    check::<GicBlob>();
    check::<DeviceState>();
    check::<Fingerprint>();
}

// spec: STA-03
#[test]
fn every_list_of_a_vcpu_has_a_cap() {
    let mut over = vec![vcpu(); 6];
    over[0].cpuid = vec![CpuidEntry::default(); limits::MAX_CPUID_ENTRIES + 1];
    over[1].msrs = vec![Msr::default(); limits::MAX_MSRS + 1];
    over[2].xcrs = vec![Xcr::default(); limits::MAX_XCRS + 1];
    over[3].xsave = vec![0; limits::MAX_XSAVE_BYTES + 1];
    over[4].lapic = vec![0; limits::MAX_LAPIC_BYTES + 1];
    over[5].nested = vec![0; limits::MAX_NESTED_BYTES + 1];
    for (number, vcpu) in over.iter().enumerate() {
        assert_eq!(refused(vcpu), ErrorKind::Limit, "case {number}");
    }
}

// spec: STA-03
#[test]
fn a_vcpu_with_every_list_at_its_cap_is_read() {
    let full = VcpuX86 {
        xcrs: vec![Xcr::default(); limits::MAX_XCRS],
        cpuid: vec![CpuidEntry::default(); limits::MAX_CPUID_ENTRIES],
        msrs: (0..4096)
            .map(|n| Msr {
                index: n,
                value: u64::MAX - u64::from(n),
            })
            .collect(),
        xsave: vec![0xa5; limits::MAX_XSAVE_BYTES],
        lapic: vec![0xa5; limits::MAX_LAPIC_BYTES],
        nested: vec![0xa5; limits::MAX_NESTED_BYTES],
        ..VcpuX86::default()
    };
    let bytes = full.encode();
    assert_eq!(VcpuX86::decode(VcpuX86::VERSION, &bytes), Ok(full));
}

// spec: STA-03
#[test]
fn the_routes_of_a_machine_have_a_cap() {
    let machine = |routes: u32| VmX86 {
        routes: Some(
            (0..routes)
                .map(|gsi| GsiRoute::to_chip(gsi, !0, !0))
                .collect(),
        ),
        ..VmX86::default()
    };
    let cap = u32::try_from(limits::MAX_GSI_ROUTES).unwrap();
    let full = machine(cap);
    assert_eq!(VmX86::decode(VmX86::VERSION, &full.encode()), Ok(full));
    assert_eq!(refused(&machine(cap + 1)), ErrorKind::Limit);
}

// spec: STA-03
#[test]
fn devices_and_fingerprints_have_caps() {
    let device = |kind: usize, bytes: usize| DeviceState {
        kind: "x".repeat(kind),
        bytes: vec![1; bytes],
        ..DeviceState::default()
    };
    let (kind, bytes) = (limits::MAX_DEVICE_KIND_BYTES, limits::MAX_DEVICE_BYTES);
    let full = device(kind, bytes);
    assert_eq!(DeviceState::decode(1, &full.encode()), Ok(full));
    assert_eq!(refused(&device(kind + 1, 0)), ErrorKind::Limit);
    assert_eq!(refused(&device(0, bytes + 1)), ErrorKind::Limit);
    let long = "x".repeat(limits::MAX_HOST_TEXT_BYTES + 1);
    for over in [
        Fingerprint {
            vendor: long.clone(),
            ..Fingerprint::default()
        },
        Fingerprint {
            kernel: long,
            ..Fingerprint::default()
        },
        Fingerprint {
            msrs: vec![0; limits::MAX_MSRS + 1],
            ..Fingerprint::default()
        },
        Fingerprint {
            capabilities: vec![Capability::default(); limits::MAX_CAPABILITIES + 1],
            ..Fingerprint::default()
        },
        Fingerprint {
            cpuid: vec![CpuidEntry::default(); limits::MAX_CPUID_ENTRIES + 1],
            ..Fingerprint::default()
        },
        Fingerprint {
            arm64: Some(FingerprintArm64 {
                id_registers: vec![SystemRegister::default(); limits::MAX_ID_REGISTERS + 1],
                ..FingerprintArm64::default()
            }),
            ..Fingerprint::default()
        },
    ] {
        assert_eq!(refused(&over), ErrorKind::Limit);
    }
}

// spec: STA-03
#[test]
fn a_payload_above_its_cap_is_not_even_decoded() {
    let bytes = vec![0; limits::MAX_VCPU_BYTES + 1];
    for version in 1..=VcpuX86::VERSION {
        let refused = VcpuX86::decode(version, &bytes).map(|_| ()).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Limit);
    }
}

#[test]
fn a_payload_cut_anywhere_is_refused() {
    let bytes = vcpu().encode();
    for len in (0..bytes.len()).step_by(7) {
        assert!(
            VcpuX86::decode(VcpuX86::VERSION, &bytes[..len]).is_err(),
            "{len} bytes were accepted"
        );
    }
}

#[test]
fn bytes_that_are_no_payload_are_refused_or_read_and_never_panic() {
    let mut state = 1_u64;
    for len in 0..600 {
        let bytes: Vec<u8> = (0..len)
            .map(|_| {
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1);
                state.to_le_bytes()[7]
            })
            .collect();
        for section in [
            SectionPayload::of(0, &VcpuX86::default()),
            SectionPayload::of(0, &VmX86::default()),
            SectionPayload::of(0, &DeviceState::default()),
            SectionPayload::of(0, &Fingerprint::default()),
        ] {
            let section = SectionPayload {
                bytes: bytes.clone(),
                ..section
            };
            let _ = section.value::<VcpuX86>();
            let _ = section.value::<VmX86>();
            let _ = section.value::<DeviceState>();
            let _ = section.value::<Fingerprint>();
        }
    }
}

#[test]
fn a_vcpu_reads_well_as_json() {
    let mut vcpu = vcpu();
    vcpu.registers.rax = u64::MAX;
    vcpu.lapic = vec![0xab, 0x01];
    let json = serde_json::to_value(&vcpu).unwrap();
    assert_eq!(json["registers"]["rax"], "0xffffffffffffffff");
    assert_eq!(json["lapic"], "ab01");
    assert_eq!(json["msrs"][0]["value"], "0x10000000000");
}
