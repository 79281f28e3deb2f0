//! Where the measured files go.

use std::fs::{self, File};
use std::path::Path;
use std::time::Duration;

use nix::unistd::syncfs;
use tempfile::TempDir;

use crate::error::BenchError;

/// A directory of its own, on the file system that is measured.
#[derive(Debug)]
pub(crate) struct Scratch {
    dir: TempDir,
}

impl Scratch {
    /// A new directory below `parent`; it goes away with this value.
    pub(crate) fn below(parent: &Path) -> Result<Self, BenchError> {
        let dir = tempfile::Builder::new()
            .prefix("vmsnap-bench-")
            .tempdir_in(parent)
            .map_err(BenchError::at("create a directory in", parent))?;
        Ok(Self { dir })
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Lets `write` make the file `name`, then removes it again.
    ///
    /// The file system is settled before and after, outside of the time: what one contestant leaves
    /// to write back or to discard is not paid by the next, and all of them write to blocks that
    /// were freed in the same way.
    pub(crate) fn fresh(
        &self,
        name: &str,
        write: impl FnOnce(&Path) -> Result<Duration, BenchError>,
    ) -> Result<Duration, BenchError> {
        let path = self.path().join(name);
        let took = write(&path)?;
        fs::remove_file(&path).map_err(BenchError::at("remove", &path))?;
        self.settle()?;
        Ok(took)
    }

    /// Writes back all that the file system owes.
    pub(crate) fn settle(&self) -> Result<(), BenchError> {
        let dir = File::open(self.path()).map_err(BenchError::at("open", self.path()))?;
        syncfs(&dir).map_err(|errno| BenchError::at("sync", self.path())(errno.into()))
    }
}
