//! Parity beside the files of a snapshot: from it, what is damaged of them comes back without any copy.

mod add;
mod open;
mod recovered;

pub use add::{ParityOptions, ParityReport};

pub(crate) use open::OpenParity;
pub(crate) use recovered::Recovered;

#[cfg(test)]
mod tests;

use snapshot_format::SnapshotId;
use snapshot_memory::backend::RelPath;

use crate::directory::{self, Location};

/// The name of a parity file in the directory of its snapshot.
const PARITY_FILE: &str = "parity";

/// Where the parity of a snapshot lies.
pub(crate) fn path(location: Location, id: SnapshotId) -> RelPath {
    directory::below(&location.snapshot(id), PARITY_FILE)
}
