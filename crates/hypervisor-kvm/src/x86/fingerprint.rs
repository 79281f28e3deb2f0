//! What this host offers, and what a machine on it uses.

use kvm_bindings as kvm;
use snapshot_format::Arch;
use snapshot_format::state::{Capability, CpuidEntry, Fingerprint, VcpuX86};

use crate::calls::{Arg, Calls, Target};
use crate::error::KvmError;
use crate::host::{kernel_release, page_bytes};
use crate::request as req;
use crate::x86::interface::Interface;
use crate::x86::nested;
use crate::x86::options::KvmOptions;
use crate::x86::vm::Irqchip;

/// Extensions that the layout or the meaning of saved state depends on.
const CAPABILITIES: [u32; 18] = [
    kvm::KVM_CAP_IRQCHIP,
    kvm::KVM_CAP_PIT_STATE2,
    kvm::KVM_CAP_ADJUST_CLOCK,
    kvm::KVM_CAP_VCPU_EVENTS,
    kvm::KVM_CAP_DEBUGREGS,
    kvm::KVM_CAP_XSAVE,
    kvm::KVM_CAP_XCRS,
    kvm::KVM_CAP_IRQ_ROUTING,
    kvm::KVM_CAP_X86_SMM,
    kvm::KVM_CAP_SPLIT_IRQCHIP,
    kvm::KVM_CAP_GET_TSC_KHZ,
    kvm::KVM_CAP_VCPU_ATTRIBUTES,
    kvm::KVM_CAP_IMMEDIATE_EXIT,
    kvm::KVM_CAP_NESTED_STATE,
    kvm::KVM_CAP_EXCEPTION_PAYLOAD,
    kvm::KVM_CAP_SREGS2,
    kvm::KVM_CAP_XSAVE2,
    kvm::KVM_CAP_X86_TRIPLE_FAULT_EVENT,
];

