//! The handler of SIGBUS.

// UNSAFETY: sigaction, reading what the kernel says of a signal, calling the handler that was
// there before.
#![expect(unsafe_code, reason = "handles a signal")]

use std::ffi::{c_int, c_void};
use std::io;
use std::mem::MaybeUninit;
use std::ptr;
use std::sync::{Mutex, OnceLock, PoisonError};

use nix::errno::Errno;

use super::{BusGuardError, guard};

/// The function of a handler that is told more than the signal's number.
type Informed = extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void);

/// The function of a handler that is told the signal's number.
type Plain = extern "C" fn(c_int);

/// What handled the signal before; set before ours is in place.
static BEFORE: OnceLock<libc::sigaction> = OnceLock::new();

/// Takes SIGBUS, once for the life of the process: a handler that was chained to cannot be taken
/// out again safely.
pub(super) fn install() -> Result<(), BusGuardError> {
    static INSTALLING: Mutex<()> = Mutex::new(());
    let _one_at_a_time = INSTALLING.lock().unwrap_or_else(PoisonError::into_inner);
    let now = exchange(None).map_err(BusGuardError::system("ask for the handler of SIGBUS"))?;
    let is_ours = now.sa_sigaction == address_of(on_bus_error);
    if BEFORE.get().is_some() {
        return if is_ours {
            Ok(())
        } else {
            Err(BusGuardError::Replaced)
        };
    }
    BEFORE.get_or_init(|| now);
    let mut ours = empty();
    ours.sa_sigaction = address_of(on_bus_error);
    ours.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_RESTART;
    exchange(Some(&ours)).map_err(BusGuardError::system("install a handler of SIGBUS"))?;
    Ok(())
}

fn address_of(handler: Informed) -> libc::sighandler_t {
    (handler as *const ()).expose_provenance()
}

/// An action without handler, flags or masked signals.
fn empty() -> libc::sigaction {
    // SAFETY: the structure is made of integers and of an optional function; zero is valid for all
    // of them, and is the empty set of signals.
    unsafe { MaybeUninit::zeroed().assume_init() }
}

/// Puts `new` in place, if there is one, and gives what was there.
fn exchange(new: Option<&libc::sigaction>) -> io::Result<libc::sigaction> {
    let mut old = empty();
    let new = new.map_or(ptr::null(), ptr::from_ref);
    // SAFETY:
    // - both structures live as long as the call;
    // - the only handler that is ever put in place is `on_bus_error`, or the default.
    let outcome = unsafe { libc::sigaction(libc::SIGBUS, new, &raw mut old) };
    Errno::result(outcome)?;
    Ok(old)
}

/// What the kernel calls. Nothing in it allocates, locks or panics.
extern "C" fn on_bus_error(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    let errno = Errno::last();
    // SAFETY: the kernel passes a structure that is valid while the handler runs.
    let told = unsafe { info.as_ref() };
    let code = told.map_or(0, |told| told.si_code);
    let address = told.map_or(0, |told| {
        // SAFETY: reads one word of the structure, which SIGBUS from a fault fills in.
        unsafe { told.si_addr() }.addr() as u64
    });
    let is_handled = code == libc::BUS_ADRERR && guard::lose(address);
    if !is_handled {
        hand_on(signal, code, info, context);
    }
    errno.set();
}

/// Does what would be done without a guard.
fn hand_on(signal: c_int, code: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    let Some(before) = BEFORE.get() else {
        return die();
    };
    match before.sa_sigaction {
        // What another process sends is ignored as it was; a fault cannot be.
        libc::SIG_IGN if code <= 0 => {}
        libc::SIG_DFL | libc::SIG_IGN => die(),
        handler => {
            let handler = ptr::with_exposed_provenance::<()>(handler);
            if before.sa_flags & libc::SA_SIGINFO == 0 {
                // SAFETY: without SA_SIGINFO, what is registered is a function of this type.
                let call = unsafe { std::mem::transmute::<*const (), Plain>(handler) };
                call(signal);
            } else {
                // SAFETY: with SA_SIGINFO, what is registered is a function of this type.
                let call = unsafe { std::mem::transmute::<*const (), Informed>(handler) };
                call(signal, info, context);
            }
        }
    }
}

/// Ends the process by the signal, as soon as the handler returns.
fn die() {
    let mut default = empty();
    default.sa_sigaction = libc::SIG_DFL;
    // A failure leaves this handler in place, and the fault comes again.
    if exchange(Some(&default)).is_ok() {
        // SAFETY: sends a signal, which is masked until the handler returns.
        unsafe { libc::raise(libc::SIGBUS) };
    }
}
