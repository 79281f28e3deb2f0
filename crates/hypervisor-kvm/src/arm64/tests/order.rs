//! The order of requests.

use super::*;

fn expect(made: &[String], expected: &[&str]) {
    let made: Vec<&str> = made.iter().map(String::as_str).collect();
    assert_eq!(made, expected);
}

// spec: KVA-02
#[test]
fn a_vcpu_is_read_with_its_run_state_first_and_its_events_last() {
    let (kernel, mut machine) = source(V3, true);
    machine.capture_vcpu(0, &fake_paused()).unwrap();
    let made = kernel.made();
    let of_vcpu: Vec<String> = made.into_iter().filter(|c| c.starts_with("0:")).collect();
    expect(
        &of_vcpu,
        &[
            "0: KVM_GET_MP_STATE",
            "0: KVM_GET_REG_LIST",
            "0: get core",
            "0: get vector lengths",
            "0: get sve",
            "0: get fp",
            "0: get cache",
            "0: get system",
            "0: get MPIDR_EL1",
            "0: get feature",
            "0: get system",
            "0: get firmware",
            "0: get virtual count",
            "0: get physical count",
            "0: get virtual control",
            "0: get virtual compare",
            "0: get physical control",
            "0: get physical compare",
            "0: get attribute 0/0",
            "0: get attribute 2/0",
            "0: KVM_GET_VCPU_EVENTS",
        ],
    );
}

// spec: KVA-10
#[test]
fn tables_go_to_memory_before_the_controller_is_read() {
    let (kernel, mut machine) = source(V3, false);
    let paused = fake_paused();
    for vcpu in 0..2 {
        machine.capture_vcpu(vcpu, &paused).unwrap();
    }
    kernel.forget();
    machine.capture_vm(&paused).unwrap();
    let made = kernel.made();
    let begin = ["gic: get save pending", "its0: get save tables"];
    let begin = begin.map(|call| call.replace("get", "set"));
    let of_devices: Vec<&String> = made.iter().filter(|c| !c.starts_with("0:")).collect();
    assert_eq!(of_devices[..2], begin.iter().collect::<Vec<_>>());
    let at = |call: &str| made.iter().rposition(|made| made == call).unwrap();
    assert!(at("gic: get GICD_IPRIORITYR") < at("gic: get GICR_CTLR"));
    assert!(at("gic: get GICR_IPRIORITYR") < at("gic: get lines from 32"));
    assert!(at("gic: get lines from 32") < at("its0: get GITS_CTLR"));
}

// spec: KVA-03
// spec: KVA-04
// spec: KVA-05
// spec: KVA-06
#[test]
fn every_vcpu_is_made_before_the_controller_and_the_counter() {
    let saved = Saved::of(V3, true);
    let target = fresh(Host::default(), V3);
    let mut machine = machine(&target, V3);
    let taken = machine.take(&mut saved.offers(), ClockPolicy::Frozen);
    assert_eq!(taken.unwrap(), []);
    target.forget();
    machine.prepare().unwrap();
    let made_of = |vcpu: u32| {
        [
            "KVM_ARM_VCPU_INIT",
            "set vector lengths",
            "KVM_ARM_VCPU_FINALIZE",
            "get firmware",
            "get feature",
        ]
        .map(|call| format!("{vcpu}: {call}"))
    };
    let mut expected = [made_of(0), made_of(1)].concat();
    for call in [
        "0: get MPIDR_EL1",
        "1: get MPIDR_EL1",
        "gic: set init",
        "its0: set init",
        "0: set virtual count",
        "0: set physical count",
    ] {
        expected.push(call.to_owned());
    }
    assert_eq!(target.made(), expected);
}

// spec: KVA-07
#[test]
fn a_vcpu_is_written_registers_before_timers_before_events_before_its_run_state() {
    for has_sve in [true, false] {
        let saved = Saved::of(V3, has_sve);
        let target = fresh(Host::default(), V3);
        let mut machine = machine(&target, V3);
        let taken = machine.take(&mut saved.offers(), ClockPolicy::Frozen);
        assert_eq!(taken.unwrap(), []);
        machine.prepare().unwrap();
        target.forget();
        machine.restore_vcpu(1).unwrap();
        let vectors = if has_sve { "1: set sve" } else { "1: set v" };
        let mut made = target.made();
        // Registers of the CPU are read, and as they are the same not written.
        made.retain(|call| call != "1: get system");
        made.dedup();
        expect(
            &made,
            &[
                "1: set core",
                vectors,
                "1: set fp",
                "1: set system",
                "1: get cache",
                "1: set virtual compare",
                "1: set virtual control",
                "1: set physical compare",
                "1: set physical control",
                "1: set attribute 0/0",
                "1: set attribute 0/1",
                "1: KVM_SET_VCPU_EVENTS",
                "1: KVM_SET_MP_STATE",
                "1: set attribute 2/0",
            ],
        );
    }
}

