//! A KVM machine of aarch64 as the bridge sees it.

use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

use hypervisor_bridge::{ClockPolicy, Paused, StateCapture, StateRestore, StepError};
use snapshot_format::state::{
    Fingerprint, GicBlob, GicV2, GicV3, GicVersion, Hypervisor, KvmInit, Reason, VcpuArm64, VmArm64,
};
use snapshot_format::{SectionKind, SectionOffers, SectionPayload, StatePayload};

use super::fingerprint::{self, Made};
use super::interface::{Interface, has_feature, with_feature};
use super::policy::RegisterPolicy;
use super::{abi, fit, gicv2, gicv3, restore, save, timers, trial};
use crate::calls::Calls;
use crate::error::{KvmError, check_vcpu_count};
use crate::ioctl::Handles;

/// Which of its parts the kernel models.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct KernelDevices {
    /// The interrupt controller: the first of [`Handles::with_devices`].
    pub gic: GicVersion,
    /// Interrupt translation services: the devices after it.
    pub its_count: usize,
}

impl KernelDevices {
    /// None: the VMM models them.
    pub const NONE: Self = Self {
        gic: GicVersion::None,
        its_count: 0,
    };

    /// A GICv2.
    pub const GIC_V2: Self = Self {
        gic: GicVersion::V2,
        its_count: 0,
    };

    /// A GICv3 with this many translation services.
    #[must_use]
    pub const fn gic_v3(its_count: usize) -> Self {
        Self {
            gic: GicVersion::V3,
            its_count,
        }
    }
}

/// What the adapter must know of the machine, and how it restores.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct KvmOptions {
    /// Which devices the kernel models.
    pub devices: KernelDevices,
    /// What `KVM_ARM_VCPU_INIT` was told for every vCPU; the kernel does not give it back. `None`
    /// for a machine to restore into, whose vCPUs are made as the snapshot says.
    pub init: Option<KvmInit>,
    /// Bits of a guest physical address that the machine was made with.
    pub address_bits: u8,
    /// What to do with registers that the kernel refuses.
    pub registers: RegisterPolicy,
}

impl KvmOptions {
    /// Options for a machine with these devices in the kernel, of 40 address bits; strict about
    /// registers.
    #[must_use]
    pub fn new(devices: KernelDevices) -> Self {
        Self {
            devices,
            init: None,
            address_bits: 40,
            registers: RegisterPolicy::default(),
        }
    }

    /// The same, with what the vCPUs were made with.
    #[must_use]
    pub fn with_init(mut self, init: KvmInit) -> Self {
        self.init = Some(init);
        self
    }
}

/// Saves and restores the state that KVM keeps of a machine.
///
/// The caller stops the vCPUs and completes their exits
/// ([`complete_pending_exit`](crate::complete_pending_exit)); the bridge calls in the right order.
///
/// For a restore the VMM makes the machine, its memory slots, its vCPUs in the order of their
/// numbers, and the devices with their addresses; the adapter does the rest, from
/// `KVM_ARM_VCPU_INIT` on.
pub struct KvmMachine<'fd> {
    calls: Box<dyn Calls + 'fd>,
    vcpu_count: usize,
    options: KvmOptions,
    interface: Interface,
    /// What the vCPUs are made with, as soon as it is known.
    init: Option<KvmInit>,
    /// The first vCPU when it was last read: what the machine needs is judged by it.
    first: Option<VcpuArm64>,
    /// The affinities of the vCPUs that were read.
    mpidrs: Vec<Option<u64>>,
    taken: Option<Taken>,
}

/// State on its way into the machine.
struct Taken {
    vcpus: Vec<VcpuArm64>,
    vm: VmArm64,
    gic_v3: Option<GicV3>,
    gic_v2: Option<GicV2>,
    policy: ClockPolicy,
}

