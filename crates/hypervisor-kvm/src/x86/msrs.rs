//! Model-specific registers: which are saved, in which order, and what to do with refused ones.

use kvm_bindings as kvm;
use snapshot_format::limits;
use snapshot_format::state::Msr;

use crate::calls::{Arg, Calls, Target};
use crate::error::KvmError;
use crate::lists::{decode_list, encode_list};
use crate::request::{KVM_GET_MSR_INDEX_LIST, KVM_GET_MSRS, KVM_SET_MSRS};
use crate::x86::convert::{from_msr, to_msr};

pub(super) const TSC: u32 = 0x10;
pub(super) const FEATURE_CONTROL: u32 = 0x3a;
pub(super) const TSC_DEADLINE: u32 = 0x6e0;
const PERF_GLOBAL_CTRL: u32 = 0x38f;
const PRED_CMD: u32 = 0x49;
const FLUSH_CMD: u32 = 0x10b;

/// Registers that the kernel's list leaves out on some hosts, and that a guest may hold a value
/// in: they are always asked for, and skipped where the kernel has none.
const ALWAYS_ASKED: [(u32, u32); 16] = [
    (TSC, TSC),
    (0x3b, 0x3b), // TSC_ADJUST
    (FEATURE_CONTROL, FEATURE_CONTROL),
    (0x174, 0x176), // SYSENTER_CS, ESP, EIP
    (0x1a0, 0x1a0), // MISC_ENABLE
    (0x200, 0x20f), // variable MTRRs
    (0x250, 0x250), // fixed MTRR of 64 KiB
    (0x258, 0x259), // fixed MTRRs of 16 KiB
    (0x268, 0x26f), // fixed MTRRs of 4 KiB
    (0x277, 0x277), // PAT
    (0x2ff, 0x2ff), // MTRR default type
    (0xda0, 0xda0), // XSS
    (TSC_DEADLINE, TSC_DEADLINE),
    (0x4b56_4d00, 0x4b56_4d08), // KVM's own: clock, async page faults, steal time, EOI, polling
    (0xc000_0081, 0xc000_0084), // STAR, LSTAR, CSTAR, FMASK
    (0xc000_0102, 0xc000_0103), // KERNEL_GS_BASE, TSC_AUX
];

/// Registers that are commands: to write a saved value would run one.
const WRITE_ONLY: [u32; 2] = [PRED_CMD, FLUSH_CMD];

/// Registers whose zero may be refused, because a guest without the feature never had them.
const ZERO_TOLERATED: [(u32, u32); 11] = [
    (FEATURE_CONTROL, FEATURE_CONTROL), // without VMX
    (0xc1, 0xc8),                       // general performance counters
    (0x186, 0x18d),                     // their event selects
    (0x309, 0x30c),                     // fixed performance counters
    (0x345, 0x345),                     // performance capabilities
    (0x38d, 0x390),                     // performance control and status
    (0x400, 0x47f),                     // machine check banks
    (0xda0, 0xda0),                     // without supervisor states in XSAVE
    (0x4b56_4d02, 0x4b56_4d08),         // KVM's own; an acknowledgement of nothing is refused
    (0xc001_0000, 0xc001_0007),         // performance counters of AMD
    (0xc001_0200, 0xc001_020b),         // the same, extended
];

/// Entries in one request: the kernel takes at most 256.
const BATCH: usize = 128;

/// Bytes before the entries of `struct kvm_msrs`.
const MSRS_HEADER: usize = 8;

/// Bytes before the entries of `struct kvm_msr_list`.
const MSR_LIST_HEADER: usize = 4;

/// What to do with a saved register that the kernel refuses on restore.
///
/// A value other than zero is an error unless the caller allows the register by number: state
/// would be lost silently. A zero is tolerated in the registers of a built-in list (performance
/// counters, machine check banks, KVM's own) and in those that the caller adds.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct MsrPolicy {
    dropped: Vec<u32>,
    zero_tolerated: Vec<u32>,
}

