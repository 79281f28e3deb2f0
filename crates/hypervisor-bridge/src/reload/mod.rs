//! Proof that a restore loses nothing: restore without running, capture again, compare.

mod arm64;
mod compare;
mod fields;
mod memory;

use std::fmt;

use snapshot_format::{DecodeError, SectionKind, SectionOffers, SectionPayload};

pub use arm64::MOVING_ARM64;
pub use compare::compare_sections;
pub use memory::compare_memory;

use crate::error::{RestoreError, StepError};
use crate::machine::{Devices, StateCapture};
use crate::paused::Paused;
use crate::restore::{Restore, RestoreTarget};
use crate::step::Step;
use crate::target::{DeviceRestore, MemoryRestore, StateRestore};

/// The machine to restore into and to capture from. It does not run, neither before nor after.
#[expect(missing_debug_implementations, reason = "the parts are the caller's")]
pub struct ReloadTarget<'t, S, D> {
    /// Its memory.
    pub memory: &'t mut dyn MemoryRestore,
    /// What the hypervisor keeps of it.
    pub state: &'t mut S,
    /// Its devices.
    pub devices: &'t mut D,
    /// That no vCPU runs.
    pub paused: &'t Paused,
}

/// A field that moves on its own, so that two captures of a machine that stands still differ in it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Moving {
    /// Of which kind of section.
    pub section: SectionKind,
    /// Its name, as in [`Difference::field`]; one `*` stands for any text.
    pub field: &'static str,
    /// Which bits of a number move; all, or of what is no number, with `u64::MAX`.
    pub bits: u64,
    /// Why it moves.
    pub why: &'static str,
}

/// A field that is not what it was.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Difference {
    /// The kind of its section, or `memory`.
    pub section: String,
    /// Which of its kind.
    pub instance: u32,
    /// Its name: `registers.rip`, `msrs[0x10].value`, `xsave[0x200]` for eight bytes there.
    pub field: String,
    /// What was saved; `None` where there was nothing.
    pub saved: Option<String>,
    /// What was captured again; `None` where there is nothing.
    pub again: Option<String>,
    /// Why it may differ; `None` where it must not.
    pub allowed: Option<&'static str>,
}

/// What a reload found.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct ReloadReport {
    /// Sections that were compared.
    pub sections: usize,
    /// Fields that were compared.
    pub fields: usize,
    /// Pages of memory that were compared.
    pub pages: u64,
    /// Every field that differs, allowed or not.
    pub differences: Vec<Difference>,
}

/// A reload did not come to a comparison.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReloadError {
    /// The snapshot was not restored.
    #[error(transparent)]
    Restore(#[from] RestoreError),
    /// The restored machine was not captured.
    #[error("capture the restored machine: {step}")]
    Capture {
        /// In which step.
        step: Step,
        /// Why.
        #[source]
        source: StepError,
    },
    /// A section cannot be read.
    #[error("compare the sections")]
    Section(#[from] DecodeError),
}

impl ReloadReport {
    /// Whether nothing differs but what moves on its own.
    #[must_use]
    pub fn is_exact(&self) -> bool {
        self.differences.iter().all(|one| one.allowed.is_some())
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nothing = "nothing";
        write!(
            f,
            "{} {}, {}: {} was saved, {} is there",
            self.section,
            self.instance,
            self.field,
            self.saved.as_deref().unwrap_or(nothing),
            self.again.as_deref().unwrap_or(nothing)
        )?;
        match self.allowed {
            Some(why) => write!(f, " ({why})"),
            None => Ok(()),
        }
    }
}

/// Restores a snapshot, captures the machine without having run it, and compares field by field.
///
/// `moving` are the fields that the hypervisor's adapter says move on their own. Memory is compared
/// by [`compare_memory`], where the caller can read it.
pub fn reload<S, D>(
    restore: Restore<'_>,
    target: ReloadTarget<'_, S, D>,
    offers: SectionOffers,
    moving: &[Moving],
) -> Result<ReloadReport, ReloadError>
where
    S: StateRestore + StateCapture,
    D: DeviceRestore + Devices,
{
    let saved: Vec<SectionPayload> = offers.payloads().cloned().collect();
    let ReloadTarget {
        memory,
        state,
        devices,
        paused,
    } = target;
    let machine = RestoreTarget {
        memory,
        state,
        devices,
    };
    restore.run(machine, offers)?;
    let again = capture(state, devices, paused)?;
    Ok(compare_sections(&saved, &again, moving)?)
}

/// Captures in the order of a snapshot.
fn capture(
    state: &mut dyn StateCapture,
    devices: &mut dyn Devices,
    paused: &Paused,
) -> Result<Vec<SectionPayload>, ReloadError> {
    let at = |step| move |source| ReloadError::Capture { step, source };
    devices.quiesce(paused).map_err(at(Step::Quiesce))?;
    let mut sections = Vec::new();
    for vcpu in 0..state.vcpu_count() {
        let section = state.capture_vcpu(vcpu, paused);
        sections.push(section.map_err(at(Step::CaptureVcpu))?);
    }
    let vm = state.capture_vm(paused);
    sections.extend(vm.map_err(at(Step::CaptureVm))?);
    let states = devices.capture(paused).map_err(at(Step::CaptureDevices))?;
    let states = (0..).zip(&states);
    sections.extend(states.map(|(instance, state)| SectionPayload::of(instance, state)));
    devices.resume().map_err(at(Step::ResumeDevices))?;
    Ok(sections)
}

#[cfg(test)]
mod tests;
