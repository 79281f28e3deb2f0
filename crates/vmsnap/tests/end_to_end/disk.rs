//! A file system of its own, in memory.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A mounted file system; unmounted when dropped.
pub(crate) struct Disk(PathBuf);

impl Disk {
    /// Mounts what `arguments` say at `at`; `None` where that is not allowed.
    pub(crate) fn mount(at: PathBuf, arguments: &[&str]) -> Option<Self> {
        fs::create_dir(&at).unwrap();
        let run = Command::new("mount")
            .args(arguments)
            .arg(&at)
            .stderr(Stdio::null())
            .status();
        run.is_ok_and(|status| status.success()).then_some(Self(at))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}
