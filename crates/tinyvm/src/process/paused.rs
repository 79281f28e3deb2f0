//! The promise that the CPU stands still.

// UNSAFETY: no operation; the promise of the bridge's token.
#![expect(unsafe_code, reason = "a promise that the compiler cannot check")]

use hypervisor_bridge::Paused;

use super::cpu::CpuThread;

/// The token of a guest whose one CPU has just been gathered.
pub(super) fn gathered(_: &CpuThread) -> Paused {
    // SAFETY: the only thread that plays the CPU waits in the meeting; only its owner lets it go
    // on, after the sequence has dropped the token.
    unsafe { Paused::promise() }
}

/// The token of a guest that has no CPU that could run: it is only restored and read.
pub(super) fn never_started() -> Paused {
    // SAFETY: no thread plays a CPU.
    unsafe { Paused::promise() }
}
