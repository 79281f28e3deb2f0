//! Loop devices and mounts that go away with the values that stand for them.

use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};

use super::MountError;
use super::file_system::{FileSystem, SECTOR_BYTES};
use super::tool;

/// How a loop device reaches its file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LoopIo {
    /// Past the page cache: the file holds exactly what the device was told to write.
    Direct,
    /// Through the page cache.
    Cached,
}

/// A file system in an image file, mounted. Dropping it unmounts and detaches.
#[derive(Debug)]
pub struct Volume {
    root: PathBuf,
}

/// Gives the calling thread, and the threads and processes that it starts from now on, mounts of
/// their own. They go away with the last of them, however that ends.
pub fn leave_shared_mounts() -> Result<(), MountError> {
    let root = Path::new("/");
    unshare(CloneFlags::CLONE_NEWNS).map_err(MountError::at("leave the mounts of", root))?;
    let flags = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(None::<&str>, root, None::<&str>, flags, None::<&str>)
        .map_err(MountError::at("keep private the mounts below", root))
}

impl Volume {
    /// Mounts the file system in `image` at the directory `root`, replaying its log.
    pub fn mount(
        fs: FileSystem,
        image: &Path,
        root: &Path,
        io: LoopIo,
    ) -> Result<Self, MountError> {
        fs.forget_stale_devices()?;
        let device = LoopDevice::attach(image, io)?;
        let options = Some(fs.mount_options());
        mount(
            Some(device.path.as_path()),
            root,
            Some(fs.name()),
            MsFlags::MS_NOATIME,
            options,
        )
        .map_err(MountError::at("mount", image))?;
        // Dropping the device now only marks it: it is detached when the mount ends.
        Ok(Self {
            root: root.to_owned(),
        })
    }

    /// Mounts an empty file system of so many bytes in memory at the directory `root`.
    pub fn in_memory(len_bytes: u64, root: &Path) -> Result<Self, MountError> {
        let size = format!("size={len_bytes}");
        let flags = MsFlags::MS_NOATIME;
        mount(
            Some("tmpfs"),
            root,
            Some("tmpfs"),
            flags,
            Some(size.as_str()),
        )
        .map_err(MountError::at("mount memory at", root))?;
        Ok(Self {
            root: root.to_owned(),
        })
    }

    /// Where it is mounted.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Unmounts it, writing everything back.
    pub fn unmount(self) -> Result<(), MountError> {
        let root = self.root.clone();
        std::mem::forget(self);
        umount2(&root, MntFlags::empty()).map_err(MountError::at("unmount", &root))
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        // On the way out of a failure: a mount that is still busy leaves with its last user.
        let _ = umount2(&self.root, MntFlags::MNT_DETACH);
    }
}

#[derive(Debug)]
struct LoopDevice {
    path: PathBuf,
}

impl LoopDevice {
    fn attach(image: &Path, io: LoopIo) -> Result<Self, MountError> {
        let sector = format!("--sector-size={SECTOR_BYTES}");
        let direct = match io {
            LoopIo::Direct => "--direct-io=on",
            LoopIo::Cached => "--direct-io=off",
        };
        let options = ["--find", "--show", sector.as_str(), direct].map(AsRef::as_ref);
        let shown = tool::run("losetup", options.into_iter().chain([image.as_os_str()]))?;
        Ok(Self { path: shown.into() })
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        // A device in use is detached by its last user. There is nobody to tell of a failure.
        let _ = tool::run("losetup", [Path::new("--detach"), &self.path]);
    }
}
