//! What this host offers, and what a machine on it uses.

use snapshot_format::state::{
    Fingerprint, FingerprintArm64, GicVersion, Hypervisor, SystemRegister, SystemRegisterId as Id,
    VcpuArm64,
};
use snapshot_format::{Arch, limits};

use crate::error::HvfError;
use crate::hv::HostInfo;
use crate::machine::HvfOptions;
use crate::registers;
use crate::save::OnThread;

/// The registers that say what a CPU is, read on the thread of a vCPU.
pub(crate) fn identity(vcpu: OnThread<'_>) -> Result<Vec<SystemRegister>, HvfError> {
    let candidates = registers::EL1.into_iter().chain(registers::WHERE_ANSWERED);
    let mut identity = Vec::new();
    for id in candidates.filter(|id| registers::is_identity(*id)) {
        if let Some(value) = vcpu.get_if_there(registers::place(id))? {
            identity.push(SystemRegister { id, value });
        }
    }
    identity.sort_unstable();
    Ok(identity)
}

/// What the host can show to a guest of a machine that is built as this one is.
pub(crate) fn host(
    host: &HostInfo,
    options: &HvfOptions,
    identity: &[SystemRegister],
    interrupts: u32,
) -> Fingerprint {
    let mut features = 0;
    if host.el2 {
        features |= FingerprintArm64::EL2;
    }
    if options.gic.is_some() {
        features |= FingerprintArm64::MSI_FRAME;
    }
    let mut fingerprint = common(host, options, identity, interrupts);
    if let Some(arm64) = &mut fingerprint.arm64 {
        arm64.features = features;
        arm64.address_bits = u8::try_from(host.max_address_bits).unwrap_or(u8::MAX);
        arm64.sme_lengths = lengths(host.sme_vector_bytes);
    }
    fingerprint
}

/// What a machine needs, as judged by its first vCPU.
pub(crate) fn of_machine(
    host: &HostInfo,
    options: &HvfOptions,
    first: &VcpuArm64,
    interrupts: u32,
) -> Fingerprint {
    let system = first.system.iter();
    let identity: Vec<_> = system
        .filter(|register| registers::is_identity(register.id))
        .copied()
        .collect();
    let mut features = 0;
    if options.el2 {
        features |= FingerprintArm64::EL2;
    }
    if options.gic.is_some_and(|gic| gic.msi.is_some()) {
        features |= FingerprintArm64::MSI_FRAME;
    }
    let mut fingerprint = common(host, options, &identity, interrupts);
    if let Some(arm64) = &mut fingerprint.arm64 {
        arm64.features = features;
        arm64.address_bits = options.address_bits;
        let vector = first.sme.as_ref().map_or(0, |sme| sme.vector_bytes.into());
        arm64.sme_lengths = lengths(vector);
    }
    fingerprint
}

fn common(
    host: &HostInfo,
    options: &HvfOptions,
    identity: &[SystemRegister],
    interrupts: u32,
) -> Fingerprint {
    let midr = identity.iter().find(|register| register.id == Id::MIDR_EL1);
    let midr = midr.map_or(0, |register| register.value);
    let bits = |shift: u32, mask: u64| u32::try_from(midr >> shift & mask).unwrap_or(0);
    let vendor = match bits(24, 0xff) {
        0x41 => "Arm".to_owned(),
        0x61 => "Apple".to_owned(),
        other => format!("{other:#04x}"),
    };
    let is_feature = |register: &&SystemRegister| register.id != Id::MIDR_EL1;
    Fingerprint {
        arch: Arch::Aarch64.number(),
        vendor,
        model: bits(4, 0xfff),
        // Variant and revision.
        stepping: bits(20, 0xf) << 4 | bits(0, 0xf),
        page_bytes: host.page_bytes,
        kernel: host_text(host),
        arm64: Some(FingerprintArm64 {
            hypervisor: Hypervisor::HVF,
            id_registers: identity.iter().filter(is_feature).copied().collect(),
            counter_hz: host.counter_hz,
            gic: if options.gic.is_some() {
                GicVersion::V3
            } else {
                GicVersion::None
            },
            interrupts,
            ..FingerprintArm64::default()
        }),
        ..Fingerprint::default()
    }
}

/// The build of the system and the name of the CPU: `24F74, Apple M3 Pro`.
fn host_text(host: &HostInfo) -> String {
    let mut text = format!("{}, {}", host.os_build, host.cpu_brand);
    let cap = text.floor_char_boundary(limits::MAX_HOST_TEXT_BYTES);
    text.truncate(cap);
    text
}

/// The list with one length of streaming vectors: the framework names the longest only.
fn lengths(vector_bytes: u32) -> [u64; 8] {
    let mut lengths = [0; 8];
    if vector_bytes >= 16
        && let Some(word) = lengths.first_mut()
    {
        *word = 1_u64.checked_shl(vector_bytes / 16 - 1).unwrap_or(0);
    }
    lengths
}
