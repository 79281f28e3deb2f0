//! The order of a restore.

use snapshot_format::state::{DeviceState, Fingerprint, Reason, ReasonKind};
use snapshot_format::{DecodeError, SectionKind, SectionOffers, StatePayload};

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
/// Another architecture, another machine and state that does not fit cannot be overridden.
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
        reason.kind().can_be_overridden() && self.kinds.contains(&reason.kind())
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

    // Everything is compared and decoded before anything is touched: features that the guest was
    // shown cannot be taken away later, and a damaged section leaves no half machine.
    let device_states = take_all(state, &mut offers, overrides)?;
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

/// Takes every section; all reasons against the restore are in one error.
fn take_all(
    state: &mut dyn StateRestore,
    offers: &mut SectionOffers,
    overrides: &Overrides,
) -> Result<Vec<DeviceState>, RestoreError> {
    let saved = offers.take_optional::<Fingerprint>(0);
    let saved = saved.map_err(damaged(Step::Check))?;
    let host = state.host().map_err(at(Step::Check))?;
    let mut reasons = saved.map_or_else(no_fingerprint, |saved| saved.check(&host));
    reasons.retain(|reason| !overrides.covers(reason));
    let foreign = |reason: &Reason| reason.kind() == ReasonKind::Architecture;
    if reasons.iter().any(foreign) {
        // Its sections would all be missing or left over, which says nothing more.
        return Err(RestoreError::Incompatible { reasons });
    }
    reasons.extend(state.take(offers).map_err(at(Step::Take))?);
    let devices = take_devices(offers).map_err(damaged(Step::Take))?;
    reasons.extend(offers.left_over().map(surplus));
    if reasons.is_empty() {
        Ok(devices)
    } else {
        Err(RestoreError::Incompatible { reasons })
    }
}

fn no_fingerprint() -> Vec<Reason> {
    vec![Reason::MissingSection {
        section: Fingerprint::KIND,
        instance: 0,
    }]
}

fn surplus((section, instance): (SectionKind, u32)) -> Reason {
    Reason::SurplusSection { section, instance }
}

fn take_devices(offers: &mut SectionOffers) -> Result<Vec<DeviceState>, DecodeError> {
    let taken = offers.take_all::<DeviceState>()?;
    Ok(taken.into_iter().map(|(_, device)| device).collect())
}

fn at(step: Step) -> impl Fn(StepError) -> RestoreError {
    move |source| RestoreError::Step { step, source }
}

fn damaged(step: Step) -> impl Fn(DecodeError) -> RestoreError {
    move |source| RestoreError::State {
        step,
        source: Box::new(source),
    }
}

#[cfg(test)]
mod tests;
