//! The calls that came after the first version: machine configurations with macOS 13, EL2 and the
//! interrupt controller with macOS 15.0, the matrix extension with 15.2.

// UNSAFETY: looks up calls of Hypervisor.framework by name, and makes them.
#![expect(unsafe_code, reason = "the framework is in C, and grows")]

use std::ffi::{CStr, c_void};
use std::ptr;

use super::calls::checked;
use crate::hv::{GicConfig, Register, SmeMode, SmeRegister, VcpuHandle, VmConfig};
use crate::refusal::{HvCode, HvRefusal};

const MACOS_13: &str = "macOS 13.0";
const MACOS_15: &str = "macOS 15.0";
const MACOS_15_2: &str = "macOS 15.2";

/// An object of the framework, or null.
type Object = *mut c_void;

/// `hv_vcpu_sme_state_t`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct SmeState {
    streaming: bool,
    matrix: bool,
}

unsafe extern "C" {
    fn os_release(object: Object);
}

/// Declares calls that may not be there, and looks each up by its name.
macro_rules! newer {
    ($($name:ident($($argument:ty),*) -> $result:ty, $since:expr;)*) => {
        /// The calls that this system has.
        #[derive(Debug)]
        pub(super) struct Newer {
            $($name: Option<unsafe extern "C" fn($($argument),*) -> $result>,)*
        }

        impl Newer {
            pub(super) fn look_up() -> Self {
                Self {
                    $($name: {
                        let found = find(concat!(stringify!($name), "\0").as_bytes());
                        // SAFETY: the function of this name has this type, by the headers of the
                        // framework; null is `None`.
                        unsafe {
                            std::mem::transmute::<
                                *mut c_void,
                                Option<unsafe extern "C" fn($($argument),*) -> $result>,
                            >(found)
                        }
                    },)*
                }
            }

            $(
                fn $name(
                    &self,
                ) -> Result<unsafe extern "C" fn($($argument),*) -> $result, HvRefusal> {
                    let too_old = HvCode::TooOld { since: $since };
                    self.$name.ok_or(too_old.to(stringify!($name)))
                }
            )*
        }
    };
}

newer! {
    hv_vm_config_create() -> Object, MACOS_13;
    hv_vm_config_get_max_ipa_size(*mut u32) -> i32, MACOS_13;
    hv_vm_config_set_ipa_size(Object, u32) -> i32, MACOS_13;
    hv_vm_config_get_el2_supported(*mut bool) -> i32, MACOS_15;
    hv_vm_config_set_el2_enabled(Object, bool) -> i32, MACOS_15;
    hv_gic_config_create() -> Object, MACOS_15;
    hv_gic_config_set_distributor_base(Object, u64) -> i32, MACOS_15;
    hv_gic_config_set_redistributor_base(Object, u64) -> i32, MACOS_15;
    hv_gic_config_set_msi_region_base(Object, u64) -> i32, MACOS_15;
    hv_gic_config_set_msi_interrupt_range(Object, u32, u32) -> i32, MACOS_15;
    hv_gic_create(Object) -> i32, MACOS_15;
    hv_gic_state_create() -> Object, MACOS_15;
    hv_gic_state_get_size(Object, *mut usize) -> i32, MACOS_15;
    hv_gic_state_get_data(Object, *mut c_void) -> i32, MACOS_15;
    hv_gic_set_state(*const c_void, usize) -> i32, MACOS_15;
    hv_gic_get_distributor_reg(u16, *mut u64) -> i32, MACOS_15;
    hv_gic_set_distributor_reg(u16, u64) -> i32, MACOS_15;
    hv_gic_get_redistributor_reg(u64, u32, *mut u64) -> i32, MACOS_15;
    hv_gic_set_redistributor_reg(u64, u32, u64) -> i32, MACOS_15;
    hv_gic_get_icc_reg(u64, u16, *mut u64) -> i32, MACOS_15;
    hv_gic_set_icc_reg(u64, u16, u64) -> i32, MACOS_15;
    hv_gic_get_ich_reg(u64, u16, *mut u64) -> i32, MACOS_15;
    hv_gic_set_ich_reg(u64, u16, u64) -> i32, MACOS_15;
    hv_sme_config_get_max_svl_bytes(*mut usize) -> i32, MACOS_15_2;
    hv_vcpu_get_sme_state(u64, *mut SmeState) -> i32, MACOS_15_2;
    hv_vcpu_set_sme_state(u64, *const SmeState) -> i32, MACOS_15_2;
    hv_vcpu_get_sme_z_reg(u64, u32, *mut u8, usize) -> i32, MACOS_15_2;
    hv_vcpu_set_sme_z_reg(u64, u32, *const u8, usize) -> i32, MACOS_15_2;
    hv_vcpu_get_sme_p_reg(u64, u32, *mut u8, usize) -> i32, MACOS_15_2;
    hv_vcpu_set_sme_p_reg(u64, u32, *const u8, usize) -> i32, MACOS_15_2;
    hv_vcpu_get_sme_za_reg(u64, *mut u8, usize) -> i32, MACOS_15_2;
    hv_vcpu_set_sme_za_reg(u64, *const u8, usize) -> i32, MACOS_15_2;
    hv_vcpu_get_sme_zt0_reg(u64, *mut u8) -> i32, MACOS_15_2;
    hv_vcpu_set_sme_zt0_reg(u64, *const u8) -> i32, MACOS_15_2;
}

