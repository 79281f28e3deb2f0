//! Reads of one file under way at once, by an io_uring.

// UNSAFETY: hands addresses of buffers to the kernel, which writes them until a read completes.
#![expect(unsafe_code, reason = "submits to an io_uring")]

use std::fmt;
use std::io;
use std::mem;
use std::os::fd::AsRawFd;

use io_uring::{IoUring, opcode, types};

use super::DirectBuffer;
use super::description::Description;
use super::read::Read;

/// An io_uring that reads from one file.
///
/// It owns every buffer that the kernel may still write to, and gives it back when the kernel is
/// done.
pub(super) struct ReadRing {
    kernel: IoUring,
    file: Description,
    /// What the kernel has; a completion names its place.
    reads: Vec<Option<Read>>,
}

impl ReadRing {
    /// A ring with so many reads under way at most.
    pub(super) fn new(file: Description, depth: u32) -> io::Result<Self> {
        Ok(Self {
            kernel: IoUring::new(depth)?,
            file,
            reads: (0..depth).map(|_| None).collect(),
        })
    }

    /// Starts a read. There must be room for it.
    pub(super) fn start(&mut self, mut read: Read) -> io::Result<()> {
        let places = self.reads.iter_mut().enumerate();
        let (number, place) = places
            .into_iter()
            .find(|(_, place)| place.is_none())
            .ok_or(io::ErrorKind::ResourceBusy)?;
        let rest = read.rest();
        let len = u32::try_from(rest.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
        let address = rest.as_mut_ptr();
        let entry = opcode::Read::new(types::Fd(self.file.as_raw_fd()), address, len)
            .offset(read.rest_offset())
            .build()
            .user_data(number as u64);
        // SAFETY:
        // - The kernel writes `len` bytes at `address`, which is memory of the buffer of `read`: a
        //   mapping that moves with no value and that nobody but `read` reaches. `reads` owns
        //   `read` until its completion was taken out; dropping this value waits for completions,
        //   and forgets a buffer whose completion cannot be waited for, so that none is unmapped
        //   or used again under the kernel.
        // - The descriptor is open as long as `file`; an entry that the kernel has not taken is
        //   dropped with the ring.
        unsafe { self.kernel.submission().push(&entry) }.map_err(io::Error::other)?;
        *place = Some(read);
        self.enter(0)
    }

    /// Takes out reads that are done, each with its outcome; waits for one if none is and `wait`
    /// says so. Nothing: none is under way, or none is done.
    pub(super) fn finished(
        &mut self,
        wait: bool,
        done: &mut Vec<(Read, io::Result<usize>)>,
    ) -> io::Result<()> {
        let before = done.len();
        self.collect(done);
        while wait && done.len() == before && !self.is_idle() {
            self.enter(1)?;
            self.collect(done);
        }
        Ok(())
    }

    fn enter(&mut self, at_least: usize) -> io::Result<()> {
        loop {
            match self.kernel.submit_and_wait(at_least) {
                Ok(_) => return Ok(()),
                Err(error) => match error.raw_os_error() {
                    Some(libc::EINTR) => {}
                    // The kernel is short of memory for the moment.
                    Some(libc::EAGAIN | libc::EBUSY) => std::thread::yield_now(),
                    _ => return Err(error),
                },
            }
        }
    }

    fn collect(&mut self, done: &mut Vec<(Read, io::Result<usize>)>) {
        for entry in self.kernel.completion() {
            let place = usize::try_from(entry.user_data()).unwrap_or(usize::MAX);
            let Some(read) = self.reads.get_mut(place).and_then(Option::take) else {
                continue;
            };
            let result = usize::try_from(entry.result())
                .map_err(|_| io::Error::from_raw_os_error(entry.result().wrapping_neg()));
            done.push((read, result));
        }
    }

    fn is_idle(&self) -> bool {
        self.reads.iter().all(Option::is_none)
    }
}

impl Drop for ReadRing {
    fn drop(&mut self) {
        let mut done = Vec::new();
        while !self.is_idle() {
            if self.finished(true, &mut done).is_err() {
                break;
            }
        }
        for read in self.reads.iter_mut().filter_map(Option::take) {
            mem::forget::<DirectBuffer>(read.into_buffer());
        }
    }
}

impl fmt::Debug for ReadRing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let reads = self.reads.iter().flatten().count();
        f.debug_struct("ReadRing")
            .field("file", &self.file)
            .field("reads", &reads)
            .finish_non_exhaustive()
    }
}
