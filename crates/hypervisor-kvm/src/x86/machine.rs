//! A KVM machine as the bridge sees it.

use std::fmt;

use hypervisor_bridge::{ClockPolicy, Paused, StateCapture, StateRestore, StepError};
use kvm_bindings as kvm;
use snapshot_format::state::{Clock, Fingerprint, Reason, VcpuX86, VmX86};
use snapshot_format::{SectionOffers, SectionPayload, StatePayload, limits};

use crate::calls::{Arg, Calls, Target};
use crate::error::KvmError;
use crate::ioctl::Handles;
use crate::request as req;
use crate::x86::clock::{self, Counter};
use crate::x86::interface::Interface;
use crate::x86::msrs::MsrPolicy;
use crate::x86::restore::TscPlan;
use crate::x86::vm::KernelDevices;
use crate::x86::{convert, fingerprint, msrs, restore, save, vm};

/// What the adapter must know of the machine, and how it restores.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct KvmOptions {
    /// Which devices the kernel models.
    pub devices: KernelDevices,
    /// What to do with registers that the kernel refuses.
    pub msrs: MsrPolicy,
}

impl KvmOptions {
    /// Options for a machine with these devices in the kernel; strict about registers.
    #[must_use]
    pub fn new(devices: KernelDevices) -> Self {
        Self {
            devices,
            msrs: MsrPolicy::default(),
        }
    }
}

/// Saves and restores the state that KVM keeps of a machine.
///
/// The caller stops the vCPUs and completes their exits
/// ([`complete_pending_exit`](crate::complete_pending_exit)); the bridge calls in the right order.
pub struct KvmMachine<'fd> {
    calls: Box<dyn Calls + 'fd>,
    vcpu_count: usize,
    options: KvmOptions,
    interface: Interface,
    /// What the machine needs, as judged by its first vCPU when that was last read.
    fingerprint: Option<Fingerprint>,
    taken: Option<Taken>,
}