/// The address of a function by its name with a zero at the end; null where there is none.
fn find(name: &[u8]) -> *mut c_void {
    let Ok(name) = CStr::from_bytes_with_nul(name) else {
        return ptr::null_mut();
    };
    // SAFETY: the name ends with a zero.
    unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()) }
}

/// An object of the framework that is released in the end.
#[derive(Debug)]
pub(super) struct Owned(Object);

impl Owned {
    /// None: the framework's own choice.
    const NONE: Self = Self(ptr::null_mut());

    fn new(object: Object, call: &'static str) -> Result<Self, HvRefusal> {
        if object.is_null() {
            return Err(HvCode::Error.to(call));
        }
        Ok(Self(object))
    }

    pub(super) fn as_ptr(&self) -> Object {
        self.0
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        if !self.0.is_null() {
            // SAFETY: the object was created by the framework for this value, and nobody else has
            // it.
            unsafe { os_release(self.0) };
        }
    }
}

/// What a number of the host is where it has none: 0 for a feature that is not there.
fn or_absent<T: Default>(got: Result<T, HvRefusal>) -> Result<T, HvRefusal> {
    match got {
        Err(HvRefusal {
            code: HvCode::TooOld { .. } | HvCode::Unsupported,
            ..
        }) => Ok(T::default()),
        got => got,
    }
}

impl Newer {
    pub(super) fn sme_vector_bytes(&self) -> Result<u32, HvRefusal> {
        let bytes = self.hv_sme_config_get_max_svl_bytes().and_then(|get| {
            let mut bytes = 0;
            // SAFETY: the place is written on success.
            let got = unsafe { get(&raw mut bytes) };
            checked("hv_sme_config_get_max_svl_bytes", got)?;
            Ok(u32::try_from(bytes).unwrap_or(0))
        });
        or_absent(bytes)
    }

    pub(super) fn has_el2(&self) -> Result<bool, HvRefusal> {
        let el2 = self.hv_vm_config_get_el2_supported().and_then(|get| {
            let mut el2 = false;
            // SAFETY: the place is written on success.
            let got = unsafe { get(&raw mut el2) };
            checked("hv_vm_config_get_el2_supported", got)?;
            Ok(el2)
        });
        or_absent(el2)
    }

    pub(super) fn max_address_bits(&self) -> Result<u32, HvRefusal> {
        let bits = self.hv_vm_config_get_max_ipa_size().and_then(|get| {
            let mut bits = 0;
            // SAFETY: the place is written on success.
            let got = unsafe { get(&raw mut bits) };
            checked("hv_vm_config_get_max_ipa_size", got)?;
            Ok(bits)
        });
        // Before macOS 13 it was what every machine had.
        or_absent(bits).map(|bits| if bits == 0 { 36 } else { bits })
    }

    pub(super) fn vm_config(&self, config: VmConfig) -> Result<Owned, HvRefusal> {
        if config == VmConfig::default() {
            return Ok(Owned::NONE);
        }
        // SAFETY: takes nothing.
        let object = unsafe { self.hv_vm_config_create()?() };
        let object = Owned::new(object, "hv_vm_config_create")?;
        if config.address_bits != 0 {
            // SAFETY: the object is a configuration of a machine.
            let set = unsafe { self.hv_vm_config_set_ipa_size()?(object.0, config.address_bits) };
            checked("hv_vm_config_set_ipa_size", set)?;
        }
        if config.el2 {
            // SAFETY: as above.
            let set = unsafe { self.hv_vm_config_set_el2_enabled()?(object.0, true) };
            checked("hv_vm_config_set_el2_enabled", set)?;
        }
        Ok(object)
    }

