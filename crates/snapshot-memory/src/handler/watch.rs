//! The side of the VMM: handing memory over to a handler, and noticing when it fails.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, UnixAddr, connect, setsockopt, socket, sockopt,
};
use nix::sys::time::TimeVal;
use snapshot_format::PageRange;

use super::message::is_again;
use super::notice::{self, Lines, Notice, Word};
use super::settle::settle;
use super::wait::wait;
use super::{HandlerError, descriptors, regions};
use crate::restore::{FailureCause, MemoryFailure, MemoryReporter, SourceError};
use crate::uffd::{ServedRange, UffdContext, UffdError};

/// How a handler is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum HandlerState {
    /// It serves.
    Serving,
    /// Every page is in place.
    Finished,
    /// It has ended with pages not in place. Whoever needs one is held.
    Gone,
}

/// Why pages are lost, as the handler tells it.
#[derive(Debug, thiserror::Error)]
#[error("the page handler says: {0}")]
struct Told(String);

/// The memory of a VMM that another process serves.
///
/// It keeps the userfaultfd, because missing pages of memory that nobody registers any more are
/// zero: with it, a thread that needs a page of a handler that is gone waits, and sees no wrong
/// byte.
#[derive(Debug)]
pub struct HandlerWatch {
    stream: UnixStream,
    context: Arc<UffdContext>,
    ranges: Vec<ServedRange>,
    reporter: MemoryReporter,
    lines: Lines,
    state: HandlerState,
}

impl HandlerWatch {
    /// Hands `ranges`, which are registered with `context`, to the handler that listens at `path`.
    ///
    /// `patience` is for a handler that does not accept. What goes wrong later is told to
    /// `reporter` when the caller [looks](Self::look).
    pub fn connect(
        path: &Path,
        context: Arc<UffdContext>,
        ranges: Vec<ServedRange>,
        reporter: MemoryReporter,
        patience: Duration,
    ) -> Result<Self, HandlerError> {
        let stream = reach(path, patience).map_err(|source| HandlerError::Socket {
            path: path.to_owned(),
            call: "connect to the page handler",
            source,
        })?;
        Self::start(stream, context, ranges, reporter)
    }

    /// The same over a connection that the caller has made.
    pub fn start(
        stream: UnixStream,
        context: Arc<UffdContext>,
        ranges: Vec<ServedRange>,
        reporter: MemoryReporter,
    ) -> Result<Self, HandlerError> {
        let message = regions::encode(&ranges)?;
        descriptors::send(&stream, &message, context.as_fd())
            .map_err(HandlerError::system("send the memory to the page handler"))?;
        Ok(Self {
            stream,
            context,
            ranges,
            reporter,
            lines: Lines::default(),
            state: HandlerState::Serving,
        })
    }

    /// Takes what the handler has said, without waiting. Lost pages, and the end of a handler that
    /// is still needed, go to the reporter, once each.
    ///
    /// For when the [descriptor](AsFd) is readable.
    pub fn look(&mut self) -> HandlerState {
        let mut bytes = [0; 4096];
        while self.state == HandlerState::Serving {
            match descriptors::receive(&self.stream, &mut bytes, &mut Vec::new()) {
                Ok(0) => self.end("the connection ended"),
                Ok(len) => self.hear(bytes.get(..len).unwrap_or_default()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if is_again(&error) => break,
                Err(error) => self.end(&error.to_string()),
            }
        }
        self.state
    }

    /// Waits until the handler says something or ends, at most `patience`, and looks.
    pub fn wait(&mut self, patience: Duration) -> HandlerState {
        if self.state == HandlerState::Serving {
            let waited = wait(&[self.stream.as_fd()], Some(patience));
            if let Err(error) = waited {
                tracing::warn!(%error, "the page handler cannot be waited for");
            }
        }
        self.look()
    }

    /// Lets threads that wait for pages go on, over zero pages.
    ///
    /// For a guest that has been stopped and will not run again: its threads can then end.
    pub fn abandon(&self) -> Result<(), UffdError> {
        self.context.unregister(&self.ranges)?;
        let first = self.ranges.first();
        first.map_or(Ok(()), |range| settle(&self.context, range.addresses.start))
    }

    fn hear(&mut self, bytes: &[u8]) {
        for notice in self.lines.take(bytes) {
            match notice {
                Notice::Finished => self.state = HandlerState::Finished,
                Notice::Lost {
                    first_page,
                    pages,
                    cause,
                } => self.reporter.report(MemoryFailure {
                    pages: PageRange::new(first_page, pages.min(u64::MAX - first_page)),
                    cause: SourceError::Other(Box::new(Told(cause))).into(),
                }),
            }
        }
    }

    fn end(&mut self, how: &str) {
        tracing::error!(how, "the page handler is gone");
        self.state = HandlerState::Gone;
        let first = self.ranges.iter().map(|range| range.first.0).min();
        let end = self.ranges.iter().map(|range| range.pages().end().0).max();
        let (first, end) = (first.unwrap_or(0), end.unwrap_or(0));
        self.reporter.report(MemoryFailure {
            pages: PageRange::new(first, end.saturating_sub(first)),
            cause: FailureCause::ServerGone,
        });
    }
}

impl AsFd for HandlerWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

impl Drop for HandlerWatch {
    fn drop(&mut self) {
        if self.state != HandlerState::Gone {
            notice::say(&self.stream, &Word::Bye);
        }
    }
}

/// Connects within `patience`: a handler with too many callers in its queue accepts none.
fn reach(path: &Path, patience: Duration) -> io::Result<UnixStream> {
    let stream = socket(
        AddressFamily::Unix,
        SockType::Stream,
        SockFlag::SOCK_CLOEXEC,
        None,
    )?;
    let micros = i64::try_from(patience.as_micros()).unwrap_or(i64::MAX);
    let limit = TimeVal::new(micros / 1_000_000, micros % 1_000_000);
    setsockopt(&stream, sockopt::SendTimeout, &limit)?;
    let address = UnixAddr::new(path)?;
    loop {
        match connect(stream.as_raw_fd(), &address) {
            Ok(()) => return Ok(UnixStream::from(stream)),
            Err(Errno::EINTR) => {}
            Err(Errno::EAGAIN) => return Err(io::ErrorKind::TimedOut.into()),
            Err(errno) => return Err(errno.into()),
        }
    }
}
