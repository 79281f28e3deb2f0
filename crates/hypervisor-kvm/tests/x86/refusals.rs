//! What this host refuses is said before the machine is touched.

use hypervisor_bridge::ClockPolicy;
use hypervisor_kvm::{KernelDevices, KvmOptions, MsrPolicy, Rehearsal};
use snapshot_format::state::{Msr, Reason};

use super::machine::{machine, msr, set_msr};

const UNKNOWN: Msr = Msr {
    index: 0xdead_beef,
    value: 1,
};

fn options() -> KvmOptions {
    KvmOptions::new(KernelDevices::ALL)
}

fn refused(vcpu: u32, msr: Msr) -> Reason {
    Reason::Value {
        vcpu,
        what: "MSR",
        number: msr.index.into(),
        value: msr.value,
    }
}

// spec: KVX-17
// spec: KVX-18
#[test]
fn all_that_this_host_refuses_is_said_and_nothing_is_written() {
    let (Some(source), Some(target)) = (machine(4), machine(4)) else {
        return;
    };
    let mut saved = source.save(&options());
    assert_eq!(target.reasons(&saved, &options()), []);
    saved.change(1, |vcpu| vcpu.msrs.insert(0, UNKNOWN));
    saved.change(2, |vcpu| vcpu.xsave.truncate(832));
    saved.change(3, |vcpu| vcpu.xsave[527] = 0x80);
    set_msr(&target.vcpus[0], 0x4b56_4d00, 0x7000);
    let before = target.vcpus[3].get_regs().unwrap();
    let reasons = target.reasons(&saved, &options());
    assert_eq!(reasons.len(), 3, "{reasons:?}");
    assert!(reasons.contains(&refused(1, UNKNOWN)), "{reasons:?}");
    assert_eq!(target.vcpus[3].get_regs().unwrap(), before);
    assert_eq!(msr(&target.vcpus[0], 0x4b56_4d00), Some(0x7000));
}

// spec: KVX-18
#[test]
fn a_value_that_no_host_takes_is_found_by_a_full_rehearsal() {
    let (Some(source), Some(target)) = (machine(1), machine(1)) else {
        return;
    };
    let mut saved = source.save(&options());
    // The entry of system calls, at an address that is not canonical.
    let entry = Msr {
        index: 0xc000_0082,
        value: 1 << 63,
    };
    saved.change(0, |vcpu| {
        let saved = vcpu.msrs.iter_mut().find(|msr| msr.index == entry.index);
        saved.unwrap().value = entry.value;
    });
    assert_eq!(target.reasons(&saved, &options()), [refused(0, entry)]);
    // Without one it is found when it is written.
    let mut in_doubt = options();
    in_doubt.rehearsal = Rehearsal::WhenInDoubt;
    assert_eq!(target.reasons(&saved, &in_doubt), []);
    let frozen = ClockPolicy::Frozen;
    let failed = target.restore(&saved, &in_doubt, frozen).unwrap_err();
    assert!(failed.to_string().contains("MSR 0xc0000082"), "{failed}");
}

// spec: KVX-10
#[test]
fn a_register_that_the_caller_can_do_without_is_dropped_and_reported() {
    let (Some(source), Some(target)) = (machine(2), machine(2)) else {
        return;
    };
    let mut saved = source.save(&options());
    saved.change(1, |vcpu| vcpu.msrs.insert(0, UNKNOWN));
    let mut lenient = options();
    lenient.msrs = MsrPolicy::default().drop_refused(UNKNOWN.index);
    let frozen = ClockPolicy::Frozen;
    let report = target.restore(&saved, &lenient, frozen).unwrap();
    let dropped: Vec<_> = (report.dropped_msrs.iter())
        .map(|dropped| (dropped.vcpu, dropped.msr))
        .collect();
    assert_eq!(dropped, [(1, UNKNOWN)]);
}

#[test]
fn a_vcpu_that_was_given_no_features_can_be_read_and_restored() {
    let Some(source) = machine(1) else {
        return;
    };
    // No feature leaf: kernels since 6.13 then refuse registers that they list.
    let none = kvm_bindings::CpuId::new(0).unwrap();
    source.vcpus[0].set_cpuid2(&none).unwrap();
    let saved = source.save(&options());
    assert_eq!(saved.vcpu(0).cpuid, []);
    let target = machine(1).unwrap();
    target
        .restore(&saved, &options(), ClockPolicy::Frozen)
        .unwrap();
}

#[test]
fn a_vcpu_that_ran_with_other_features_is_refused_by_its_first_request() {
    let (Some(source), Some(mut target)) = (machine(1), machine(1)) else {
        return;
    };
    let mut saved = source.save(&options());
    saved.change(0, |vcpu| vcpu.cpuid.truncate(1));
    // hlt, at the address that the vCPU is sent to.
    target.memory.write(0, &[0xe6, 0x10, 0xf4]).unwrap();
    let mut sregs = target.vcpus[0].get_sregs().unwrap();
    (sregs.cs.base, sregs.cs.selector) = (0, 0);
    target.vcpus[0].set_sregs(&sregs).unwrap();
    let mut regs = target.vcpus[0].get_regs().unwrap();
    regs.rip = 0;
    target.vcpus[0].set_regs(&regs).unwrap();
    target.vcpus[0].run().unwrap();
    let frozen = ClockPolicy::Frozen;
    let refused = target.restore(&saved, &options(), frozen).unwrap_err();
    assert_eq!(refused.to_string(), "KVM_SET_CPUID2 of vCPU 0");
}
