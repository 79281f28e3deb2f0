//! Files that take the place of damaged ones of the same names.

use snapshot_format::FileEntry;

use super::discard::{StageDir, sync_dir};
use super::placement::StagedPlacement;
use super::snapshot::join;
use crate::backend::RelPath;
use crate::error::FileError;
use crate::relayout::RelayoutError;

/// Files that are complete and durable, and hold what files of their names held at first. Dropping
/// it removes them.
#[derive(Debug)]
pub struct SealedReplacement {
    dir: StageDir,
    files: Vec<FileEntry>,
}

impl StagedPlacement {
    /// Makes the files that were written durable, to take the place of others: no placement is
    /// written.
    pub fn seal_replacement(self) -> Result<SealedReplacement, RelayoutError> {
        let (dir, open, files) = self.into_parts();
        for file in open {
            file.seal()?;
        }
        Ok(SealedReplacement { dir, files })
    }
}

impl SealedReplacement {
    /// Gives the files their names in `target`, the directory of the snapshot, each by one rename
    /// over the one that is there. The caller holds the lock under which placements are published.
    pub fn replace(self, target: &RelPath) -> Result<(), RelayoutError> {
        let backend = &**self.dir.backend();
        for file in &self.files {
            let name = file.file_name();
            let (from, to) = (join(self.dir.path(), &name)?, join(target, &name)?);
            let renamed = backend.rename_replace(&from, &to);
            renamed.map_err(FileError::at("replace", &to))?;
        }
        sync_dir(backend, target).map_err(RelayoutError::DurabilityUncertain)
    }
}
