//! Why a file is written through the page cache.

use std::io;

/// Why a file is not written past the page cache. It comes inside an [`io::Error`] of kind
/// `Unsupported`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{}", self.reason())]
#[non_exhaustive]
pub enum DirectRefused {
    /// The file system is one of memory.
    NoDevice,
    /// The file system takes no such writes.
    NotTaken,
    /// It takes only larger pieces than pages of 4096 bytes.
    LargeBlocks,
    /// This is not Linux.
    OtherSystem,
}

impl DirectRefused {
    /// The refusal inside `error`, if there is one.
    #[must_use]
    pub fn of(error: &io::Error) -> Option<Self> {
        error.get_ref()?.downcast_ref().copied()
    }

    /// Why, for a message.
    #[must_use]
    pub const fn reason(self) -> &'static str {
        match self {
            Self::NoDevice => "the file system is in memory and has no device",
            Self::NotTaken => "the file system takes no writes past the page cache",
            Self::LargeBlocks => {
                "the file system takes no writes of 4096 bytes past the page cache"
            }
            Self::OtherSystem => "only Linux has writes past the page cache",
        }
    }
}

impl From<DirectRefused> for io::Error {
    fn from(refused: DirectRefused) -> Self {
        Self::new(io::ErrorKind::Unsupported, refused)
    }
}
