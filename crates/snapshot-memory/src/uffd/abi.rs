//! The kernel's structures and constants for userfaultfd and for scanning page maps.
//!
//! Sources: `include/uapi/linux/userfaultfd.h` and `include/uapi/linux/fs.h` of Linux 6.7 and
//! later; `Documentation/admin-guide/mm/{userfaultfd,pagemap}.rst`.

/// `UFFD_API`.
pub(super) const API: u64 = 0xAA;

/// `UFFD_USER_MODE_ONLY`: lets a process without privileges open a descriptor.
///
/// Asynchronous write protection is resolved by the kernel without a message, for faults of its
/// own and of a vCPU too, so that the restriction takes nothing away there. Pages that are missing
/// to the kernel are another matter: with it, a vCPU that touches one fails with EFAULT.
pub(super) const USER_MODE_ONLY: i32 = 1;

/// `UFFD_FEATURE_EVENT_REMOVE` (4.11): a message before pages are given back.
pub(super) const FEATURE_EVENT_REMOVE: u64 = 1 << 3;

/// `UFFD_FEATURE_MISSING_SHMEM` (4.11): holes of memfds.
pub(super) const FEATURE_MISSING_SHMEM: u64 = 1 << 5;

/// `UFFD_FEATURE_MINOR_SHMEM` (5.14): pages that a memfd has and the page tables have not.
pub(super) const FEATURE_MINOR_SHMEM: u64 = 1 << 10;

/// `UFFD_FEATURE_WP_HUGETLBFS_SHMEM` (5.19): shared memory and memfds, too.
pub(super) const FEATURE_WP_SHMEM: u64 = 1 << 12;

/// `UFFD_FEATURE_WP_UNPOPULATED` (6.4): pages that were never touched are protected, too.
pub(super) const FEATURE_WP_UNPOPULATED: u64 = 1 << 13;

/// `UFFD_FEATURE_WP_ASYNC` (6.7): a write lifts the protection without a message.
pub(super) const FEATURE_WP_ASYNC: u64 = 1 << 15;

/// `UFFD_FEATURE_MOVE` (6.8): whole pages change their place, huge ones as they are.
pub(super) const FEATURE_MOVE: u64 = 1 << 16;

/// `UFFDIO_REGISTER_MODE_MISSING`.
pub(super) const REGISTER_MODE_MISSING: u64 = 1;

/// `UFFDIO_REGISTER_MODE_MINOR`.
pub(super) const REGISTER_MODE_MINOR: u64 = 1 << 2;

/// `UFFDIO_REGISTER_MODE_WP`.
pub(super) const REGISTER_MODE_WP: u64 = 1 << 1;

/// `UFFDIO_WRITEPROTECT_MODE_WP`.
pub(super) const WRITEPROTECT_MODE_WP: u64 = 1;

/// `UFFDIO_COPY_MODE_DONTWAKE`, and the same bit of zeroing, continuing and moving.
pub(super) const MODE_DONTWAKE: u64 = 1;

/// `UFFDIO_COPY_MODE_WP` and `UFFDIO_CONTINUE_MODE_WP`: what is put there is protected at once.
pub(super) const MODE_WP: u64 = 1 << 1;

/// `PM_SCAN_WP_MATCHING`: protect again what is reported, in the same step.
pub(super) const SCAN_WP_MATCHING: u64 = 1;

/// `PM_SCAN_CHECK_WPASYNC`: fail with EPERM where a range is not protected asynchronously.
pub(super) const SCAN_CHECK_WPASYNC: u64 = 1 << 1;

/// `PAGE_IS_WRITTEN`.
pub(super) const PAGE_IS_WRITTEN: u64 = 1 << 1;

/// `PAGE_IS_SWAPPED`.
pub(super) const PAGE_IS_SWAPPED: u64 = 1 << 4;

/// `PAGE_IS_PRESENT`.
pub(super) const PAGE_IS_PRESENT: u64 = 1 << 3;

/// `PAGE_IS_HUGE`: mapped by a huge page, transparent or of hugetlbfs.
pub(super) const PAGE_IS_HUGE: u64 = 1 << 6;

/// `struct uffdio_api`.
#[repr(C)]
#[derive(Debug, Default)]
pub struct UffdioApi {
    pub(super) api: u64,
    pub(super) features: u64,
    pub(super) ioctls: u64,
}

/// `struct uffdio_range`: bytes of this process's address space.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct UffdioRange {
    pub(super) start: u64,
    pub(super) len: u64,
}

/// `struct uffdio_register`.
#[repr(C)]
#[derive(Debug, Default)]
pub struct UffdioRegister {
    pub(super) range: UffdioRange,
    pub(super) mode: u64,
    pub(super) ioctls: u64,
}

/// `struct uffdio_writeprotect`.
#[repr(C)]
#[derive(Debug, Default)]
pub struct UffdioWriteprotect {
    pub(super) range: UffdioRange,
    pub(super) mode: u64,
}

/// `struct uffdio_copy`, and `struct uffdio_move`, which is alike.
#[repr(C)]
#[derive(Debug, Default)]
pub struct UffdioCopy {
    pub(super) dst: u64,
    pub(super) src: u64,
    pub(super) len: u64,
    pub(super) mode: u64,
    /// Bytes done, or an error number below zero.
    pub(super) done: i64,
}

/// `struct uffdio_zeropage`, and `struct uffdio_continue`, which is alike.
#[repr(C)]
#[derive(Debug, Default)]
pub struct UffdioFill {
    pub(super) range: UffdioRange,
    pub(super) mode: u64,
    /// Bytes done, or an error number below zero.
    pub(super) done: i64,
}

/// `struct page_region`: a run of pages and what is true of all of them.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PageRegion {
    pub(super) start: u64,
    pub(super) end: u64,
    pub(super) categories: u64,
}

/// `struct pm_scan_arg`.
#[repr(C)]
#[derive(Debug, Default)]
pub struct PmScanArg {
    pub(super) size: u64,
    pub(super) flags: u64,
    pub(super) start: u64,
    pub(super) end: u64,
    pub(super) walk_end: u64,
    pub(super) vec: u64,
    pub(super) vec_len: u64,
    pub(super) max_pages: u64,
    pub(super) category_inverted: u64,
    pub(super) category_mask: u64,
    pub(super) category_anyof_mask: u64,
    pub(super) return_mask: u64,
}

const _: () = assert!(size_of::<UffdioApi>() == 24);
const _: () = assert!(size_of::<UffdioRegister>() == 32);
const _: () = assert!(size_of::<UffdioWriteprotect>() == 24);
const _: () = assert!(size_of::<UffdioCopy>() == 40);
const _: () = assert!(size_of::<UffdioFill>() == 32);
const _: () = assert!(size_of::<PageRegion>() == 24);
const _: () = assert!(size_of::<PmScanArg>() == 96);
