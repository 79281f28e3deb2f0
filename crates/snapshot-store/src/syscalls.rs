//! The system calls of each feature of a store on Linux, for those who filter them.
//!
//! As in [`snapshot_memory::syscalls`], each list is complete together with
//! [`PROCESS`](snapshot_memory::syscalls::PROCESS), for a store below a descriptor that was opened
//! with [`OpenOptions::host`](crate::OpenOptions::host).

/// Opening a store, making one, and all that reads: list, resolve, image, state, verify; with
/// [`WORKING_SET`] where a snapshot that is verified has a working set.
pub const READ: &[&str] = &[
    "clock_nanosleep",
    "faccessat2",
    "flock",
    "fstat",
    "fstatfs",
    "getdents64",
    "geteuid",
    "lseek",
    "newfstatat",
    "openat2",
    "pread64",
    "statx",
];

/// Beyond [`READ`], to read a working set past the page cache, to compare it or to bring its pages
/// back. Where they are refused with an error, `pread64` takes their place.
pub const WORKING_SET: &[&str] = &["io_uring_enter", "io_uring_register", "io_uring_setup"];

/// Beyond [`READ`], all that writes: publishing, labels, relayout; delete and undelete with
/// [`ASK_PROC`].
pub const WRITE: &[&str] = &[
    "fallocate",
    "fchmod",
    "fsync",
    "ftruncate",
    "io_uring_enter",
    "io_uring_register",
    "io_uring_setup",
    "mkdirat",
    "pwrite64",
    "pwritev",
    "renameat",
    "renameat2",
    "unlinkat",
];

/// Beyond [`READ`] and [`WRITE`], to build a materialised image: sharing blocks, and telling the end of
/// a job. Where the first is refused with an error, everything is copied.
pub const WARM: &[&str] = &["ioctl", "pipe2", "write"];

/// Beyond [`READ`], to ask which host this is, and who holds a lock: one that cannot be had, or that
/// of a snapshot that is to be deleted.
pub const ASK_PROC: &[&str] = &["openat", "read"];

/// Beyond [`READ`] and [`WRITE`], in a store that says whose is what it publishes.
pub const ACCESS: &[&str] = &["fchown"];

/// Beyond [`READ`] and [`WRITE`], to append to the audit log.
pub const AUDIT: &[&str] = &["fdatasync", "write"];
