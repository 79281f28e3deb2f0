//! `working-set.<n>`: the pages that a guest touches soon after a restore, in the order in which it
//! touches them. Specified in `specs/21-working-set.md`.

mod index;
mod run;

pub use index::{WorkingSetFrame, WorkingSetIndex};
pub use run::{WorkingSetOrigin, WorkingSetRun};

/// The version of the index that this build writes.
const WORKING_SET_VERSION: u16 = 1;

/// The lowest minor version that reads a working set, or a placement that names one.
pub const WORKING_SET_READER_MINOR: u16 = 4;

/// Pages of the data that one digest covers: 64 KiB.
pub const WORKING_SET_UNIT_PAGES: u16 = 16;

/// Bytes of a unit; the last one may be shorter.
pub const WORKING_SET_UNIT_BYTES: usize = 64 << 10;

/// The length of the fixed part of an index.
const WORKING_SET_HEADER_BYTES: usize = 64;

/// The length of one run in an index.
const WORKING_SET_RUN_BYTES: usize = 8;

#[cfg(test)]
mod tests;
