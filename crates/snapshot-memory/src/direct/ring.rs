//! Direct writes through io_uring.

// UNSAFETY: hands addresses of buffers to the kernel, which reads them until a write completes.
#![expect(unsafe_code, reason = "submits to an io_uring")]

use std::fmt;
use std::io;
use std::mem;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use io_uring::{IoUring, opcode, types};
use nix::fcntl::{FcntlArg, OFlag, fcntl};

use super::{DirectBuffer, Piece, WriteQueue};

/// Writes under way at most; also the size of the submission queue.
const MAX_WRITES: u32 = 64;

/// A queue of direct writes to one file.
///
/// Every buffer that the kernel may still read is owned by this value, and dropping it waits for
/// the kernel.
pub(crate) struct RingQueue {
    ring: IoUring,
    file: OwnedFd,
    /// Buffers with pieces that are not yet written; a write names its slot.
    slots: Vec<Slot>,
    free: Vec<DirectBuffer>,
    buffers_left: usize,
    writes: usize,
    failed: Option<i32>,
}

#[derive(Debug, Default)]
struct Slot {
    buffer: Option<DirectBuffer>,
    pieces: Vec<Piece>,
    /// Pieces not yet written, those included that are not yet pushed.
    unfinished: usize,
}

impl RingQueue {
    /// A queue that writes to `file` past the page cache, with so many buffers.
    ///
    /// `None` where the kernel gives no io_uring or the file system takes no direct writes. From
    /// then on *all* writes to the file description go past the cache.
    pub(crate) fn open(file: BorrowedFd<'_>, buffers: usize) -> io::Result<Option<Self>> {
        let Ok(ring) = IoUring::new(MAX_WRITES) else {
            return Ok(None);
        };
        let file = file.try_clone_to_owned()?;
        let flags = OFlag::from_bits_retain(fcntl(&file, FcntlArg::F_GETFL)?);
        if fcntl(&file, FcntlArg::F_SETFL(flags | OFlag::O_DIRECT)).is_err() {
            return Ok(None);
        }
        let slots = (0..buffers.max(1)).map(|_| Slot::default()).collect();
        Ok(Some(Self {
            ring,
            file,
            slots,
            free: Vec::new(),
            buffers_left: buffers.max(1),
            writes: 0,
            failed: None,
        }))
    }

