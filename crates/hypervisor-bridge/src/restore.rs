//! The order of a restore.

use snapshot_format::state::{DeviceState, Fingerprint, Reason, ReasonKind};
use snapshot_format::{DecodeError, SectionKind, SectionOffers, StatePayload};
use snapshot_memory::MemoryReport;

use crate::breakdown::{RestoreBreakdown, Stopwatch};
use crate::clock::ClockPolicy;
use crate::error::{RestoreError, StepError};
use crate::identity::{CloneEntry, CloneIdentity};
use crate::metrics::Metrics;
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

    /// Whether this reason is taken upon oneself.
    #[must_use]
    pub fn covers(&self, reason: &Reason) -> bool {
        reason.kind().can_be_overridden() && self.kinds.contains(&reason.kind())
    }
}

/// How a snapshot is brought back: as the machine that it is of, or as another one.
///
/// Made by [`resume`](Self::resume) or by [`clone_of`](Self::clone_of), as nothing here is chosen
/// for the caller; [`run`](Self::run) does it.
#[expect(missing_debug_implementations, reason = "the hooks are the caller's")]
#[must_use = "nothing is restored before `run`"]
pub struct Restore<'h> {
    purpose: Purpose<'h>,
    overrides: Overrides,
}

enum Purpose<'h> {
    Resume(ClockPolicy),
    Clone(CloneIdentity<'h>),
}

/// What a restore did.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct RestoreOutcome {
    /// Where the time went.
    pub time: RestoreBreakdown,
    /// That in the form that snapshots have, too.
    pub metrics: Metrics,
    /// How memory was put in place, and whether and when its pages are checked.
    pub memory: MemoryReport,
    /// What the guest's clock did.
    pub clock: ClockPolicy,
    /// The reasons against it that the caller took upon itself.
    pub overridden: Vec<Reason>,
    /// What was done about each item of the checklist; `None` for a machine that was resumed.
    pub checklist: Option<Vec<CloneEntry>>,
}

impl<'h> Restore<'h> {
    /// Lets the one machine go on that was stopped for this snapshot.
    ///
    /// It runs nowhere else and has not run since: a second copy, and a machine that is taken back
    /// to an earlier state, are clones, as their random numbers and addresses would be used twice.
    pub fn resume(clock: ClockPolicy) -> Self {
        Self {
            purpose: Purpose::Resume(clock),
            overrides: Overrides::default(),
        }
    }

    /// Makes another machine of the snapshot, with an identity of its own.
    pub fn clone_of(identity: CloneIdentity<'h>) -> Self {
        Self {
            purpose: Purpose::Clone(identity),
            overrides: Overrides::default(),
        }
    }

    /// Goes on in spite of these reasons.
    pub fn overriding(mut self, overrides: Overrides) -> Self {
        self.overrides = overrides;
        self
    }

    fn clock(&self) -> ClockPolicy {
        match &self.purpose {
            Purpose::Resume(clock) => *clock,
            Purpose::Clone(identity) => identity.clock,
        }
    }

    /// Brings the snapshot back into a machine that was created for it and has not run.
    ///
    /// When it returns, the vCPUs may run. After an error the machine must not run; before the first
    /// step that touches it, every check that can be made was made.
    pub fn run(
        self,
        target: RestoreTarget<'_>,
        mut offers: SectionOffers,
    ) -> Result<RestoreOutcome, RestoreError> {
        let _span = tracing::info_span!("restore").entered();
        let RestoreTarget {
            memory,
            state,
            devices,
        } = target;
        let clock = self.clock();
        let mut time = RestoreBreakdown::default();
        let mut watch = Stopwatch::start();

        // Everything is compared and decoded before anything is touched: features that the guest
        // was shown cannot be taken away later, and a damaged section leaves no half machine.
        let taken = take_all(state, &mut offers, clock, &self.overrides)?;
        time.check_ns = watch.lap();

        // Memory before vCPUs: setting system registers may read page tables, nested state does.
        let restored = memory.restore().map_err(at(Step::RestoreMemory))?;
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
            .restore(taken.devices)
            .map_err(at(Step::RestoreDevices))?;
        time.state_ns = watch.lap();

        let checklist = match self.purpose {
            Purpose::Resume(_) => None,
            Purpose::Clone(identity) => Some(identify(identity)?),
        };
        time.clone_ns = watch.lap();
        Ok(RestoreOutcome {
            time,
            metrics: Metrics::of_restore(state.vcpu_count(), time, restored),
            memory: restored,
            clock,
            overridden: taken.overridden,
            checklist,
        })
    }
}

/// Gives a clone its identity, and tells the guest.
fn identify(mut identity: CloneIdentity<'_>) -> Result<Vec<CloneEntry>, RestoreError> {
    // All of it is in place before the guest is told of any.
    let failed = |(item, source)| RestoreError::Step {
        step: Step::Change(item),
        source,
    };
    let entries = identity.change().map_err(failed)?;
    // After every interrupt controller: their state would overwrite what is raised.
    identity
        .announce()
        .map_err(|(item, source)| RestoreError::Step {
            step: Step::Announce(item),
            source,
        })?;
    Ok(entries)
}

/// What was taken out of the snapshot.
struct Taken {
    devices: Vec<DeviceState>,
    overridden: Vec<Reason>,
}

/// Takes every section; all reasons against the restore are in one error.
fn take_all(
    state: &mut dyn StateRestore,
    offers: &mut SectionOffers,
    clock: ClockPolicy,
    overrides: &Overrides,
) -> Result<Taken, RestoreError> {
    let saved = offers.take_optional::<Fingerprint>(0);
    let saved = saved.map_err(damaged(Step::Check))?;
    let host = state.host().map_err(at(Step::Check))?;
    let mut reasons = saved.map_or_else(no_fingerprint, |saved| saved.check(&host));
    let foreign = |reason: &Reason| reason.kind() == ReasonKind::Architecture;
    if reasons.iter().any(foreign) {
        // Its sections would all be missing or left over, which says nothing more.
        return Err(RestoreError::Incompatible { reasons });
    }
    add_new(
        &mut reasons,
        state.take(offers, clock).map_err(at(Step::Take))?,
    );
    let devices = take_devices(offers).map_err(damaged(Step::Take))?;
    reasons.extend(offers.left_over().map(surplus));
    let (overridden, reasons): (Vec<_>, Vec<_>) = reasons
        .into_iter()
        .partition(|reason| overrides.covers(reason));
    if reasons.is_empty() {
        for reason in &overridden {
            tracing::warn!(%reason, "overridden");
        }
        Ok(Taken {
            devices,
            overridden,
        })
    } else {
        Err(RestoreError::Incompatible { reasons })
    }
}

/// Adds what was not said yet: the fingerprint and the state may give the same reason.
fn add_new(reasons: &mut Vec<Reason>, more: Vec<Reason>) {
    for reason in more {
        if !reasons.contains(&reason) {
            reasons.push(reason);
        }
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
