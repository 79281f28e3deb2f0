//! Every cap of the format, in one table. Specified in `specs/00-conventions.md`.

/// Memory regions in one layout.
pub const MAX_REGIONS: usize = 1024;

/// One past the largest guest physical address: 52 bits, the most that x86-64 and Arm define.
pub const MAX_GUEST_ADDRESS: u64 = 1 << 52;

/// Data files that one placement may depend on. Reaching it means: consolidate.
pub const MAX_DATA_FILES: usize = 4096;
