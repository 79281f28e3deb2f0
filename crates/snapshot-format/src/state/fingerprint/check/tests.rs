use super::*;
use crate::state::Capability;
use crate::state::ReasonKind;

fn host() -> Fingerprint {
    Fingerprint {
        arch: 1,
        vendor: "AuthenticAMD".into(),
        family: 26,
        model: 2,
        stepping: 1,
        page_bytes: 4096,
        tsc_khz: 2_600_000,
        tsc_scaling: 0,
        cpuid: vec![CpuidEntry {
            function: 1,
            ecx: 1 << 20,
            edx: 1 << 25,
            ..CpuidEntry::default()
        }],
        msrs: vec![0x10, 0x277],
        capabilities: vec![Capability {
            number: 208,
            value: 2696,
        }],
        kernel: "6.18".into(),
        arm64: None,
    }
}

// spec: STA-10
#[test]
fn a_host_can_run_what_it_saved() {
    assert_eq!(host().check(&host()), []);
}

// spec: STA-10
#[test]
fn a_foreign_host_is_refused_with_every_reason_at_once() {
    let mut saved = host();
    saved.vendor = "GenuineIntel".into();
    saved.page_bytes = 16384;
    saved.tsc_khz = 2_000_000;
    saved.cpuid[0].ecx |= 1 << 28;
    saved.msrs.push(0x4b56_4d08);
    saved.capabilities.push(Capability {
        number: 143,
        value: 1,
    });
    let kinds: Vec<_> = saved.check(&host()).iter().map(Reason::kind).collect();
    assert_eq!(
        kinds,
        [
            ReasonKind::PageSize,
            ReasonKind::Vendor,
            ReasonKind::TscFrequency,
            ReasonKind::Cpuid,
            ReasonKind::Msr,
            ReasonKind::Capability,
        ]
    );
}

// spec: STA-10
#[test]
fn another_architecture_is_the_only_reason_given() {
    let mut saved = host();
    saved.arch = 2;
    saved.vendor = "Arm".into();
    assert_eq!(
        saved.check(&host()),
        [Reason::Architecture { saved: 2, host: 1 }]
    );
}

// spec: STA-11
#[test]
fn a_tsc_within_the_tolerance_or_a_host_that_scales_is_no_reason() {
    let mut saved = host();
    saved.tsc_khz = 2_600_000 + 640;
    assert_eq!(saved.check(&host()), []);
    saved.tsc_khz = 2_600_000 + 660;
    assert_eq!(saved.check(&host()).len(), 1);
    let mut scaling = host();
    scaling.tsc_scaling = 1;
    assert_eq!(saved.check(&scaling), []);
}

// spec: STA-12
#[test]
fn bits_that_follow_control_registers_are_no_features() {
    let mut saved = host();
    saved.cpuid[0].ecx |= LEAF_1_ECX;
    saved.cpuid[0].edx |= LEAF_1_EDX;
    assert_eq!(saved.check(&host()), []);
}

// spec: STA-10
#[test]
fn another_model_and_a_capability_answered_with_zero_are_reasons() {
    let mut other = host();
    other.model = 17;
    other.stepping = 0;
    other.capabilities[0].value = 0;
    let kinds: Vec<_> = host().check(&other).iter().map(Reason::kind).collect();
    assert_eq!(kinds, [ReasonKind::Model, ReasonKind::Capability]);
}

// spec: RES-14
#[test]
fn one_changed_field_gives_its_reason_and_no_other() {
    type Change = fn(&mut Fingerprint);
    let changes: [(Change, ReasonKind); 9] = [
        (|f| f.arch = 2, ReasonKind::Architecture),
        (|f| f.vendor = "GenuineIntel".into(), ReasonKind::Vendor),
        (|f| f.family = 25, ReasonKind::Model),
        (|f| f.model = 1, ReasonKind::Model),
        (|f| f.page_bytes = 65536, ReasonKind::PageSize),
        (|f| f.tsc_khz = 2_000_000, ReasonKind::TscFrequency),
        (|f| f.cpuid[0].edx = 0, ReasonKind::Cpuid),
        (|f| f.msrs.truncate(1), ReasonKind::Msr),
        (|f| f.capabilities[0].value = 0, ReasonKind::Capability),
    ];
    for (number, (change, kind)) in changes.into_iter().enumerate() {
        let mut other = host();
        change(&mut other);
        let reasons = host().check(&other);
        let kinds: Vec<_> = reasons.iter().map(Reason::kind).collect();
        assert_eq!(kinds, [kind], "change {number}: {reasons:?}");
    }
    // What says nothing about running there is no reason.
    let informational: [Change; 3] = [
        |f| f.stepping = 9,
        |f| f.kernel = "5.10".into(),
        |f| f.tsc_scaling = 1,
    ];
    for change in informational {
        let mut other = host();
        change(&mut other);
        assert_eq!(host().check(&other), []);
    }
}

// spec: RES-15
#[test]
fn kinds_are_named_as_they_are_read() {
    for &kind in ReasonKind::ALL {
        assert_eq!(kind.name().parse(), Ok(kind));
        assert_eq!(serde_json::to_value(kind).unwrap(), kind.name());
    }
    let unknown = "colour".parse::<ReasonKind>().unwrap_err();
    assert!(unknown.to_string().contains("tsc_frequency"), "{unknown}");
}

// spec: STA-13
#[test]
fn bits_that_the_saving_host_does_not_list_itself_are_not_asked_of_another() {
    let mut saved = host();
    saved.cpuid[0].ecx |= 1 << 28;
    assert_eq!(saved.check(&host()).len(), 1);
    let limited = saved.limited_to(&host().cpuid);
    assert_eq!(limited.check(&host()), []);
    // What it does list is still asked for.
    let mut lesser = host();
    lesser.cpuid[0].ecx = 0;
    assert_eq!(limited.check(&lesser).len(), 1);
}