impl<'fd> KvmMachine<'fd> {
    /// Looks at what the kernel offers. The machine has all its vCPUs and devices.
    pub fn new(handles: Handles<'fd>, options: KvmOptions) -> Result<Self, KvmError> {
        let (vcpu_count, devices) = (handles.vcpu_count(), handles.device_count());
        let KernelDevices { gic, its_count } = options.devices;
        let expected = usize::from(gic != GicVersion::None) + its_count;
        if devices != expected {
            return Err(KvmError::OtherMachine {
                what: "devices, as the options say",
                saved: expected as u64,
                target: devices as u64,
            });
        }
        Self::with_calls(Box::new(handles), vcpu_count, options)
    }

    pub(crate) fn with_calls(
        mut calls: Box<dyn Calls + 'fd>,
        vcpu_count: usize,
        options: KvmOptions,
    ) -> Result<Self, KvmError> {
        check_vcpu_count(vcpu_count)?;
        let interface = Interface::read(&mut *calls)?;
        let init = options.init;
        Ok(Self {
            calls,
            vcpu_count,
            options,
            interface,
            init: init.map(|init| with_feature(init, abi::VCPU_POWER_OFF, false)),
            first: None,
            mpidrs: vec![None; vcpu_count],
            taken: None,
        })
    }

    /// What the machine needs of a host, for a manifest. No vCPU may be running.
    pub fn fingerprint(&mut self, paused: &Paused) -> Result<Fingerprint, KvmError> {
        self.save_vcpu(0, paused)?;
        let interrupts = match self.options.devices.gic {
            GicVersion::V3 => gicv3::config(&mut *self.calls)?.interrupts,
            GicVersion::V2 => gicv2::config(&mut *self.calls)?.interrupts,
            _ => 0,
        };
        self.machine_fingerprint(interrupts)
    }

    /// The state of one vCPU.
    pub fn save_vcpu(&mut self, vcpu: usize, _: &Paused) -> Result<VcpuArm64, KvmError> {
        let what = "what the vCPUs were made with, which the options must say";
        let init = self.init.ok_or(KvmError::NothingTaken { what })?;
        let gic = self.options.devices.gic;
        let saved = save::save_vcpu(&mut *self.calls, vcpu, init, gic)?;
        if let Some(mpidr) = self.mpidrs.get_mut(vcpu) {
            *mpidr = Some(saved.mpidr);
        }
        if vcpu == 0 {
            self.first = Some(saved.clone());
        }
        Ok(saved)
    }

    /// What the machine has once, its interrupt controller apart.
    pub fn save_vm(&mut self, _: &Paused) -> Result<VmArm64, KvmError> {
        let init = self.init.unwrap_or_default();
        Ok(VmArm64 {
            hypervisor: Hypervisor::KVM,
            vcpu_count: u32::try_from(self.vcpu_count).unwrap_or(u32::MAX),
            address_bits: self.options.address_bits,
            counter_hz: fingerprint::frequency(&mut *self.calls)?,
            counter_offset: timers::offset_of_machine(&mut *self.calls)?,
            wall_clock_ns: wall_clock_ns(),
            gic: self.options.devices.gic,
            el2: has_feature(&init, abi::VCPU_HAS_EL2),
        })
    }

    /// The GICv3, once every vCPU was read. Writes into guest memory what the controller keeps
    /// there.
    pub fn save_gic_v3(&mut self, _: &Paused) -> Result<GicV3, KvmError> {
        let mpidrs: Option<Vec<u64>> = self.mpidrs.iter().copied().collect();
        let what = "every vCPU";
        let mpidrs = mpidrs.ok_or(KvmError::NothingTaken { what })?;
        gicv3::save(&mut *self.calls, &mpidrs, self.options.devices.its_count)
    }

    /// The GICv2.
    pub fn save_gic_v2(&mut self, _: &Paused) -> Result<GicV2, KvmError> {
        let vcpu_count = u32::try_from(self.vcpu_count).unwrap_or(u32::MAX);
        gicv2::save(&mut *self.calls, vcpu_count)
    }

