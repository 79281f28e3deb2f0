//! Does a snapshot fit the machine? Every reason why not, without touching it.

use snapshot_format::state::{
    GicV2, GicV3, GicV3Config, GicVersion, Reason, SystemRegisterId, VcpuArm64, VmArm64,
};

use super::machine::KernelDevices;
use super::{gicv2, gicv3, save};
use crate::calls::Calls;
use crate::error::KvmError;

/// That vCPUs are numbered from 0 without a gap, each once, that there are as many as the target
/// has, and that the machine has an interrupt controller of the same kind.
pub(super) fn shape(
    numbers: &[u32],
    vm: &VmArm64,
    vcpu_count: usize,
    devices: KernelDevices,
) -> Vec<Reason> {
    let mut pairs = vec![
        ("vCPUs", numbers.len() as u64, vcpu_count as u64),
        ("vCPU sections", vm.vcpu_count.into(), numbers.len() as u64),
        (
            "as version of the interrupt controller",
            version(vm.gic),
            version(devices.gic),
        ),
    ];
    let gap = (0..)
        .zip(numbers)
        .find(|(expected, found)| expected != *found);
    if let Some((expected, found)) = gap {
        let what = "in place of the next vCPU's number";
        pairs.push((what, (*found).into(), expected.into()));
    }
    differing(pairs)
}

fn version(gic: GicVersion) -> u64 {
    match gic {
        GicVersion::V2 => 2,
        GicVersion::V3 => 3,
        _ => 0,
    }
}

fn differing(pairs: Vec<(&'static str, u64, u64)>) -> Vec<Reason> {
    let pairs = pairs.into_iter();
    let differing = pairs.filter(|(_, saved, target)| saved != target);
    differing
        .map(|(what, saved, target)| Reason::Shape {
            what,
            saved,
            target,
        })
        .collect()
}

/// State that KVM has no place for.
pub(super) fn foreign(vcpus: &[VcpuArm64], gic: Option<&GicV3>) -> Vec<Reason> {
    let count = |is: fn(&VcpuArm64) -> bool| vcpus.iter().filter(|vcpu| is(vcpu)).count() as u64;
    let frames = gic.is_some_and(|gic| gic.config.msi.is_some());
    let other = |vcpu: &VcpuArm64| {
        let first = vcpus.first();
        first.is_some_and(|first| first.kvm_init != vcpu.kvm_init)
    };
    differing(vec![
        (
            "vCPUs with scalable matrices",
            count(|vcpu| vcpu.sme.is_some()),
            0,
        ),
        (
            "vCPUs whose IRQ or FIQ line is asserted",
            count(|vcpu| vcpu.pending.irq || vcpu.pending.fiq),
            0,
        ),
        (
            "vCPUs with vectors, but not the feature",
            count(|vcpu| vcpu.sve.is_some() != has_vectors(vcpu)),
            0,
        ),
        (
            "vCPUs made otherwise than the first",
            vcpus.iter().filter(|vcpu| other(vcpu)).count() as u64,
            0,
        ),
        ("message frames", frames.into(), 0),
    ])
}

fn has_vectors(vcpu: &VcpuArm64) -> bool {
    let init = vcpu.kvm_init.unwrap_or_default();
    super::interface::has_feature(&init, super::abi::VCPU_SVE)
}

/// That each vCPU has the affinity that it was saved with. One that was not made yet is left to
/// when it is.
pub(super) fn affinities(
    calls: &mut (dyn Calls + '_),
    vcpus: &[VcpuArm64],
    vcpu_count: usize,
) -> Result<Vec<Reason>, KvmError> {
    let mut reasons = Vec::new();
    for (index, vcpu) in vcpus.iter().enumerate().take(vcpu_count) {
        let target = save::affinity(calls, index)?;
        if target.is_some_and(|target| target != vcpu.mpidr) {
            reasons.push(Reason::Value {
                vcpu: vcpu.id,
                what: "system register",
                number: SystemRegisterId::MPIDR_EL1.0.into(),
                value: vcpu.mpidr,
            });
        }
    }
    Ok(reasons)
}

/// That a GICv3 is the target's: addresses, interrupts, services, and a redistributor a vCPU.
pub(super) fn gic_v3(
    calls: &mut (dyn Calls + '_),
    saved: &GicV3,
    vcpus: &[VcpuArm64],
    its_count: usize,
) -> Result<Vec<Reason>, KvmError> {
    let target = gicv3::config(calls)?;
    let of_vcpus = saved
        .redistributors
        .iter()
        .zip(vcpus)
        .filter(|(redistributor, vcpu)| redistributor.mpidr == vcpu.mpidr);
    let matched = of_vcpus.count();
    let mut pairs = vec![
        (
            "redistributors of its vCPUs",
            matched as u64,
            vcpus.len() as u64,
        ),
        (
            "redistributors",
            saved.redistributors.len() as u64,
            vcpus.len() as u64,
        ),
        (
            "translation services",
            saved.its.len() as u64,
            its_count as u64,
        ),
    ];
    pairs.extend(config_pairs(&saved.config, &target));
    for (n, its) in saved.its.iter().enumerate().take(its_count) {
        let base = super::gic::get(
            calls,
            super::gic::its(n),
            super::abi::GIC_ADDR,
            super::abi::ADDR_ITS,
        )?;
        pairs.push(("as address of a translation service", its.base, base));
    }
    Ok(differing(pairs))
}

fn config_pairs(saved: &GicV3Config, target: &GicV3Config) -> Vec<(&'static str, u64, u64)> {
    let mut pairs = vec![
        (
            "interrupts",
            saved.interrupts.into(),
            target.interrupts.into(),
        ),
        (
            "as address of the distributor",
            saved.distributor_base,
            target.distributor_base,
        ),
        (
            "regions of redistributors",
            saved.redistributors.len() as u64,
            target.redistributors.len() as u64,
        ),
    ];
    for (saved, target) in saved.redistributors.iter().zip(&target.redistributors) {
        pairs.push(("as address of redistributors", saved.base, target.base));
        let (saved, target) = (saved.count.into(), target.count.into());
        pairs.push(("redistributors in a region", saved, target));
    }
    pairs
}

/// The same of a GICv2.
pub(super) fn gic_v2(
    calls: &mut (dyn Calls + '_),
    saved: &GicV2,
    vcpu_count: usize,
) -> Result<Vec<Reason>, KvmError> {
    let target = gicv2::config(calls)?;
    let banks = saved.banked.iter().chain(&saved.interfaces);
    let beyond = banks
        .filter(|register| usize::try_from(register.vcpu).map_or(true, |vcpu| vcpu >= vcpu_count));
    Ok(differing(vec![
        (
            "interrupts",
            saved.interrupts.into(),
            target.interrupts.into(),
        ),
        (
            "as address of the distributor",
            saved.distributor_base,
            target.distributor_base,
        ),
        (
            "as address of the CPU interfaces",
            saved.interface_base,
            target.interface_base,
        ),
        ("registers of other vCPUs", beyond.count() as u64, 0),
    ]))
}
