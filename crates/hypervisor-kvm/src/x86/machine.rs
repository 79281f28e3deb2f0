//! A KVM machine as the bridge sees it.

use std::fmt;

use hypervisor_bridge::{ClockPolicy, Paused, StateCapture, StateRestore, StepError};
use snapshot_format::state::{Clock, Fingerprint, GsiRoute, Reason, VcpuX86, VmX86};
use snapshot_format::{SectionOffers, SectionPayload, StatePayload};

use crate::calls::{Arg, Calls, Target};
use crate::error::{KvmError, check_vcpu_count};
use crate::ioctl::Handles;
use crate::request as req;
use crate::x86::clock::{self, clock_to_set, wall_clock_ns};
use crate::x86::interface::Interface;
use crate::x86::options::KvmOptions;
use crate::x86::report::RestoreReport;
use crate::x86::restore::Restoring;
use crate::x86::tsc::{self, TscPlan};
use crate::x86::{check, fingerprint, rehearsal, restore, save, vm};

/// Saves and restores the state that KVM keeps of a machine.
///
/// The caller stops the vCPUs and completes their exits
/// ([`complete_pending_exit`](crate::complete_pending_exit)); the bridge calls in the right order.
pub struct KvmMachine<'fd> {
    calls: Box<dyn Calls + 'fd>,
    vcpu_count: usize,
    options: KvmOptions,
    interface: Interface,
    /// What the machine needs, as judged by the vCPUs that were read since the first.
    fingerprint: Option<Fingerprint>,
    taken: Option<Taken>,
    report: RestoreReport,
}

/// State on its way into the machine.
struct Taken {
    vcpus: Vec<VcpuX86>,
    vm: VmX86,
    clock: ClockPolicy,
    /// How the counters are set; from when the clock was set.
    tsc: Option<TscPlan>,
}

impl<'fd> KvmMachine<'fd> {
    /// Looks at what the kernel offers. The machine has all its vCPUs.
    pub fn new(handles: Handles<'fd>, options: KvmOptions) -> Result<Self, KvmError> {
        let vcpu_count = handles.vcpu_count();
        Self::with_calls(Box::new(handles), vcpu_count, options)
    }

    pub(crate) fn with_calls(
        mut calls: Box<dyn Calls + 'fd>,
        vcpu_count: usize,
        options: KvmOptions,
    ) -> Result<Self, KvmError> {
        check_vcpu_count(vcpu_count)?;
        let interface = Interface::read(&mut *calls)?;
        Ok(Self {
            calls,
            vcpu_count,
            options,
            interface,
            fingerprint: None,
            taken: None,
            report: RestoreReport::default(),
        })
    }

    /// What the machine needs of a host, for a manifest. No vCPU may be running.
    pub fn fingerprint(&mut self, paused: &Paused) -> Result<Fingerprint, KvmError> {
        for vcpu in 0..self.vcpu_count {
            self.save_vcpu(vcpu, paused)?;
        }
        self.machine_fingerprint()
    }

    /// The state of one vCPU.
    pub fn save_vcpu(&mut self, vcpu: usize, _: &Paused) -> Result<VcpuX86, KvmError> {
        let local_apic = self.options.devices.has_local_apics();
        let saved = save::save_vcpu(&mut *self.calls, &self.interface, vcpu, local_apic)?;
        match &mut self.fingerprint {
            Some(fingerprint) if vcpu != 0 => {
                fingerprint::add_vcpu(fingerprint, &self.interface, &saved);
            }
            _ => {
                let of_machine = fingerprint::of_machine(&self.interface, &self.options, &saved);
                self.fingerprint = Some(of_machine);
            }
        }
        Ok(saved)
    }

    /// What the machine has once.
    pub fn save_vm(&mut self, _: &Paused) -> Result<VmX86, KvmError> {
        vm::save_vm(&mut *self.calls, &self.options, self.vcpu_count)
    }

    /// The routes of interrupts: as the options gave them, or as a restore brought them, so that
    /// the VMM can go on from there.
    #[must_use]
    pub fn routes(&self) -> Option<&[GsiRoute]> {
        self.options.routes.as_deref()
    }

    /// What the last restore did that its caller did not ask for by name.
    #[must_use]
    pub fn report(&self) -> &RestoreReport {
        &self.report
    }

    fn machine_fingerprint(&self) -> Result<Fingerprint, KvmError> {
        let what = "the first vCPU";
        self.fingerprint
            .clone()
            .ok_or(KvmError::NothingTaken { what })
    }

    /// Every reason against bringing this state into this machine, which is only read.
    fn misfits(
        &mut self,
        numbers: &[u32],
        vcpus: &[VcpuX86],
        vm: &VmX86,
    ) -> Result<Vec<Reason>, KvmError> {
        let target = check::Target {
            interface: &self.interface,
            devices: self.options.devices,
            vcpu_count: self.vcpu_count,
            event_flags: save::event_flags(&mut *self.calls)?,
        };
        let mut reasons = target.machine(vcpus, vm);
        for (number, vcpu) in numbers.iter().zip(vcpus) {
            reasons.extend(target.vcpu(*number, vcpu));
        }
        let here = vcpus.get(..self.vcpu_count).unwrap_or(vcpus);
        let calls = &mut *self.calls;
        let refused = rehearsal::refused_registers(calls, here, &self.options)?;
        reasons.extend(refused);
        Ok(reasons)
    }