impl MsrPolicy {
    /// Lets the restore go on without `index`, whatever its value.
    #[must_use]
    pub fn drop_refused(mut self, index: u32) -> Self {
        self.dropped.push(index);
        self
    }

    /// Lets the restore go on without `index` where its saved value is zero.
    #[must_use]
    pub fn drop_refused_zero(mut self, index: u32) -> Self {
        self.zero_tolerated.push(index);
        self
    }

    /// Whether the restore goes on without `msr`.
    #[must_use]
    pub fn tolerates(&self, msr: Msr) -> bool {
        let built_in = in_ranges(&ZERO_TOLERATED, msr.index);
        self.dropped.contains(&msr.index)
            || msr.value == 0 && (built_in || self.zero_tolerated.contains(&msr.index))
    }
}

fn in_ranges(ranges: &[(u32, u32)], index: u32) -> bool {
    ranges
        .iter()
        .any(|&(from, to)| (from..=to).contains(&index))
}

/// The registers to ask for, in the order in which they are written back: what the kernel lists
/// and what is always asked for; performance control next to last, because it starts the
/// counters; the TSC deadline last, because it needs TSC and APIC in place.
pub(super) fn indices(calls: &mut (dyn Calls + '_)) -> Result<Vec<u32>, KvmError> {
    let mut listed = encode_list::<u32>(MSR_LIST_HEADER, &vec![0; limits::MAX_MSRS]);
    calls.make(
        Target::System,
        KVM_GET_MSR_INDEX_LIST,
        Arg::Bytes(&mut listed),
    )?;
    let mut all: Vec<u32> = decode_list(MSR_LIST_HEADER, &listed);
    all.extend(ALWAYS_ASKED.iter().flat_map(|&(from, to)| from..=to));
    all.retain(|index| !WRITE_ONLY.contains(index));
    all.sort_unstable_by_key(|&index| match index {
        PERF_GLOBAL_CTRL => (1, index),
        TSC_DEADLINE => (2, index),
        _ => (0, index),
    });
    all.dedup();
    Ok(all)
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

/// Writes registers in order, in batches.
pub(super) fn write(
    calls: &mut (dyn Calls + '_),
    vcpu: usize,
    msrs: &[Msr],
    policy: &MsrPolicy,
) -> Result<(), KvmError> {
    let mut rest = msrs;
    while !rest.is_empty() {
        let batch = rest.get(..rest.len().min(BATCH)).unwrap_or(rest);
        let entries: Vec<_> = batch.iter().copied().map(to_msr).collect();
        let mut bytes = encode_list(MSRS_HEADER, &entries);
        let written = calls.make(Target::Vcpu(vcpu), KVM_SET_MSRS, Arg::Bytes(&mut bytes))?;
        let written = usize::try_from(written)
            .unwrap_or(usize::MAX)
            .min(batch.len());
        let Some(&refused) = batch.get(written) else {
            rest = rest.get(written..).unwrap_or_default();
            continue;
        };
        // The call stops at the first register that it refuses.
        if !policy.tolerates(refused) {
            return Err(KvmError::MsrRefused {
                vcpu,
                index: refused.index,
                value: refused.value,
            });
        }
        tracing::debug!(vcpu, index = refused.index, "msr not restored");
        rest = rest.get(written + 1..).unwrap_or_default();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_value_is_an_error_unless_it_was_allowed() {
        let pat = Msr {
            index: 0x277,
            value: 6,
        };
        assert!(!MsrPolicy::default().tolerates(pat));
        assert!(!MsrPolicy::default().drop_refused_zero(0x277).tolerates(pat));
        assert!(MsrPolicy::default().drop_refused(0x277).tolerates(pat));
    }

    #[test]
    fn a_refused_zero_is_tolerated_by_list_only() {
        let zero = |index| Msr { index, value: 0 };
        assert!(MsrPolicy::default().tolerates(zero(0xc1)));
        assert!(!MsrPolicy::default().tolerates(zero(0x277)));
        assert!(
            MsrPolicy::default()
                .drop_refused_zero(0x277)
                .tolerates(zero(0x277))
        );
    }
}