    /// Puts the write of piece `piece` of slot `slot` into the submission queue.
    fn push(&mut self, slot: usize, piece: usize) -> io::Result<()> {
        while self.writes >= MAX_WRITES as usize {
            self.wait()?;
        }
        let held = self.slots.get(slot).ok_or(io::ErrorKind::InvalidInput)?;
        let (Some(buffer), Some(part)) = (&held.buffer, held.pieces.get(piece)) else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        let bytes = buffer.get(part.start..part.start + part.len_bytes);
        let bytes = bytes.ok_or(io::ErrorKind::InvalidInput)?;
        let len = u32::try_from(bytes.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
        let write = opcode::Write::new(types::Fd(self.file.as_raw_fd()), bytes.as_ptr(), len)
            .offset(part.offset)
            .build()
            .user_data((slot as u64) << 32 | piece as u64);
        // SAFETY:
        // - the bytes lie in a buffer that its slot owns until `complete` has seen this write, and
        //   `drop` waits for all; nobody writes to a buffer in a slot;
        // - the descriptor is open as long as `self`.
        unsafe { self.ring.submission().push(&write) }.map_err(io::Error::other)?;
        self.writes += 1;
        Ok(())
    }

    /// Submits what is queued, waits for one write at least, and takes note of all that are done.
    fn wait(&mut self) -> io::Result<()> {
        if self.writes > 0 {
            self.enter(1)?;
        }
        self.complete()
    }

    fn enter(&mut self, want: usize) -> io::Result<()> {
        loop {
            match self.ring.submit_and_wait(want) {
                Ok(_) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // The completion queue is full: what is in it is taken out first.
                Err(error) if error.raw_os_error() == Some(libc::EBUSY) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }

    fn complete(&mut self) -> io::Result<()> {
        let done: Vec<(u64, i32)> = {
            let completions = self.ring.completion();
            completions
                .map(|done| (done.user_data(), done.result()))
                .collect()
        };
        for (name, result) in done {
            self.writes -= 1;
            let (slot, piece) = (index(name >> 32), index(name & 0xFFFF_FFFF));
            let again = self.note(slot, piece, result);
            if again {
                self.push(slot, piece)?;
            }
        }
        Ok(())
    }

    /// Takes note of one write; whether the rest of it must be written again.
    fn note(&mut self, slot: usize, piece: usize, result: i32) -> bool {
        let Some(held) = self.slots.get_mut(slot) else {
            return false;
        };
        let part = held.pieces.get_mut(piece);
        let written = usize::try_from(result);
        let again = match (part, written) {
            (Some(part), Ok(written)) if written > 0 && written < part.len_bytes => {
                part.start += written;
                part.offset += written as u64;
                part.len_bytes -= written;
                true
            }
            (Some(part), Ok(written)) if written == part.len_bytes => false,
            _ if result == -libc::EINTR || result == -libc::EAGAIN => true,
            _ => {
                // A write of nothing is what a full device may answer.
                let errno = if result < 0 { -result } else { libc::ENOSPC };
                self.failed.get_or_insert(errno);
                false
            }
        };
        let again = again && self.failed.is_none();
        if !again {
            held.unfinished -= 1;
        }
        if held.unfinished == 0 {
            self.free.extend(held.buffer.take());
        }
        again
    }

    fn check(&self) -> io::Result<()> {
        self.failed
            .map_or(Ok(()), |errno| Err(io::Error::from_raw_os_error(errno)))
    }
}

impl WriteQueue for RingQueue {
    fn is_direct(&self) -> bool {
        true
    }

    fn buffer(&mut self) -> io::Result<DirectBuffer> {
        loop {
            self.check()?;
            if let Some(buffer) = self.free.pop() {
                return Ok(buffer);
            }
            if self.buffers_left > 0 {
                self.buffers_left -= 1;
                return DirectBuffer::new();
            }
            if self.writes == 0 {
                return Err(io::Error::other("every buffer is in the caller's hands"));
            }
            self.wait()?;
        }
    }

    fn submit(&mut self, buffer: DirectBuffer, pieces: &[Piece]) -> io::Result<()> {
        self.check()?;
        if pieces.is_empty() {
            self.free.push(buffer);
            return Ok(());
        }
        let slot = self.slots.iter().position(|slot| slot.buffer.is_none());
        let slot = slot.ok_or_else(|| io::Error::other("more buffers than the queue has"))?;
        if let Some(held) = self.slots.get_mut(slot) {
            *held = Slot {
                buffer: Some(buffer),
                pieces: pieces.to_vec(),
                unfinished: pieces.len(),
            };
        }
        for piece in 0..pieces.len() {
            self.push(slot, piece)?;
        }
        self.ring.submit()?;
        self.complete()?;
        self.check()
    }

    fn submit_run(&mut self, _: crate::source::HostRun<'_>, _: u64) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn finish(&mut self) -> io::Result<()> {
        while self.writes > 0 {
            self.wait()?;
        }
        self.check()
    }
}

impl Drop for RingQueue {
    fn drop(&mut self) {
        self.failed.get_or_insert(libc::ECANCELED);
        while self.writes > 0 {
            if let Err(error) = self.wait() {
                tracing::warn!(%error, "writes cannot be waited for; their buffers are given up");
                // The kernel may still read them: they are never unmapped.
                for slot in &mut self.slots {
                    mem::forget(slot.buffer.take());
                }
                return;
            }
        }
    }
}

impl fmt::Debug for RingQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RingQueue")
            .field("writes", &self.writes)
            .field("failed", &self.failed)
            .finish_non_exhaustive()
    }
}

fn index(name: u64) -> usize {
    usize::try_from(name).unwrap_or(usize::MAX)
}
