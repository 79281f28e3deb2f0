//! State on its way into a machine.

use hypervisor_bridge::{ClockPolicy, StepError};
use snapshot_format::state::{
    GicBlob, GicV3, GicVersion, Hypervisor, PowerState, Reason, VcpuArm64, VmArm64,
};
use snapshot_format::{SectionOffers, StatePayload};

use crate::clock::SavedClock;
use crate::crew::Lines;
use crate::error::HvfError;
use crate::gic::{self, GicWay};
use crate::machine::{HvfMachine, RestoreReport, SmePolicy};
use crate::restore::Counters;

/// `CNTV_CTL_EL0`: enabled, and its interrupt not masked.
const TIMER_BITS: u64 = 0b11;
const TIMER_ON: u64 = 0b01;

/// Everything that was taken.
#[derive(Debug)]
pub(crate) struct Taken {
    vcpus: Vec<VcpuArm64>,
    vm: VmArm64,
    blob: Option<GicBlob>,
    gic: Option<GicV3>,
    clock: ClockPolicy,
    counters: Option<Counters>,
}

/// Takes the sections, and says everything that does not fit. `None` where too little is there to
/// go on with.
pub(crate) fn take(
    machine: &HvfMachine,
    offers: &mut SectionOffers,
    clock: ClockPolicy,
) -> Result<(Option<Taken>, Vec<Reason>), StepError> {
    let (numbers, vcpus): (Vec<u32>, Vec<VcpuArm64>) = offers.take_all()?.into_iter().unzip();
    let mut reasons = gaps(&numbers);
    let vm = offers.take_optional::<VmArm64>(0)?;
    let gic = offers.take_optional::<GicV3>(0)?;
    // Bytes of another hypervisor are no use; that of this one may be refused all the same.
    let blob = offers.take_optional::<GicBlob>(0)?;
    let blob =
        blob.filter(|blob| blob.hypervisor == Hypervisor::HVF && blob.producer == gic::PRODUCER);
    let Some(vm) = vm else {
        reasons.push(missing_section::<VmArm64>());
        return Ok((None, reasons));
    };
    let taken = Taken {
        vcpus,
        vm,
        blob,
        gic,
        clock,
        counters: None,
    };
    reasons.extend(taken.shape(machine));
    reasons.extend(taken.wall_clock());
    reasons.extend(taken.interrupt_controller(machine));
    for vcpu in &taken.vcpus {
        reasons.extend(vcpu_shape(vcpu, machine));
    }
    for (number, vcpu) in taken.vcpus.iter().enumerate() {
        // A vCPU that the target does not have is a reason already.
        if number < machine.crew.vcpu_count() {
            let saved = vcpu.clone();
            reasons.extend(machine.on_thread(number, move |vcpu| vcpu.missing(&saved))?);
        }
    }
    Ok((Some(taken), reasons))
}

fn missing_section<T: StatePayload>() -> Reason {
    Reason::MissingSection {
        section: T::KIND,
        instance: 0,
    }
}

/// The vCPUs that are missing where they must be numbered from 0 without a gap, each once.
fn gaps(numbers: &[u32]) -> Vec<Reason> {
    let expected = (0..).zip(numbers);
    let wrong = expected.filter(|(number, found)| number != *found);
    wrong
        .map(|(instance, _)| Reason::MissingSection {
            section: VcpuArm64::KIND,
            instance,
        })
        .collect()
}

