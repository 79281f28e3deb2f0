//! An open store.

use std::sync::Arc;
use std::time::Duration;

use snapshot_memory::backend::{Backend, HostIdentity, LockMode, RelPath};

use crate::error::StoreError;
use crate::header::StoreHeader;
use crate::known::KnownManifests;
use crate::lock::{self, Held};
use crate::options::OpenOptions;

/// An open store of snapshots. A clone is the same store.
#[derive(Clone, Debug)]
pub struct Store {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    backend: Arc<dyn Backend>,
    header: StoreHeader,
    writable: bool,
    lock_wait: Duration,
    host: Option<HostIdentity>,
    known: KnownManifests,
}

impl Store {
    pub(crate) fn new(
        backend: Arc<dyn Backend>,
        header: StoreHeader,
        writable: bool,
        options: &OpenOptions,
    ) -> Self {
        Self {
            inner: Arc::new(Inner {
                backend,
                header,
                writable,
                lock_wait: options.lock_wait,
                host: options.host.clone(),
                known: KnownManifests::default(),
            }),
        }
    }

    /// The identity of the store and who wrote to it last, as of when it was opened.
    pub fn header(&self) -> &StoreHeader {
        &self.inner.header
    }

    /// Whether this store can be written to.
    pub fn is_writable(&self) -> bool {
        self.inner.writable
    }

    pub(crate) fn backend(&self) -> &dyn Backend {
        self.inner.backend.as_ref()
    }

    pub(crate) fn shared_backend(&self) -> Arc<dyn Backend> {
        Arc::clone(&self.inner.backend)
    }

    pub(crate) fn known_manifests(&self) -> &KnownManifests {
        &self.inner.known
    }

    pub(crate) fn lock_wait(&self) -> Duration {
        self.inner.lock_wait
    }

    /// Which host this is, where the caller has said so.
    pub(crate) fn told_host(&self) -> Option<&HostIdentity> {
        self.inner.host.as_ref()
    }

    /// Takes a lock alone, waiting as long as the options say.
    pub(crate) fn lock_exclusively(&self, path: &RelPath) -> Result<Held, StoreError> {
        lock::take(self.backend(), path, LockMode::Exclusive, self.lock_wait())
    }
}