    pub(super) fn create_gic(&self, config: &GicConfig) -> Result<(), HvRefusal> {
        // SAFETY: takes nothing.
        let object = unsafe { self.hv_gic_config_create()?() };
        let object = Owned::new(object, "hv_gic_config_create")?;
        let base = self.hv_gic_config_set_distributor_base()?;
        // SAFETY: the object is a configuration of a GIC.
        let set = unsafe { base(object.0, config.distributor) };
        checked("hv_gic_config_set_distributor_base", set)?;
        let base = self.hv_gic_config_set_redistributor_base()?;
        // SAFETY: as above.
        let set = unsafe { base(object.0, config.redistributors) };
        checked("hv_gic_config_set_redistributor_base", set)?;
        if let Some(msi) = config.msi {
            let base = self.hv_gic_config_set_msi_region_base()?;
            // SAFETY: as above.
            let set = unsafe { base(object.0, msi.base) };
            checked("hv_gic_config_set_msi_region_base", set)?;
            let range = self.hv_gic_config_set_msi_interrupt_range()?;
            // SAFETY: as above.
            let set = unsafe { range(object.0, msi.first, msi.count) };
            checked("hv_gic_config_set_msi_interrupt_range", set)?;
        }
        // SAFETY: as above.
        let created = unsafe { self.hv_gic_create()?(object.0) };
        checked("hv_gic_create", created)
    }

    pub(super) fn gic_state(&self) -> Result<Vec<u8>, HvRefusal> {
        // SAFETY: takes nothing.
        let object = unsafe { self.hv_gic_state_create()?() };
        let object = Owned::new(object, "hv_gic_state_create")?;
        let mut len = 0;
        // SAFETY: the object is a state, and the place is written on success.
        let got = unsafe { self.hv_gic_state_get_size()?(object.0, &raw mut len) };
        checked("hv_gic_state_get_size", got)?;
        let mut bytes = vec![0_u8; len];
        let data = bytes.as_mut_ptr().cast();
        // SAFETY: as many bytes are written as the state said that it has.
        let got = unsafe { self.hv_gic_state_get_data()?(object.0, data) };
        checked("hv_gic_state_get_data", got)?;
        Ok(bytes)
    }

    pub(super) fn set_gic_state(&self, state: &[u8]) -> Result<(), HvRefusal> {
        // SAFETY: `len` bytes are read, and the framework checks what they say.
        let set = unsafe { self.hv_gic_set_state()?(state.as_ptr().cast(), state.len()) };
        checked("hv_gic_set_state", set)
    }

    pub(super) fn distributor(&self, offset: u16) -> Result<u64, HvRefusal> {
        let mut value = 0;
        // SAFETY: the place is written on success.
        let got = unsafe { self.hv_gic_get_distributor_reg()?(offset, &raw mut value) };
        checked("hv_gic_get_distributor_reg", got)?;
        Ok(value)
    }

    pub(super) fn set_distributor(&self, offset: u16, value: u64) -> Result<(), HvRefusal> {
        // SAFETY: takes numbers.
        let set = unsafe { self.hv_gic_set_distributor_reg()?(offset, value) };
        checked("hv_gic_set_distributor_reg", set)
    }

    /// A register of the GIC.
    pub(super) fn register(&self, vcpu: VcpuHandle, register: Register) -> Result<u64, HvRefusal> {
        let mut value = 0;
        let place = &raw mut value;
        let (call, got) = match register {
            Register::Icc(id) => {
                // SAFETY: the place is written on success.
                let got = unsafe { self.hv_gic_get_icc_reg()?(vcpu.0, id, place) };
                ("hv_gic_get_icc_reg", got)
            }
            Register::Ich(id) => {
                // SAFETY: as above.
                let got = unsafe { self.hv_gic_get_ich_reg()?(vcpu.0, id, place) };
                ("hv_gic_get_ich_reg", got)
            }
            Register::Redistributor(offset) => {
                // SAFETY: as above.
                let got = unsafe { self.hv_gic_get_redistributor_reg()?(vcpu.0, offset, place) };
                ("hv_gic_get_redistributor_reg", got)
            }
            _ => return Err(HvCode::BadArgument.to("a register of the GIC")),
        };
        checked(call, got)?;
        Ok(value)
    }