/// State on its way into the machine.
struct Taken {
    vcpus: Vec<VcpuX86>,
    vm: VmX86,
    policy: ClockPolicy,
    /// The clock as read back after it was set.
    clock: Option<Clock>,
    /// What to add to the offset of each TSC where the clock does not tell.
    shift: Option<u64>,
    /// The frequency of the target's TSC in kHz.
    target_khz: u64,
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
        if vcpu_count > limits::MAX_VCPUS {
            return Err(KvmError::TooManyVcpus {
                found: vcpu_count,
                limit: limits::MAX_VCPUS,
            });
        }
        let interface = Interface::read(&mut *calls)?;
        Ok(Self {
            calls,
            vcpu_count,
            options,
            interface,
            fingerprint: None,
            taken: None,
        })
    }

    /// What the machine needs of a host, for a manifest. No vCPU may be running.
    pub fn fingerprint(&mut self, paused: &Paused) -> Result<Fingerprint, KvmError> {
        self.save_vcpu(0, paused)?;
        self.machine_fingerprint()
    }

    /// The state of one vCPU.
    pub fn save_vcpu(&mut self, vcpu: usize, _: &Paused) -> Result<VcpuX86, KvmError> {
        let irqchip = self.options.devices.irqchip;
        let saved = save::save_vcpu(&mut *self.calls, &self.interface, vcpu, irqchip)?;
        if vcpu == 0 {
            self.fingerprint = Some(fingerprint::of_machine(&self.interface, &saved));
        }
        Ok(saved)
    }

    /// What the machine has once.
    pub fn save_vm(&mut self, _: &Paused) -> Result<VmX86, KvmError> {
        vm::save_vm(&mut *self.calls, self.options.devices, self.vcpu_count)
    }

    fn machine_fingerprint(&self) -> Result<Fingerprint, KvmError> {
        let what = "the first vCPU";
        self.fingerprint
            .clone()
            .ok_or(KvmError::NothingTaken { what })
    }

    /// How the machine that was saved differs from this one.
    fn misfits(&self, vcpus: &[VcpuX86], vm: &VmX86) -> Vec<Reason> {
        let devices = self.options.devices;
        let counted = usize::try_from(vm.vcpu_count).unwrap_or(usize::MAX);
        let pairs = [
            ("vCPUs", counted, self.vcpu_count),
            ("vCPU sections", vcpus.len(), counted),
            (
                "in-kernel interrupt controllers",
                vm.ioapic.is_some().into(),
                devices.irqchip.into(),
            ),
            (
                "in-kernel timers",
                vm.pit.is_some().into(),
                devices.pit.into(),
            ),
        ];
        let differ = pairs
            .into_iter()
            .filter(|(_, saved, target)| saved != target);
        differ
            .map(|(what, saved, target)| Reason::Shape {
                what,
                saved: saved as u64,
                target: target as u64,
            })
            .collect()
    }

    fn tsc_plan(&self, vcpu: &VcpuX86, taken: &Taken) -> TscPlan {
        // With scaling in play the two hosts' counters do not tick alike.
        let scaled = self.interface.tsc_control && taken.target_khz != vcpu.tsc_khz.into();
        let by_clock = taken.vm.clock.as_ref().zip(taken.clock.as_ref());
        let offset = vcpu.tsc_offset.filter(|_| !scaled).and_then(|offset| {
            by_clock
                .and_then(|(from, to)| clock::offset_on_target(offset, vcpu.tsc_khz, from, to))
                .or_else(|| Some(offset.wrapping_add(taken.shift?)))
        });
        offset.map_or(TscPlan::Register, TscPlan::Offset)
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

/// How far the target's TSC is from where the first vCPU's was; `None` where an offset is missing.
fn shift_of_offsets(
    calls: &mut (dyn Calls + '_),
    first: Option<&VcpuX86>,
) -> Result<Option<u64>, KvmError> {
    let saved = first.and_then(|vcpu| {
        let tsc = vcpu.msrs.iter().find(|msr| msr.index == msrs::TSC)?.value;
        let offset = vcpu.tsc_offset?;
        Some(Counter { tsc, offset })
    });
    let offset = save::save_tsc_offset(calls, Target::Vcpu(0))?;
    let tsc = msrs::read(calls, 0, &[msrs::TSC])?;
    let now = tsc.first().zip(offset).map(|(msr, offset)| Counter {
        tsc: msr.value,
        offset,
    });
    let pair = saved.zip(now);
    Ok(pair.map(|(saved, now)| clock::shift_of_offsets(saved, now)))
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
        policy: ClockPolicy,
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
        reasons.extend(self.misfits(&vcpus, &vm));
        let accepted = self.interface.capability(kvm::KVM_CAP_ADJUST_CLOCK);
        reasons.extend(clock::misfit(vm.clock.as_ref(), policy, accepted));
        self.taken = Some(Taken {
            vcpus,
            vm,
            policy,
            clock: None,
            shift: None,
            target_khz: 0,
        });
        Ok(reasons)
    }

    fn prepare(&mut self) -> Result<(), StepError> {
        let Some(taken) = &mut self.taken else {
            return Err(KvmError::NothingTaken { what: "the clock" }.into());
        };
        if let Some(saved) = &taken.vm.clock {
            let set = clock::clock_to_set(saved, taken.policy);
            self.calls.set(Target::Vm, req::KVM_SET_CLOCK, set)?;
            // Read back: the counters of the vCPUs are set to agree with what it shows now.
            let now = self.calls.get(Target::Vm, req::KVM_GET_CLOCK)?;
            taken.clock = Some(convert::from_clock(&now));
        }
        let khz = Arg::Value(0);
        taken.target_khz = self
            .calls
            .make(Target::Vcpu(0), req::KVM_GET_TSC_KHZ, khz)?;
        taken.shift = shift_of_offsets(&mut *self.calls, taken.vcpus.first())?;
        Ok(())
    }

    fn vcpu_count(&self) -> usize {
        self.vcpu_count
    }

    fn restore_vcpu(&mut self, vcpu: usize) -> Result<(), StepError> {
        let taken = self.taken.take();
        let state = taken.as_ref().and_then(|taken| {
            let saved = taken.vcpus.get(vcpu)?;
            Some((saved, self.tsc_plan(saved, taken)))
        });
        let done = match state {
            None => Err(KvmError::NothingTaken { what: "a vCPU" }),
            Some((saved, tsc)) => restore::restore_vcpu(
                &mut *self.calls,
                &self.interface,
                vcpu,
                saved,
                tsc,
                &self.options.msrs,
            ),
        };
        self.taken = taken;
        Ok(done?)
    }

    fn restore_vm(&mut self) -> Result<(), StepError> {
        let what = "the machine";
        let taken = self.taken.take().ok_or(KvmError::NothingTaken { what })?;
        Ok(vm::restore_vm(&mut *self.calls, &taken.vm)?)
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
