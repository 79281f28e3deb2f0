//! The order of a restore.

use snapshot_format::state::{DeviceState, Fingerprint, Reason, ReasonKind};
use snapshot_format::{DecodeError, SectionOffers};

use crate::breakdown::{RestoreBreakdown, Stopwatch};
use crate::error::{RestoreError, StepError};
use crate::step::Step;
use crate::target::{DeviceRestore, MemoryRestore, StateRestore};

/// The machine that a snapshot is brought back into.
#[expect(missing_debug_implementations, reason = "the parts are the caller's")]
pub struct RestoreTarget<'t> {
    /// Its memory.
    pub memory: &'t mut dyn MemoryRestore,
    /// What the hypervisor keeps of it.
    pub state: &'t mut dyn StateRestore,
    /// Its devices.
    pub devices: &'t mut dyn DeviceRestore,
}

/// Which reasons for an incompatible host the caller takes upon itself.
///
/// Another architecture cannot be overridden.
#[derive(Clone, Debug, Default)]
pub struct Overrides {
    kinds: Vec<ReasonKind>,
}

impl Overrides {
    /// Goes on in spite of every reason of this kind.
    #[must_use]
    pub fn allow(mut self, kind: ReasonKind) -> Self {
        self.kinds.push(kind);
        self
    }

    fn covers(&self, reason: &Reason) -> bool {
        reason.kind() != ReasonKind::Architecture && self.kinds.contains(&reason.kind())
    }
}

/// Brings a snapshot back into a machine that was created for it and has not run.
///
/// When it returns, the vCPUs may run. After an error the machine must not run; before the first
/// step that touches it, every check that can be made was made.
pub fn restore(
    target: RestoreTarget<'_>,
    mut offers: SectionOffers,
    overrides: &Overrides,
) -> Result<RestoreBreakdown, RestoreError> {
    let _span = tracing::info_span!("restore").entered();
    let RestoreTarget {
        memory,
        state,
        devices,
    } = target;
    let mut time = RestoreBreakdown::default();
    let mut watch = Stopwatch::start();

    // Before anything is touched: features that the guest was shown cannot be taken away later.
    check_host(state, &mut offers, overrides)?;
    // Everything is decoded before anything is written: a damaged section leaves no half machine.
    state.take(&mut offers).map_err(at(Step::Take))?;
    let device_states = take_devices(&mut offers).map_err(damaged)?;
    offers.finish().map_err(damaged)?;
    time.check_ns = watch.lap();

    // Memory before vCPUs: setting system registers may read page tables, nested state does.
    memory.restore().map_err(at(Step::RestoreMemory))?;
    time.memory_ns = watch.lap();

    // The clock before vCPUs: the offset of each TSC is computed from it.
    state.prepare().map_err(at(Step::Prepare))?;
    for vcpu in 0..state.vcpu_count() {
        state.restore_vcpu(vcpu).map_err(at(Step::RestoreVcpu))?;
    }
    // Interrupt controllers after every local APIC: an asserted line is delivered at once.
    state.restore_vm().map_err(at(Step::RestoreVm))?;
    // Devices last: they may raise interrupts from here on.
    devices
        .restore(device_states)
        .map_err(at(Step::RestoreDevices))?;
    time.state_ns = watch.lap();
    Ok(time)
}

fn check_host(
    state: &mut dyn StateRestore,
    offers: &mut SectionOffers,
    overrides: &Overrides,
) -> Result<(), RestoreError> {
    let saved: Fingerprint = offers.take(0).map_err(|source| RestoreError::State {
        step: Step::Check,
        source: Box::new(source),
    })?;
    let host = state.host().map_err(at(Step::Check))?;
    let mut reasons = saved.check(&host);
    reasons.retain(|reason| !overrides.covers(reason));
    if reasons.is_empty() {
        Ok(())
    } else {
        Err(RestoreError::Incompatible { reasons })
    }
}

fn take_devices(offers: &mut SectionOffers) -> Result<Vec<DeviceState>, DecodeError> {
    let taken = offers.take_all::<DeviceState>()?;
    Ok(taken.into_iter().map(|(_, device)| device).collect())
}

fn at(step: Step) -> impl Fn(StepError) -> RestoreError {
    move |source| RestoreError::Step { step, source }
}

fn damaged(source: DecodeError) -> RestoreError {
    RestoreError::State {
        step: Step::Take,
        source: Box::new(source),
    }
}

#[cfg(test)]
mod tests;
