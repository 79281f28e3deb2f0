//! A disk for a test.

use std::fs::{self, File};
use std::path::Path;

use tempfile::TempDir;

use super::{FileSystem, LoopIo, MountError, Volume, leave_shared_mounts};

/// An empty file system in a directory of its own, mounted for the calling thread and what it
/// starts. Dropping it removes it.
#[derive(Debug)]
pub struct Disk {
    // Fields go in this order: first what is mounted, then the directory it is mounted in.
    volume: Volume,
    _dir: TempDir,
    name: &'static str,
}

impl Disk {
    /// A file system in a sparse file. XFS takes no less than 300 MiB, btrfs no less than 109 MiB.
    pub fn new(fs: FileSystem, len_bytes: u64) -> Result<Self, MountError> {
        Self::with(fs.name(), |dir, root| {
            let image = dir.join("image");
            let file = File::create(&image).map_err(MountError::at("create", &image))?;
            let sized = file.set_len(len_bytes);
            sized.map_err(MountError::at("set the length of", &image))?;
            fs.make(&image)?;
            Volume::mount(fs, &image, root, LoopIo::Cached)
        })
    }

    /// A file system in memory.
    pub fn in_memory(len_bytes: u64) -> Result<Self, MountError> {
        Self::with("tmpfs", |_, root| Volume::in_memory(len_bytes, root))
    }

    /// Where it is mounted.
    #[must_use]
    pub fn root(&self) -> &Path {
        self.volume.root()
    }

    /// What it is: the name that `mount` knows.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.name
    }

    fn with(
        name: &'static str,
        mount: impl FnOnce(&Path, &Path) -> Result<Volume, MountError>,
    ) -> Result<Self, MountError> {
        leave_shared_mounts()?;
        let temporary = std::env::temp_dir();
        let dir = TempDir::new().map_err(MountError::at("create a directory in", &temporary))?;
        let root = dir.path().join("root");
        fs::create_dir(&root).map_err(MountError::at("create", &root))?;
        let volume = mount(dir.path(), &root)?;
        Ok(Self {
            volume,
            _dir: dir,
            name,
        })
    }
}