    /// A register of the GIC.
    pub(super) fn set_register(
        &self,
        vcpu: VcpuHandle,
        register: Register,
        value: u64,
    ) -> Result<(), HvRefusal> {
        let (call, set) = match register {
            Register::Icc(id) => {
                // SAFETY: takes numbers.
                let set = unsafe { self.hv_gic_set_icc_reg()?(vcpu.0, id, value) };
                ("hv_gic_set_icc_reg", set)
            }
            Register::Ich(id) => {
                // SAFETY: as above.
                let set = unsafe { self.hv_gic_set_ich_reg()?(vcpu.0, id, value) };
                ("hv_gic_set_ich_reg", set)
            }
            Register::Redistributor(offset) => {
                // SAFETY: as above.
                let set = unsafe { self.hv_gic_set_redistributor_reg()?(vcpu.0, offset, value) };
                ("hv_gic_set_redistributor_reg", set)
            }
            _ => return Err(HvCode::BadArgument.to("a register of the GIC")),
        };
        checked(call, set)
    }

    pub(super) fn sme_mode(&self, vcpu: VcpuHandle) -> Result<SmeMode, HvRefusal> {
        let mut state = SmeState::default();
        // SAFETY: the place is written on success.
        let got = unsafe { self.hv_vcpu_get_sme_state()?(vcpu.0, &raw mut state) };
        checked("hv_vcpu_get_sme_state", got)?;
        Ok(SmeMode {
            streaming: state.streaming,
            matrix: state.matrix,
        })
    }

    pub(super) fn set_sme_mode(&self, vcpu: VcpuHandle, mode: SmeMode) -> Result<(), HvRefusal> {
        let state = SmeState {
            streaming: mode.streaming,
            matrix: mode.matrix,
        };
        // SAFETY: the state is read.
        let set = unsafe { self.hv_vcpu_set_sme_state()?(vcpu.0, &raw const state) };
        checked("hv_vcpu_set_sme_state", set)
    }

    /// Reads a register whose length the framework checks, but for ZT0, which has 64 bytes.
    pub(super) fn sme_register(
        &self,
        vcpu: VcpuHandle,
        register: SmeRegister,
        out: &mut [u8],
    ) -> Result<(), HvRefusal> {
        let (to, len) = (out.as_mut_ptr(), out.len());
        let got = match register {
            // SAFETY: `len` bytes are written, or none where it is not the register's length.
            SmeRegister::Z(n) => unsafe { self.hv_vcpu_get_sme_z_reg()?(vcpu.0, n, to, len) },
            // SAFETY: as above.
            SmeRegister::P(n) => unsafe { self.hv_vcpu_get_sme_p_reg()?(vcpu.0, n, to, len) },
            // SAFETY: as above.
            SmeRegister::Za => unsafe { self.hv_vcpu_get_sme_za_reg()?(vcpu.0, to, len) },
            SmeRegister::Zt0 => {
                let mut zt0 = Zt0([0; 64]);
                // SAFETY: 64 bytes are written, aligned as a vector of that length.
                let got = unsafe { self.hv_vcpu_get_sme_zt0_reg()?(vcpu.0, zt0.0.as_mut_ptr()) };
                out.iter_mut().zip(zt0.0).for_each(|(to, from)| *to = from);
                got
            }
        };
        checked("hv_vcpu_get_sme (a register)", got)
    }

    /// Writes a register whose length the framework checks, but for ZT0, which has 64 bytes.
    pub(super) fn set_sme_register(
        &self,
        vcpu: VcpuHandle,
        register: SmeRegister,
        value: &[u8],
    ) -> Result<(), HvRefusal> {
        const CALL: &str = "hv_vcpu_set_sme (a register)";
        let (from, len) = (value.as_ptr(), value.len());
        let set = match register {
            // SAFETY: `len` bytes are read, or none where it is not the register's length.
            SmeRegister::Z(n) => unsafe { self.hv_vcpu_set_sme_z_reg()?(vcpu.0, n, from, len) },
            // SAFETY: as above.
            SmeRegister::P(n) => unsafe { self.hv_vcpu_set_sme_p_reg()?(vcpu.0, n, from, len) },
            // SAFETY: as above.
            SmeRegister::Za => unsafe { self.hv_vcpu_set_sme_za_reg()?(vcpu.0, from, len) },
            SmeRegister::Zt0 => {
                let bytes = value.try_into().map_err(|_| HvCode::BadArgument.to(CALL))?;
                let zt0 = Zt0(bytes);
                // SAFETY: 64 bytes are read, aligned as a vector of that length.
                unsafe { self.hv_vcpu_set_sme_zt0_reg()?(vcpu.0, zt0.0.as_ptr()) }
            }
        };
        checked(CALL, set)
    }
}

/// `hv_sme_zt0_uchar64_t`: a vector of 64 bytes.
#[repr(C, align(64))]
struct Zt0([u8; 64]);
