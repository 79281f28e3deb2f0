//! The system calls of this crate, for those who filter them.
//!
//! As in [`snapshot_memory::syscalls`], each list is complete together with
//! [`PROCESS`](snapshot_memory::syscalls::PROCESS). The VMM has opened `/dev/kvm` and made the
//! machine and its vCPUs; entering a vCPU and signalling its thread are the VMM's own calls.

/// Saving and restoring state, and the dirty log.
pub const STATE: &[&str] = &["ioctl", "uname"];

/// Mapping dirty rings and harvesting them.
pub const RING: &[&str] = &["ioctl", "mmap", "munmap"];
