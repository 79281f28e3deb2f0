//! Model-specific registers: which are saved, and in which order they are written back.

use kvm_bindings as kvm;
use snapshot_format::limits;
use snapshot_format::state::Msr;

use crate::calls::{Arg, Calls, Target};
use crate::error::KvmError;
use crate::lists::{decode_list, encode_list};
use crate::request::{KVM_GET_MSR_INDEX_LIST, KVM_GET_MSRS, KVM_SET_MSRS};
use crate::x86::convert::{from_msr, to_msr};

pub(super) const TSC: u32 = 0x10;
pub(super) const MCG_CAP: u32 = 0x179;
pub(super) const TSC_DEADLINE: u32 = 0x6e0;
const MTRR_CAP: u32 = 0xfe;
const PERF_GLOBAL_CTRL: u32 = 0x38f;
const AMD_PERF_GLOBAL_CTRL: u32 = 0xc000_0301;
const PRED_CMD: u32 = 0x49;
const FLUSH_CMD: u32 = 0x10b;

/// Registers that the kernel's list leaves out on some hosts, and that a guest may hold a value
/// in: they are always asked for, and skipped where the kernel has none.
const ALWAYS_ASKED: [(u32, u32); 22] = [
    (TSC, TSC),
    (0x3a, 0x3b), // FEATURE_CONTROL, TSC_ADJUST
    (0x48, 0x48), // SPEC_CTRL
    (MTRR_CAP, MTRR_CAP),
    (0x122, 0x122),   // TSX_CTRL
    (0x174, 0x176),   // SYSENTER_CS, ESP, EIP
    (MCG_CAP, 0x17b), // machine checks: capabilities, status, control
    (0x1a0, 0x1a0),   // MISC_ENABLE
    (0x1c4, 0x1c5),   // XFD, XFD_ERR
    (0x250, 0x250),   // fixed MTRR of 64 KiB
    (0x258, 0x259),   // fixed MTRRs of 16 KiB
    (0x268, 0x26f),   // fixed MTRRs of 4 KiB
    (0x277, 0x277),   // PAT
    (0x2ff, 0x2ff),   // MTRR default type
    (0x4d0, 0x4d0),   // extended machine check control
    (0x6a0, 0x6a8),   // shadow stacks and branch tracking
    (0xda0, 0xda0),   // XSS
    (TSC_DEADLINE, TSC_DEADLINE),
    (0x4b56_4d00, 0x4b56_4d08), // KVM's own: clock, async page faults, steal time, EOI, polling
    (0xc000_0081, 0xc000_0084), // STAR, LSTAR, CSTAR, FMASK
    (0xc000_0102, 0xc000_0103), // KERNEL_GS_BASE, TSC_AUX
    (0xc001_011f, 0xc001_011f), // VIRT_SPEC_CTRL
];

/// Registers that are commands: to write a saved value would run one.
const WRITE_ONLY: [u32; 2] = [PRED_CMD, FLUSH_CMD];

/// Registers that say what a vCPU can do: system registers, nested state and XSAVE are judged by
/// them.
const FEATURES: [(u32, u32); 7] = [
    (0x3a, 0x3a),   // FEATURE_CONTROL
    (0x8b, 0x8b),   // microcode revision
    (0xce, 0xce),   // PLATFORM_INFO
    (0x10a, 0x10a), // ARCH_CAPABILITIES
    (0x345, 0x345), // PERF_CAPABILITIES
    (0x480, 0x493), // VMX capabilities
    (0xda0, 0xda0), // XSS
];

/// Entries in one request: the kernel takes at most 256.
const BATCH: usize = 128;

/// Bytes before the entries of `struct kvm_msrs`.
const MSRS_HEADER: usize = 8;

/// Bytes before the entries of `struct kvm_msr_list`.
const MSR_LIST_HEADER: usize = 4;

