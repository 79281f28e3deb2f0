//! Can a snapshot run on a host? Every reason why not.

use super::{Fingerprint, Reason};
use crate::state::vcpu_x86::CpuidEntry;

/// Two TSC frequencies count as one if they differ by at most so many parts in a million: less
/// than what a guest's own calibration and NTP correct.
pub const TSC_TOLERANCE_PPM: u64 = 250;

/// A register of a CPUID leaf whose bits are features, and those bits in it that are not: they
/// follow a control register, the topology, or how the VMM emulates the APIC.
struct FeatureWord {
    function: u32,
    index: u32,
    register: Register,
    not_features: u32,
}

#[derive(Clone, Copy)]
enum Register {
    Eax,
    Ebx,
    Ecx,
    Edx,
}

impl Register {
    const fn name(self) -> &'static str {
        match self {
            Self::Eax => "eax",
            Self::Ebx => "ebx",
            Self::Ecx => "ecx",
            Self::Edx => "edx",
        }
    }

    fn of(self, entry: &mut CpuidEntry) -> &mut u32 {
        match self {
            Self::Eax => &mut entry.eax,
            Self::Ebx => &mut entry.ebx,
            Self::Ecx => &mut entry.ecx,
            Self::Edx => &mut entry.edx,
        }
    }
}

const fn features(function: u32, index: u32, register: Register, not_features: u32) -> FeatureWord {
    FeatureWord {
        function,
        index,
        register,
        not_features,
    }
}

/// x2APIC, TSC deadline, OSXSAVE, hypervisor present.
const LEAF_1_ECX: u32 = 1 << 21 | 1 << 24 | 1 << 27 | 1 << 31;
/// APIC enabled, hyper-threading.
const LEAF_1_EDX: u32 = 1 << 9 | 1 << 28;
/// OSPKE.
const LEAF_7_ECX: u32 = 1 << 4;
/// Legacy multi-core flag.
const LEAF_80000001_ECX: u32 = 1 << 1;
/// APIC enabled.
const LEAF_80000001_EDX: u32 = 1 << 9;

const FEATURE_WORDS: [FeatureWord; 17] = [
    features(1, 0, Register::Ecx, LEAF_1_ECX),
    features(1, 0, Register::Edx, LEAF_1_EDX),
    features(7, 0, Register::Ebx, 0),
    features(7, 0, Register::Ecx, LEAF_7_ECX),
    features(7, 0, Register::Edx, 0),
    features(7, 1, Register::Eax, 0),
    features(7, 1, Register::Edx, 0),
    features(7, 2, Register::Edx, 0),
    features(0xd, 0, Register::Eax, 0),
    features(0xd, 0, Register::Edx, 0),
    features(0xd, 1, Register::Eax, 0),
    features(0x4000_0001, 0, Register::Eax, 0),
    features(0x8000_0001, 0, Register::Ecx, LEAF_80000001_ECX),
    features(0x8000_0001, 0, Register::Edx, LEAF_80000001_EDX),
    features(0x8000_0007, 0, Register::Edx, 0),
    features(0x8000_0008, 0, Register::Ebx, 0),
    features(0x8000_0021, 0, Register::Eax, 0),
];

impl FeatureWord {
    fn is_in(&self, entry: &CpuidEntry) -> bool {
        entry.function == self.function && entry.index == self.index
    }

    fn of(&self, cpuid: &[CpuidEntry]) -> u32 {
        let entry = cpuid.iter().find(|entry| self.is_in(entry));
        entry.map_or(0, |&(mut entry)| {
            *self.register.of(&mut entry) & !self.not_features
        })
    }
}

impl Fingerprint {
    /// Every reason why a snapshot with this fingerprint cannot run on `host`; empty if it can.
    ///
    /// The CPU model is one of them even where all features match: errata and counters differ.
    #[must_use]
    pub fn check(&self, host: &Self) -> Vec<Reason> {
        if self.arch != host.arch {
            return vec![Reason::Architecture {
                saved: self.arch,
                host: host.arch,
            }];
        }
        let mut reasons = Vec::new();
        self.check_cpu(host, &mut reasons);
        self.check_tsc(host, &mut reasons);
        for word in &FEATURE_WORDS {
            let missing = word.of(&self.cpuid) & !word.of(&host.cpuid);
            if missing != 0 {
                reasons.push(Reason::Cpuid {
                    function: word.function,
                    index: word.index,
                    register: word.register.name(),
                    missing,
                });
            }
        }
        let unknown = self.msrs.iter().filter(|index| !host.msrs.contains(index));
        reasons.extend(unknown.map(|&index| Reason::Msr { index }));
        self.check_arm64(host, &mut reasons);
        let shared = self.same_interface(host);
        let used = self.capabilities.iter().filter(|used| used.value != 0);
        for used in used.filter(|_| shared) {
            let offered = |c: &&super::Capability| c.number == used.number && c.value != 0;
            if host.capabilities.iter().find(offered).is_none() {
                reasons.push(Reason::Capability {
                    number: used.number,
                });
            }
        }
        reasons
    }

    /// Takes out features that `offered`, the CPUID of the host that saves, does not vouch for.
    ///
    /// Some hypervisors show a guest bits of the CPU below them that they do not list themselves.
    /// Such a bit says nothing about another host; it stays in the state of the vCPU.
    #[must_use]
    pub fn limited_to(mut self, offered: &[CpuidEntry]) -> Self {
        for word in &FEATURE_WORDS {
            let mask = word.of(offered) | word.not_features;
            for entry in self.cpuid.iter_mut().filter(|entry| word.is_in(entry)) {
                *word.register.of(entry) &= mask;
            }
        }
        self
    }

    fn check_cpu(&self, host: &Self, reasons: &mut Vec<Reason>) {
        if self.page_bytes != host.page_bytes {
            reasons.push(Reason::PageSize {
                saved: self.page_bytes,
                host: host.page_bytes,
            });
        }
        if self.vendor != host.vendor {
            reasons.push(Reason::Vendor {
                saved: self.vendor.clone(),
                host: host.vendor.clone(),
            });
        } else if (self.family, self.model) != (host.family, host.model) {
            reasons.push(Reason::Model {
                saved_family: self.family,
                saved_model: self.model,
                host_family: host.family,
                host_model: host.model,
            });
        }
    }

    fn check_tsc(&self, host: &Self, reasons: &mut Vec<Reason>) {
        let (saved, offered) = (u64::from(self.tsc_khz), u64::from(host.tsc_khz));
        let tolerance = saved * TSC_TOLERANCE_PPM / 1_000_000;
        if host.tsc_scaling == 0 && saved != 0 && saved.abs_diff(offered) > tolerance {
            reasons.push(Reason::TscFrequency {
                saved_khz: self.tsc_khz,
                host_khz: host.tsc_khz,
            });
        }
    }
}

#[cfg(test)]
mod tests;
