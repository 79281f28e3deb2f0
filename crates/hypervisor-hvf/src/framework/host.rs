//! What the host is, and what time it is.

// UNSAFETY: asks the kernel by sysctlbyname, and reads a register that every program may.
#![expect(unsafe_code, reason = "system calls and one instruction")]

use std::arch::asm;
use std::cell::Cell;
use std::ffi::{CStr, c_void};
use std::ptr;
use std::time::SystemTime;

use crate::hv::HostTime;

unsafe extern "C" {
    fn mach_absolute_time() -> u64;
}

thread_local! {
    /// The vCPU of this thread, and where the framework writes its exits.
    static EXIT_RECORD: Cell<(u64, *const c_void)> = const { Cell::new((0, ptr::null())) };
}

pub(super) fn remember_exit_record(vcpu: u64, record: *const c_void) {
    EXIT_RECORD.set((vcpu, record));
}

/// Where the exits of a vCPU are; null for one that is not this thread's.
pub(super) fn exit_record(vcpu: u64) -> *const c_void {
    match EXIT_RECORD.get() {
        (own, record) if own == vcpu => record,
        _ => ptr::null(),
    }
}

/// A text of the kernel; empty where it has none of this name.
pub(super) fn text(name: &CStr) -> String {
    let mut bytes = [0_u8; 256];
    let mut len = bytes.len();
    // SAFETY: at most `len` bytes are written, and their number to `len`.
    let got = unsafe {
        libc::sysctlbyname(
            name.as_ptr(),
            bytes.as_mut_ptr().cast(),
            &raw mut len,
            ptr::null_mut(),
            0,
        )
    };
    let text = bytes.get(..len).filter(|_| got == 0).unwrap_or_default();
    let text = CStr::from_bytes_until_nul(text).unwrap_or_default();
    text.to_string_lossy().into_owned()
}

pub(super) fn page_bytes() -> u32 {
    // SAFETY: takes a number.
    let bytes = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    u32::try_from(bytes).unwrap_or(0)
}

/// `CNTFRQ_EL0` as this program sees it: guests of it see the same.
pub(super) fn counter_hz() -> u64 {
    let hz: u64;
    // SAFETY: the register is readable at EL0 on every system of Apple's.
    unsafe {
        asm!("mrs {hz}, cntfrq_el0", hz = out(reg) hz, options(nomem, nostack, preserves_flags));
    }
    hz
}

pub(super) fn time() -> HostTime {
    // SAFETY: takes nothing.
    let absolute = unsafe { mach_absolute_time() };
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let wall_ns = since.map_or(0, |since| {
        u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
    });
    HostTime { absolute, wall_ns }
}
