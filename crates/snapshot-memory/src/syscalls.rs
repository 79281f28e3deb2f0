//! The system calls of each feature on Linux, for those who filter them.
//!
//! Each list is complete together with [`PROCESS`]: a thread that may make these calls and no
//! others does all that the feature is. The tests run every feature under exactly such a filter,
//! on x86-64. A call that a filter refuses should fail with an error; one that kills ends the
//! process where a newer libc asks first whether a call exists.
//!
//! ```
//! use snapshot_memory::syscalls;
//!
//! // What a filter for captures into a directory allows.
//! let lists = [syscalls::PROCESS, syscalls::CAPTURE, syscalls::CAPTURE_DIRECT];
//! let numbers: Option<Vec<i64>> = lists.concat().into_iter().map(syscalls::number).collect();
//! assert!(numbers.is_some_and(|numbers| !numbers.contains(&libc::SYS_openat)));
//! ```

/// What Rust's standard library and libc need for anything: memory, locks, time, random numbers,
/// closing descriptors (which debug builds look at first).
pub const PROCESS: &[&str] = &[
    "brk",
    "clock_gettime",
    "close",
    "fcntl",
    "futex",
    "getrandom",
    "madvise",
    "mmap",
    "mprotect",
    "mremap",
    "munmap",
    "sched_yield",
];

/// A snapshot through the page cache into a directory of which there is a descriptor: memory,
/// sections, seal, publish, and a diff that reads its parent. No path is named.
pub const CAPTURE: &[&str] = &[
    "faccessat2",
    "fallocate",
    "fchmod",
    "fstat",
    "fstatfs",
    "fsync",
    "ftruncate",
    "getdents64",
    "geteuid",
    "lseek",
    "mkdirat",
    "newfstatat",
    "openat2",
    "pread64",
    "pwrite64",
    "pwritev",
    "renameat",
    "renameat2",
    "statx",
    "unlinkat",
];

/// Beyond [`CAPTURE`], to write past the page cache. Where the last three are refused with an error,
/// `pwrite64` takes their place.
pub const CAPTURE_DIRECT: &[&str] = &["io_uring_enter", "io_uring_register", "io_uring_setup"];

/// Beyond [`CAPTURE`], where the caller allows more than one thread.
pub const CAPTURE_THREADS: &[&str] = &[
    "clone3",
    "exit",
    "gettid",
    "prctl",
    "rseq",
    "rt_sigprocmask",
    "sched_getaffinity",
    "set_robust_list",
    "sigaltstack",
];

/// Beyond [`CAPTURE`], where the caller does not say whether memory is on huge pages
/// ([`CaptureOptions::huge_pages`](crate::CaptureOptions::huge_pages)): `/proc/self/pagemap` is
/// asked, and a refusal is no error.
pub const ASK_HUGE_PAGES: &[&str] = &["ioctl", "openat"];

/// Memory and sections of a snapshot, from a directory of which there is a descriptor.
pub const RESTORE: &[&str] = &[
    "fstat",
    "getdents64",
    "geteuid",
    "lseek",
    "newfstatat",
    "openat2",
    "pread64",
    "statx",
];

/// [`MappedMemory`](crate::MappedMemory), beyond [`PROCESS`].
pub const MAPPED_MEMORY: &[&str] = &["ftruncate", "memfd_create"];

/// Running a [`RestorePlan`](crate::RestorePlan) that does not serve, beyond [`RESTORE`], and
/// [`CAPTURE_THREADS`] where it has threads.
pub const RUN_PLAN: &[&str] = &["eventfd2", "ftruncate", "memfd_create", "pwrite64", "statx"];

/// [`WorkingSet::replay`](crate::WorkingSet::replay), beyond [`RESTORE`] that opens the set, what its
/// target takes, and [`CAPTURE_THREADS`] where it has threads; with [`SERVE`] for a plan that brings
/// a set. Where the calls are refused with an error, `pread64` takes their place.
pub const REPLAY: &[&str] = &["io_uring_enter", "io_uring_register", "io_uring_setup"];

/// [`TouchedPages::resident`](crate::TouchedPages::resident) and
/// [`resident_in`](crate::TouchedPages::resident_in). A trace of faults needs no call of its own,
/// and what any of them found is written with [`RESTORE`] and [`CAPTURE`].
pub const RECORD_RESIDENT: &[&str] = &["fstat", "mincore", "statx"];

/// [`TouchedPages::present`](crate::TouchedPages::present): opens `/proc/self/pagemap`.
pub const RECORD_PRESENT: &[&str] = &["ioctl", "openat"];

/// [`WpAsyncSource`](crate::WpAsyncSource): opens `/proc/self/pagemap`.
pub const WP_ASYNC: &[&str] = &["ioctl", "openat", "userfaultfd"];

/// [`BusGuard`](crate::BusGuard) and the [`MemoryEvents`](crate::MemoryEvents) that it reports to,
/// on the threads that read guest memory too. A process that a signal ends needs `tgkill` besides.
pub const BUS_GUARD: &[&str] = &["eventfd2", "read", "rt_sigaction", "rt_sigreturn", "write"];

/// [`HandlerWatch`](crate::HandlerWatch), for memory that is registered already.
pub const HANDLER_WATCH: &[&str] = &[
    "connect",
    "ioctl",
    "ppoll",
    "read",
    "recvmsg",
    "sendmsg",
    "sendto",
    "setsockopt",
    "socket",
];

