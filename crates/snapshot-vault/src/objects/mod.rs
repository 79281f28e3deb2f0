//! The one way to objects: four calls, and the names that they take.

use std::fmt;
use std::io;

use crate::error::ErrorKind;

mod folder;
#[cfg(any(test, feature = "testing"))]
mod memory;
mod name;
#[cfg(any(test, feature = "testing"))]
mod suite;

pub use folder::FolderObjects;
#[cfg(any(test, feature = "testing"))]
pub use memory::{MemoryObjects, Step};
pub use name::{ObjectKind, ObjectName};
#[cfg(any(test, feature = "testing"))]
pub use suite::objects_suite;

/// A flat set of objects, each written once and as a whole.
///
/// The four promises that an implementation makes, P1 to P4 of `specs/41-vault-protocol.md`:
///
/// 1. an object appears whole or not at all, under its name alone;
/// 2. what a call that returned has done is seen by every call that begins later, by
///    [`list`](Self::list) too, by whomever;
/// 3. a call that failed may have happened, or happen later, at most once; one that returned is over,
///    also where an implementation made it of several;
/// 4. what a [`put`](Self::put) that returned has put is durable, and so is a
///    [`delete`](Self::delete).
///
/// Nothing else is relied on. That a name which is taken is refused is no promise: many stores
/// ignore it, and names are random. Calls run from several threads at once.
pub trait Objects: Send + Sync + fmt::Debug {
    /// Puts an object under a name that no object has.
    ///
    /// A name that is taken SHOULD be [`ObjectError::Exists`], and the object that is there stays.
    fn put(&self, name: &ObjectName, bytes: &[u8]) -> Result<(), ObjectError>;

    /// Fills `out` with the bytes from `offset`, and says how many there are: fewer than asked for
    /// only where the object ends, and none beyond its end.
    fn get(&self, name: &ObjectName, offset: u64, out: &mut [u8]) -> Result<usize, ObjectError>;

    /// The objects whose names begin with `prefix`, which ends with `/` or is empty, in any order;
    /// none where there is no such folder.
    fn list(&self, prefix: &ObjectName) -> Result<Vec<ListedObject>, ObjectError>;

    /// Deletes an object. One that is not there is deleted already.
    fn delete(&self, name: &ObjectName) -> Result<(), ObjectError>;
}

/// An object as a list gives it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct ListedObject {
    /// Its whole name.
    pub name: ObjectName,
    /// Its length in bytes.
    pub len_bytes: u64,
}

/// A call to a store of objects failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ObjectError {
    /// There is no such object.
    #[error("there is no such object")]
    NotFound,
    /// There is one already.
    #[error("there is such an object already")]
    Exists,
    /// The store failed; whether the call has happened is not known.
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl ObjectError {
    /// The class of the error.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::NotFound => ErrorKind::NotFound,
            Self::Exists => ErrorKind::Failed,
            Self::Io(error) => match error.kind() {
                io::ErrorKind::StorageFull
                | io::ErrorKind::QuotaExceeded
                | io::ErrorKind::FileTooLarge => ErrorKind::NoSpace,
                io::ErrorKind::WouldBlock | io::ErrorKind::ResourceBusy => ErrorKind::Busy,
                _ => ErrorKind::Failed,
            },
        }
    }
}
