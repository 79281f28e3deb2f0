//! A machine of Hypervisor.framework as the bridge sees it.

use std::sync::Arc;

use hypervisor_bridge::{ClockPolicy, Paused, StateCapture, StateRestore, StepError};
use snapshot_format::state::{
    CounterOffset, Fingerprint, GicRegister, GicVersion, Hypervisor, Reason, Redistributor,
    SystemRegister, VcpuArm64, VmArm64,
};
use snapshot_format::{SectionOffers, SectionPayload, limits};

use crate::crew::{Crew, Lines};
use crate::error::HvfError;
use crate::gic::{self, GicWay};
use crate::hv::{GicConfig, HostInfo, HostTime};
use crate::save::OnThread;
use crate::taken::Taken;
use crate::{fingerprint, taken};

/// What to do with the state of the matrix extension.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub enum SmePolicy {
    /// It is saved and restored where the host has the extension.
    #[default]
    Keep,
    /// The VMM has hidden the extension from the guest: a guest that uses it nevertheless is not
    /// saved, and a snapshot with its state is refused.
    Hidden,
}

/// What the adapter must know of the machine, and how it saves and restores.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct HvfOptions {
    /// How the framework's interrupt controller was created; `None` where the VMM models one.
    pub gic: Option<GicConfig>,
    /// Whether the interrupt controller is also saved register by register, for hosts that refuse
    /// the opaque state: it takes a call for each register.
    pub gic_registers: bool,
    /// Whether the machine was created with EL2.
    pub el2: bool,
    /// Bits of a guest physical address that the machine was created with.
    pub address_bits: u8,
    /// What becomes of the matrix extension.
    pub sme: SmePolicy,
}

impl Default for HvfOptions {
    /// A machine without an interrupt controller of the framework, with addresses of 36 bits.
    fn default() -> Self {
        Self {
            gic: None,
            gic_registers: true,
            el2: false,
            address_bits: 36,
            sme: SmePolicy::default(),
        }
    }
}

/// What a vCPU's thread must know to save or restore it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Profile {
    pub(crate) has_gic: bool,
    pub(crate) saves_gic_registers: bool,
    pub(crate) has_el2: bool,
    pub(crate) sme: SmePolicy,
    /// Bytes of a streaming vector; 0 without the extension.
    pub(crate) vector_bytes: u16,
}

/// How a restore went, beyond that it did.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct RestoreReport {
    /// How the interrupt controller was brought back.
    pub gic: GicWay,
    /// vCPUs whose virtual timer had fired and whose guest had not handled its interrupt, on a
    /// machine whose interrupt controller is the VMM's: it asserts theirs again unless its own
    /// state says so.
    pub timers_due: Vec<usize>,
}

/// Saves and restores the state that Hypervisor.framework keeps of a machine, and what only the
/// crew knows: power states and lines.
///
/// Each vCPU is read and written on its own thread, which waits at the crew's rendezvous.
#[derive(Debug)]
pub struct HvfMachine {
    pub(crate) crew: Arc<Crew>,
    pub(crate) options: HvfOptions,
    pub(crate) host: HostInfo,
    /// The host's time at the pause.
    notified: Option<HostTime>,
    paused_at: HostTime,
    /// What was read of vCPUs and belongs to the sections of the machine.
    first: Option<VcpuArm64>,
    redistributors: Vec<Redistributor>,
    identity: Option<Vec<SystemRegister>>,
    pub(crate) taken: Option<Taken>,
    pub(crate) report: RestoreReport,
}

impl HvfMachine {
    /// The machine of a crew. It is looked at only when it is saved or restored.
    pub fn new(crew: Arc<Crew>, options: HvfOptions) -> Result<Self, HvfError> {
        let found = crew.vcpu_count();
        if found > limits::MAX_VCPUS {
            return Err(HvfError::Limit {
                what: "vCPUs",
                found,
                limit: limits::MAX_VCPUS,
            });
        }
        let host = crew.hv().host()?;
        Ok(Self {
            crew,
            options,
            host,
            notified: None,
            paused_at: HostTime::default(),
            first: None,
            redistributors: Vec::new(),
            identity: None,
            taken: None,
            report: RestoreReport::default(),
        })
    }

    /// How the last restore went.
    #[must_use]
    pub fn report(&self) -> &RestoreReport {
        &self.report
    }

    /// The state of one vCPU, read on its thread.
    pub fn save_vcpu(&mut self, vcpu: usize, _: &Paused) -> Result<VcpuArm64, HvfError> {
        if vcpu == 0 {
            // One instant for all: their counters have one offset.
            self.paused_at = self
                .notified
                .take()
                .unwrap_or_else(|| self.crew.hv().time());
            self.redistributors.clear();
        }
        let (profile, paused_at) = (self.profile(), self.paused_at);
        let saved = self.on_thread(vcpu, move |vcpu| vcpu.save(profile, paused_at))?;
        let mut state = saved.state;
        self.add_crew(vcpu, &mut state)?;
        self.add_redistributor(state.mpidr, saved.redistributor);
        if vcpu == 0 {
            self.first = Some(state.clone());
        }
        Ok(state)
    }

    /// What the crew knows: the framework has dropped the lines when the last run ended.
    fn add_crew(&self, vcpu: usize, state: &mut VcpuArm64) -> Result<(), HvfError> {
        let count = self.crew.vcpu_count();
        let nobody = HvfError::NoSuchVcpu { vcpu, count };
        state.power = self.crew.power(vcpu).ok_or(nobody)?;
        let Lines { irq, fiq } = self.crew.lines(vcpu);
        state.pending.irq |= irq;
        state.pending.fiq |= fiq;
        Ok(())
    }

