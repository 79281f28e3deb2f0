//! The host and the vCPUs of the fake kernel.

use std::collections::BTreeMap;
use std::io;

use snapshot_format::state::SystemRegisterId as Id;

use super::kernel::errno;
use crate::arm64::{abi, timers};
use crate::lists::{read, write};
use crate::request::Request;
use crate::request::arm64 as arm;

/// What the host is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Host {
    /// Version of the interface.
    pub(super) version: u64,
    /// Lengths of SVE vectors; all zero without SVE.
    pub(super) lengths: [u64; 8],
    /// Values of registers that describe the CPU.
    pub(super) identity: BTreeMap<Id, u64>,
    /// The first cache, by KVM's own number.
    pub(super) cache: u64,
    /// Ticks in a second.
    pub(super) hz: u64,
    /// Extensions that it lacks.
    pub(super) lacking: Vec<u32>,
    /// What its counter shows now.
    pub(super) count: u64,
}

impl Default for Host {
    fn default() -> Self {
        let identity = [
            (Id::MIDR_EL1, 0x410f_d4f1),
            (Id::ID_AA64PFR0_EL1, 0x1101_0011_2111_1111),
            (Id::ID_AA64PFR1_EL1, 0x21),
            (Id::ID_AA64MMFR0_EL1, 0x1025),
            (Id::ID_AA64ISAR1_EL1, 0x1111_1111),
            (Id::CTR_EL0, 0x8444_c004),
            (Id::CLIDR_EL1, 0xa200_0023),
        ];
        Self {
            version: 12,
            lengths: [0b1011, 0, 0, 0, 0, 0, 0, 0],
            identity: identity.into_iter().collect(),
            cache: 0x700f_e01a,
            hz: 25_000_000,
            lacking: Vec::new(),
            count: 1 << 40,
        }
    }
}

impl Host {
    pub(super) fn extension(&self, number: u32) -> u64 {
        match number {
            _ if self.lacking.contains(&number) => 0,
            abi::CAP_ARM_VM_IPA_SIZE => 48,
            abi::CAP_ARM_SVE => u64::from(self.lengths != [0; 8]),
            abi::CAP_ARM_EL2 => 0,
            _ => 1,
        }
    }
}

/// Registers of the firmware, and a cache.
pub(super) const PSCI: u64 = 0x6030_0000_0014_0000;
pub(super) const CCSIDR: u64 = 0x6020_0000_0011_0000;

/// System registers that the guest writes.
const WRITABLE: [Id; 12] = [
    Id::MDSCR_EL1,
    Id::breakpoint_value(0),
    Id::SCTLR_EL1,
    Id::CPACR_EL1,
    Id::TTBR0_EL1,
    Id::TTBR1_EL1,
    Id::TCR_EL1,
    Id::APIAKEYLO_EL1,
    Id::VBAR_EL1,
    Id::TPIDR_EL1,
    Id::CSSELR_EL1,
    Id::TPIDR_EL0,
];

/// The affinity that the kernel gives the vCPU of this number.
pub(super) fn affinity(index: usize) -> u64 {
    let number = u64::try_from(index).unwrap();
    1 << 31 | (number >> 4) << 8 | number & 0xf
}

#[derive(Default)]
pub(super) struct Vcpu {
    pub(super) init: Option<[u32; 8]>,
    pub(super) is_final: bool,
    pub(super) lengths: [u64; 8],
    pub(super) registers: BTreeMap<u64, Vec<u8>>,
    pub(super) run_state: u32,
    pub(super) events: Vec<u8>,
    pub(super) attributes: BTreeMap<(u32, u64), u64>,
    /// The field of an ID register that says whether the machine has a GICv3.
    pub(super) gic: u64,
}

impl Vcpu {
    pub(super) fn has(&self, feature: u32) -> bool {
        self.init.is_some_and(|init| init[1] & 1 << feature != 0)
    }

    pub(super) fn put(&mut self, id: u64, value: u64) {
        let mut bytes = value.to_le_bytes().to_vec();
        bytes.resize(1 << (id >> 52 & 0xf), 0);
        self.registers.insert(id, bytes);
    }

    fn reset(&mut self, host: &Host, index: usize, init: [u32; 8]) {
        let gic = self.gic;
        *self = Self {
            init: Some(init),
            lengths: host.lengths,
            events: vec![0; 64],
            attributes: std::mem::take(&mut self.attributes),
            gic,
            ..Self::default()
        };
        if self.has(abi::VCPU_POWER_OFF) {
            self.run_state = abi::MP_STOPPED;
        }
        let core = (0..328).step_by(8);
        core.for_each(|offset| self.put(abi::core(offset, abi::SIZE_U64), 0));
        for offset in [abi::CORE_FPSR, abi::CORE_FPCR] {
            self.put(abi::core(offset, abi::SIZE_U32), 0);
        }
        (0..32).for_each(|n| self.put(abi::core(abi::CORE_V0 + 16 * n, abi::SIZE_U128), 0));
        for id in WRITABLE {
            self.put(abi::system(id), 0);
        }
        for (id, value) in &host.identity {
            self.put(abi::system(*id), *value);
        }
        let features = host.identity[&Id::ID_AA64PFR0_EL1];
        let features = features & !(0xf << 24) | self.gic << 24;
        self.put(abi::system(Id::ID_AA64PFR0_EL1), features);
        self.put(abi::system(Id::MPIDR_EL1), affinity(index));
        self.put(PSCI, 0x1_0001);
        self.put(CCSIDR, host.cache);
        for id in timers::REGISTERS {
            self.put(id, 0);
        }
        if self.has(abi::VCPU_SVE) {
            // The low halves of the vectors, and not there by themselves.
            self.registers.retain(|id, _| !is_v(*id));
            (0..32).for_each(|n| self.put(abi::z(n), 0));
            (0..16).for_each(|n| self.put(abi::p(n), 0));
            self.put(abi::FFR, 0);
            self.put(abi::SVE_VLS, 0);
        }
    }

