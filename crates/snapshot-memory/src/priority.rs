//! Giving way to others, for work that nobody waits for.
#![expect(unsafe_code, reason = "asks the kernel for another priority")]

// UNSAFETY: the calls nice, ioprio_set and setpriority, which are given numbers and no memory.

use std::io;

#[cfg(target_os = "linux")]
use nix::errno::Errno;

/// How much nicer the thread gets, of the 39 steps that there are.
#[cfg(target_os = "linux")]
const NICER: libc::c_int = 10;

/// From `linux/ioprio.h`: of one thread.
#[cfg(target_os = "linux")]
const WHO_PROCESS: libc::c_int = 1;

/// From `linux/ioprio.h`: I/O only while nobody else wants the disk.
#[cfg(target_os = "linux")]
const IDLE_CLASS: libc::c_int = 3 << 13;

/// Has the calling thread give way to others; on Linux threads that it starts from now on, too.
///
/// On Linux its I/O is of the idle class, which the schedulers BFQ and mq-deadline heed; it is 10
/// steps nicer. It is not of the policy `SCHED_IDLE`: on a busy host that might never run again,
/// and keep a lock that others wait for. On macOS it becomes a background thread.
#[cfg(target_os = "linux")]
pub fn lower_priority() -> io::Result<()> {
    // A success may be -1 as well.
    Errno::clear();
    // SAFETY: no memory is passed.
    unsafe { libc::nice(NICER) };
    if Errno::last_raw() != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: no memory is passed; 0 is the calling thread.
    done(unsafe { libc::syscall(libc::SYS_ioprio_set, WHO_PROCESS, 0, IDLE_CLASS) })
}

/// Has the calling thread give way to others: the kernel throttles its CPU time and its I/O.
#[cfg(target_os = "macos")]
pub fn lower_priority() -> io::Result<()> {
    let (thread, background) = (libc::PRIO_DARWIN_THREAD, libc::PRIO_DARWIN_BG);
    // SAFETY: no memory is passed; 0 is the calling thread.
    done(unsafe { libc::setpriority(thread, 0, background) })
}

fn done(result: impl Into<i64>) -> io::Result<()> {
    if result.into() == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, thread};

    use super::*;

    /// The I/O priority of the calling thread, and how nice it is.
    fn priorities() -> (i64, i64) {
        // SAFETY: no memory is passed; 0 is the calling thread.
        let io = unsafe { libc::syscall(libc::SYS_ioprio_get, WHO_PROCESS, 0) };
        let stat = fs::read_to_string("/proc/thread-self/stat").unwrap();
        // The second field is a name, which may hold anything; nice is the 19th.
        let (_, fields) = stat.rsplit_once(')').unwrap();
        let nice = fields.split_whitespace().nth(16).unwrap();
        (io, nice.parse().unwrap())
    }

    #[test]
    fn a_thread_and_those_that_it_starts_give_way() {
        let before = priorities();
        let lowered = || {
            lower_priority().unwrap();
            (priorities(), thread::spawn(priorities).join().unwrap())
        };
        let (own, started) = thread::spawn(lowered).join().unwrap();
        assert_eq!(own, (IDLE_CLASS.into(), (before.1 + 10).min(19)));
        assert_eq!(started, own);
        assert_eq!(priorities(), before, "only that thread");
    }
}
