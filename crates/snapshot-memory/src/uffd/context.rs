//! One userfaultfd, for serving faults and for tracking writes.

use std::fs::OpenOptions;
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};

use super::error::UffdError;
use super::fill::{self, FillMode, Filled};
use super::message::{self, Message};
use super::served_range::ServedRange;
use super::{abi, ioctl};
use crate::source::GuestMemorySource;

/// A userfaultfd: made here for memory of this process, or received from another process for its
/// memory.
///
/// The kernel refuses a second one on the same memory, so that what serves pages and what tracks
/// writes share one. When the last owner of the descriptor closes it, pages that were not served
/// read as zero: whoever owns the memory keeps the descriptor as long as the memory is used.
#[derive(Debug)]
pub struct UffdContext {
    fd: OwnedFd,
    tracks: bool,
    moves: bool,
}

/// What a [`UffdContext`] is to be able to do, beyond serving missing pages.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct UffdOptions {
    tracks: bool,
    sees_discards: bool,
    kernel_faults: bool,
}

impl Default for UffdOptions {
    fn default() -> Self {
        Self {
            tracks: false,
            sees_discards: true,
            kernel_faults: true,
        }
    }
}

impl UffdOptions {
    /// The same, whether writes are tracked as well (Linux 6.7): pages are then put in place
    /// protected, and a [`WpAsyncSource`](crate::WpAsyncSource) can be made on the context.
    ///
    /// Where not needed it is better left out: a tracked page that is zero takes memory.
    #[must_use]
    pub fn tracks(self, tracks: bool) -> Self {
        Self { tracks, ..self }
    }

    /// The same, whether pages that are given back by `madvise` are heard of, so that they read as
    /// zero and not as they were in the snapshot. They are unless this says no.
    ///
    /// A thread that gives pages back then waits until a serving thread has heard of it.
    #[must_use]
    pub fn sees_discards(self, sees_discards: bool) -> Self {
        Self {
            sees_discards,
            ..self
        }
    }

    /// The same, whether faults that the kernel takes are served: those of vCPUs and of system
    /// calls that are handed guest memory. They are unless this says no.
    ///
    /// Needs `CAP_SYS_PTRACE`, `vm.unprivileged_userfaultfd = 1` or access to `/dev/userfaultfd`.
    /// Without it KVM tells a vCPU's thread `EFAULT` in place of waiting for the page.
    #[must_use]
    pub fn kernel_faults(self, kernel_faults: bool) -> Self {
        Self {
            kernel_faults,
            ..self
        }
    }

    /// Whether writes are tracked as well.
    #[must_use]
    pub fn is_tracking(self) -> bool {
        self.tracks
    }

    fn features(self) -> u64 {
        let track = abi::FEATURE_WP_ASYNC | abi::FEATURE_WP_UNPOPULATED | abi::FEATURE_WP_SHMEM;
        let parts = [
            (true, abi::FEATURE_MISSING_SHMEM | abi::FEATURE_MINOR_SHMEM),
            (self.tracks, track),
            (self.sees_discards, abi::FEATURE_EVENT_REMOVE),
        ];
        let wanted = parts.iter().filter(|(wanted, _)| *wanted);
        wanted.fold(0, |sum, (_, features)| sum | features)
    }
}

/// Which faults of memory are served and whether its writes are tracked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FaultModes {
    /// Pages that are missing are served.
    pub missing: bool,
    /// So are pages that the memfd has and the page tables have not; of memfds only.
    pub minor: bool,
    /// Writes are tracked; of a context that [tracks](UffdOptions::tracks).
    pub writes: bool,
}

impl FaultModes {
    fn bits(self) -> u64 {
        let parts = [
            (self.missing, abi::REGISTER_MODE_MISSING),
            (self.minor, abi::REGISTER_MODE_MINOR),
            (self.writes, abi::REGISTER_MODE_WP),
        ];
        let wanted = parts.iter().filter(|(wanted, _)| *wanted);
        wanted.fold(0, |sum, (_, mode)| sum | mode)
    }
}

impl UffdContext {
    /// A new one, for memory of this process.
    pub fn new(options: UffdOptions) -> Result<Self, UffdError> {
        let features = options.features();
        let fd = open(options.kernel_faults)?;
        match ioctl::agree(fd.as_fd(), features | abi::FEATURE_MOVE) {
            Ok(_) => return Ok(Self::with(fd, options.tracks, true)),
            // Moving pages is a help where it is there, and no need.
            Err(Errno::EINVAL) => {}
            Err(errno) => return Err(UffdError::system("agree with userfaultfd")(errno)),
        }
        let fd = open(options.kernel_faults)?;
        match ioctl::agree(fd.as_fd(), features) {
            Ok(_) => Ok(Self::with(fd, options.tracks, false)),
            Err(Errno::EINVAL) => Err(UffdError::Lacks {
                since: if options.tracks { "6.7" } else { "5.14" },
            }),
            Err(errno) => Err(UffdError::system("agree with userfaultfd")(errno)),
        }
    }

