//! What a restore did that its caller did not ask for by name.

use snapshot_format::state::Msr;

use crate::x86::msr_policy::DroppedMsr;
use crate::x86::tsc::TscOutcome;

/// How a machine differs from the one that was saved, as far as policies let it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct RestoreReport {
    /// Registers that the host refused and a policy dropped, by vCPU, in their saved order.
    pub dropped_msrs: Vec<DroppedMsr>,
    /// How the time stamp counters were set: the worst of all vCPUs. `None` if none was saved.
    pub tsc: Option<TscOutcome>,
    /// How far the guest's clock was put ahead, in nanoseconds, when it was set.
    pub clock_advanced_ns: u64,
}

impl RestoreReport {
    pub(super) fn tsc_of_vcpu(&mut self, outcome: Option<TscOutcome>) {
        self.tsc = self.tsc.max(outcome);
    }

    /// For who reads logs and no reports.
    pub(super) fn log(&self) {
        for DroppedMsr { vcpu, msr } in &self.dropped_msrs {
            let Msr { index, value } = msr;
            tracing::warn!(vcpu, index, value, "register not restored");
        }
        if let Some(TscOutcome::HostCounter { jump_ticks }) = self.tsc {
            tracing::warn!(jump_ticks, "the guest reads the TSC of the host");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_outcome_of_all_vcpus_is_reported() {
        let mut report = RestoreReport::default();
        report.tsc_of_vcpu(None);
        assert_eq!(report.tsc, None);
        report.tsc_of_vcpu(Some(TscOutcome::ByOffset));
        let jump = Some(TscOutcome::HostCounter { jump_ticks: 5 });
        report.tsc_of_vcpu(jump);
        report.tsc_of_vcpu(Some(TscOutcome::ByValue));
        assert_eq!(report.tsc, jump);
    }
}
