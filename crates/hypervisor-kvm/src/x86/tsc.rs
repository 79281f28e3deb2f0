//! Setting the time stamp counters of all vCPUs, from one computation.

use kvm_bindings as kvm;
use snapshot_format::state::{Clock, Msr, VcpuX86, VmX86};

use crate::calls::{Arg, Calls, Target, refused};
use crate::error::KvmError;
use crate::request as req;
use crate::x86::clock::{self, Counter};
use crate::x86::msrs;

/// What to do on a host that sets no counter of a guest, and shows it its own.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub enum TscPolicy {
    /// The counter may jump ahead. Where the guest would see it go back, the restore fails.
    #[default]
    NeverBack,
    /// It may go either way: for guests that do not read it.
    MayGoBack,
}

/// How the counters were set, from the best to the worst.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[non_exhaustive]
pub enum TscOutcome {
    /// By its offset: it agrees with the guest's clock, and with the other vCPUs as it did.
    ByOffset,
    /// By its value, which the kernel took: it goes on from where it was.
    ByValue,
    /// The host took neither an offset nor a value, as some do that are guests themselves. The
    /// guest reads the host's own counter, so that all vCPUs agree.
    HostCounter {
        /// How far it is ahead of where it was to be; behind, if negative.
        jump_ticks: i64,
    },
}

/// Where the counter of each vCPU is to be. It is computed once, so that the vCPUs stay together.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct TscPlan {
    /// How offsets are carried over, where there are any.
    offsets: Option<Offsets>,
    /// Ticks that the guest's clock was put ahead by.
    passed: u64,
    /// The value of all where they were meant to be equal: they were read one after the other.
    common: Option<u64>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum Offsets {
    /// By the guest's clock: as saved, and as read back on the target.
    ByClock(Clock, Clock),
    /// By what is added to each.
    Shift(u64),
}

/// Two counters that were read of a stopped machine within a second count as one.
const TOGETHER_MS: u64 = 1_000;

/// A counter goes on by no more between two requests.
const READ_BACK_MS: u64 = 1;

/// The host's TSC by the clock, and by a vCPU that is not scaled, are read at most so far apart.
const UNSCALED_MS: u64 = 60_000;