    /// One that another process made for its own memory, agreed on with the kernel, and sent.
    ///
    /// Its pages are put in place unprotected; what the other process asked for besides, this one
    /// hears of. The descriptor becomes non-blocking, for the other process too.
    pub fn from_fd(fd: OwnedFd) -> Result<Self, UffdError> {
        match ioctl::agree(fd.as_fd(), 0) {
            // It has agreed before.
            Err(Errno::EINVAL) => {}
            Ok(_) => return Err(UffdError::NotAgreed),
            Err(_) => return Err(UffdError::NotUffd),
        }
        let flags = fcntl(&fd, FcntlArg::F_GETFL).map_err(UffdError::system("fcntl"))?;
        let flags = OFlag::from_bits_retain(flags) | OFlag::O_NONBLOCK;
        fcntl(&fd, FcntlArg::F_SETFL(flags)).map_err(UffdError::system("fcntl"))?;
        Ok(Self::with(fd, false, false))
    }

    fn with(fd: OwnedFd, tracks: bool, moves: bool) -> Self {
        Self { fd, tracks, moves }
    }

    /// Has the faults of all of `memory`, which is mapped in this process, wait for this context.
    /// Gives where it is.
    ///
    /// Pages that are there already stay. Others are zero or wait until somebody serves them.
    pub fn register(
        &self,
        memory: &dyn GuestMemorySource,
        modes: FaultModes,
    ) -> Result<Vec<ServedRange>, UffdError> {
        match ioctl::register_memory(self.as_fd(), memory, modes.bits()) {
            Ok(ranges) => ranges.ok_or(UffdError::NotMapped),
            Err(source) if source.raw_os_error() == Some(libc::EBUSY) => Err(UffdError::Busy),
            Err(source) => Err(UffdError::System {
                call: "register memory with userfaultfd",
                source,
            }),
        }
    }

    /// A new context for all of `memory`: its missing pages wait and, with `minor`, those that are
    /// in the page cache and not mapped; its writes as the options say.
    pub(crate) fn serving(
        memory: &dyn GuestMemorySource,
        options: UffdOptions,
        minor: bool,
    ) -> Result<(Arc<Self>, Vec<ServedRange>), UffdError> {
        let context = Self::new(options)?;
        let modes = FaultModes {
            missing: true,
            minor,
            writes: context.is_tracking(),
        };
        let ranges = context.register(memory, modes)?;
        Ok((Arc::new(context), ranges))
    }

    /// Ends the registration of memory of this process: pages of it that are missing are zero from
    /// now on, and its writes are not tracked.
    pub fn unregister(&self, ranges: &[ServedRange]) -> Result<(), UffdError> {
        ranges.iter().try_for_each(|range| {
            ioctl::unregister(self.as_fd(), &range.addresses).map_err(|source| UffdError::System {
                call: "unregister memory from userfaultfd",
                source,
            })
        })
    }

    /// Whether it tracks writes, so that pages are put in place protected.
    #[must_use]
    pub fn is_tracking(&self) -> bool {
        self.tracks
    }

    /// Whether the kernel moves pages of this process into its memory.
    pub(crate) fn moves_pages(&self) -> bool {
        self.moves
    }

    pub(crate) fn copy(&self, to: u64, bytes: &[u8], mode: FillMode) -> Filled {
        fill::copy(self.as_fd(), to, bytes, mode)
    }

    pub(crate) fn zero(&self, range: &Range<u64>, wake: bool) -> Filled {
        fill::zero(self.as_fd(), range, wake)
    }

    pub(crate) fn map_cached(&self, range: &Range<u64>, mode: FillMode) -> Filled {
        fill::map_cached(self.as_fd(), range, mode)
    }

    pub(crate) fn move_pages(&self, to: u64, from: &mut [u8], wake: bool) -> Filled {
        fill::move_pages(self.as_fd(), to, from, wake)
    }

    pub(crate) fn wake(&self, range: &Range<u64>) -> Result<(), Errno> {
        fill::wake(self.as_fd(), range)
    }

    pub(crate) fn read_messages(&self, into: &mut Vec<Message>) -> Result<usize, Errno> {
        message::read(self.as_fd(), into)
    }
}

impl AsFd for UffdContext {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Opens a userfaultfd, by the call or, where that is not allowed, by the device.
fn open(kernel_faults: bool) -> Result<OwnedFd, UffdError> {
    let flags = if kernel_faults {
        0
    } else {
        abi::USER_MODE_ONLY
    };
    match ioctl::userfaultfd(flags) {
        Ok(fd) => Ok(fd),
        Err(Errno::ENOSYS) => Err(UffdError::Lacks { since: "5.14" }),
        Err(Errno::EPERM) if kernel_faults => {
            let device = OpenOptions::new().read(true).write(true).open(DEVICE);
            let device = device.map_err(|source| match source.kind() {
                io::ErrorKind::PermissionDenied | io::ErrorKind::NotFound => {
                    UffdError::NotPermitted
                }
                _ => UffdError::System {
                    call: "open /dev/userfaultfd",
                    source,
                },
            })?;
            ioctl::userfaultfd_of(device.as_fd()).map_err(UffdError::system("make a userfaultfd"))
        }
        Err(errno) => Err(UffdError::system("make a userfaultfd")(errno)),
    }
}

const DEVICE: &str = "/dev/userfaultfd";

#[cfg(test)]
mod tests;
