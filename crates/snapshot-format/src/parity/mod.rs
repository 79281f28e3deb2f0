//! Parity of the files of one snapshot: what it covers, and the digests that tell which parts of them
//! are damaged. Specified in `specs/36-parity.md`.

mod head;
mod table;

pub use head::{PARITY_HEAD_BYTES, PARITY_VERSION, ParityHead};
pub use table::{ParityFile, ParityTable};

#[cfg(test)]
mod tests;