    fn add_redistributor(&mut self, mpidr: u64, registers: Vec<GicRegister>) {
        if self.profile().saves_gic_registers {
            self.redistributors.push(Redistributor {
                mpidr,
                registers,
                lines: 0,
            });
        }
    }

    /// What the machine has once: itself, its interrupt controller in one form or two, and what it
    /// needs of a host. It is asked for after all vCPUs.
    pub fn save_vm(&mut self, _: &Paused) -> Result<Vec<SectionPayload>, HvfError> {
        let what = "the first vCPU";
        let first = self.first.as_ref().ok_or(HvfError::NothingTaken { what })?;
        let hv = &**self.crew.hv();
        let vm = VmArm64 {
            hypervisor: Hypervisor::HVF,
            vcpu_count: u32::try_from(self.crew.vcpu_count()).unwrap_or(u32::MAX),
            address_bits: self.options.address_bits,
            counter_hz: self.host.counter_hz,
            counter_offset: CounterOffset::Separate,
            wall_clock_ns: self.paused_at.wall_ns,
            gic: match self.options.gic {
                Some(_) => GicVersion::V3,
                None => GicVersion::None,
            },
            el2: self.options.el2,
        };
        let interrupts = self.interrupts()?;
        let needs = fingerprint::of_machine(&self.host, &self.options, first, interrupts);
        let mut sections = vec![SectionPayload::of(0, &vm), SectionPayload::of(0, &needs)];
        let Some(config) = &self.options.gic else {
            return Ok(sections);
        };
        let blob = gic::save_blob(hv, &self.host.os_build)?;
        check_len("bytes of opaque state", &blob.bytes)?;
        sections.push(SectionPayload::of(0, &blob));
        if self.options.gic_registers {
            let redistributors = std::mem::take(&mut self.redistributors);
            let registers = gic::save_registers(hv, config, redistributors)?;
            sections.push(SectionPayload::of(0, &registers));
        }
        Ok(sections)
    }

    /// Interrupts of the framework's controller; 0 without one.
    pub(crate) fn interrupts(&self) -> Result<u32, HvfError> {
        match self.options.gic {
            None => Ok(0),
            Some(_) => Ok(gic::interrupts(&**self.crew.hv())?),
        }
    }

    pub(crate) fn profile(&self) -> Profile {
        let has_gic = self.options.gic.is_some();
        Profile {
            has_gic,
            saves_gic_registers: has_gic && self.options.gic_registers,
            has_el2: self.options.el2,
            sme: self.options.sme,
            vector_bytes: u16::try_from(self.host.sme_vector_bytes).unwrap_or(0),
        }
    }

    /// Does something with a vCPU on its own thread, which waits at the rendezvous.
    pub(crate) fn on_thread<T: Send + 'static>(
        &self,
        vcpu: usize,
        job: impl FnOnce(OnThread<'_>) -> Result<T, HvfError> + Send + 'static,
    ) -> Result<T, HvfError> {
        let count = self.crew.vcpu_count();
        let handle = self.crew.handle(vcpu);
        let handle = handle.ok_or(HvfError::NoSuchVcpu { vcpu, count })?;
        let hv = self.crew.hv().clone();
        self.crew.meeting().run_on(vcpu, move || {
            job(OnThread {
                hv: &*hv,
                handle,
                vcpu,
            })
        })?
    }
}

/// That a reader will take what was read.
fn check_len(what: &'static str, bytes: &[u8]) -> Result<(), HvfError> {
    let (found, limit) = (bytes.len(), limits::MAX_GIC_BLOB_BYTES);
    if found > limit {
        return Err(HvfError::Limit { what, found, limit });
    }
    Ok(())
}

impl StateCapture for HvfMachine {
    fn vcpu_count(&self) -> usize {
        self.crew.vcpu_count()
    }

    fn notify_paused(&mut self, vcpu: usize, _: &Paused) -> Result<(), StepError> {
        if vcpu == 0 {
            // The guest has stood still since then: its counter goes on from here.
            self.notified = Some(self.crew.hv().time());
        }
        Ok(())
    }

    fn capture_vcpu(&mut self, vcpu: usize, paused: &Paused) -> Result<SectionPayload, StepError> {
        let saved = self.save_vcpu(vcpu, paused)?;
        Ok(SectionPayload::of(saved.id, &saved))
    }

    fn capture_vm(&mut self, paused: &Paused) -> Result<Vec<SectionPayload>, StepError> {
        Ok(self.save_vm(paused)?)
    }
}

impl StateRestore for HvfMachine {
    fn host(&mut self) -> Result<Fingerprint, StepError> {
        if self.identity.is_none() {
            self.identity = Some(self.on_thread(0, fingerprint::identity)?);
        }
        let identity = self.identity.as_deref().unwrap_or_default();
        let interrupts = self.interrupts()?;
        Ok(fingerprint::host(
            &self.host,
            &self.options,
            identity,
            interrupts,
        ))
    }

    fn take(
        &mut self,
        offers: &mut SectionOffers,
        clock: ClockPolicy,
    ) -> Result<Vec<Reason>, StepError> {
        self.taken = None;
        let (taken, reasons) = taken::take(self, offers, clock)?;
        self.taken = taken;
        Ok(reasons)
    }

    fn prepare(&mut self) -> Result<(), StepError> {
        Ok(self.prepare_restore()?)
    }

    fn vcpu_count(&self) -> usize {
        self.crew.vcpu_count()
    }

    fn restore_vcpu(&mut self, vcpu: usize) -> Result<(), StepError> {
        Ok(self.restore_taken_vcpu(vcpu)?)
    }

    fn restore_vm(&mut self) -> Result<(), StepError> {
        let what = "the machine";
        self.taken.take().ok_or(HvfError::NothingTaken { what })?;
        Ok(())
    }
}
