//! What to do with a saved register that the kernel refuses.

use snapshot_format::state::Msr;

/// Registers whose zero may be refused, because a guest without the feature never had them.
const ZERO_TOLERATED: [(u32, u32); 14] = [
    (0x3a, 0x3a),               // FEATURE_CONTROL, without VMX
    (0xc1, 0xc8),               // general performance counters
    (0x186, 0x18d),             // their event selects
    (0x1c4, 0x1c5),             // XFD, XFD_ERR, without AMX
    (0x280, 0x29f),             // machine check thresholds
    (0x309, 0x30c),             // fixed performance counters
    (0x345, 0x345),             // performance capabilities
    (0x38d, 0x390),             // performance control and status
    (0x400, 0x47f),             // machine check banks
    (0x4d0, 0x4d0),             // extended machine check control
    (0xda0, 0xda0),             // without supervisor states in XSAVE
    (0x4b56_4d02, 0x4b56_4d08), // KVM's own; an acknowledgement of nothing is refused
    (0xc001_0000, 0xc001_0007), // performance counters of AMD
    (0xc001_0200, 0xc001_020b), // the same, extended
];

/// What to do with a saved register that the kernel refuses on restore.
///
/// A register that holds the saved value already, as those that can only be read do, loses nothing
/// and needs no policy. Any other value than zero is an error unless the caller allows the register
/// by number: state would be lost silently. A zero is tolerated in the registers of a built-in list
/// (performance counters, machine check banks, KVM's own) and in those that the caller adds. What
/// was dropped is in the [`RestoreReport`](crate::RestoreReport).
#[derive(Clone, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct MsrPolicy {
    dropped: Vec<u32>,
    zero_tolerated: Vec<u32>,
}

/// A register that a machine was restored without.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DroppedMsr {
    /// The vCPU.
    pub vcpu: usize,
    /// The register and its saved value.
    pub msr: Msr,
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
        let built_in = ZERO_TOLERATED
            .iter()
            .any(|&(from, to)| (from..=to).contains(&msr.index));
        self.dropped.contains(&msr.index)
            || msr.value == 0 && (built_in || self.zero_tolerated.contains(&msr.index))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // spec: KVX-10
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

    // spec: KVX-10
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