    fn machine_fingerprint(&mut self, interrupts: u32) -> Result<Fingerprint, KvmError> {
        let what = "the first vCPU";
        let first = self.first.as_ref().ok_or(KvmError::NothingTaken { what })?;
        let KernelDevices { gic, its_count } = self.options.devices;
        let made = Made {
            counter_hz: fingerprint::frequency(&mut *self.calls)?,
            address_bits: self.options.address_bits,
            gic,
            interrupts,
            its_count,
        };
        Ok(fingerprint::of_machine(&self.interface, first, made))
    }

    /// What does not fit the machine, apart from sections that are missing.
    fn misfits(&mut self, taken: &Taken, numbers: &[u32]) -> Result<Vec<Reason>, KvmError> {
        let (devices, calls) = (self.options.devices, &mut *self.calls);
        let vcpus = &taken.vcpus;
        let mut reasons = fit::shape(numbers, &taken.vm, self.vcpu_count, devices);
        reasons.extend(fit::foreign(vcpus, taken.gic_v3.as_ref()));
        reasons.extend(fit::affinities(calls, vcpus, self.vcpu_count)?);
        let host_hz = fingerprint::frequency(calls)?;
        let saved_hz = taken.vm.counter_hz;
        if saved_hz != host_hz {
            reasons.push(Reason::CounterFrequency { saved_hz, host_hz });
        }
        if taken.policy == ClockPolicy::Advance && taken.vm.wall_clock_ns == 0 {
            let missing = "the snapshot has no wall clock";
            reasons.push(Reason::WallClock { missing });
        }
        match (devices.gic, &taken.gic_v3, &taken.gic_v2) {
            (GicVersion::V3, Some(gic), _) => {
                reasons.extend(fit::gic_v3(calls, gic, vcpus, devices.its_count)?);
            }
            (GicVersion::V2, _, Some(gic)) => {
                reasons.extend(fit::gic_v2(calls, gic, self.vcpu_count)?);
            }
            _ => {}
        }
        Ok(reasons)
    }

    /// What the host refuses, and what the vCPUs are made with.
    fn try_out(&mut self, vcpus: &[VcpuArm64]) -> Result<Vec<Reason>, KvmError> {
        let Some(first) = vcpus.first() else {
            return Ok(Vec::new());
        };
        let scratch = self.calls.scratch(false);
        let mut scratch = scratch.map_err(|source| KvmError::Scratch { source })?;
        let init = match first.kvm_init {
            Some(init) => init,
            None => trial::features_of_foreign(&mut *scratch, first)?,
        };
        self.init = Some(with_feature(init, abi::VCPU_POWER_OFF, false));
        trial::refused(&mut *scratch, &init, vcpus, &self.options.registers)
    }
}

/// The host's wall clock in nanoseconds since 1970; 0 before that.
fn wall_clock_ns() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| {
        u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
    })
}

fn missing(section: SectionKind) -> Reason {
    Reason::MissingSection {
        section,
        instance: 0,
    }
}

