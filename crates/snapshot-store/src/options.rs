//! How a store is opened.

use std::time::Duration;

use snapshot_memory::backend::HostIdentity;

/// Whether a store may be written to.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Access {
    /// Write if the file system and the permissions allow it, and only read otherwise.
    #[default]
    Auto,
    /// Write nothing, not even to clean up what a crash left behind.
    ReadOnly,
    /// Fail where writing is not possible.
    ReadWrite,
}

/// How a store is opened.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct OpenOptions {
    /// Whether it may be written to.
    pub access: Access,
    /// The caller promises that no other host opens the store. Without it, network file systems
    /// are refused: the locks of one host do not reach another.
    pub single_host: bool,
    /// How long to wait for a lock.
    pub lock_wait: Duration,
    /// Which host this is; `None`: the system is asked, which opens files below `/proc`.
    pub host: Option<HostIdentity>,
    /// Whether what writers that died left is removed, if the store can be written to.
    ///
    /// That lists all snapshots, so that opening takes longer the more there are. Who opens a store
    /// to restore one snapshot in microseconds puts it off: nothing is read or written otherwise,
    /// and the next one who opens the store in the ordinary way removes what is left.
    pub clean_up: bool,
}

impl OpenOptions {
    /// Sets [`access`](Self::access).
    #[must_use]
    pub fn access(mut self, access: Access) -> Self {
        self.access = access;
        self
    }

    /// Sets [`single_host`](Self::single_host).
    #[must_use]
    pub fn single_host(mut self, single_host: bool) -> Self {
        self.single_host = single_host;
        self
    }

    /// Sets [`lock_wait`](Self::lock_wait).
    #[must_use]
    pub fn lock_wait(mut self, lock_wait: Duration) -> Self {
        self.lock_wait = lock_wait;
        self
    }

    /// Sets [`host`](Self::host): for a process that reaches nothing but the store's directory.
    #[must_use]
    pub fn host(mut self, host: HostIdentity) -> Self {
        self.host = Some(host);
        self
    }

    /// Sets [`clean_up`](Self::clean_up).
    #[must_use]
    pub fn clean_up(mut self, clean_up: bool) -> Self {
        self.clean_up = clean_up;
        self
    }
}

impl Default for OpenOptions {
    fn default() -> Self {
        Self {
            access: Access::Auto,
            single_host: false,
            lock_wait: Duration::from_secs(10),
            host: None,
            clean_up: true,
        }
    }
}
