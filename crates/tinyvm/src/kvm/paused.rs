//! The promise that the vCPUs stand still.

// UNSAFETY: no operation; the promise of the bridge's token.
#![expect(unsafe_code, reason = "a promise that the compiler cannot check")]

use hypervisor_bridge::Paused;

use super::thread::VcpuThreads;

/// The token of a machine whose vCPUs have just been gathered.
pub(super) fn gathered(_: &VcpuThreads) -> Paused {
    // SAFETY: the only threads that run vCPUs wait in the meeting, with their exits completed;
    // only the threads' owner lets them go on, after the sequence has dropped the token.
    unsafe { Paused::promise() }
}
