//! A repository, and who keeps snapshots in it.

use std::path::Path;
use std::time::Duration;

use super::plan::Phase;
use crate::error::BenchError;

/// Somebody who keeps snapshots, with an empty repository of his own.
pub(super) trait Repository {
    /// Does this part of the cycle; how long it took.
    fn run(&mut self, phase: Phase) -> Result<Duration, BenchError>;

    /// The directory of the repository.
    fn directory(&self) -> &Path;

    /// Where the second snapshot was restored to.
    fn restored(&self) -> &Path;
}