/// [`PageHandler`](crate::PageHandler), beyond [`CAPTURE_THREADS`] and what reading from the source
/// takes.
pub const PAGE_HANDLER: &[&str] = &[
    "accept4",
    "bind",
    "connect",
    "eventfd2",
    "fchmod",
    "getsockopt",
    "ioctl",
    "listen",
    "pidfd_open",
    "ppoll",
    "read",
    "recvmsg",
    "sendto",
    "socket",
    "statx",
    "unlinkat",
    "write",
];

/// [`PageServer`](crate::PageServer) and [`LazyMemory`](crate::LazyMemory), with what reading from
/// the source takes; [`CAPTURE_THREADS`] where the caller allows threads, and [`PRIORITY`] where one
/// of several fills in the background. The second opens `/dev/userfaultfd` where the call
/// is not allowed.
pub const SERVE: &[&str] = &[
    "eventfd2",
    "ioctl",
    "openat",
    "ppoll",
    "read",
    "userfaultfd",
    "write",
];

/// [`SharedPages`](crate::SharedPages), beyond [`SERVE`].
pub const SHARE_PAGES: &[&str] = &["ftruncate", "memfd_create", "pwrite64"];

/// Locks of a backend: a wait polls. Naming who holds one opens `/proc/locks` besides.
pub const LOCKS: &[&str] = &[
    "clock_nanosleep",
    "flock",
    "fstat",
    "geteuid",
    "newfstatat",
    "openat2",
];

/// [`lower_priority`](crate::lower_priority).
pub const PRIORITY: &[&str] = &["getpriority", "ioprio_set", "setpriority"];

/// The number of a system call on this architecture; `None` for one that no feature makes.
#[must_use]
pub fn number(name: &str) -> Option<i64> {
    let known = NUMBERS.iter().find(|(known, _)| *known == name);
    known.map(|(_, number)| *number)
}

/// The name of the system call with this number on this architecture.
#[must_use]
pub fn name(number: i64) -> Option<&'static str> {
    let known = NUMBERS.iter().find(|(_, known)| *known == number);
    known.map(|(name, _)| *name)
}

macro_rules! numbers {
    ($($name:literal = $number:ident,)*) => {
        &[$(($name, libc::$number)),*]
    };
}

/// What a feature of any crate of this project may call, and what ends a test of one.
const NUMBERS: &[(&str, i64)] = numbers![
    "accept4" = SYS_accept4,
    "bind" = SYS_bind,
    "brk" = SYS_brk,
    "clock_gettime" = SYS_clock_gettime,
    "clock_nanosleep" = SYS_clock_nanosleep,
    "clone3" = SYS_clone3,
    "close" = SYS_close,
    "connect" = SYS_connect,
    "eventfd2" = SYS_eventfd2,
    "exit" = SYS_exit,
    "exit_group" = SYS_exit_group,
    "faccessat2" = SYS_faccessat2,
    "fallocate" = SYS_fallocate,
    "fchmod" = SYS_fchmod,
    "fchown" = SYS_fchown,
    "fcntl" = SYS_fcntl,
    "fdatasync" = SYS_fdatasync,
    "flock" = SYS_flock,
    "fstat" = SYS_fstat,
    "fstatfs" = SYS_fstatfs,
    "fsync" = SYS_fsync,
    "ftruncate" = SYS_ftruncate,
    "futex" = SYS_futex,
    "getdents64" = SYS_getdents64,
    "geteuid" = SYS_geteuid,
    "getpriority" = SYS_getpriority,
    "getrandom" = SYS_getrandom,
    "getsockopt" = SYS_getsockopt,
    "gettid" = SYS_gettid,
    "io_uring_enter" = SYS_io_uring_enter,
    "io_uring_register" = SYS_io_uring_register,
    "io_uring_setup" = SYS_io_uring_setup,
    "ioctl" = SYS_ioctl,
    "ioprio_set" = SYS_ioprio_set,
    "listen" = SYS_listen,
    "lseek" = SYS_lseek,
    "madvise" = SYS_madvise,
    "memfd_create" = SYS_memfd_create,
    "mincore" = SYS_mincore,
    "mkdirat" = SYS_mkdirat,
    "mmap" = SYS_mmap,
    "mprotect" = SYS_mprotect,
    "mremap" = SYS_mremap,
    "munmap" = SYS_munmap,
    "newfstatat" = SYS_newfstatat,
    "openat" = SYS_openat,
    "openat2" = SYS_openat2,
    "pidfd_open" = SYS_pidfd_open,
    "pipe2" = SYS_pipe2,
    "ppoll" = SYS_ppoll,
    "prctl" = SYS_prctl,
    "pread64" = SYS_pread64,
    "pwrite64" = SYS_pwrite64,
    "pwritev" = SYS_pwritev,
    "read" = SYS_read,
    "recvmsg" = SYS_recvmsg,
    "renameat" = SYS_renameat,
    "renameat2" = SYS_renameat2,
    "rseq" = SYS_rseq,
    "rt_sigaction" = SYS_rt_sigaction,
    "rt_sigprocmask" = SYS_rt_sigprocmask,
    "rt_sigreturn" = SYS_rt_sigreturn,
    "sched_getaffinity" = SYS_sched_getaffinity,
    "sched_yield" = SYS_sched_yield,
    "set_robust_list" = SYS_set_robust_list,
    "sendmsg" = SYS_sendmsg,
    "sendto" = SYS_sendto,
    "setpriority" = SYS_setpriority,
    "setsockopt" = SYS_setsockopt,
    "sigaltstack" = SYS_sigaltstack,
    "socket" = SYS_socket,
    "statx" = SYS_statx,
    "uname" = SYS_uname,
    "unlinkat" = SYS_unlinkat,
    "userfaultfd" = SYS_userfaultfd,
    "write" = SYS_write,
];
