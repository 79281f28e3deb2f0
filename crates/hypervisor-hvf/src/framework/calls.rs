//! The calls that every version of the framework has.

// UNSAFETY: declares and makes the calls of Hypervisor.framework.
#![expect(unsafe_code, reason = "the framework is in C")]

use std::arch::aarch64::vld1q_u8;
use std::arch::asm;
use std::ffi::c_void;
use std::ptr;

use super::host;
use super::newer::Newer;
use crate::hv::{
    Flag, GicConfig, HostInfo, HostTime, Hv, Protection, RawExit, Register, SmeMode, SmeRegister,
    VcpuHandle, VmConfig,
};
use crate::refusal::{HvCode, HvRefusal};

/// `hv_vcpu_exit_t`.
#[repr(C)]
struct ExitRecord {
    reason: u32,
    syndrome: u64,
    virtual_address: u64,
    physical_address: u64,
}

/// `hv_interrupt_type_t`.
const IRQ: u32 = 0;
const FIQ: u32 = 1;

#[link(name = "Hypervisor", kind = "framework")]
unsafe extern "C" {
    fn hv_vm_create(config: *mut c_void) -> i32;
    fn hv_vm_destroy() -> i32;
    fn hv_vm_map(address: *mut c_void, start: u64, len: usize, flags: u64) -> i32;
    fn hv_vm_unmap(start: u64, len: usize) -> i32;
    fn hv_vm_protect(start: u64, len: usize, flags: u64) -> i32;
    fn hv_vcpu_create(vcpu: *mut u64, exit: *mut *const ExitRecord, config: *mut c_void) -> i32;
    fn hv_vcpu_destroy(vcpu: u64) -> i32;
    fn hv_vcpu_run(vcpu: u64) -> i32;
    fn hv_vcpus_exit(vcpus: *const u64, count: u32) -> i32;
    fn hv_vcpu_get_reg(vcpu: u64, register: u32, value: *mut u64) -> i32;
    fn hv_vcpu_set_reg(vcpu: u64, register: u32, value: u64) -> i32;
    fn hv_vcpu_get_sys_reg(vcpu: u64, register: u16, value: *mut u64) -> i32;
    fn hv_vcpu_set_sys_reg(vcpu: u64, register: u16, value: u64) -> i32;
    fn hv_vcpu_get_simd_fp_reg(vcpu: u64, register: u32, value: *mut u128) -> i32;
    // Its value travels in a vector register, which no stable type of Rust does: see `set_vector`.
    fn hv_vcpu_set_simd_fp_reg();
    fn hv_vcpu_get_pending_interrupt(vcpu: u64, kind: u32, pending: *mut bool) -> i32;
    fn hv_vcpu_set_pending_interrupt(vcpu: u64, kind: u32, pending: bool) -> i32;
    fn hv_vcpu_get_trap_debug_exceptions(vcpu: u64, on: *mut bool) -> i32;
    fn hv_vcpu_set_trap_debug_exceptions(vcpu: u64, on: bool) -> i32;
    fn hv_vcpu_get_trap_debug_reg_accesses(vcpu: u64, on: *mut bool) -> i32;
    fn hv_vcpu_set_trap_debug_reg_accesses(vcpu: u64, on: bool) -> i32;
    fn hv_vcpu_get_vtimer_mask(vcpu: u64, masked: *mut bool) -> i32;
    fn hv_vcpu_set_vtimer_mask(vcpu: u64, masked: bool) -> i32;
    fn hv_vcpu_get_vtimer_offset(vcpu: u64, offset: *mut u64) -> i32;
    fn hv_vcpu_set_vtimer_offset(vcpu: u64, offset: u64) -> i32;
}

/// Hypervisor.framework.
///
/// Calls that came with macOS 15 are looked up when the value is made: on an older system they are
/// refused by name, and the program starts all the same.
#[derive(Debug)]
pub struct Framework {
    newer: Newer,
}

/// What a return value says of a call.
pub(super) fn checked(call: &'static str, value: i32) -> Result<(), HvRefusal> {
    HvCode::of(value).map_or(Ok(()), |code| Err(code.to(call)))
}

impl Framework {
    /// Looks up what this system has.
    #[must_use]
    pub fn new() -> Self {
        Self {
            newer: Newer::look_up(),
        }
    }

