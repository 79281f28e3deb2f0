//! What a handler and a VMM say to each other once the handshake is done.
//!
//! Each says it in lines of JSON. Firecracker says nothing and does not listen, which is allowed.

use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, send};
use serde::{Deserialize, Serialize};

/// Bytes of a line that is listened to.
const MAX_LINE: usize = 4096;

/// Characters of a cause that is told.
const MAX_CAUSE: usize = 1024;

/// From the handler.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Notice {
    /// Pages cannot be had; whoever needs them is held.
    Lost {
        /// The first page of the image.
        first_page: u64,
        /// How many.
        pages: u64,
        /// Why.
        cause: String,
    },
    /// Every page is in place: the handler is not needed any more.
    Finished,
}

/// From the VMM.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Word {
    /// The memory is not used any more, though the process may go on.
    Bye,
}

impl Notice {
    /// That pages are lost, for a reason that is told in full or shortened.
    pub(super) fn lost(first_page: u64, pages: u64, cause: &str) -> Self {
        Self::Lost {
            first_page,
            pages,
            cause: cause.chars().take(MAX_CAUSE / 4).collect(),
        }
    }
}

/// Says `what` without waiting: a peer that does not listen misses it.
pub(super) fn say(stream: &UnixStream, what: &impl Serialize) {
    let told = serde_json::to_vec(what).map_err(io::Error::from);
    let told = told.and_then(|mut line| {
        line.push(b'\n');
        let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
        Ok(send(stream.as_raw_fd(), &line, flags)?)
    });
    match told {
        Ok(_) => {}
        // Firecracker closes its end as soon as it has sent its message.
        Err(error) if error.raw_os_error() == Some(Errno::EPIPE as i32) => {}
        Err(error) => tracing::warn!(%error, "the peer could not be told"),
    }
}

/// Cuts what a peer says into lines. One that is too long is passed over.
#[derive(Debug, Default)]
pub(super) struct Lines {
    kept: Vec<u8>,
    is_skipping: bool,
}

impl Lines {
    /// Takes `bytes` and gives what they complete, as far as it is understood.
    pub(super) fn take<T: for<'de> Deserialize<'de>>(&mut self, bytes: &[u8]) -> Vec<T> {
        let mut found = Vec::new();
        for byte in bytes {
            if *byte != b'\n' {
                self.is_skipping |= self.kept.len() >= MAX_LINE;
                if !self.is_skipping {
                    self.kept.push(*byte);
                }
                continue;
            }
            let line = std::mem::take(&mut self.kept);
            if std::mem::take(&mut self.is_skipping) {
                tracing::warn!("a line of the peer is too long, and was passed over");
                continue;
            }
            match serde_json::from_slice(&line) {
                Ok(value) => found.push(value),
                // What a later version says may be passed over.
                Err(error) => tracing::warn!(%error, "a line of the peer is not understood"),
            }
        }
        found
    }
}

#[cfg(test)]
mod tests;
