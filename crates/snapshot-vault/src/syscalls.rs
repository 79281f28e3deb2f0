//! The system calls of each feature of a vault in a folder on Linux, for those who filter them.
//!
//! As in [`snapshot_memory::syscalls`], each list is complete together with
//! [`PROCESS`](snapshot_memory::syscalls::PROCESS), for a folder below a descriptor. What a store does for
//! an archive, or when one is thawed, is in [`snapshot_store::syscalls`]; threads that
//! [`ArchiveOptions::threads`](crate::ArchiveOptions::threads) allows are in
//! [`CAPTURE_THREADS`](snapshot_memory::syscalls::CAPTURE_THREADS).

/// Opening a vault to read: archives, their memory, verification. Keys of age are made of the same calls.
pub const READ: &[&str] = &[
    "fstat",
    "getdents64",
    "geteuid",
    "lseek",
    "newfstatat",
    "openat2",
    "pread64",
    "statx",
];

/// Beyond [`READ`], all that puts and deletes: archives, leases, collections, keys.
pub const WRITE: &[&str] = &[
    "fchmod",
    "flock",
    "fsync",
    "mkdirat",
    "pwrite64",
    "renameat2",
    "unlinkat",
];

/// Beyond the others, what the allocator of glibc asks the kernel once, `/proc/sys/vm/overcommit_memory`,
/// when a heap shrinks that is not the main thread's. Where it is refused with an error, it goes on.
pub const SHRINK_HEAP: &[&str] = &["openat", "read"];