    /// `hv_vm_map`: gives the guest memory of this process.
    ///
    /// # Safety
    ///
    /// The `len` bytes at `address` are mapped memory of this process, of one region, until
    /// [`unmap`](Self::unmap) or the end of the machine; from now on the guest reads and writes
    /// them at any time, so nothing refers to them by a Rust reference.
    pub unsafe fn map(
        &self,
        address: ptr::NonNull<u8>,
        start: u64,
        len: usize,
        to: Protection,
    ) -> Result<(), HvRefusal> {
        // SAFETY: the caller vouches for the memory.
        let mapped = unsafe { hv_vm_map(address.as_ptr().cast(), start, len, to.0) };
        checked("hv_vm_map", mapped)
    }

    /// Says where the framework writes the exits of a vCPU that this thread created by itself, for
    /// [`HvfVcpu::adopt`](crate::HvfVcpu::adopt).
    ///
    /// # Safety
    ///
    /// `record` is what `hv_vcpu_create` gave with `vcpu`, which this thread does not destroy before
    /// its last run through this crate.
    pub unsafe fn adopt_exit_record(&self, vcpu: VcpuHandle, record: ptr::NonNull<c_void>) {
        host::remember_exit_record(vcpu.0, record.as_ptr());
    }

    /// `hv_vm_unmap`.
    pub fn unmap(&self, start: u64, len: usize) -> Result<(), HvRefusal> {
        // SAFETY: takes guest addresses only, and takes memory from the guest.
        let unmapped = unsafe { hv_vm_unmap(start, len) };
        checked("hv_vm_unmap", unmapped)
    }
}

impl Default for Framework {
    fn default() -> Self {
        Self::new()
    }
}

impl Hv for Framework {
    fn host(&self) -> Result<HostInfo, HvRefusal> {
        Ok(HostInfo {
            os_build: host::text(c"kern.osversion"),
            cpu_brand: host::text(c"machdep.cpu.brand_string"),
            page_bytes: host::page_bytes(),
            counter_hz: host::counter_hz(),
            sme_vector_bytes: self.newer.sme_vector_bytes()?,
            el2: self.newer.has_el2()?,
            max_address_bits: self.newer.max_address_bits()?,
        })
    }

    fn time(&self) -> HostTime {
        host::time()
    }

    fn create_vm(&self, config: VmConfig) -> Result<(), HvRefusal> {
        let config = self.newer.vm_config(config)?;
        // SAFETY: the object is a configuration, or null for the framework's own.
        let created = unsafe { hv_vm_create(config.as_ptr()) };
        checked("hv_vm_create", created)
    }

    fn destroy_vm(&self) -> Result<(), HvRefusal> {
        // SAFETY: takes nothing.
        let destroyed = unsafe { hv_vm_destroy() };
        checked("hv_vm_destroy", destroyed)
    }

    fn create_gic(&self, config: &GicConfig) -> Result<(), HvRefusal> {
        self.newer.create_gic(config)
    }

    fn gic_state(&self) -> Result<Vec<u8>, HvRefusal> {
        self.newer.gic_state()
    }

    fn set_gic_state(&self, state: &[u8]) -> Result<(), HvRefusal> {
        self.newer.set_gic_state(state)
    }

    fn distributor(&self, offset: u16) -> Result<u64, HvRefusal> {
        self.newer.distributor(offset)
    }

    fn set_distributor(&self, offset: u16, value: u64) -> Result<(), HvRefusal> {
        self.newer.set_distributor(offset, value)
    }

    fn protect(&self, start: u64, len_bytes: u64, to: Protection) -> Result<(), HvRefusal> {
        const CALL: &str = "hv_vm_protect";
        let len = usize::try_from(len_bytes).map_err(|_| HvCode::BadArgument.to(CALL))?;
        // SAFETY: takes guest addresses only; what the guest may do there is the VMM's to say.
        let protected = unsafe { hv_vm_protect(start, len, to.0) };
        checked(CALL, protected)
    }

    fn create_vcpu(&self) -> Result<VcpuHandle, HvRefusal> {
        let (mut vcpu, mut exit) = (0, ptr::null());
        // SAFETY: both places are written on success.
        let created = unsafe { hv_vcpu_create(&raw mut vcpu, &raw mut exit, ptr::null_mut()) };
        checked("hv_vcpu_create", created)?;
        host::remember_exit_record(vcpu, exit.cast());
        Ok(VcpuHandle(vcpu))
    }

