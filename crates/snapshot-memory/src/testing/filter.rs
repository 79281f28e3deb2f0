//! Running a test in a process of its own whose system calls are filtered.

// UNSAFETY: a signal handler, what the kernel tells it, and the end of a process by the bare call.
#![expect(
    unsafe_code,
    reason = "signals and _exit are not in the standard library"
)]

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::process::Command;

use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, apply_filter};

use crate::syscalls;

/// In the environment of the child: which test it is to run.
const CHILD: &str = "SNAPSHOT_UNDER_FILTER";

/// What the child says when it came to the end.
const DONE: &str = "came to the end under the filter";

/// How the child ends that made a call which is not listed.
const REFUSED: libc::c_int = 86;

/// Where `siginfo_t` of a `SIGSYS` has the number of the call, in bytes: `_sigsys._syscall` of
/// `asm-generic/siginfo.h` on a host with pointers of 8 bytes.
const SIGINFO_NUMBER: usize = 24;

/// What only this module calls when the feature is done.
const ENDING: [&str; 2] = ["exit_group", "write"];

/// Runs `feature` on a thread that may make the system calls in `allowed` and no others, in a child
/// process that runs the test named `test` alone. `prepare` runs before, unfiltered.
///
/// `test` is the name as the test harness has it, with its modules; the test does nothing but call
/// this.
///
/// # Panics
///
/// If the child makes another call, which is then named, or fails in any other way.
pub fn under_filter<T>(
    test: &str,
    allowed: &[&[&str]],
    prepare: impl FnOnce() -> T,
    feature: impl FnOnce(T),
) {
    if std::env::var_os(CHILD).is_some_and(|name| name == test) {
        let prepared = prepare();
        restrict(allowed);
        feature(prepared);
        let _ = writeln!(io::stderr(), "{DONE}");
        // SAFETY: the call takes a number and does not come back; nothing here needs unwinding.
        unsafe { libc::_exit(0) };
    }
    let ran = std::env::current_exe().and_then(|tests| {
        let mut child = Command::new(tests);
        child.args([test, "--exact", "--nocapture"]);
        child.env(CHILD, test).env("RUST_BACKTRACE", "0").output()
    });
    let said = match &ran {
        Ok(output) => String::from_utf8_lossy(&output.stderr).into_owned(),
        Err(error) => error.to_string(),
    };
    let ended = ran.is_ok_and(|output| output.status.success());
    assert!(ended && said.contains(DONE), "{test}: {said}");
}

/// Allows the calling thread these system calls; any other ends the process and is named.
fn restrict(allowed: &[&[&str]]) {
    let names = allowed.iter().copied().flatten().chain(&ENDING);
    let mut rules: BTreeMap<i64, Vec<_>> = BTreeMap::new();
    for name in names {
        let number = syscalls::number(name);
        assert!(number.is_some(), "{name} is no system call that is known");
        rules.extend(number.map(|number| (number, Vec::new())));
    }
    let arch = std::env::consts::ARCH.try_into();
    let program = arch
        .and_then(|arch| SeccompFilter::new(rules, SeccompAction::Trap, SeccompAction::Allow, arch))
        .and_then(BpfProgram::try_from);
    // SAFETY: all zeroes is a value of this C structure.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = tell_refused as *const () as libc::sighandler_t;
    action.sa_flags = libc::SA_SIGINFO;
    // SAFETY: the handler calls nothing but write and _exit; `action` outlives the call.
    let set = unsafe { libc::sigaction(libc::SIGSYS, &raw const action, std::ptr::null_mut()) };
    assert_eq!(set, 0, "no handler for refused calls");
    let applied = program.map(|program| apply_filter(&program));
    assert!(matches!(applied, Ok(Ok(()))), "no filter: {applied:?}");
}

/// Names the refused call and ends the process.
extern "C" fn tell_refused(_: libc::c_int, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // SAFETY: the kernel gave `info`, 128 bytes, and for this signal the number lies there.
    let place = unsafe { info.cast::<u8>().add(SIGINFO_NUMBER) };
    // SAFETY: as above; no alignment is assumed.
    let number = i64::from(unsafe { place.cast::<libc::c_int>().read_unaligned() });
    let known = syscalls::name(number).unwrap_or("of a number that is not known");
    // Standard error has no buffer: these are plain writes.
    let mut digits = [0; 20];
    for text in [
        "the system call ",
        known,
        " (",
        decimal(number, &mut digits),
        ") is not listed\n",
    ] {
        let _ = io::stderr().write_all(text.as_bytes());
    }
    // SAFETY: the call takes a number and does not come back.
    unsafe { libc::_exit(REFUSED) };
}

/// A number in decimal, without memory of the heap.
fn decimal(mut number: i64, digits: &mut [u8; 20]) -> &str {
    let mut start = digits.len();
    for place in digits.iter_mut().rev() {
        *place = b'0' + u8::try_from(number % 10).unwrap_or(0);
        start -= 1;
        number /= 10;
        if number <= 0 {
            break;
        }
    }
    let used = digits.get(start..).unwrap_or_default();
    std::str::from_utf8(used).unwrap_or_default()
}
