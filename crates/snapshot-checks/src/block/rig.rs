//! The file systems that stand in for a disk, and the copies of it that a cut of the power leaves.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::mount::{self, FileSystem, LoopIo, MountError, Volume};

/// Bytes of the disk that the command writes to; XFS takes no less than 300 MiB.
const DISK_BYTES: u64 = 320 << 20;

/// Bytes of the file system that the copies of the disk lie on: they share what they have in
/// common.
const OUTER_BYTES: u64 = 4 << 30;

/// Everything that one file system is cut with; it all goes away with this value.
#[derive(Debug)]
pub(crate) struct Rig {
    fs: FileSystem,
    // Fields go in this order: first what is mounted, then the directory it is mounted in.
    _outer: Volume,
    dir: TempDir,
}

/// A disk as a cut of the power left it.
#[derive(Debug)]
pub(crate) struct Copy(PathBuf);

impl Rig {
    /// Makes the disk, with an empty file system `fs`, in files below `parent`.
    pub(crate) fn new(fs: FileSystem, parent: &Path) -> Result<Self, MountError> {
        let dir = tempfile::Builder::new()
            .prefix("crash-block-")
            .tempdir_in(parent)
            .map_err(MountError::at("create a directory in", parent))?;
        let root = |name: &str| {
            let path = dir.path().join(name);
            fs::create_dir(&path).map_err(MountError::at("create", &path))?;
            Ok(path)
        };
        let outer_image = dir.path().join("outer.img");
        let outer_root = root("outer")?;
        for name in ["disk", "copy", "inputs", "out"] {
            root(name)?;
        }
        set_len(&outer_image, OUTER_BYTES)?;
        FileSystem::Xfs.make(&outer_image)?;
        let outer = Volume::mount(FileSystem::Xfs, &outer_image, &outer_root, LoopIo::Cached)?;
        let rig = Self {
            fs,
            _outer: outer,
            dir,
        };
        let base = rig.image("base");
        set_len(&base, DISK_BYTES)?;
        fs.make(&base)?;
        Ok(rig)
    }

    /// The directory `name` that is not on the disk.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Which file system the disk has.
    pub(crate) fn fs(&self) -> FileSystem {
        self.fs
    }

    /// Mounts a copy of the disk as the steps so far left it, to be worked on.
    pub(crate) fn work(&self) -> Result<Volume, MountError> {
        reflink(&self.image("base"), &self.image("work"))?;
        // Past the page cache: what is in the image file is what the disk was told to keep.
        Volume::mount(
            self.fs,
            &self.image("work"),
            &self.path("disk"),
            LoopIo::Direct,
        )
    }

    /// Makes what was worked on, and is unmounted by now, the disk of the next step.
    pub(crate) fn keep_work(&self) -> Result<(), MountError> {
        let (work, base) = (self.image("work"), self.image("base"));
        fs::rename(&work, &base).map_err(MountError::at("rename", &work))
    }

    /// Cuts the power: a copy of all that the disk was told to keep until now.
    pub(crate) fn cut(&self, number: usize) -> Result<Copy, MountError> {
        let copy = self.image(&format!("cut-{number}"));
        reflink(&self.image("work"), &copy)?;
        Ok(Copy(copy))
    }

    /// Starts again from a copy: mounts it, which replays its log.
    pub(crate) fn start_again(&self, copy: &Copy) -> Result<Volume, MountError> {
        Volume::mount(self.fs, &copy.0, &self.path("copy"), LoopIo::Cached)
    }

    fn image(&self, name: &str) -> PathBuf {
        self.dir
            .path()
            .join("outer")
            .join(name)
            .with_extension("img")
    }
}

impl Drop for Copy {
    fn drop(&mut self) {
        // It goes with the rig in the end.
        let _ = fs::remove_file(&self.0);
    }
}

fn set_len(path: &Path, len_bytes: u64) -> Result<(), MountError> {
    let file = File::create(path).map_err(MountError::at("create", path))?;
    file.set_len(len_bytes)
        .map_err(MountError::at("set the length of", path))
}

/// Copies a file by sharing its blocks: at one instant, also while it is written to.
fn reflink(from: &Path, to: &Path) -> Result<(), MountError> {
    let option = Path::new("--reflink=always");
    mount::run("cp", [option, from, to])?;
    Ok(())
}
