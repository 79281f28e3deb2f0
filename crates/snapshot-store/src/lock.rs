//! Waiting for locks, and saying who holds them.

use std::io;
use std::time::{Duration, Instant};

use snapshot_memory::backend::{Backend, Lock, LockMode, RelPath};

use crate::error::StoreError;

/// A held lock.
pub(crate) type Held = Box<dyn Lock>;

/// Takes the lock at `path`, or says which processes kept it for all of `wait`.
pub(crate) fn take(
    backend: &dyn Backend,
    path: &RelPath,
    mode: LockMode,
    wait: Duration,
) -> Result<Held, StoreError> {
    let since = Instant::now();
    match backend.lock(path, mode, wait) {
        Ok(lock) => Ok(lock),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(StoreError::Busy {
            path: path.clone(),
            holders: backend.lock_holders(path).unwrap_or_default(),
            waited_ms: u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX),
        }),
        Err(error) => Err(StoreError::io("lock", path, error)),
    }
}
