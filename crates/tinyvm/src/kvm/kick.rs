//! Making a vCPU's thread leave the guest.

// UNSAFETY: a signal handler that does nothing, and signals to threads that are not joined yet.
#![expect(unsafe_code, reason = "signals are not in the standard library")]

use std::io;
use std::os::unix::thread::JoinHandleExt;
use std::sync::OnceLock;
use std::thread::JoinHandle;

/// The signal: delivered while the thread is in `KVM_RUN`, it makes the call return EINTR.
fn signal() -> libc::c_int {
    libc::SIGRTMIN()
}

extern "C" fn handler(_: libc::c_int) {}

/// Installs a handler that does nothing: the default action would end the process.
pub(super) fn install() -> io::Result<()> {
    static INSTALLED: OnceLock<Result<(), i32>> = OnceLock::new();
    let installed = INSTALLED.get_or_init(|| {
        // SAFETY: all zeroes is a value of this C structure.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        action.sa_sigaction = handler as *const () as libc::sighandler_t;
        // SAFETY: the handler does nothing, so it is safe in any context; `action` outlives the
        // call. No SA_RESTART: the call is to be interrupted.
        let result = unsafe { libc::sigaction(signal(), &raw const action, std::ptr::null_mut()) };
        if result == 0 {
            Ok(())
        } else {
            Err(io::Error::last_os_error().raw_os_error().unwrap_or(0))
        }
    });
    installed.map_err(io::Error::from_raw_os_error)
}

/// Interrupts the thread.
pub(super) fn kick<T>(thread: &JoinHandle<T>) {
    // SAFETY: the handle was not joined, so the thread's id is valid, also after its end. That it
    // has ended already is no error: then there is nothing to interrupt.
    let _ = unsafe { libc::pthread_kill(thread.as_pthread_t(), signal()) };
}
