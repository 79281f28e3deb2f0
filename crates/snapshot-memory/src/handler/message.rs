//! Reading the handshake from a peer that nobody vouches for.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use snapshot_format::MemoryLayout;

use super::{HandshakeError, descriptors, regions, wait};
use crate::uffd::{ServedRange, UffdContext};

/// Bytes of the longest message: 1024 regions with every number at its longest, and as much again.
const MAX_BYTES: usize = 512 << 10;

/// Bytes that one call takes.
const CHUNK: usize = 16 << 10;

/// Memory that a VMM handed over.
#[derive(Debug)]
pub(super) struct Handshake {
    pub(super) context: UffdContext,
    pub(super) ranges: Vec<ServedRange>,
    /// What came behind the message.
    pub(super) rest: Vec<u8>,
}

/// Waits at most `patience` for the handshake of a VMM that was restored from an image of `layout`.
///
/// The message has neither a length nor an end mark: it is whole when its JSON array is.
pub(super) fn receive(
    stream: &UnixStream,
    layout: &MemoryLayout,
    patience: Duration,
) -> Result<Handshake, HandshakeError> {
    let deadline = Instant::now() + patience;
    let mut came = Vec::new();
    let mut message = Message::default();
    let mut chunk = vec![0; CHUNK];
    loop {
        wait(stream, deadline, patience)?;
        let len = match descriptors::receive(stream, &mut chunk, &mut came) {
            Ok(0) => return Err(HandshakeError::Ended(message.bytes.len())),
            Ok(len) => len,
            Err(error) if is_again(&error) => continue,
            Err(error) => return Err(HandshakeError::system("receive the message")(error)),
        };
        if came.len() > 1 {
            return Err(HandshakeError::Descriptors(came.len()));
        }
        let bytes = chunk.get(..len).unwrap_or_default();
        if let Some(rest) = message.take(bytes)? {
            return accept(&message.bytes, came, rest.to_vec(), layout);
        }
    }
}

/// What a peer has said that sends `parts` and nothing else: where its memory is, and what came
/// behind the message. The descriptor is not looked for.
#[cfg(any(test, feature = "testing"))]
pub fn read_handshake<'a>(
    parts: impl IntoIterator<Item = &'a [u8]>,
    layout: &MemoryLayout,
) -> Result<(Vec<ServedRange>, Vec<u8>), HandshakeError> {
    let mut message = Message::default();
    let mut rest: Option<Vec<u8>> = None;
    for part in parts {
        if let Some(rest) = &mut rest {
            rest.extend_from_slice(part);
            continue;
        }
        rest = message.take(part)?.map(<[u8]>::to_vec);
    }
    let rest = rest.ok_or(HandshakeError::Ended(message.bytes.len()))?;
    Ok((regions::decode(&message.bytes, layout)?, rest))
}

fn accept(
    message: &[u8],
    mut came: Vec<OwnedFd>,
    rest: Vec<u8>,
    layout: &MemoryLayout,
) -> Result<Handshake, HandshakeError> {
    let ranges = regions::decode(message, layout)?;
    let uffd = came.pop().ok_or(HandshakeError::Descriptors(0))?;
    Ok(Handshake {
        context: UffdContext::from_fd(uffd)?,
        ranges,
        rest,
    })
}

/// Waits for more of the message. A peer that sends byte by byte gains no time.
fn wait(stream: &UnixStream, deadline: Instant, patience: Duration) -> Result<(), HandshakeError> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(HandshakeError::Late(patience));
        }
        let ready = wait::wait(&[stream.as_fd()], Some(left));
        let ready = ready.map_err(|errno| failed(errno.into()))?;
        if ready.contains(&true) && Instant::now() < deadline {
            return Ok(());
        }
    }
}

fn failed(source: io::Error) -> HandshakeError {
    HandshakeError::system("wait for the message")(source)
}

pub(super) fn is_again(error: &io::Error) -> bool {
    let kinds = [io::ErrorKind::WouldBlock, io::ErrorKind::Interrupted];
    kinds.contains(&error.kind())
}

/// The message, as far as it has come.
#[derive(Debug, Default)]
struct Message {
    bytes: Vec<u8>,
    array: ArrayEnd,
}

impl Message {
    /// Takes what came next; what of it lies behind the message, once that is whole.
    fn take<'a>(&mut self, bytes: &'a [u8]) -> Result<Option<&'a [u8]>, HandshakeError> {
        let end = self.array.find(bytes)?;
        let split = end.and_then(|end| bytes.split_at_checked(end));
        let (own, rest) = split.unwrap_or((bytes, &[]));
        self.bytes.extend_from_slice(own);
        if self.bytes.len() > MAX_BYTES {
            return Err(HandshakeError::TooLong(MAX_BYTES));
        }
        Ok(end.map(|_| rest))
    }
}

/// Finds the end of a JSON array that comes in parts, each byte looked at once. What the array
/// holds is for the parser.
#[derive(Debug, Default)]
struct ArrayEnd {
    depth: u64,
    in_string: bool,
    is_escaped: bool,
}

impl ArrayEnd {
    /// How many of `bytes` belong to the array, if it ends in them.
    fn find(&mut self, bytes: &[u8]) -> Result<Option<usize>, HandshakeError> {
        for (index, byte) in bytes.iter().enumerate() {
            if self.depth == 0 {
                match byte {
                    b' ' | b'\t' | b'\r' | b'\n' => {}
                    b'[' => self.depth = 1,
                    _ => return Err(HandshakeError::NoArray),
                }
            } else if self.in_string {
                match byte {
                    _ if self.is_escaped => self.is_escaped = false,
                    b'\\' => self.is_escaped = true,
                    b'"' => self.in_string = false,
                    _ => {}
                }
            } else {
                match byte {
                    b'"' => self.in_string = true,
                    b'[' | b'{' => self.depth += 1,
                    b']' | b'}' => self.depth -= 1,
                    _ => {}
                }
                if self.depth == 0 {
                    return Ok(Some(index + 1));
                }
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests;
