//! A tree that is mounted, until its value is dropped.

use std::io;
use std::path::{Path, PathBuf};

use fuser::{BackgroundSession, Config, MountOption};
use snapshot_memory::backend::FaultBackend;
use tempfile::TempDir;

use super::file_system::TreeFileSystem;

/// A file system whose calls are counted, cut and made to fail by its [`FaultBackend`].
///
/// Whoever mounts one calls [`leave_shared_mounts`](crate::mount::leave_shared_mounts) first, so
/// that nothing stays mounted however the process ends.
#[derive(Debug)]
pub struct Mounted {
    /// Unmounts when it is dropped, before the directory goes.
    session: Option<BackgroundSession>,
    directory: TempDir,
}

impl Mounted {
    /// Mounts the tree of `backend` at a new directory. A disk that loses what is synced does as if
    /// it were not asked to.
    pub fn new(backend: &FaultBackend, loses_synced: bool) -> io::Result<Self> {
        let directory = tempfile::tempdir()?;
        let mut config = Config::default();
        config.mount_options = vec![
            MountOption::FSName("vmsnap-checks".to_owned()),
            MountOption::NoAtime,
        ];
        let file_system = TreeFileSystem::new(backend.clone(), loses_synced);
        let session = fuser::spawn_mount(file_system, directory.path(), &config)?;
        Ok(Self {
            session: Some(session),
            directory,
        })
    }

    /// Where it is mounted.
    #[must_use]
    pub fn root(&self) -> &Path {
        self.directory.path()
    }

    /// A directory in it.
    #[must_use]
    pub fn join(&self, name: &str) -> PathBuf {
        self.root().join(name)
    }

    /// Unmounts it, and waits until nobody is served any more.
    pub fn unmount(mut self) -> io::Result<()> {
        let session = self.session.take();
        session.map_or(Ok(()), BackgroundSession::umount_and_join)
    }
}