/// The registers to ask any vCPU for: what the kernel lists, and what is always asked for.
pub(super) fn indices(calls: &mut (dyn Calls + '_)) -> Result<Vec<u32>, KvmError> {
    let mut listed = encode_list::<u32>(MSR_LIST_HEADER, &vec![0; limits::MAX_MSRS]);
    calls.make(
        Target::System,
        KVM_GET_MSR_INDEX_LIST,
        Arg::Bytes(&mut listed),
    )?;
    let mut all: Vec<u32> = decode_list(MSR_LIST_HEADER, &listed);
    all.extend(ALWAYS_ASKED.iter().flat_map(|&(from, to)| from..=to));
    Ok(in_order(all))
}

/// The registers to ask this vCPU for: `indices`, and as many MTRRs and machine check banks as it
/// says that it has.
pub(super) fn indices_of(
    calls: &mut (dyn Calls + '_),
    vcpu: usize,
    indices: &[u32],
) -> Result<Vec<u32>, KvmError> {
    let counts = read(calls, vcpu, &[MTRR_CAP, MCG_CAP])?;
    let mut all = indices.to_vec();
    for Msr { index, value } in counts {
        let count = u32::from(value.to_le_bytes()[0]).min(MAX_COUNTED);
        if index == MTRR_CAP {
            all.extend(0x200..0x200 + 2 * count);
        } else {
            all.extend(0x400..0x400 + 4 * count);
            if value & MCG_CMCI != 0 {
                all.extend(0x280..0x280 + count);
            }
        }
    }
    Ok(in_order(all))
}

/// More MTRRs or banks than any processor has; the kernel's own most is 32.
const MAX_COUNTED: u32 = 32;

/// Bit of `MCG_CAP`: each bank has a threshold register.
const MCG_CMCI: u64 = 1 << 10;

/// Each once, in the order in which they are written back: performance control next to last,
/// because it starts the counters; the TSC deadline last, because it needs TSC and APIC in place.
fn in_order(mut all: Vec<u32>) -> Vec<u32> {
    all.retain(|index| !WRITE_ONLY.contains(index));
    all.sort_unstable_by_key(|&index| match index {
        PERF_GLOBAL_CTRL | AMD_PERF_GLOBAL_CTRL => (1, index),
        TSC_DEADLINE => (2, index),
        _ => (0, index),
    });
    all.dedup();
    all
}

/// Whether the register goes before the system registers.
pub(super) fn is_feature(index: u32) -> bool {
    FEATURES
        .iter()
        .any(|&(from, to)| (from..=to).contains(&index))
}

/// The value of a register among those that were saved.
pub(super) fn value_of(msrs: &[Msr], index: u32) -> Option<u64> {
    let found = msrs.iter().find(|msr| msr.index == index);
    found.map(|msr| msr.value)
}

/// Reads what can be read of `indices`: a register that the kernel refuses to read belongs to a
/// feature that the guest does not have.
pub(super) fn read(
    calls: &mut (dyn Calls + '_),
    vcpu: usize,
    indices: &[u32],
) -> Result<Vec<Msr>, KvmError> {
    let mut found = Vec::with_capacity(indices.len());
    let mut rest = indices;
    while !rest.is_empty() {
        let batch = rest.get(..rest.len().min(BATCH)).unwrap_or(rest);
        let entries: Vec<_> = batch
            .iter()
            .map(|&index| to_msr(Msr { index, value: 0 }))
            .collect();
        let mut bytes = encode_list(MSRS_HEADER, &entries);
        let read = calls.make(Target::Vcpu(vcpu), KVM_GET_MSRS, Arg::Bytes(&mut bytes))?;
        let read = usize::try_from(read).unwrap_or(usize::MAX).min(batch.len());
        let values: Vec<kvm::kvm_msr_entry> = decode_list(MSRS_HEADER, &bytes);
        found.extend(values.iter().take(read).map(from_msr));
        // The call stops at the first register that it refuses: skip that one.
        let refused = usize::from(read < batch.len());
        rest = rest.get(read + refused..).unwrap_or_default();
    }
    Ok(found)
}

/// Writes registers in order, in batches. The result is what the kernel refused, but for registers
/// that hold the saved value anyway.
pub(super) fn write(
    calls: &mut (dyn Calls + '_),
    vcpu: usize,
    msrs: &[Msr],
) -> Result<Vec<Msr>, KvmError> {
    let mut refused = Vec::new();
    let mut rest = msrs;
    while !rest.is_empty() {
        let batch = rest.get(..rest.len().min(BATCH)).unwrap_or(rest);
        let entries: Vec<_> = batch.iter().copied().map(to_msr).collect();
        let mut bytes = encode_list(MSRS_HEADER, &entries);
        let written = calls.make(Target::Vcpu(vcpu), KVM_SET_MSRS, Arg::Bytes(&mut bytes))?;
        let written = usize::try_from(written)
            .unwrap_or(usize::MAX)
            .min(batch.len());
        // The call stops at the first register that it refuses.
        if let Some(&stopped_at) = batch.get(written) {
            if read(calls, vcpu, &[stopped_at.index])? != [stopped_at] {
                refused.push(stopped_at);
            }
            rest = rest.get(written + 1..).unwrap_or_default();
        } else {
            rest = rest.get(written..).unwrap_or_default();
        }
    }
    Ok(refused)
}

#[cfg(test)]
mod tests {
    use super::*;

    // spec: KVX-09
    #[test]
    fn controls_that_start_something_come_last_and_commands_never() {
        let all = vec![
            TSC_DEADLINE,
            PRED_CMD,
            0xc000_0103,
            PERF_GLOBAL_CTRL,
            TSC,
            0x3b,
            TSC,
            FLUSH_CMD,
            AMD_PERF_GLOBAL_CTRL,
        ];
        let ordered = [
            TSC,
            0x3b,
            0xc000_0103,
            PERF_GLOBAL_CTRL,
            AMD_PERF_GLOBAL_CTRL,
            TSC_DEADLINE,
        ];
        assert_eq!(in_order(all), ordered);
    }
}
