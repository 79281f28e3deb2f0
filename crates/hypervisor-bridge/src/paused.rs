//! The proof that a machine stands still.

// UNSAFETY: no operation; making the token is a promise that the compiler cannot check.
#![expect(
    unsafe_code,
    reason = "a promise that other code relies on is made in an unsafe fn"
)]

/// A token that says: no vCPU of the machine runs, and none will while the token is there.
///
/// What reads memory or state in place asks for one. It is lent, never copied, and dropped before
/// the machine runs again.
#[derive(Debug)]
pub struct Paused {
    _made_by_promise: (),
}

impl Paused {
    /// Makes the token.
    ///
    /// # Safety
    ///
    /// Until the token is dropped, every vCPU of the machine is stopped, outside the hypervisor,
    /// with its last exit completed, and no thread of the VMM lets one run.
    #[must_use]
    pub unsafe fn promise() -> Self {
        Self {
            _made_by_promise: (),
        }
    }
}
