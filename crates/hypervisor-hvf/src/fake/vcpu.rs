//! One vCPU of the fake.

use std::collections::{BTreeMap, BTreeSet};

use super::gic::Bank;
use super::guest::GuestStep;
use super::machine::Owner;
use crate::hv::{Flag, Register, SmeMode, SmeRegister};
use crate::refusal::{HvCode, HvRefusal};

/// The affinity fields of `MPIDR_EL1`.
const AFFINITY: u64 = 0xff_00ff_ffff;

/// What no register can be: an affinity that was never set.
const NO_AFFINITY: u64 = u64::MAX;

/// General registers of the framework: X0 to X30, PC, FPCR, FPSR, CPSR.
const GENERAL_REGISTERS: u32 = 35;

/// `ICC_RPR_EL1`: the running priority.
const ICC_RPR: u16 = 0xc65b;

/// Everything of one vCPU.
pub(super) struct FakeVcpu {
    pub(super) owner: Owner,
    pub(super) has_run: bool,
    pub(super) exit_asked: bool,
    pub(super) program: Vec<GuestStep>,
    pub(super) flags: BTreeSet<Flag>,
    pub(super) sme_mode: SmeMode,
    pub(super) redistributor: Bank,
    registers: BTreeMap<Register, u64>,
    vectors: [u128; 32],
    sme: BTreeMap<SmeRegister, Vec<u8>>,
}

impl FakeVcpu {
    pub(super) fn new(owner: Owner) -> Self {
        Self {
            owner,
            has_run: false,
            exit_asked: false,
            program: Vec::new(),
            flags: BTreeSet::new(),
            sme_mode: SmeMode::default(),
            redistributor: Bank::redistributor(),
            registers: BTreeMap::from([(Register::MPIDR, NO_AFFINITY)]),
            vectors: [0; 32],
            sme: BTreeMap::new(),
        }
    }

    pub(super) fn affinity(&self) -> u64 {
        self.value(Register::MPIDR) & AFFINITY
    }

    pub(super) fn has_affinity(&self, mpidr: u64) -> bool {
        self.value(Register::MPIDR) != NO_AFFINITY && self.affinity() == mpidr & AFFINITY
    }

    /// A register, as it is.
    pub(super) fn value(&self, register: Register) -> u64 {
        self.registers.get(&register).copied().unwrap_or(0)
    }

    /// Sets a register, whatever it is.
    pub(super) fn put(&mut self, register: Register, value: u64) {
        self.registers.insert(register, value);
    }

    pub(super) fn register(&mut self, register: Register) -> Result<u64, HvRefusal> {
        const CALL: &str = "get register";
        match register {
            Register::Redistributor(offset) => self.redistributor.read(CALL, offset),
            _ if is_known(register) => Ok(self.value(register)),
            _ => Err(HvCode::BadArgument.to(CALL)),
        }
    }

    pub(super) fn set_register(&mut self, register: Register, value: u64) -> Result<(), HvRefusal> {
        const CALL: &str = "set register";
        match register {
            Register::Redistributor(offset) => self.redistributor.write(CALL, offset, value),
            _ if is_known(register) && !is_read_only(register) => {
                self.put(register, value);
                Ok(())
            }
            _ => Err(HvCode::BadArgument.to(CALL)),
        }
    }

    pub(super) fn vector(&self, number: u32) -> Result<u128, HvRefusal> {
        let index = usize::try_from(number).unwrap_or(usize::MAX);
        let value = self.vectors.get(index).copied();
        value.ok_or_else(|| HvCode::BadArgument.to("hv_vcpu_get_simd_fp_reg"))
    }

    /// In streaming mode Q is the low part of Z.
    pub(super) fn set_vector(&mut self, number: u32, value: u128) -> Result<(), HvRefusal> {
        let index = usize::try_from(number).unwrap_or(usize::MAX);
        let Some(vector) = self.vectors.get_mut(index) else {
            return Err(HvCode::BadArgument.to("hv_vcpu_set_simd_fp_reg"));
        };
        *vector = value;
        if self.sme_mode.streaming
            && let Some(z) = self.sme.get_mut(&SmeRegister::Z(number))
        {
            let low = z.iter_mut().zip(value.to_le_bytes());
            low.for_each(|(to, from)| *to = from);
        }
        Ok(())
    }

    /// Clears Z and P where streaming mode begins or ends, and what follows `PSTATE.ZA` with it.
    pub(super) fn set_sme_mode(&mut self, mode: SmeMode) {
        if mode.streaming != self.sme_mode.streaming {
            self.sme
                .retain(|name, _| matches!(name, SmeRegister::Za | SmeRegister::Zt0));
            self.vectors = [0; 32];
            self.put(Register::FPSR, 0x0800_009f);
        }
        if mode.matrix != self.sme_mode.matrix {
            self.sme
                .retain(|name, _| matches!(name, SmeRegister::Z(_) | SmeRegister::P(_)));
        }
        self.sme_mode = mode;
    }