impl TscPlan {
    /// `now` is the clock of the target after it was set, and `scaled` whether the target runs the
    /// guest's TSC at another frequency than its own.
    pub(super) fn new(
        calls: &mut (dyn Calls + '_),
        vcpus: &[VcpuX86],
        vm: &VmX86,
        now: Option<&Clock>,
        scaled: bool,
    ) -> Result<Self, KvmError> {
        let khz = vcpus.first().map_or(0, |vcpu| vcpu.tsc_khz);
        let clocks = vm.clock.as_ref().zip(now);
        let passed = clocks.map_or(0, |(from, to)| clock::ticks_passed(khz, from, to));
        // Modulo 2^64, as counters are.
        let passed = u64::try_from(passed.rem_euclid(1 << 64)).unwrap_or(0);
        let mut plan = Self {
            offsets: None,
            passed,
            common: common_value(vcpus, khz),
        };
        let Some(saved) = vcpus.first().and_then(counter) else {
            return Ok(plan);
        };
        let by_clock = clocks.filter(|(from, to)| {
            !scaled
                && clock::offset_on_target(0, khz, from, to).is_some()
                && is_unscaled(saved, from, khz)
        });
        plan.offsets = if let Some((from, to)) = by_clock {
            Some(Offsets::ByClock(*from, *to))
        } else {
            let shift = current(calls)?.map(|now| clock::shift_of_offsets(saved, now));
            shift.map(|shift| Offsets::Shift(shift.wrapping_add(passed)))
        };
        Ok(plan)
    }

    fn offset(&self, vcpu: &VcpuX86) -> Option<u64> {
        let (saved, plan) = vcpu.tsc_offset.zip(self.offsets.as_ref())?;
        match plan {
            Offsets::ByClock(from, to) => clock::offset_on_target(saved, vcpu.tsc_khz, from, to),
            Offsets::Shift(shift) => Some(saved.wrapping_add(*shift)),
        }
    }

    fn value(&self, saved: u64) -> u64 {
        self.common.unwrap_or(saved).wrapping_add(self.passed)
    }
}

/// What was saved of a counter, if both parts were.
fn counter(vcpu: &VcpuX86) -> Option<Counter> {
    let tsc = msrs::value_of(&vcpu.msrs, msrs::TSC)?;
    let offset = vcpu.tsc_offset?;
    Some(Counter { tsc, offset })
}

/// Where the counter of the first vCPU of the target is.
fn current(calls: &mut (dyn Calls + '_)) -> Result<Option<Counter>, KvmError> {
    let offset = offset(calls, Target::Vcpu(0))?;
    let tsc = msrs::read(calls, 0, &[msrs::TSC])?;
    let both = tsc.first().zip(offset);
    Ok(both.map(|(msr, offset)| Counter {
        tsc: msr.value,
        offset,
    }))
}

/// Whether the guest's counter was the host's and an offset: the formula by the clock counts in
/// ticks of the host.
fn is_unscaled(saved: Counter, clock: &Clock, khz: u32) -> bool {
    let host = saved.tsc.wrapping_sub(saved.offset);
    let apart = host.abs_diff(clock.host_tsc);
    apart < UNSCALED_MS * u64::from(khz)
}

/// The furthest of the saved values, if all lie together.
fn common_value(vcpus: &[VcpuX86], khz: u32) -> Option<u64> {
    let values = vcpus
        .iter()
        .map(|vcpu| msrs::value_of(&vcpu.msrs, msrs::TSC));
    let values: Vec<u64> = values.collect::<Option<_>>()?;
    let (least, most) = (*values.iter().min()?, *values.iter().max()?);
    (most - least < TOGETHER_MS * u64::from(khz)).then_some(most)
}

/// The TSC offset; `None` where the kernel has no such attribute (before Linux 5.16).
pub(super) fn offset(calls: &mut (dyn Calls + '_), vcpu: Target) -> Result<Option<u64>, KvmError> {
    let mut offset = 0;
    let request = req::KVM_GET_DEVICE_ATTR;
    let (group, attribute) = (kvm::KVM_VCPU_TSC_CTRL, kvm::KVM_VCPU_TSC_OFFSET);
    let got = calls.attribute(vcpu, request, group, attribute.into(), &mut offset);
    match got {
        Ok(()) => Ok(Some(offset)),
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENXIO | libc::ENOTTY)) => Ok(None),
        Err(error) => Err(refused(vcpu, request, error)),
    }
}

/// The frequency of a vCPU's counter in kHz; 0 where the kernel does not say.
pub(super) fn khz(calls: &mut (dyn Calls + '_), vcpu: usize) -> Result<u32, KvmError> {
    let khz = calls.make(Target::Vcpu(vcpu), req::KVM_GET_TSC_KHZ, Arg::Value(0))?;
    Ok(u32::try_from(khz).unwrap_or(0))
}

/// Sets the counter of one vCPU, and sees what became of it. `None` if none was saved.
///
/// By offset where that goes: the kernel's guess of what a written value means drifts apart
/// between vCPUs.
pub(super) fn set(
    calls: &mut (dyn Calls + '_),
    index: usize,
    saved: &VcpuX86,
    plan: &TscPlan,
    policy: TscPolicy,
) -> Result<Option<TscOutcome>, KvmError> {
    let Some(saved_tsc) = msrs::value_of(&saved.msrs, msrs::TSC) else {
        return Ok(None);
    };
    if let Some(offset) = plan.offset(saved)
        && set_offset(calls, Target::Vcpu(index), offset)?
    {
        return Ok(Some(TscOutcome::ByOffset));
    }
    let value = plan.value(saved_tsc);
    let msr = Msr {
        index: msrs::TSC,
        value,
    };
    // A refusal shows in what is read back.
    let before = read(calls, index)?;
    msrs::write(calls, index, &[msr])?;
    let found = read(calls, index)?;
    let ahead = found.wrapping_sub(value);
    let ticks = |ms| ms * u64::from(saved.tsc_khz);
    // Where the write did nothing, the counter has only gone on from where it was. The kernel may
    // take it to be the value that it gave another vCPU a little before.
    let went_on = found.wrapping_sub(before) < ticks(READ_BACK_MS);
    let near = if went_on { READ_BACK_MS } else { TOGETHER_MS };
    if ahead < ticks(near) {
        return Ok(Some(TscOutcome::ByValue));
    }
    let gone_back = found.wrapping_sub(saved_tsc).cast_signed() < 0;
    if gone_back && policy == TscPolicy::NeverBack {
        return Err(KvmError::TscGoesBack {
            vcpu: index,
            saved: saved_tsc,
            found,
        });
    }
    Ok(Some(TscOutcome::HostCounter {
        jump_ticks: ahead.cast_signed(),
    }))
}

/// What a vCPU's counter reads.
fn read(calls: &mut (dyn Calls + '_), vcpu: usize) -> Result<u64, KvmError> {
    let read = msrs::read(calls, vcpu, &[msrs::TSC])?;
    Ok(read.first().map_or(0, |msr| msr.value))
}

/// Sets an offset. Some hosts that are guests themselves take one and do not keep it.
fn set_offset(calls: &mut (dyn Calls + '_), vcpu: Target, value: u64) -> Result<bool, KvmError> {
    let request = req::KVM_SET_DEVICE_ATTR;
    let (group, attribute) = (kvm::KVM_VCPU_TSC_CTRL, kvm::KVM_VCPU_TSC_OFFSET);
    let mut wanted = value;
    calls
        .attribute(vcpu, request, group, attribute.into(), &mut wanted)
        .map_err(|source| refused(vcpu, request, source))?;
    Ok(offset(calls, vcpu)? == Some(value))
}
