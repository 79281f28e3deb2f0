//! Files that are not opened because of what they are.

use std::io;

/// Why something that exists was not opened. It comes inside an [`io::Error`] of kind
/// `InvalidInput`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// A symbolic link at or above the name.
    #[error("a symbolic link is in the way; nothing here may be a link")]
    SymbolicLink,
    /// A directory, a device, a socket or a pipe.
    #[error("not a regular file")]
    NotRegular,
    /// A file with other names: someone else may write it.
    #[error("{links} hard links lead to this file; it must have one name only")]
    ManyLinks {
        /// How many names it has.
        links: u64,
    },
    /// A file of another user.
    #[error("the file belongs to user {uid}, not to this process's user or root")]
    ForeignOwner {
        /// Whose it is.
        uid: u32,
    },
}

impl Refusal {
    /// The refusal inside `error`, if there is one.
    #[must_use]
    pub fn of(error: &io::Error) -> Option<Self> {
        error.get_ref()?.downcast_ref().copied()
    }
}

impl From<Refusal> for io::Error {
    fn from(refusal: Refusal) -> Self {
        Self::new(io::ErrorKind::InvalidInput, refusal)
    }
}
