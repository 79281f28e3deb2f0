//! The seam between what this crate wants of Hypervisor.framework and who does it: the framework
//! itself, or a fake of it.

use std::fmt;

use crate::refusal::HvRefusal;

/// A vCPU, by the framework's number (`hv_vcpu_t`).
///
/// Whoever has the number may name the vCPU, but only the thread that created it may touch it: from
/// any other the framework answers `HV_BAD_ARGUMENT`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct VcpuHandle(pub u64);

/// A register with a value of 64 bits, and where the framework keeps it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Register {
    /// `hv_reg_t`: X0 to X30 by number, then [`PC`](Self::PC), [`FPCR`](Self::FPCR),
    /// [`FPSR`](Self::FPSR), [`CPSR`](Self::CPSR).
    General(u32),
    /// `hv_sys_reg_t`: op0, op1, CRn, CRm and op2 in 16 bits, as in `MSR`.
    System(u16),
    /// `hv_gic_icc_reg_t`: the GIC's interface to the vCPU, in the same 16 bits. macOS 15.
    Icc(u16),
    /// `hv_gic_ich_reg_t`: what a guest hypervisor injects interrupts with. macOS 15, with EL2.
    Ich(u16),
    /// `hv_gic_redistributor_reg_t`: the offset in the vCPU's redistributor. macOS 15.
    Redistributor(u32),
    /// The offset of the virtual counter: `CNTVCT = mach_absolute_time() - offset`.
    VtimerOffset,
}

/// A switch of a vCPU.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Flag {
    /// Whether the virtual timer is kept from ending a run.
    VtimerMask,
    /// Whether the IRQ line is asserted. The framework drops it when a run ends.
    PendingIrq,
    /// Whether the FIQ line is asserted. The framework drops it when a run ends.
    PendingFiq,
    /// Whether debug exceptions end a run.
    TrapDebugExceptions,
    /// Whether accesses to debug registers end a run.
    TrapDebugAccesses,
}

/// The mode bits of the Scalable Matrix Extension.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SmeMode {
    /// `PSTATE.SM`: the Z and P registers are in use, and Q is the low part of Z.
    pub streaming: bool,
    /// `PSTATE.ZA`: the matrix and ZT0 are in use.
    pub matrix: bool,
}

/// A register of the Scalable Matrix Extension; its length follows the streaming vector length.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum SmeRegister {
    /// Z0 to Z31, of one vector length. Readable in streaming mode.
    Z(u32),
    /// P0 to P15, of an eighth of it. Readable in streaming mode.
    P(u32),
    /// The matrix, of its square. Readable while `PSTATE.ZA` is set.
    Za,
    /// ZT0, of 64 bytes. Readable while `PSTATE.ZA` is set.
    Zt0,
}

/// What a guest may do with memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Protection(pub u64);

/// A machine to create.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct VmConfig {
    /// Bits of a guest physical address; 0 is the framework's default.
    pub address_bits: u32,
    /// Whether the guest sees EL2 and may run guests of its own. macOS 15, M3 and later.
    pub el2: bool,
}

/// The interrupt controller of the framework. macOS 15.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct GicConfig {
    /// Guest physical address of the distributor.
    pub distributor: u64,
    /// Guest physical address of the first redistributor.
    pub redistributors: u64,
    /// Message-signalled interrupts, where the guest has them.
    pub msi: Option<MsiConfig>,
}

/// Message-signalled interrupts of the framework's interrupt controller.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct MsiConfig {
    /// Guest physical address of the frame.
    pub base: u64,
    /// The first interrupt number.
    pub first: u32,
    /// How many there are.
    pub count: u32,
}

/// How a run ended (`hv_vcpu_exit_t`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RawExit {
    /// Somebody asked for it by [`Hv::exit_vcpus`].
    Canceled,
    /// The guest did something that the VMM has to answer.
    Exception {
        /// Why, in the layout of `ESR_EL2`.
        syndrome: u64,
        /// The guest's virtual address.
        virtual_address: u64,
        /// The guest physical address.
        physical_address: u64,
    },
    /// The virtual timer fired, and is masked now. Never with the framework's GIC.
    VtimerActivated,
    /// What the framework says should not happen.
    Unknown(u32),
}

