//! What every adapter must do, whatever the hypervisor.

use snapshot_format::state::Fingerprint;
use snapshot_format::{SectionOffers, SectionPayload};

use crate::clock::ClockPolicy;
use crate::error::StepError;
use crate::machine::StateCapture;
use crate::paused::Paused;
use crate::target::StateRestore;

/// Captures everything in the order of a snapshot.
fn capture(
    state: &mut dyn StateCapture,
    paused: &Paused,
) -> Result<Vec<SectionPayload>, StepError> {
    let mut sections = Vec::new();
    for vcpu in 0..state.vcpu_count() {
        state.notify_paused(vcpu, paused)?;
    }
    for vcpu in 0..state.vcpu_count() {
        sections.push(state.capture_vcpu(vcpu, paused)?);
    }
    sections.extend(state.capture_vm(paused)?);
    Ok(sections)
}

/// An adapter that captures: it gives a fingerprint that its own host satisfies, no section twice,
/// and the machine stays capturable.
pub fn capture_state_suite<M>(machine: &mut M, paused: &Paused) -> Result<(), StepError>
where
    M: StateCapture + StateRestore,
{
    let sections = capture(machine, paused)?;
    let mut names: Vec<_> = sections.iter().map(|s| (s.kind, s.instance)).collect();
    let total = names.len();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), total, "a section was captured twice");

    let mut offers = SectionOffers::new(sections);
    let saved: Fingerprint = offers.take(0)?;
    let reasons = saved.check(&machine.host()?);
    assert!(reasons.is_empty(), "refused by its own host: {reasons:?}");

    capture(machine, paused)?;
    Ok(())
}

/// An adapter that restores: what is captured from `target` after a restore is what was captured
/// from `source`, once `settle` has taken out of both what moves on its own, as clocks do; and
/// sections that do not fit are refused.
pub fn state_round_trip_suite(
    source: &mut dyn StateCapture,
    target: &mut (impl StateRestore + StateCapture),
    paused: &Paused,
    settle: &mut dyn FnMut(&mut SectionPayload),
) -> Result<(), StepError> {
    let mut saved = capture(source, paused)?;
    let clock = ClockPolicy::Frozen;

    // Nothing, and a machine with one vCPU less, are refused before anything is written.
    let nothing = target.take(&mut SectionOffers::default(), clock)?;
    assert!(!nothing.is_empty(), "no state at all was accepted");
    let fewer = saved.get(1..).unwrap_or_default().to_vec();
    let fewer = target.take(&mut SectionOffers::new(fewer), clock)?;
    assert!(!fewer.is_empty(), "a machine with a vCPU less was accepted");

    let mut offers = SectionOffers::new(saved.clone());
    let _: Fingerprint = offers.take(0)?;
    let reasons = target.take(&mut offers, clock)?;
    assert!(reasons.is_empty(), "its own state was refused: {reasons:?}");
    offers.finish()?;
    target.prepare()?;
    for vcpu in 0..StateRestore::vcpu_count(target) {
        target.restore_vcpu(vcpu)?;
    }
    target.restore_vm()?;

    let mut again = capture(target, paused)?;
    saved.iter_mut().for_each(&mut *settle);
    again.iter_mut().for_each(&mut *settle);
    assert_eq!(again, saved, "the restored machine differs");
    Ok(())
}
