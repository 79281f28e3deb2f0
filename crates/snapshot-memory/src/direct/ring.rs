//! The device that is an io_uring.

// UNSAFETY: hands addresses of memory to the kernel, which reads them until a write completes.
#![expect(unsafe_code, reason = "submits to an io_uring")]

use std::fmt;
use std::io;
use std::mem;
use std::os::fd::AsRawFd;

use io_uring::{IoUring, opcode, types};

use super::description::Description;
use super::{Completion, Device, Write};

/// Writes under way at most; also the size of the submission queue.
const DEPTH: u32 = 64;

/// An io_uring that writes to one file.
///
/// It owns every [`Write`] that the kernel may still read from, and gives it back when the kernel
/// is done. One whose outcome cannot be waited for is never given up.
pub(super) struct Ring<'m> {
    kernel: IoUring,
    file: Description,
    /// What the kernel has; a completion names its place.
    writes: Vec<Option<Write<'m>>>,
    /// Pushed, and not yet told to the kernel.
    is_pending: bool,
}

impl<'m> Ring<'m> {
    /// A ring that writes to `file`.
    pub(super) fn new(file: Description) -> io::Result<Self> {
        Ok(Self {
            kernel: IoUring::new(DEPTH)?,
            file,
            writes: (0..DEPTH).map(|_| None).collect(),
            is_pending: false,
        })
    }

    /// Whether the kernel gives a ring that can write, tried with one that does nothing.
    pub(super) fn probe() -> io::Result<()> {
        let mut ring: IoUring = IoUring::new(1)?;
        let mut known = io_uring::Probe::new();
        ring.submitter().register_probe(&mut known)?;
        if !known.is_supported(opcode::Write::CODE) {
            return Err(io::ErrorKind::Unsupported.into());
        }
        // SAFETY: the operation names no memory and no descriptor.
        let pushed = unsafe { ring.submission().push(&opcode::Nop::new().build()) };
        pushed.map_err(io::Error::other)?;
        ring.submit_and_wait(1)?;
        Ok(())
    }

    /// Tells the kernel what is pushed, and waits for so many completions.
    fn enter(&mut self, at_least: usize) -> io::Result<()> {
        loop {
            match self.kernel.submit_and_wait(at_least) {
                Ok(_) => {
                    self.is_pending = !self.kernel.submission().is_empty();
                    return Ok(());
                }
                Err(error) => match error.raw_os_error() {
                    Some(libc::EINTR) => {}
                    // The kernel is short of memory, or of room for completions: those that are
                    // there are taken out first.
                    Some(libc::EAGAIN | libc::EBUSY) => {
                        std::thread::yield_now();
                        return Ok(());
                    }
                    _ => return Err(error),
                },
            }
        }
    }

    /// Takes out what is done.
    fn collect(&mut self, done: &mut Vec<Completion<'m>>) {
        for entry in self.kernel.completion() {
            let place = usize::try_from(entry.user_data()).unwrap_or(usize::MAX);
            let Some(write) = self.writes.get_mut(place).and_then(Option::take) else {
                continue;
            };
            let result = usize::try_from(entry.result())
                .map_err(|_| io::Error::from_raw_os_error(entry.result().wrapping_neg()));
            done.push(Completion { write, result });
        }
    }

    fn is_idle(&self) -> bool {
        self.writes.iter().all(Option::is_none)
    }
}

impl<'m> Device<'m> for Ring<'m> {
    fn depth(&self) -> usize {
        DEPTH as usize
    }

    fn start(&mut self, write: Write<'m>) -> io::Result<()> {
        let free = self.writes.iter_mut().enumerate();
        let mut free = free.filter(|(_, place)| place.is_none());
        let (number, place) = free.next().ok_or(io::ErrorKind::ResourceBusy)?;
        let run = write.run();
        let len = u32::try_from(run.len_bytes()).map_err(|_| io::ErrorKind::InvalidInput)?;
        let entry = opcode::Write::new(types::Fd(self.file.as_raw_fd()), run.address(), len)
            .offset(write.offset())
            .build()
            .user_data(number as u64);
        // SAFETY:
        // - The kernel only reads the bytes of `write`, and only until it has given a completion.
        //   Until then `writes` owns `write`, which keeps them mapped, and nobody gets a mutable
        //   reference to a buffer that a `Write` holds. Dropping this value forgets what has not
        //   completed, so that a buffer is never unmapped under the kernel.
        // - Guest memory is mapped for 'm, and this value is not used after it. If it was leaked
        //   instead of dropped, the kernel may read the addresses after 'm: whatever is there
        //   then, reading changes nothing in this process, an unmapped address fails the write,
        //   and the file is one whose queue nobody has finished.
        // - The descriptor is open as long as `file`; an entry that the kernel has not taken is
        //   dropped with the ring.
        unsafe { self.kernel.submission().push(&entry) }.map_err(io::Error::other)?;
        *place = Some(write);
        self.is_pending = true;
        Ok(())
    }

    fn wait(&mut self, at_least: usize, done: &mut Vec<Completion<'m>>) -> io::Result<()> {
        let enough = done.len() + at_least;
        if self.is_pending {
            self.enter(0)?;
        }
        self.collect(done);
        while done.len() < enough && !self.is_idle() {
            self.enter(enough - done.len())?;
            self.collect(done);
        }
        Ok(())
    }

    fn set_direct(&mut self, is_direct: bool) -> io::Result<()> {
        self.file.set_direct(is_direct)
    }
}

impl Drop for Ring<'_> {
    fn drop(&mut self) {
        for write in self.writes.iter_mut().filter_map(Option::take) {
            mem::forget(write);
        }
    }
}

impl fmt::Debug for Ring<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let writes = self.writes.iter().flatten().count();
        f.debug_struct("Ring")
            .field("file", &self.file)
            .field("writes", &writes)
            .finish_non_exhaustive()
    }
}