/// What the host can show to a guest.
pub(super) fn host(
    calls: &mut (dyn Calls + '_),
    interface: &Interface,
) -> Result<Fingerprint, KvmError> {
    let khz = host_tsc_khz(calls)?;
    let mut fingerprint = of_cpu(&interface.cpuid);
    fingerprint.cpuid.clone_from(&interface.cpuid);
    fingerprint.tsc_khz = khz;
    fingerprint.tsc_scaling = u8::from(interface.tsc_control);
    fingerprint.msrs.clone_from(&interface.msrs);
    fingerprint.msrs.sort_unstable();
    fingerprint.capabilities.clone_from(&interface.capabilities);
    Ok(fingerprint)
}

/// What a machine needs, judged by its first vCPU and by the host it is on. The other vCPUs are
/// added one by one.
pub(super) fn of_machine(
    interface: &Interface,
    options: &KvmOptions,
    vcpu: &VcpuX86,
) -> Fingerprint {
    let mut fingerprint = of_cpu(&vcpu.cpuid);
    // The first vCPU's answers for all: they differ in the topology alone.
    fingerprint.cpuid.clone_from(&vcpu.cpuid);
    fingerprint.tsc_khz = vcpu.tsc_khz;
    let mut fingerprint = fingerprint.limited_to(&interface.cpuid);
    fingerprint.capabilities.clone_from(&interface.capabilities);
    let in_use = |number| match number {
        kvm::KVM_CAP_IRQCHIP => options.devices.irqchip == Irqchip::Kernel,
        kvm::KVM_CAP_SPLIT_IRQCHIP => options.devices.split_lines().is_some(),
        kvm::KVM_CAP_PIT_STATE2 => options.devices.pit,
        kvm::KVM_CAP_IRQ_ROUTING => options.routes.is_some(),
        // Each vCPU says whether it uses these.
        _ => !BY_VCPU.contains(&number),
    };
    fingerprint.capabilities.retain(|c| in_use(c.number));
    add_vcpu(&mut fingerprint, interface, vcpu);
    fingerprint
}

/// Extensions that matter only to a vCPU whose state they are part of.
const BY_VCPU: [u32; 4] = [
    kvm::KVM_CAP_NESTED_STATE,
    kvm::KVM_CAP_X86_SMM,
    kvm::KVM_CAP_EXCEPTION_PAYLOAD,
    kvm::KVM_CAP_X86_TRIPLE_FAULT_EVENT,
];

/// Adds what another vCPU needs.
pub(super) fn add_vcpu(fingerprint: &mut Fingerprint, interface: &Interface, vcpu: &VcpuX86) {
    let used = vcpu.msrs.iter().filter(|msr| msr.value != 0);
    fingerprint.msrs.extend(used.map(|msr| msr.index));
    fingerprint.msrs.sort_unstable();
    fingerprint.msrs.dedup();
    let events = &vcpu.events;
    let smm = events.smi.smm | events.smi.pending | events.smi.smm_inside_nmi;
    let flag = |flag| events.flags & flag != 0;
    let uses = [
        (kvm::KVM_CAP_NESTED_STATE, nested::is_in_use(&vcpu.nested)),
        (kvm::KVM_CAP_X86_SMM, smm != 0),
        (
            kvm::KVM_CAP_EXCEPTION_PAYLOAD,
            flag(kvm::KVM_VCPUEVENT_VALID_PAYLOAD),
        ),
        (
            kvm::KVM_CAP_X86_TRIPLE_FAULT_EVENT,
            flag(kvm::KVM_VCPUEVENT_VALID_TRIPLE_FAULT),
        ),
    ];
    let used = uses
        .iter()
        .filter(|(_, used)| *used)
        .map(|(number, _)| number);
    for &number in used {
        let is_it = |c: &&Capability| c.number == number;
        let known = fingerprint.capabilities.iter().any(|c| c.number == number);
        let offered = interface.capabilities.iter().find(is_it);
        fingerprint
            .capabilities
            .extend(offered.filter(|_| !known).copied());
    }
    fingerprint.capabilities.sort_unstable_by_key(|c| c.number);
}

/// The frequency of a vCPU that was not configured: the host's. 0 where the kernel does not say.
fn host_tsc_khz(calls: &mut (dyn Calls + '_)) -> Result<u32, KvmError> {
    if calls.extension(kvm::KVM_CAP_GET_TSC_KHZ)? == 0 {
        return Ok(0);
    }
    let khz = calls.make(Target::Vcpu(0), req::KVM_GET_TSC_KHZ, Arg::Value(0))?;
    Ok(u32::try_from(khz).unwrap_or(0))
}

/// What the host answers for each of them, sorted by number.
pub(super) fn capabilities(calls: &mut (dyn Calls + '_)) -> Result<Vec<Capability>, KvmError> {
    let mut found = Vec::with_capacity(CAPABILITIES.len());
    for number in CAPABILITIES {
        let value = u32::try_from(calls.extension(number)?).unwrap_or(u32::MAX);
        found.push(Capability { number, value });
    }
    found.sort_unstable_by_key(|capability| capability.number);
    Ok(found)
}

/// Vendor, family, model and stepping out of CPUID, and what is the same for every machine here.
fn of_cpu(cpuid: &[CpuidEntry]) -> Fingerprint {
    let leaf = |function| {
        let entry = cpuid.iter().find(|entry| entry.function == function);
        entry.copied().unwrap_or_default()
    };
    let (names, version) = (leaf(0), leaf(1).eax);
    let vendor: Vec<u8> = [names.ebx, names.edx, names.ecx]
        .iter()
        .flat_map(|word| word.to_le_bytes())
        .collect();
    let base_family = version >> 8 & 0xf;
    let extended_family = if base_family == 0xf {
        version >> 20 & 0xff
    } else {
        0
    };
    let has_extended_model = matches!(base_family, 6 | 0xf);
    let extended_model = if has_extended_model {
        version >> 16 & 0xf
    } else {
        0
    };
    Fingerprint {
        arch: Arch::X86_64.number(),
        vendor: String::from_utf8_lossy(&vendor)
            .trim_end_matches('\0')
            .to_owned(),
        family: base_family + extended_family,
        model: extended_model << 4 | version >> 4 & 0xf,
        stepping: version & 0xf,
        page_bytes: page_bytes(),
        kernel: kernel_release(),
        ..Fingerprint::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn family_and_model_take_in_their_extended_parts() {
        let cpu = |function, eax, text: &[u8; 12]| CpuidEntry {
            function,
            eax,
            ebx: u32::from_le_bytes(text[0..4].try_into().unwrap()),
            edx: u32::from_le_bytes(text[4..8].try_into().unwrap()),
            ecx: u32::from_le_bytes(text[8..12].try_into().unwrap()),
            ..CpuidEntry::default()
        };
        let amd = of_cpu(&[cpu(0, 0x10, b"AuthenticAMD"), cpu(1, 0x00b0_0f21, &[0; 12])]);
        assert_eq!(
            (amd.vendor.as_str(), amd.family, amd.model, amd.stepping),
            ("AuthenticAMD", 26, 2, 1)
        );
        let intel = of_cpu(&[cpu(0, 0x16, b"GenuineIntel"), cpu(1, 0x0005_0657, &[0; 12])]);
        assert_eq!((intel.family, intel.model, intel.stepping), (6, 0x55, 7));
    }
}