    fn destroy_vcpu(&self, vcpu: VcpuHandle) -> Result<(), HvRefusal> {
        // SAFETY: takes a number.
        let destroyed = unsafe { hv_vcpu_destroy(vcpu.0) };
        checked("hv_vcpu_destroy", destroyed)
    }

    fn run_vcpu(&self, vcpu: VcpuHandle) -> Result<RawExit, HvRefusal> {
        const CALL: &str = "hv_vcpu_run";
        // Of this thread, and of this vCPU: or else there is nothing to read the exit from.
        let record: *const ExitRecord = host::exit_record(vcpu.0).cast();
        if record.is_null() {
            return Err(HvCode::BadArgument.to(CALL));
        }
        // SAFETY: takes a number.
        let run = unsafe { hv_vcpu_run(vcpu.0) };
        checked(CALL, run)?;
        // SAFETY: the framework gave the record with the vCPU, which is this thread's and exists,
        // as it has just run; it writes it in `hv_vcpu_run` only.
        let record = unsafe { &*record };
        Ok(match record.reason {
            0 => RawExit::Canceled,
            1 => RawExit::Exception {
                syndrome: record.syndrome,
                virtual_address: record.virtual_address,
                physical_address: record.physical_address,
            },
            2 => RawExit::VtimerActivated,
            other => RawExit::Unknown(other),
        })
    }

    fn exit_vcpus(&self, vcpus: &[VcpuHandle]) -> Result<(), HvRefusal> {
        const CALL: &str = "hv_vcpus_exit";
        let numbers: Vec<u64> = vcpus.iter().map(|vcpu| vcpu.0).collect();
        let count = u32::try_from(numbers.len()).map_err(|_| HvCode::BadArgument.to(CALL))?;
        // SAFETY: `count` numbers are read.
        let asked = unsafe { hv_vcpus_exit(numbers.as_ptr(), count) };
        checked(CALL, asked)
    }

    fn register(&self, vcpu: VcpuHandle, register: Register) -> Result<u64, HvRefusal> {
        let mut value = 0;
        let place = &raw mut value;
        let (call, got) = match register {
            Register::General(number) => {
                // SAFETY: the place is written on success.
                let got = unsafe { hv_vcpu_get_reg(vcpu.0, number, place) };
                ("hv_vcpu_get_reg", got)
            }
            Register::System(id) => {
                // SAFETY: as above.
                let got = unsafe { hv_vcpu_get_sys_reg(vcpu.0, id, place) };
                ("hv_vcpu_get_sys_reg", got)
            }
            Register::VtimerOffset => {
                // SAFETY: as above.
                let got = unsafe { hv_vcpu_get_vtimer_offset(vcpu.0, place) };
                ("hv_vcpu_get_vtimer_offset", got)
            }
            Register::Icc(_) | Register::Ich(_) | Register::Redistributor(_) => {
                return self.newer.register(vcpu, register);
            }
        };
        checked(call, got)?;
        Ok(value)
    }

    fn set_register(
        &self,
        vcpu: VcpuHandle,
        register: Register,
        value: u64,
    ) -> Result<(), HvRefusal> {
        let (call, set) = match register {
            Register::General(number) => {
                // SAFETY: takes numbers; what the guest's registers hold is the VMM's to say.
                let set = unsafe { hv_vcpu_set_reg(vcpu.0, number, value) };
                ("hv_vcpu_set_reg", set)
            }
            Register::System(id) => {
                // SAFETY: as above.
                let set = unsafe { hv_vcpu_set_sys_reg(vcpu.0, id, value) };
                ("hv_vcpu_set_sys_reg", set)
            }
            Register::VtimerOffset => {
                // SAFETY: as above.
                let set = unsafe { hv_vcpu_set_vtimer_offset(vcpu.0, value) };
                ("hv_vcpu_set_vtimer_offset", set)
            }
            Register::Icc(_) | Register::Ich(_) | Register::Redistributor(_) => {
                return self.newer.set_register(vcpu, register, value);
            }
        };
        checked(call, set)
    }