    pub(super) fn read_sme(
        &mut self,
        register: SmeRegister,
        vector_bytes: usize,
        out: &mut [u8],
    ) -> Result<(), HvRefusal> {
        self.check_sme(register, vector_bytes, out.len())?;
        match self.sme.get(&register) {
            Some(value) => out.copy_from_slice(value),
            None => out.fill(0),
        }
        Ok(())
    }

    pub(super) fn write_sme(
        &mut self,
        register: SmeRegister,
        vector_bytes: usize,
        value: &[u8],
    ) -> Result<(), HvRefusal> {
        self.check_sme(register, vector_bytes, value.len())?;
        self.sme.insert(register, value.to_vec());
        if let SmeRegister::Z(number) = register
            && let Some(low) = value.first_chunk()
        {
            let index = usize::try_from(number).unwrap_or(usize::MAX);
            if let Some(vector) = self.vectors.get_mut(index) {
                *vector = u128::from_le_bytes(*low);
            }
        }
        Ok(())
    }

    fn check_sme(
        &self,
        register: SmeRegister,
        vector_bytes: usize,
        len: usize,
    ) -> Result<(), HvRefusal> {
        const CALL: &str = "hv_vcpu_sme_reg";
        let is_there = match register {
            SmeRegister::Z(number) => self.sme_mode.streaming && number < 32,
            SmeRegister::P(number) => self.sme_mode.streaming && number < 16,
            SmeRegister::Za | SmeRegister::Zt0 => self.sme_mode.matrix,
        };
        if is_there && len == register.len_bytes(vector_bytes) {
            Ok(())
        } else {
            Err(HvCode::BadArgument.to(CALL))
        }
    }
}

/// Registers that the framework has a number for.
fn is_known(register: Register) -> bool {
    match register {
        Register::General(number) => number < GENERAL_REGISTERS,
        Register::System(id) => SYSTEM_REGISTERS.contains(&id) || is_debug_register(id),
        Register::Icc(id) => ICC_REGISTERS.contains(&id),
        Register::Ich(id) => ICH_REGISTERS.contains(&id) || (0xe660..=0xe66f).contains(&id),
        Register::Redistributor(_) | Register::VtimerOffset => true,
    }
}

fn is_read_only(register: Register) -> bool {
    match register {
        Register::Icc(id) => id == ICC_RPR,
        // `VTR`, `MISR`, `EISR`, `ELRSR`.
        Register::Ich(id) => matches!(id, 0xe659 | 0xe65a | 0xe65b | 0xe65d),
        // `MIDR` and the registers of features.
        Register::System(id) => id == 0xc000 || (0xc020..=0xc03f).contains(&id),
        _ => false,
    }
}

/// `DBGBVR`, `DBGBCR`, `DBGWVR`, `DBGWCR`, 0 to 15.
fn is_debug_register(id: u16) -> bool {
    (0x8000..0x8080).contains(&id) && id & 4 != 0
}

/// `hv_sys_reg_t`, but for the debug registers that come in numbers.
const SYSTEM_REGISTERS: [u16; 83] = [
    0x8010, 0x8012, 0xc000, 0xc005, 0xc020, 0xc021, 0xc024, 0xc025, 0xc028, 0xc029, 0xc030, 0xc031,
    0xc038, 0xc039, 0xc03a, 0xc080, 0xc081, 0xc082, 0xc094, 0xc096, 0xc100, 0xc101, 0xc102, 0xc108,
    0xc109, 0xc10a, 0xc10b, 0xc110, 0xc111, 0xc112, 0xc113, 0xc118, 0xc119, 0xc200, 0xc201, 0xc208,
    0xc288, 0xc289, 0xc290, 0xc300, 0xc3a0, 0xc510, 0xc518, 0xc600, 0xc681, 0xc684, 0xc687, 0xc708,
    0xd000, 0xde82, 0xde83, 0xde85, 0xde87, 0xdf10, 0xdf11, 0xdf12, 0xdf19, 0xdf1a, 0xe000, 0xe005,
    0xe080, 0xe088, 0xe089, 0xe08a, 0xe100, 0xe101, 0xe102, 0xe108, 0xe10a, 0xe200, 0xe201, 0xe208,
    0xe290, 0xe300, 0xe304, 0xe510, 0xe600, 0xe682, 0xe703, 0xe708, 0xe711, 0xe712, 0xf208,
];

/// `hv_gic_icc_reg_t`.
const ICC_REGISTERS: [u16; 11] = [
    0xc230, 0xc643, 0xc644, 0xc648, ICC_RPR, 0xc663, 0xc664, 0xc665, 0xc666, 0xc667, 0xe64d,
];

/// `hv_gic_ich_reg_t`, but for the list registers.
const ICH_REGISTERS: [u16; 8] = [
    0xe640, 0xe648, 0xe658, 0xe659, 0xe65a, 0xe65b, 0xe65d, 0xe65f,
];
