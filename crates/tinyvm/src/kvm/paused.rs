//! The promise that the vCPU stands still.

// UNSAFETY: no operation; the promise of the bridge's token.
#![expect(unsafe_code, reason = "a promise that the compiler cannot check")]

use hypervisor_bridge::Paused;

use super::thread::VcpuThread;

/// The token of a machine whose one vCPU has just been gathered.
pub(super) fn gathered(_: &VcpuThread) -> Paused {
    // SAFETY: the only thread that runs the vCPU waits in the meeting, with its exit completed;
    // only the thread's owner lets it go on, after the sequence has dropped the token.
    unsafe { Paused::promise() }
}