    /// Sets frequencies and clock, and computes from them where each counter is to be.
    fn set_time(&mut self, taken: &Taken) -> Result<TscPlan, KvmError> {
        let Taken {
            vcpus, vm, clock, ..
        } = taken;
        let calls = &mut *self.calls;
        // Before the clock and anything else that is counted in ticks.
        let mut scaled = false;
        if self.interface.tsc_control {
            for (index, vcpu) in vcpus.iter().enumerate().filter(|(_, v)| v.tsc_khz != 0) {
                scaled |= tsc::khz(calls, index)? != vcpu.tsc_khz;
                let khz = Arg::Value(vcpu.tsc_khz.into());
                calls.make(Target::Vcpu(index), req::KVM_SET_TSC_KHZ, khz)?;
            }
        }
        let mut now = None;
        if let Some(saved) = &vm.clock {
            let realtime = self.interface.clock_has_realtime();
            let set = clock_to_set(saved, *clock, realtime, wall_clock_ns());
            calls.set(Target::Vm, req::KVM_SET_CLOCK, set)?;
            // Read back: the counters of the vCPUs are set to agree with what it shows now.
            let clock: Clock = vm::read_clock(calls)?;
            self.report.clock_advanced_ns = clock.clock_ns.saturating_sub(saved.clock_ns);
            now = Some(clock);
        }
        TscPlan::new(calls, vcpus, vm, now.as_ref(), scaled)
    }
}

/// The vCPUs that are missing where they must be numbered from 0 without a gap, each once.
fn gaps(numbers: &[u32]) -> Vec<Reason> {
    let expected = (0..)
        .zip(numbers)
        .filter(|(number, found)| number != *found);
    expected
        .map(|(instance, _)| Reason::MissingSection {
            section: VcpuX86::KIND,
            instance,
        })
        .collect()
}

impl StateCapture for KvmMachine<'_> {
    fn vcpu_count(&self) -> usize {
        self.vcpu_count
    }

    fn notify_paused(&mut self, vcpu: usize, _: &Paused) -> Result<(), StepError> {
        Ok(restore::notify_paused(&mut *self.calls, vcpu)?)
    }

    fn capture_vcpu(&mut self, vcpu: usize, paused: &Paused) -> Result<SectionPayload, StepError> {
        let saved = self.save_vcpu(vcpu, paused)?;
        Ok(SectionPayload::of(saved.id, &saved))
    }

    fn capture_vm(&mut self, paused: &Paused) -> Result<Vec<SectionPayload>, StepError> {
        let vm = self.save_vm(paused)?;
        let fingerprint = self.machine_fingerprint()?;
        Ok(vec![
            SectionPayload::of(0, &vm),
            SectionPayload::of(0, &fingerprint),
        ])
    }
}

impl StateRestore for KvmMachine<'_> {
    fn host(&mut self) -> Result<Fingerprint, StepError> {
        Ok(fingerprint::host(&mut *self.calls, &self.interface)?)
    }

    fn take(
        &mut self,
        offers: &mut SectionOffers,
        clock: ClockPolicy,
    ) -> Result<Vec<Reason>, StepError> {
        let (numbers, vcpus): (Vec<_>, Vec<_>) = offers.take_all()?.into_iter().unzip();
        let mut reasons = gaps(&numbers);
        let Some(vm) = offers.take_optional::<VmX86>(0)? else {
            reasons.push(Reason::MissingSection {
                section: VmX86::KIND,
                instance: 0,
            });
            return Ok(reasons);
        };
        reasons.extend(self.misfits(&numbers, &vcpus, &vm)?);
        reasons.extend(clock::misfit(vm.clock.as_ref(), clock));
        self.taken = Some(Taken {
            vcpus,
            vm,
            clock,
            tsc: None,
        });
        Ok(reasons)
    }

    fn prepare(&mut self) -> Result<(), StepError> {
        let what = "the clock";
        let mut taken = self.taken.take().ok_or(KvmError::NothingTaken { what })?;
        self.report = RestoreReport::default();
        taken.tsc = Some(self.set_time(&taken)?);
        self.taken = Some(taken);
        Ok(())
    }

    fn vcpu_count(&self) -> usize {
        self.vcpu_count
    }

    fn restore_vcpu(&mut self, vcpu: usize) -> Result<(), StepError> {
        let state = self.taken.as_ref().and_then(|taken| {
            let saved = taken.vcpus.get(vcpu)?;
            Some((saved, taken.tsc.as_ref()?))
        });
        let (saved, tsc) = state.ok_or(KvmError::NothingTaken { what: "a vCPU" })?;
        let restoring = Restoring {
            interface: &self.interface,
            options: &self.options,
            tsc,
        };
        Ok(restoring.vcpu(&mut *self.calls, vcpu, saved, &mut self.report)?)
    }

    fn restore_vm(&mut self) -> Result<(), StepError> {
        let what = "the machine";
        let taken = self.taken.take().ok_or(KvmError::NothingTaken { what })?;
        vm::restore_vm(&mut *self.calls, &taken.vm)?;
        self.options.routes = taken.vm.routes;
        self.report.log();
        Ok(())
    }
}

impl fmt::Debug for KvmMachine<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KvmMachine")
            .field("vcpu_count", &self.vcpu_count)
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}