    fn flag(&self, vcpu: VcpuHandle, flag: Flag) -> Result<bool, HvRefusal> {
        let (vcpu, mut on) = (vcpu.0, false);
        let place = &raw mut on;
        let got = match flag {
            // SAFETY: the place is written on success.
            Flag::VtimerMask => unsafe { hv_vcpu_get_vtimer_mask(vcpu, place) },
            // SAFETY: as above.
            Flag::PendingIrq => unsafe { hv_vcpu_get_pending_interrupt(vcpu, IRQ, place) },
            // SAFETY: as above.
            Flag::PendingFiq => unsafe { hv_vcpu_get_pending_interrupt(vcpu, FIQ, place) },
            // SAFETY: as above.
            Flag::TrapDebugExceptions => unsafe { hv_vcpu_get_trap_debug_exceptions(vcpu, place) },
            // SAFETY: as above.
            Flag::TrapDebugAccesses => unsafe { hv_vcpu_get_trap_debug_reg_accesses(vcpu, place) },
        };
        checked("hv_vcpu_get (a switch)", got)?;
        Ok(on)
    }

    fn set_flag(&self, vcpu: VcpuHandle, flag: Flag, on: bool) -> Result<(), HvRefusal> {
        let vcpu = vcpu.0;
        let set = match flag {
            // SAFETY: takes numbers.
            Flag::VtimerMask => unsafe { hv_vcpu_set_vtimer_mask(vcpu, on) },
            // SAFETY: as above.
            Flag::PendingIrq => unsafe { hv_vcpu_set_pending_interrupt(vcpu, IRQ, on) },
            // SAFETY: as above.
            Flag::PendingFiq => unsafe { hv_vcpu_set_pending_interrupt(vcpu, FIQ, on) },
            // SAFETY: as above.
            Flag::TrapDebugExceptions => unsafe { hv_vcpu_set_trap_debug_exceptions(vcpu, on) },
            // SAFETY: as above.
            Flag::TrapDebugAccesses => unsafe { hv_vcpu_set_trap_debug_reg_accesses(vcpu, on) },
        };
        checked("hv_vcpu_set (a switch)", set)
    }

    fn vector(&self, vcpu: VcpuHandle, number: u32) -> Result<u128, HvRefusal> {
        let mut value = 0;
        // SAFETY: the place has 16 bytes, aligned as a vector is, and is written on success.
        let got = unsafe { hv_vcpu_get_simd_fp_reg(vcpu.0, number, &raw mut value) };
        checked("hv_vcpu_get_simd_fp_reg", got)?;
        Ok(value)
    }

    fn set_vector(&self, vcpu: VcpuHandle, number: u32, value: u128) -> Result<(), HvRefusal> {
        let bytes = value.to_le_bytes();
        // SAFETY: 16 bytes are read.
        let vector = unsafe { vld1q_u8(bytes.as_ptr()) };
        let result: u64;
        // SAFETY: this is the call `hv_vcpu_set_simd_fp_reg(vcpu, number, vector)` of AAPCS64: two
        // numbers in x0 and w1, a vector in v0, an int back in w0. It is spelled out because
        // vectors cannot be arguments of foreign functions in stable Rust.
        unsafe {
            asm!(
                "blr {function}",
                function = in(reg) hv_vcpu_set_simd_fp_reg as unsafe extern "C" fn(),
                inlateout("x0") vcpu.0 => result,
                in("x1") u64::from(number),
                in("v0") vector,
                clobber_abi("C"),
            );
        }
        // An int is the lower half of its register.
        let [a, b, c, d, ..] = result.to_le_bytes();
        let set = i32::from_le_bytes([a, b, c, d]);
        checked("hv_vcpu_set_simd_fp_reg", set)
    }

    fn sme_mode(&self, vcpu: VcpuHandle) -> Result<SmeMode, HvRefusal> {
        self.newer.sme_mode(vcpu)
    }

    fn set_sme_mode(&self, vcpu: VcpuHandle, mode: SmeMode) -> Result<(), HvRefusal> {
        self.newer.set_sme_mode(vcpu, mode)
    }

    fn sme_register(
        &self,
        vcpu: VcpuHandle,
        register: SmeRegister,
        out: &mut [u8],
    ) -> Result<(), HvRefusal> {
        self.newer.sme_register(vcpu, register, out)
    }

    fn set_sme_register(
        &self,
        vcpu: VcpuHandle,
        register: SmeRegister,
        value: &[u8],
    ) -> Result<(), HvRefusal> {
        self.newer.set_sme_register(vcpu, register, value)
    }
}