/// What this host is.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct HostInfo {
    /// The build of the operating system: `24F74`.
    pub os_build: String,
    /// The name of the CPU: `Apple M3 Pro`.
    pub cpu_brand: String,
    /// Bytes of a page: 16384.
    pub page_bytes: u32,
    /// Ticks of the guest's counter in a second (`CNTFRQ_EL0`), which also depends on the SDK that
    /// the program was linked against.
    pub counter_hz: u64,
    /// Bytes of the longest streaming vector; 0 without the extension.
    pub sme_vector_bytes: u32,
    /// Whether guests may have EL2.
    pub el2: bool,
    /// Bits of the longest guest physical address.
    pub max_address_bits: u32,
}

/// The host's clocks at one instant, in ticks of the guest's counter.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct HostTime {
    /// `mach_absolute_time()`: starts with the host, and stands still while it sleeps.
    pub absolute: u64,
    /// The wall clock, in nanoseconds since 1970.
    pub wall_ns: u64,
}

/// What this crate calls of the framework: a call, or a family of calls, for each method.
///
/// Whatever names a vCPU must be called on the thread that created it, but for
/// [`exit_vcpus`](Self::exit_vcpus).
pub trait Hv: Send + Sync + fmt::Debug {
    /// What the host is.
    fn host(&self) -> Result<HostInfo, HvRefusal>;

    /// What time it is.
    fn time(&self) -> HostTime;

    /// `hv_vm_create`: one a process.
    fn create_vm(&self, config: VmConfig) -> Result<(), HvRefusal>;

    /// `hv_vm_destroy`: after the last vCPU.
    fn destroy_vm(&self) -> Result<(), HvRefusal>;

    /// `hv_gic_create`: before the first vCPU.
    fn create_gic(&self, config: &GicConfig) -> Result<(), HvRefusal>;

    /// `hv_gic_state_create`, `_get_size` and `_get_data`: everything of the GIC but its interface
    /// to the vCPUs, in a form that only the framework reads. No vCPU may run.
    fn gic_state(&self) -> Result<Vec<u8>, HvRefusal>;

    /// `hv_gic_set_state`: after the last vCPU was created, before one runs.
    fn set_gic_state(&self, state: &[u8]) -> Result<(), HvRefusal>;

    /// `hv_gic_get_distributor_reg`, by offset.
    fn distributor(&self, offset: u16) -> Result<u64, HvRefusal>;

    /// `hv_gic_set_distributor_reg`, by offset.
    fn set_distributor(&self, offset: u16, value: u64) -> Result<(), HvRefusal>;

    /// `hv_vm_protect`. Both numbers are multiples of the host's page.
    fn protect(&self, start: u64, len_bytes: u64, to: Protection) -> Result<(), HvRefusal>;

    /// `hv_vcpu_create`: it belongs to this thread from now on, which may have one only.
    fn create_vcpu(&self) -> Result<VcpuHandle, HvRefusal>;

    /// `hv_vcpu_destroy`.
    fn destroy_vcpu(&self, vcpu: VcpuHandle) -> Result<(), HvRefusal>;

    /// `hv_vcpu_run`.
    fn run_vcpu(&self, vcpu: VcpuHandle) -> Result<RawExit, HvRefusal>;

    /// `hv_vcpus_exit`, from any thread: ends the run of each, or else the next one.
    fn exit_vcpus(&self, vcpus: &[VcpuHandle]) -> Result<(), HvRefusal>;

    /// Reads a register.
    fn register(&self, vcpu: VcpuHandle, register: Register) -> Result<u64, HvRefusal>;

    /// Writes a register.
    fn set_register(
        &self,
        vcpu: VcpuHandle,
        register: Register,
        value: u64,
    ) -> Result<(), HvRefusal>;

    /// Reads a switch.
    fn flag(&self, vcpu: VcpuHandle, flag: Flag) -> Result<bool, HvRefusal>;

    /// Sets a switch.
    fn set_flag(&self, vcpu: VcpuHandle, flag: Flag, on: bool) -> Result<(), HvRefusal>;