impl StateCapture for KvmMachine<'_> {
    fn vcpu_count(&self) -> usize {
        self.vcpu_count
    }

    /// Nothing: on aarch64 the watchdog of the guest goes by the counter, which goes on with it.
    fn notify_paused(&mut self, _: usize, _: &Paused) -> Result<(), StepError> {
        Ok(())
    }

    fn capture_vcpu(&mut self, vcpu: usize, paused: &Paused) -> Result<SectionPayload, StepError> {
        let saved = self.save_vcpu(vcpu, paused)?;
        Ok(SectionPayload::of(saved.id, &saved))
    }

    fn capture_vm(&mut self, paused: &Paused) -> Result<Vec<SectionPayload>, StepError> {
        let vm = self.save_vm(paused)?;
        let mut sections = vec![SectionPayload::of(0, &vm)];
        let interrupts = match self.options.devices.gic {
            GicVersion::V3 => {
                let gic = self.save_gic_v3(paused)?;
                sections.push(SectionPayload::of(0, &gic));
                gic.config.interrupts
            }
            GicVersion::V2 => {
                let gic = self.save_gic_v2(paused)?;
                sections.push(SectionPayload::of(0, &gic));
                gic.interrupts
            }
            _ => 0,
        };
        let fingerprint = self.machine_fingerprint(interrupts)?;
        sections.push(SectionPayload::of(0, &fingerprint));
        Ok(sections)
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
        self.taken = None;
        let (numbers, vcpus): (Vec<_>, Vec<_>) = offers.take_all()?.into_iter().unzip();
        // Not for this hypervisor: the section by register is what counts.
        offers.take_optional::<GicBlob>(0)?;
        let vm = offers.take_optional::<VmArm64>(0)?;
        let (gic_v3, gic_v2) = (offers.take_optional(0)?, offers.take_optional(0)?);
        let mut reasons = Vec::new();
        let Some(vm) = vm else {
            reasons.push(missing(VmArm64::KIND));
            return Ok(reasons);
        };
        if vm.gic == GicVersion::V3 && gic_v3.is_none() {
            reasons.push(missing(GicV3::KIND));
        }
        if vm.gic == GicVersion::V2 && gic_v2.is_none() {
            reasons.push(missing(GicV2::KIND));
        }
        let taken = Taken {
            vcpus,
            vm,
            gic_v3,
            gic_v2,
            policy,
        };
        reasons.extend(self.misfits(&taken, &numbers)?);
        reasons.extend(self.try_out(&taken.vcpus)?);
        self.taken = Some(taken);
        Ok(reasons)
    }

    fn prepare(&mut self) -> Result<(), StepError> {
        let what = "the vCPUs";
        let nothing = || KvmError::NothingTaken { what };
        let taken = self.taken.as_ref().ok_or_else(nothing)?;
        let init = self.init.ok_or_else(nothing)?;
        let (calls, policy) = (&mut *self.calls, &self.options.registers);
        for (index, vcpu) in taken.vcpus.iter().enumerate() {
            restore::make_vcpu(calls, index, &init, vcpu, policy)?;
        }
        for (index, vcpu) in taken.vcpus.iter().enumerate() {
            restore::check_affinity(calls, index, vcpu)?;
        }
        // After every vCPU, each of which has a part in it; before any of its registers, and
        // before the monitors, whose interrupt it delivers.
        match self.options.devices.gic {
            GicVersion::V3 => gicv3::finish_making(calls, self.options.devices.its_count)?,
            GicVersion::V2 => gicv2::finish_making(calls)?,
            _ => {}
        }
        let Some(first) = taken.vcpus.first() else {
            return Ok(());
        };
        let elapsed = match taken.policy {
            ClockPolicy::Advance => timers::elapsed_ticks(&taken.vm, wall_clock_ns()),
            _ => 0,
        };
        let offset = taken.vm.counter_offset;
        let has_offset = self.interface.counter_offset;
        timers::restore_counter(calls, &first.timers, offset, elapsed, has_offset)?;
        Ok(())
    }

    fn vcpu_count(&self) -> usize {
        self.vcpu_count
    }

    fn restore_vcpu(&mut self, vcpu: usize) -> Result<(), StepError> {
        let taken = self.taken.as_ref();
        let saved = taken.and_then(|taken| taken.vcpus.get(vcpu));
        let saved = saved.ok_or(KvmError::NothingTaken { what: "a vCPU" })?;
        let (gic, policy) = (self.options.devices.gic, &self.options.registers);
        restore::restore_vcpu(&mut *self.calls, vcpu, saved, gic, policy)?;
        Ok(())
    }

    fn restore_vm(&mut self) -> Result<(), StepError> {
        let what = "the machine";
        let taken = self.taken.take().ok_or(KvmError::NothingTaken { what })?;
        if let Some(gic) = &taken.gic_v3 {
            let vcpus = taken.vcpus.iter();
            let icc: Vec<_> = vcpus.map(|vcpu| (vcpu.mpidr, &*vcpu.icc)).collect();
            gicv3::restore(&mut *self.calls, gic, &icc)?;
        }
        if let Some(gic) = &taken.gic_v2 {
            gicv2::restore(&mut *self.calls, gic)?;
        }
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