fn differing(pairs: &[(&'static str, u64, u64)]) -> Vec<Reason> {
    let differ = pairs.iter().filter(|(_, saved, target)| saved != target);
    differ
        .map(|&(what, saved, target)| Reason::Shape {
            what,
            saved,
            target,
        })
        .collect()
}

/// What a vCPU has that no vCPU of the framework can be given.
fn vcpu_shape(vcpu: &VcpuArm64, machine: &HvfMachine) -> Vec<Reason> {
    let core = &vcpu.core;
    let is_32_bit = core.spsr_aarch32.iter().any(|spsr| *spsr != 0);
    let sme = vcpu.sme.as_ref().map_or(0, |sme| sme.vector_bytes);
    let profile = machine.profile();
    let can_sme = match profile.sme {
        SmePolicy::Keep => profile.vector_bytes,
        SmePolicy::Hidden => 0,
    };
    // A host may have the extension where the guest used none.
    let target_sme = if sme == 0 { 0 } else { can_sme };
    differing(&[
        ("scalable vector states", vcpu.sve.is_some().into(), 0),
        ("bytes of a streaming vector", sme.into(), target_sme.into()),
        ("32-bit guests", is_32_bit.into(), 0),
        ("pending SErrors", vcpu.pending.serror.is_some().into(), 0),
        (
            "pending external aborts",
            vcpu.pending.external_abort.into(),
            0,
        ),
        (
            "records of stolen time",
            vcpu.stolen_time_address.is_some().into(),
            0,
        ),
        (
            "performance monitors",
            vcpu.pmu_interrupt.is_some().into(),
            0,
        ),
    ])
}

impl Taken {
    fn shape(&self, machine: &HvfMachine) -> Vec<Reason> {
        let options = &machine.options;
        differing(&[
            (
                "vCPUs",
                self.vm.vcpu_count.into(),
                machine.crew.vcpu_count() as u64,
            ),
            (
                "vCPU sections",
                self.vcpus.len() as u64,
                self.vm.vcpu_count.into(),
            ),
            (
                "interrupt controllers of the hypervisor",
                (self.vm.gic != GicVersion::None).into(),
                options.gic.is_some().into(),
            ),
            ("guest hypervisors", self.vm.el2.into(), options.el2.into()),
        ])
    }

    fn wall_clock(&self) -> Option<Reason> {
        let is_missing = self.clock == ClockPolicy::Advance
            && (self.vm.wall_clock_ns == 0 || self.vm.counter_hz == 0);
        is_missing.then_some(Reason::WallClock {
            missing: "the snapshot does not say when it was taken, or how fast its counter is",
        })
    }

    fn interrupt_controller(&self, machine: &HvfMachine) -> Vec<Reason> {
        let mut reasons = Vec::new();
        if self.vm.gic == GicVersion::V2 {
            reasons.push(Reason::Shape {
                what: "as the version of the interrupt controller",
                saved: 2,
                target: 3,
            });
        }
        if self.vm.gic != GicVersion::V3 {
            return reasons;
        }
        match (&self.gic, &self.blob) {
            (None, None) => reasons.push(missing_section::<GicV3>()),
            (Some(gic), blob) => {
                if let Some(config) = &machine.options.gic {
                    reasons.extend(gic::differs(&gic.config, config));
                }
                reasons.extend(differing(&[(
                    "redistributors",
                    gic.redistributors.len() as u64,
                    self.vm.vcpu_count.into(),
                )]));
                // With opaque state the registers are a second choice only.
                if blob.is_none() {
                    reasons.extend(gic::missing(gic));
                }
            }
            (None, Some(_)) => {}
        }
        reasons
    }

    /// Where the counters of all vCPUs go on: computed once.
    fn count(&self, machine: &HvfMachine) -> (Counters, u64) {
        let first = self.vcpus.first();
        let saved = SavedClock {
            count: first.map_or(0, |vcpu| vcpu.timers.virtual_count),
            wall_ns: self.vm.wall_clock_ns,
            hz: self.vm.counter_hz,
        };
        let now = machine.crew.hv().time();
        let policy = self.clock;
        let counters = Counters {
            offset: saved.offset_at(now, policy),
            absolute: now.absolute,
        };
        (counters, saved.count_at(now, policy))
    }

    /// vCPUs whose timer fired and is masked until its interrupt is handled.
    fn timers_due(&self, count: u64) -> Vec<usize> {
        let is_due = |vcpu: &VcpuArm64| {
            let timer = vcpu.timers.virtual_timer;
            vcpu.timers.virtual_masked
                && timer.control & TIMER_BITS == TIMER_ON
                && timer.compare <= count
        };
        let vcpus = self.vcpus.iter().enumerate();
        vcpus
            .filter(|(_, vcpu)| is_due(vcpu))
            .map(|(number, _)| number)
            .collect()
    }
}

impl HvfMachine {
    /// Affinities, then the state of the interrupt controller, now that all vCPUs exist; and where
    /// the counters go on.
    pub(crate) fn prepare_restore(&mut self) -> Result<(), HvfError> {
        let what = "the machine";
        let mut taken = self.taken.take().ok_or(HvfError::NothingTaken { what })?;
        for (number, vcpu) in taken.vcpus.iter().enumerate() {
            let mpidr = vcpu.mpidr;
            self.on_thread(number, move |vcpu| vcpu.restore_affinity(mpidr))?;
        }
        let gic = self.restore_gic(&taken)?;
        let (counters, count) = taken.count(self);
        let timers_due = match self.options.gic {
            Some(_) => Vec::new(),
            None => taken.timers_due(count),
        };
        taken.counters = Some(counters);
        self.report = RestoreReport { gic, timers_due };
        self.taken = Some(taken);
        Ok(())
    }

    fn restore_gic(&self, taken: &Taken) -> Result<GicWay, HvfError> {
        if self.options.gic.is_none() {
            return Ok(GicWay::None);
        }
        let hv = self.crew.hv();
        let mut refused = None;
        if let Some(blob) = &taken.blob {
            match hv.set_gic_state(&blob.bytes) {
                Ok(()) => return Ok(GicWay::Opaque),
                Err(source) if taken.gic.is_none() => {
                    return Err(HvfError::GicRefused {
                        saved_build: blob.version.clone(),
                        host_build: self.host.os_build.clone(),
                        source,
                    });
                }
                Err(refusal) => {
                    tracing::warn!(
                        saved_build = blob.version,
                        host_build = self.host.os_build,
                        %refusal,
                        "opaque GIC state is refused: restoring it register by register"
                    );
                    refused = Some(refusal);
                }
            }
        }
        let what = "the interrupt controller";
        let gic = taken.gic.as_ref().ok_or(HvfError::NothingTaken { what })?;
        gic::restore_distributor(&**hv, gic)?;
        for (number, redistributor) in gic.redistributors.iter().enumerate() {
            let registers = redistributor.registers.clone();
            self.on_thread(number, move |vcpu| {
                gic::restore_redistributor(vcpu, &registers)
            })?;
        }
        Ok(GicWay::Registers { refused })
    }

    pub(crate) fn restore_taken_vcpu(&mut self, number: usize) -> Result<(), HvfError> {
        let what = "a vCPU";
        let taken = self.taken.as_ref();
        let found = taken.and_then(|taken| {
            let saved = taken.vcpus.get(number)?;
            Some((saved.clone(), taken.counters?))
        });
        let (saved, counters) = found.ok_or(HvfError::NothingTaken { what })?;
        let profile = self.profile();
        let (power, pending) = (saved.power, saved.pending);
        self.on_thread(number, move |vcpu| vcpu.restore(&saved, profile, counters))?;
        let lines = Lines {
            irq: pending.irq,
            fiq: pending.fiq,
        };
        self.crew.set_lines(number, lines)?;
        self.restore_power(number, power);
        Ok(())
    }

    /// As it was, whatever it was: a guest with more than one vCPU does not start them again.
    fn restore_power(&self, number: usize, power: PowerState) {
        self.crew.set_power(number, power);
    }
}
