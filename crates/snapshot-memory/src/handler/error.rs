//! What can go wrong between a VMM and a page handler.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use crate::uffd::UffdError;

/// The message by which a VMM hands its memory over was refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HandshakeError {
    /// It did not come in time.
    #[error("no whole message came within {0:?}")]
    Late(Duration),
    /// The peer closed the connection before its message was whole.
    #[error("the connection ended after {0} bytes of the message")]
    Ended(usize),
    /// It is longer than any list of regions.
    #[error("the message is longer than {0} bytes")]
    TooLong(usize),
    /// It is no list.
    #[error("the message does not begin with a JSON array")]
    NoArray,
    /// It is not JSON, or not of regions.
    #[error("the message is no JSON array of regions")]
    Json(#[source] serde_json::Error),
    /// It has no region, or more than there may be.
    #[error("the message has {0} regions: 1 to 1024 are served")]
    Count(usize),
    /// A region is not made of whole pages.
    #[error("region {region} is empty or not made of whole pages")]
    Unaligned {
        /// Its place in the list.
        region: usize,
    },
    /// A region has pages of another size.
    #[error("region {region} has pages of {bytes} bytes: only pages of 4096 are served")]
    PageSize {
        /// Its place in the list.
        region: usize,
        /// The size that it names.
        bytes: u64,
    },
    /// A region ends behind the image or behind the last address.
    #[error("region {region} ends behind the memory of the snapshot, or behind any address")]
    Beyond {
        /// Its place in the list.
        region: usize,
    },
    /// Two regions have something in common.
    #[error("two regions have {what} from {start:#x} on in common")]
    Overlap {
        /// Addresses or offsets.
        what: &'static str,
        /// Where the second begins.
        start: u64,
    },
    /// Not exactly one descriptor came.
    #[error("{0} descriptors came with the message: exactly one userfaultfd must")]
    Descriptors(usize),
    /// The descriptor cannot be served.
    #[error("the descriptor cannot be served")]
    Uffd(#[from] UffdError),
    /// The connection failed.
    #[error("{call}")]
    System {
        /// The call.
        call: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// A page handler could not be reached, or could not begin.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HandlerError {
    /// The socket cannot be made or reached.
    #[error("{}: {call}", path.display())]
    Socket {
        /// Where it is, or was to be.
        path: PathBuf,
        /// The call.
        call: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Something that is no forsaken socket is in the way.
    #[error("{} exists, and is in use or no socket", .0.display())]
    InTheWay(PathBuf),
    /// A call failed.
    #[error("{call}")]
    System {
        /// The call.
        call: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The memory cannot be named to a handler.
    #[error(transparent)]
    Handshake(#[from] HandshakeError),
}

impl HandshakeError {
    pub(super) fn system(call: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::System { call, source }
    }
}

impl HandlerError {
    pub(super) fn system(call: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::System { call, source }
    }
}
