//! userfaultfd as most VMMs ship it: a thread, and one page copied for each fault.

// UNSAFETY: the ioctls of userfaultfd, and the call that opens one.
#![expect(unsafe_code, reason = "raw ioctls on a descriptor")]
#![expect(
    unreachable_pub,
    reason = "the ioctl macros make public functions of these types"
)]

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::thread::{self, JoinHandle};

use memmap2::{Advice, MmapMut};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::EventFd;

use super::plain;
use super::touch::GuestWords;
use crate::error::BenchError;
use crate::guest::PAGE;

/// Anonymous memory whose pages come from a raw image, one at each fault.
#[derive(Debug)]
pub(crate) struct OnePage {
    map: MmapMut,
    stop: std::sync::Arc<EventFd>,
    handler: Option<JoinHandle<()>>,
}

/// `UFFD_API`.
const API: u64 = 0xaa;
/// `UFFD_USER_MODE_ONLY`: what a process without privileges gets. Faults of the kernel, for a vCPU
/// too, are then no faults but errors.
const USER_MODE_ONLY: i32 = 1;
/// `UFFDIO_REGISTER_MODE_MISSING`.
const MODE_MISSING: u64 = 1;
/// `UFFD_EVENT_PAGEFAULT`.
const EVENT_PAGEFAULT: u8 = 0x12;
/// Where `struct uffd_msg` has the address of a fault, and how long it is.
const FAULT_ADDRESS: usize = 16;
const MESSAGE_BYTES: usize = 32;

/// `struct uffdio_api`.
#[repr(C)]
#[derive(Debug, Default)]
pub struct Api {
    number: u64,
    features: u64,
    ioctls: u64,
}

/// `struct uffdio_register`.
#[repr(C)]
#[derive(Debug, Default)]
pub struct Register {
    start: u64,
    len: u64,
    mode: u64,
    ioctls: u64,
}

/// `struct uffdio_copy`.
#[repr(C)]
#[derive(Debug, Default)]
pub struct Copy {
    to: u64,
    from: u64,
    len: u64,
    mode: u64,
    copied: i64,
}

nix::ioctl_readwrite!(uffdio_api, 0xAA, 0x3F, Api);
nix::ioctl_readwrite!(uffdio_register, 0xAA, 0x00, Register);
nix::ioctl_readwrite!(uffdio_copy, 0xAA, 0x03, Copy);

impl OnePage {
    /// Memory like the raw image `path`.
    pub(crate) fn new(path: &Path) -> Result<Self, BenchError> {
        let file = File::open(path).map_err(BenchError::at("open", path))?;
        let len = file.metadata().map_err(BenchError::at("measure", path))?;
        let len_bytes = usize::try_from(len.len()).unwrap_or(usize::MAX);
        let failed = |source| BenchError::Map { len_bytes, source };
        let map = MmapMut::map_anon(len_bytes).map_err(failed)?;
        // Served a page at a time, huge pages would never come to be.
        map.advise(Advice::NoHugePage).map_err(failed)?;
        let base = map.as_ptr().addr() as u64;
        let uffd = register(base, len.len()).map_err(failed)?;
        let stop = EventFd::new().map_err(|errno| failed(errno.into()))?;
        let stop = std::sync::Arc::new(stop);
        let stopped = std::sync::Arc::clone(&stop);
        let serve = move || {
            if let Err(error) = serve(&uffd, &stopped, &file, base) {
                // Nobody can go on: whoever waits for a page would wait for ever.
                eprintln!("one-page handler: {error}");
                std::process::abort();
            }
        };
        let handler = thread::spawn(serve);
        Ok(Self {
            map,
            stop,
            handler: Some(handler),
        })
    }

    /// The memory itself.
    pub(crate) fn bytes(&mut self) -> &mut [u8] {
        &mut self.map
    }
}

/// Opens a userfaultfd that tells of missing pages of `len_bytes` bytes from `base` on.
fn register(base: u64, len_bytes: u64) -> io::Result<OwnedFd> {
    let fd = match open(0) {
        Err(Errno::EPERM) => open(USER_MODE_ONLY)?,
        opened => opened?,
    };
    let mut api = Api {
        number: API,
        ..Api::default()
    };
    // SAFETY: `api` is the structure that UFFDIO_API reads and writes, alive during the call.
    unsafe { uffdio_api(fd.as_raw_fd(), &raw mut api) }?;
    let mut range = Register {
        start: base,
        len: len_bytes,
        mode: MODE_MISSING,
        ioctls: 0,
    };
    // SAFETY: `range` is the structure that UFFDIO_REGISTER reads and writes, alive during the
    // call; registering changes how faults are handled, never what memory holds.
    unsafe { uffdio_register(fd.as_raw_fd(), &raw mut range) }?;
    Ok(fd)
}

fn open(flags: i32) -> Result<OwnedFd, Errno> {
    let flags = libc::O_CLOEXEC | libc::O_NONBLOCK | flags;
    // SAFETY: the call takes one integer and touches no memory of ours.
    let fd = unsafe { libc::syscall(libc::SYS_userfaultfd, flags) };
    let fd = i32::try_from(Errno::result(fd)?).map_err(|_| Errno::EBADF)?;
    // SAFETY: the kernel has just given us this descriptor; nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Serves faults until `stop` rings.
fn serve(uffd: &OwnedFd, stop: &EventFd, file: &File, base: u64) -> io::Result<()> {
    let mut page = [0; PAGE];
    let mut message = [0; MESSAGE_BYTES];
    loop {
        let mut waiting = [
            PollFd::new(uffd.as_fd(), PollFlags::POLLIN),
            PollFd::new(stop.as_fd(), PollFlags::POLLIN),
        ];
        match poll(&mut waiting, PollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        if waiting[1].any() == Some(true) {
            return Ok(());
        }
        match nix::unistd::read(uffd, &mut message) {
            Ok(MESSAGE_BYTES) if message[0] == EVENT_PAGEFAULT => {}
            Ok(_) | Err(Errno::EAGAIN | Errno::EINTR) => continue,
            Err(errno) => return Err(errno.into()),
        }
        let address = message[FAULT_ADDRESS..].first_chunk();
        let address = address.map_or(0, |bytes| u64::from_le_bytes(*bytes));
        let at = address - address % PAGE as u64;
        file.read_exact_at(&mut page, at - base)?;
        copy(uffd, at, &page)?;
    }
}

fn copy(uffd: &OwnedFd, to: u64, page: &[u8; PAGE]) -> io::Result<()> {
    let mut copy = Copy {
        to,
        from: page.as_ptr().expose_provenance() as u64,
        len: PAGE as u64,
        ..Copy::default()
    };
    // SAFETY: `copy` is the structure that UFFDIO_COPY reads and writes, alive during the call; it
    // names `page`, which is that long, and a page that is missing and that nobody could look at.
    match unsafe { uffdio_copy(uffd.as_raw_fd(), &raw mut copy) } {
        // Somebody else was faster: the fault is over.
        Ok(_) | Err(Errno::EEXIST) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

impl GuestWords for OnePage {
    fn word(&self, offset: u64) -> Result<u64, BenchError> {
        plain::word(&self.map, offset)
    }
}

impl Drop for OnePage {
    fn drop(&mut self) {
        // Both fail only if the handler has ended, and then there is nothing to wait for.
        let _ = self.stop.write(1);
        if let Some(handler) = self.handler.take() {
            let _ = handler.join();
        }
    }
}
