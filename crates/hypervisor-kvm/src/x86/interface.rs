//! What the running kernel offers.

use kvm_bindings as kvm;
use snapshot_format::limits;
use snapshot_format::state::{Capability, CpuidEntry};

use crate::calls::{Arg, Calls, Target};
use crate::error::KvmError;
use crate::lists::{decode_list, encode_list};
use crate::request::{KVM_GET_API_VERSION, KVM_GET_SUPPORTED_CPUID};
use crate::x86::fingerprint::capabilities;
use crate::x86::save::CPUID_HEADER;
use crate::x86::{convert, msrs};

/// The only version of the interface that ever was stable.
const API_VERSION: u64 = 12;

/// Sizes and variants of the requests on this host.
#[derive(Clone, Debug)]
pub(super) struct Interface {
    /// Whether `KVM_GET_SREGS2` is there, which knows the PDPTRs.
    pub(super) sregs2: bool,
    /// Bytes of the XSAVE area: what the machine was permitted.
    pub(super) xsave_bytes: usize,
    /// Whether `KVM_GET_XSAVE2` is there, without which the area has 4096 bytes.
    pub(super) xsave2: bool,
    /// The most bytes of nested state; 0 where there is none.
    pub(super) nested_bytes: usize,
    /// Whether the TSC frequency of a vCPU can be set.
    pub(super) tsc_control: bool,
    /// CPUID as the host can show it to a guest.
    pub(super) cpuid: Vec<CpuidEntry>,
    /// Extensions that a snapshot depends on. They are read here, and not while a machine waits.
    pub(super) capabilities: Vec<Capability>,
    /// Registers to ask for.
    pub(super) msrs: Vec<u32>,
}

impl Interface {
    pub(super) fn read(calls: &mut (dyn Calls + '_)) -> Result<Self, KvmError> {
        let found = calls.make(Target::System, KVM_GET_API_VERSION, Arg::Value(0))?;
        if found != API_VERSION {
            return Err(KvmError::ApiVersion { found });
        }
        let mut size = |capability| {
            let bytes = calls.extension(capability)?;
            Ok(usize::try_from(bytes).unwrap_or(usize::MAX))
        };
        let xsave2 = size(kvm::KVM_CAP_XSAVE2)?;
        let nested_bytes = size(kvm::KVM_CAP_NESTED_STATE)?;
        Ok(Self {
            sregs2: calls.extension(kvm::KVM_CAP_SREGS2)? != 0,
            xsave_bytes: xsave2.max(size_of::<kvm::kvm_xsave>()),
            xsave2: xsave2 != 0,
            nested_bytes,
            tsc_control: calls.extension(kvm::KVM_CAP_TSC_CONTROL)? != 0,
            cpuid: supported_cpuid(calls)?,
            capabilities: capabilities(calls)?,
            msrs: msrs::indices(calls)?,
        })
    }

    /// What the host answers for one of the capabilities that a snapshot depends on; 0 without it.
    pub(super) fn capability(&self, number: u32) -> u32 {
        let mut all = self.capabilities.iter();
        all.find(|capability| capability.number == number)
            .map_or(0, |capability| capability.value)
    }
}

impl Interface {
    /// Whether the host answers an extension with something other than zero.
    pub(super) fn offers(&self, number: u32) -> bool {
        self.capability(number) != 0
    }

    /// Whether `KVM_SET_CLOCK` takes real time: the capability's answer is the mask of flags.
    pub(super) fn clock_has_realtime(&self) -> bool {
        self.capability(kvm::KVM_CAP_ADJUST_CLOCK) & kvm::KVM_CLOCK_REALTIME != 0
    }

    /// Which components of XSAVE the host can give a guest.
    pub(super) fn xsave_components(&self) -> u64 {
        let leaf = self.leaf(0xd);
        u64::from(leaf.edx) << 32 | u64::from(leaf.eax) | X87_AND_SSE
    }

    /// Whether the host can give a guest shadow stacks.
    pub(super) fn has_shadow_stacks(&self) -> bool {
        self.leaf(7).ecx & SHADOW_STACKS != 0
    }

    fn leaf(&self, function: u32) -> CpuidEntry {
        let is_it = |entry: &&CpuidEntry| entry.function == function && entry.index == 0;
        self.cpuid.iter().find(is_it).copied().unwrap_or_default()
    }
}

/// Components that every processor has.
const X87_AND_SSE: u64 = 3;

/// Bit of CPUID 7.0 ECX.
pub(super) const SHADOW_STACKS: u32 = 1 << 7;

fn supported_cpuid(calls: &mut (dyn Calls + '_)) -> Result<Vec<CpuidEntry>, KvmError> {
    let room = vec![kvm::kvm_cpuid_entry2::default(); limits::MAX_CPUID_ENTRIES];
    let mut bytes = encode_list(CPUID_HEADER, &room);
    let arg = Arg::Bytes(&mut bytes);
    calls.make(Target::System, KVM_GET_SUPPORTED_CPUID, arg)?;
    let entries: Vec<kvm::kvm_cpuid_entry2> = decode_list(CPUID_HEADER, &bytes);
    Ok(entries.iter().map(convert::from_cpuid).collect())
}
