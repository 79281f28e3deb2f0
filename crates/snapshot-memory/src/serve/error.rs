//! What can go wrong with serving memory as a whole; what is lost of it is told by events.

use std::io;

use snapshot_format::PageRange;

use crate::restore::SourceError;
use crate::uffd::UffdError;

/// Serving memory failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// No userfaultfd, or not for this memory.
    #[error(transparent)]
    Uffd(#[from] UffdError),
    /// A range of addresses that cannot be served.
    #[error("the range {start:#x}..{end:#x} {what}")]
    Range {
        /// Its first address.
        start: u64,
        /// The address behind it.
        end: u64,
        /// What is wrong with it.
        what: &'static str,
    },
    /// Something that cannot be had together.
    #[error("{what}")]
    Unsupported {
        /// What, and what to do instead.
        what: &'static str,
    },
    /// Pages to put in place came with another number of bytes.
    #[error("a buffer of {found} bytes for {} pages of 4096", pages.count)]
    BufferLength {
        /// The pages.
        pages: PageRange,
        /// The length of the buffer in bytes.
        found: usize,
    },
    /// Pages could not be read, or are not what was written.
    #[error("pages {}..{} cannot be read from the snapshot", pages.start.0, pages.end().0)]
    Source {
        /// Which.
        pages: PageRange,
        /// Why.
        #[source]
        source: Box<SourceError>,
    },
    /// The process whose memory it is has ended.
    #[error("the process whose memory is served has ended")]
    PeerGone,
    /// A system call failed.
    #[error("{call}")]
    System {
        /// The call.
        call: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl ServeError {
    pub(super) fn source(pages: PageRange, source: SourceError) -> Self {
        let source = Box::new(source);
        Self::Source { pages, source }
    }

    pub(super) fn system<E: Into<io::Error>>(call: &'static str) -> impl FnOnce(E) -> Self {
        move |error| Self::System {
            call,
            source: error.into(),
        }
    }
}