// spec: KVA-11
// spec: KVA-12
// spec: KVA-13
// spec: KVA-14
#[test]
fn a_gicv3_is_written_in_the_one_order_that_the_kernel_takes() {
    let saved = Saved::of(V3, false);
    let target = fresh(Host::default(), V3);
    let mut machine = machine(&target, V3);
    let taken = machine.take(&mut saved.offers(), ClockPolicy::Frozen);
    assert_eq!(taken.unwrap(), []);
    machine.prepare().unwrap();
    target.forget();
    machine.restore_vm().unwrap();
    let redistributor = [
        "STATUSR",
        "WAKER",
        "PROPBASER",
        "PENDBASER",
        "CTLR",
        "ICENABLER",
        "ISENABLER",
        "IGROUPR",
        "ICFGR",
        "ICPENDR",
        "ISPENDR",
        "ICACTIVER",
        "ISACTIVER",
        "IPRIORITYR",
    ];
    let redistributor = redistributor.map(|name| format!("gic: set GICR_{name}"));
    let distributor = [
        "IIDR",
        "CTLR",
        "STATUSR",
        "ICENABLER",
        "ISENABLER",
        "IGROUPR",
        "IROUTER",
        "ICFGR",
        "ICPENDR",
        "ISPENDR",
        "ICACTIVER",
        "ISACTIVER",
        "IPRIORITYR",
    ];
    let mut expected: Vec<String> = Vec::new();
    expected.extend(distributor.map(|name| format!("gic: set GICD_{name}")));
    expected.extend(redistributor.clone());
    expected.extend(redistributor);
    let icc = [
        "SRE", "CTLR", "IGRPEN0", "IGRPEN1", "PMR", "BPR0", "BPR1", "AP0R0", "AP1R0",
    ];
    for _ in 0..2 {
        expected.extend(icc.map(|name| format!("gic: set ICC_{name}_EL1")));
    }
    expected.extend(["gic: set lines from 0", "gic: set lines from 32"].map(str::to_owned));
    let its = [
        "GITS_CBASER",
        "GITS_CREADR",
        "GITS_CWRITER",
        "GITS_BASER",
        "GITS_IIDR",
    ];
    expected.extend(its.map(|name| format!("its0: set {name}")));
    expected.push("its0: set restore tables".to_owned());
    expected.push("its0: set GITS_CTLR".to_owned());
    assert_eq!(target.made(), expected);
}

// spec: KVA-15
#[test]
fn a_gicv2_has_targets_before_what_is_pending_and_its_interfaces_last() {
    let saved = Saved::of(KernelDevices::GIC_V2, false);
    let target = fresh(Host::default(), KernelDevices::GIC_V2);
    let mut machine = machine(&target, KernelDevices::GIC_V2);
    let taken = machine.take(&mut saved.offers(), ClockPolicy::Frozen);
    assert_eq!(taken.unwrap(), []);
    machine.prepare().unwrap();
    target.forget();
    machine.restore_vm().unwrap();
    let made = target.made();
    assert_eq!(made[..2], ["gic: set GICD_IIDR", "gic: set GICD_CTLR"]);
    let first = |call: &str| made.iter().position(|made| made == call).unwrap();
    assert!(first("gic: set GICD_ITARGETSR") < first("gic: set GICD_ISPENDR"));
    assert!(first("gic: set GICD_CPENDSGIR") < first("gic: set GICD_SPENDSGIR"));
    assert!(first("gic: set GICD_SPENDSGIR") < first("gic: set GICC_0x4"));
    assert_eq!(made.last().unwrap(), "gic: set GICC_0x0");
}

// spec: ARM-07
#[test]
fn the_numbers_of_the_virtual_timer_are_those_of_each_other() {
    use snapshot_format::state::SystemRegisterId as Id;
    assert_eq!(abi::VTIMER_CTL, abi::system(Id::CNTV_CTL_EL0));
    assert_eq!(abi::VTIMER_CVAL, abi::system(Id::CNTVCT_EL0));
    assert_eq!(abi::VTIMER_CNT, abi::system(Id::CNTV_CVAL_EL0));
    assert_eq!(abi::PTIMER_CTL, abi::system(Id::CNTP_CTL_EL0));
    assert_eq!(abi::PTIMER_CVAL, abi::system(Id::CNTP_CVAL_EL0));
    assert_eq!(abi::PTIMER_CNT, abi::system(Id::CNTPCT_EL0));
}
