//! Several large reads of one file under way at once, past the page cache where that is possible.

use std::collections::VecDeque;
use std::io;

use super::DirectBuffer;
#[cfg(target_os = "linux")]
use super::description::Description;
#[cfg(target_os = "linux")]
use super::read_ring::ReadRing;
use crate::backend::ReadFile;

/// Reads under way at most.
pub(crate) const READ_DEPTH: usize = DEPTH as usize;

const DEPTH: u32 = 8;

/// One read into the front of a buffer, or what is left of one.
#[derive(Debug)]
pub(crate) struct Read {
    buffer: DirectBuffer,
    offset: u64,
    len_bytes: usize,
    done_bytes: usize,
    /// What the caller knows it by.
    tag: usize,
}

/// A buffer whose first `len_bytes` bytes were read.
#[derive(Debug)]
pub(crate) struct FilledBuffer {
    pub(crate) buffer: DirectBuffer,
    pub(crate) len_bytes: usize,
    pub(crate) tag: usize,
}

/// Reads of one file, several under way where the kernel has io_uring. They end in any order.
///
/// Past the page cache where the file takes that: then all reads of its open file description go
/// that way until the queue is dropped.
#[derive(Debug)]
pub(crate) struct ReadQueue<'f> {
    file: &'f dyn ReadFile,
    #[cfg(target_os = "linux")]
    description: Option<Description>,
    #[cfg(target_os = "linux")]
    ring: Option<ReadRing>,
    waiting: VecDeque<FilledBuffer>,
    pending: usize,
}

impl Read {
    fn new(buffer: DirectBuffer, offset: u64, len_bytes: usize, tag: usize) -> Self {
        Self {
            len_bytes: len_bytes.min(buffer.len()),
            buffer,
            offset,
            done_bytes: 0,
            tag,
        }
    }

    /// The part of the buffer that is still to be filled.
    pub(super) fn rest(&mut self) -> &mut [u8] {
        let range = self.done_bytes..self.len_bytes;
        self.buffer.get_mut(range).unwrap_or_default()
    }

    /// Where in the file that part is.
    #[cfg(target_os = "linux")]
    pub(super) fn rest_offset(&self) -> u64 {
        self.offset + self.done_bytes as u64
    }

    #[cfg(target_os = "linux")]
    pub(super) fn into_buffer(self) -> DirectBuffer {
        self.buffer
    }

    fn filled(self) -> FilledBuffer {
        FilledBuffer {
            buffer: self.buffer,
            len_bytes: self.len_bytes,
            tag: self.tag,
        }
    }
}

impl<'f> ReadQueue<'f> {
    /// A queue of `file`. Where a kernel has no io_uring, reads go one at a time; where a file
    /// takes no direct reads, they go through the page cache.
    #[cfg(target_os = "linux")]
    pub(crate) fn new(file: &'f dyn ReadFile) -> Self {
        let description = file.as_fd().and_then(|fd| Description::of(fd).ok());
        // A file system without direct reads refuses the flag, and one in memory ignores it.
        let description = description.filter(|it| it.set_direct(true).is_ok());
        let ring = description.as_ref().and_then(|_| {
            let again = Description::of(file.as_fd()?);
            let ring = again.and_then(|again| ReadRing::new(again, DEPTH));
            ring.inspect_err(|error| tracing::info!(%error, "no io_uring: reads go one at a time"))
                .ok()
        });
        Self {
            file,
            description,
            ring,
            waiting: VecDeque::new(),
            pending: 0,
        }
    }

    /// A queue of `file`, whose reads go one at a time.
    #[cfg(not(target_os = "linux"))]
    pub(crate) fn new(file: &'f dyn ReadFile) -> Self {
        Self {
            file,
            waiting: VecDeque::new(),
            pending: 0,
        }
    }

    /// How many reads are started and were not handed out yet.
    pub(crate) fn pending(&self) -> usize {
        self.pending
    }

    /// Starts a read of `len_bytes` bytes at `offset`, both multiples of 4096, into the front of
    /// `buffer`.
    pub(crate) fn start(
        &mut self,
        buffer: DirectBuffer,
        offset: u64,
        len_bytes: usize,
        tag: usize,
    ) -> io::Result<()> {
        self.begin(Read::new(buffer, offset, len_bytes, tag))?;
        self.pending += 1;
        Ok(())
    }

    /// A read that is done; waits for one if `wait` says so and one is under way.
    pub(crate) fn next(&mut self, wait: bool) -> io::Result<Option<FilledBuffer>> {
        while self.waiting.is_empty() && self.collect(wait)? {}
        let next = self.waiting.pop_front();
        self.pending -= usize::from(next.is_some());
        Ok(next)
    }

    #[cfg(target_os = "linux")]
    fn begin(&mut self, read: Read) -> io::Result<()> {
        match &mut self.ring {
            Some(ring) => ring.start(read),
            None => self.read_now(read),
        }
    }

    #[cfg(not(target_os = "linux"))]
    fn begin(&mut self, read: Read) -> io::Result<()> {
        self.read_now(read)
    }

    /// Takes over what the ring is done with. `false`: nothing more is to be had now.
    #[cfg(target_os = "linux")]
    fn collect(&mut self, wait: bool) -> io::Result<bool> {
        let mut done = Vec::new();
        if let Some(ring) = &mut self.ring {
            ring.finished(wait, &mut done)?;
        }
        let any = !done.is_empty();
        for (mut read, result) in done {
            match result {
                // The file ends, or the ring cannot: the call that follows says which.
                Ok(0) | Err(_) => self.read_now(read)?,
                Ok(len) => {
                    read.done_bytes = (read.done_bytes + len).min(read.len_bytes);
                    if read.done_bytes < read.len_bytes {
                        self.begin(read)?;
                    } else {
                        self.waiting.push_back(read.filled());
                    }
                }
            }
        }
        Ok(any && (wait || !self.waiting.is_empty()))
    }

    #[cfg(not(target_os = "linux"))]
    #[expect(clippy::unused_self, clippy::unnecessary_wraps, reason = "as on Linux")]
    fn collect(&mut self, _wait: bool) -> io::Result<bool> {
        Ok(false)
    }

    /// Reads what is left by a plain call.
    fn read_now(&mut self, mut read: Read) -> io::Result<()> {
        let offset = read.offset + read.done_bytes as u64;
        let result = self.file.read_exact_at(offset, read.rest());
        #[cfg(target_os = "linux")]
        let result = match (result, self.description.take()) {
            (Err(error), Some(description)) if error.raw_os_error() == Some(libc::EINVAL) => {
                // It took the flag, and takes no such read: through the page cache from now on.
                description.set_direct(false)?;
                self.file.read_exact_at(offset, read.rest())
            }
            (result, description) => {
                self.description = description;
                result
            }
        };
        result?;
        self.waiting.push_back(read.filled());
        Ok(())
    }
}

#[cfg(target_os = "linux")]
impl Drop for ReadQueue<'_> {
    fn drop(&mut self) {
        // Reads under way end first.
        self.ring = None;
        if let Some(description) = &self.description
            && let Err(error) = description.set_direct(false)
        {
            tracing::warn!(%error, "a file is read past the page cache from now on");
        }
    }
}

#[cfg(test)]
mod tests;