    /// Reads Q0 to Q31 (`hv_vcpu_get_simd_fp_reg`).
    fn vector(&self, vcpu: VcpuHandle, number: u32) -> Result<u128, HvRefusal>;

    /// Writes Q0 to Q31.
    fn set_vector(&self, vcpu: VcpuHandle, number: u32, value: u128) -> Result<(), HvRefusal>;

    /// Reads the mode bits of the matrix extension. macOS 15.2, M4 and later.
    fn sme_mode(&self, vcpu: VcpuHandle) -> Result<SmeMode, HvRefusal>;

    /// Sets them. Going in or out of streaming mode clears every Z and P register.
    fn set_sme_mode(&self, vcpu: VcpuHandle, mode: SmeMode) -> Result<(), HvRefusal>;

    /// Reads a register of the matrix extension; `out` has its exact length.
    fn sme_register(
        &self,
        vcpu: VcpuHandle,
        register: SmeRegister,
        out: &mut [u8],
    ) -> Result<(), HvRefusal>;

    /// Writes a register of the matrix extension; `value` has its exact length.
    fn set_sme_register(
        &self,
        vcpu: VcpuHandle,
        register: SmeRegister,
        value: &[u8],
    ) -> Result<(), HvRefusal>;
}

impl Register {
    /// The program counter.
    pub const PC: Self = Self::General(31);
    /// Floating-point control.
    pub const FPCR: Self = Self::General(32);
    /// Floating-point status.
    pub const FPSR: Self = Self::General(33);
    /// `PSTATE`, in the layout of an `SPSR`.
    pub const CPSR: Self = Self::General(34);
    /// Which vCPU this is. The redistributor belongs to it.
    pub const MPIDR: Self = Self::System(0xc005);

    /// X0 to X30; `None` for 31, which is the zero register in a load and the stack pointer
    /// elsewhere, and would be the program counter to the framework.
    #[must_use]
    pub const fn x(number: u32) -> Option<Self> {
        if number < 31 {
            Some(Self::General(number))
        } else {
            None
        }
    }
}

impl fmt::Debug for Register {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::PC => f.write_str("PC"),
            Self::FPCR => f.write_str("FPCR"),
            Self::FPSR => f.write_str("FPSR"),
            Self::CPSR => f.write_str("CPSR"),
            Self::MPIDR => f.write_str("MPIDR_EL1"),
            Self::General(number) => write!(f, "X{number}"),
            Self::System(encoding) => write!(f, "system register {encoding:#06x}"),
            Self::Icc(encoding) => write!(f, "ICC register {encoding:#06x}"),
            Self::Ich(encoding) => write!(f, "ICH register {encoding:#06x}"),
            Self::Redistributor(offset) => write!(f, "redistributor register {offset:#07x}"),
            Self::VtimerOffset => f.write_str("vtimer offset"),
        }
    }
}

impl Protection {
    /// The guest may read.
    pub const READ: Self = Self(1);
    /// The guest may write.
    pub const WRITE: Self = Self(1 << 1);
    /// The guest may execute.
    pub const EXECUTE: Self = Self(1 << 2);
    /// What memory of a guest commonly has.
    pub const ALL: Self = Self(7);

    /// The same without writing.
    #[must_use]
    pub const fn without_write(self) -> Self {
        Self(self.0 & !Self::WRITE.0)
    }

    /// Whether the guest may write.
    #[must_use]
    pub const fn has_write(self) -> bool {
        self.0 & Self::WRITE.0 != 0
    }
}

impl SmeRegister {
    /// Its length, where streaming vectors have `vector_bytes`.
    #[must_use]
    pub const fn len_bytes(self, vector_bytes: usize) -> usize {
        match self {
            Self::Z(_) => vector_bytes,
            Self::P(_) => vector_bytes / 8,
            Self::Za => vector_bytes * vector_bytes,
            Self::Zt0 => 64,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_zero_register_is_never_the_program_counter() {
        assert_eq!(Register::x(30), Some(Register::General(30)));
        assert_eq!(Register::x(31), None);
        assert_eq!(format!("{:?}", Register::General(31)), "PC");
    }
}