    pub(super) fn request(
        &mut self,
        host: &Host,
        index: usize,
        request: Request,
        bytes: &mut [u8],
    ) -> io::Result<u64> {
        if request == arm::KVM_ARM_VCPU_INIT {
            let init: [u32; 8] = std::array::from_fn(|n| read(bytes, 4 * n));
            let lacks_sve = init[1] & 1 << abi::VCPU_SVE != 0 && host.lengths == [0; 8];
            if init[0] != 5 || init[1] >> 9 != 0 || lacks_sve {
                return errno(libc::EINVAL);
            }
            self.reset(host, index, init);
            return Ok(0);
        }
        if self.init.is_none() {
            return errno(libc::ENOEXEC);
        }
        let is_final = self.is_final || !self.has(abi::VCPU_SVE);
        match request {
            arm::KVM_ARM_VCPU_FINALIZE => self.is_final = true,
            arm::KVM_GET_REG_LIST if !is_final => return errno(libc::EPERM),
            arm::KVM_GET_REG_LIST => {
                let (room, count): (u64, u64) = (read(bytes, 0), self.registers.len() as u64);
                write(bytes, 0, &count);
                if room < count {
                    return errno(libc::E2BIG);
                }
                for (n, id) in self.registers.keys().enumerate() {
                    write(bytes, 8 + 8 * n, id);
                }
            }
            arm::KVM_GET_MP_STATE => write(bytes, 0, &self.run_state),
            arm::KVM_SET_MP_STATE => self.run_state = read(bytes, 0),
            arm::KVM_GET_VCPU_EVENTS => bytes.copy_from_slice(&self.events),
            arm::KVM_SET_VCPU_EVENTS => self.events = bytes.to_vec(),
            _ => return errno(libc::ENOTTY),
        }
        Ok(0)
    }

    pub(super) fn attribute(
        &mut self,
        key: (u32, u64),
        is_set: bool,
        value: &mut u64,
    ) -> io::Result<()> {
        if is_set {
            let is_done = self.attributes.contains_key(&key);
            if is_done {
                let is_pmu = key.0 == abi::PMU;
                return errno(if is_pmu { libc::EBUSY } else { libc::EEXIST });
            }
            self.attributes.insert(key, *value);
            return Ok(());
        }
        // An address that was never set reads as none, an interrupt is an error.
        let unset = (key.0 == abi::PVTIME).then_some(u64::MAX);
        let Some(found) = self.attributes.get(&key).copied().or(unset) else {
            return errno(libc::ENXIO);
        };
        *value = found;
        Ok(())
    }

    /// What the kernel says to any access of a register.
    pub(super) fn check_register(&self, id: u64) -> io::Result<()> {
        if self.init.is_none() {
            return errno(libc::ENOEXEC);
        }
        let is_vector = id & abi::GROUP_MASK == abi::SVE && id != abi::SVE_VLS;
        if is_vector && !self.is_final {
            return errno(libc::EPERM);
        }
        if is_v(id) && self.has(abi::VCPU_SVE) {
            return errno(libc::EINVAL);
        }
        if self.registers.contains_key(&id) {
            Ok(())
        } else {
            errno(libc::ENOENT)
        }
    }

    pub(super) fn set_lengths(&mut self, host: &Host, value: &[u8]) -> io::Result<()> {
        if self.is_final {
            return errno(libc::EPERM);
        }
        let lengths: [u64; 8] = std::array::from_fn(|n| read(value, 8 * n));
        // Long ones can be hidden, and no others.
        let longest = lengths[0].ilog2();
        if lengths[0] != host.lengths[0] & u64::MAX >> (63 - longest) {
            return errno(libc::EINVAL);
        }
        self.lengths = lengths;
        Ok(())
    }

    /// Fills every register that a guest changes with values that tell them apart.
    pub(super) fn fill(&mut self, seed: u8) {
        let vector = usize::from(seed) * 7;
        let sve_bytes = 16 * (64 - usize::try_from(self.lengths[0].leading_zeros()).unwrap());
        for (n, (id, value)) in self.registers.iter_mut().enumerate() {
            let is_system =
                crate::arm64::save::system_id(*id).is_some_and(|id| WRITABLE.contains(&id));
            let kept = match *id & abi::GROUP_MASK {
                abi::CORE => value.len(),
                abi::SVE if *id == abi::SVE_VLS => 0,
                abi::SVE if value.len() == 256 => sve_bytes,
                abi::SVE => sve_bytes / 8,
                _ if is_system => 8,
                _ => 0,
            };
            for (at, byte) in value.iter_mut().enumerate().take(kept) {
                *byte = (n * 13 + at * 5 + vector).to_string().bytes().sum();
            }
        }
        self.put(abi::VTIMER_CVAL, 1_000 + u64::from(seed));
        self.put(abi::VTIMER_CTL, 1);
        self.put(abi::PTIMER_CVAL, 2_000 + u64::from(seed));
        self.put(abi::PTIMER_CTL, 3);
    }
}

fn is_v(id: u64) -> bool {
    id & abi::GROUP_MASK == abi::CORE && id >> 52 & 0xf == 4
}
