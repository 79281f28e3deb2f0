//! Dirty pages of this process's own memory: asynchronous write protection and page-map scans.

use std::fmt;
use std::fs::File;
use std::io;
use std::num::NonZeroUsize;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use snapshot_format::{MemoryLayout, PAGE_BYTES};

use self::crew::ScanCrew;
use super::abi::{self, PageRegion};
use super::context::UffdContext;
use super::ioctl::{self, WrittenScan};
use super::served_range::ServedRange;
use crate::dirty::{BlindSpot, BlindSpots, DirtyBitmap, DirtyGuarantee, DirtySource};
use crate::error::DirtyError;
use crate::source::GuestMemorySource;

/// Names the pages that this process, its vCPUs and the kernel on its behalf wrote, by userfaultfd
/// in the mode WP_ASYNC and the ioctl PAGEMAP_SCAN (Linux 6.7 or later).
///
/// The first write to a page costs about 1 µs; a harvest of clean memory about 0.3 ms a GiB.
///
/// # What it does not see
///
/// - Writes of another process that maps the same memory (vhost-user).
/// - Writers that pinned pages before the harvest (VFIO, buffers registered with io_uring).
/// - Pages given back by `madvise(MADV_DONTNEED)` or a hole punched in a memfd: they become zero
///   without a write. A VMM that discards pages marks them with
///   [`VmmWrites`](crate::dirty::VmmWrites).
///
/// Source: `Documentation/admin-guide/mm/pagemap.rst`, section on PAGEMAP_SCAN.
pub struct WpAsyncSource {
    memory: Arc<dyn GuestMemorySource>,
    segments: Vec<ServedRange>,
    pagemap: Arc<File>,
    watch: Watch,
    found: Box<[PageRegion]>,
    handle: WpAsyncMemory,
    /// Threads that wait for a peek, if there are any.
    crew: Option<ScanCrew>,
}

/// How the memory comes to be watched.
#[derive(Debug)]
enum Watch {
    /// By a userfaultfd of the source's own, while it is started.
    Own(Option<OwnedFd>),
    /// By the one that serves the memory and protects each page as it puts it there.
    Shared { is_started: bool },
}

impl Watch {
    fn is_started(&self) -> bool {
        match self {
            Self::Own(uffd) => uffd.is_some(),
            Self::Shared { is_started, .. } => *is_started,
        }
    }
}

impl WpAsyncSource {
    /// A source for all of `memory`, which it keeps alive.
    ///
    /// Fails with [`DirtyError::Unsupported`] where the kernel lacks WP_ASYNC or where the memory
    /// is not mapped in this process.
    pub fn new(memory: Arc<dyn GuestMemorySource>) -> Result<Self, DirtyError> {
        // Tells at once, and not at the start of the first snapshot, what the kernel lacks.
        open_uffd()?;
        Self::watching(memory, Watch::Own(None))
    }

    /// A source for `memory`, whose pages are served by way of `context`, which
    /// [tracks](crate::UffdOptions::tracks).
    ///
    /// The memory is registered with the context already, its writes too. A page is protected from
    /// the moment it is put there, so that starting costs nothing, whatever the size of the memory:
    /// pages that were written before are named by the first harvest. Pages that were given back
    /// and read as zero are named when they are touched again; until then
    /// [`PageServer::discards`](crate::PageServer::discards) names them.
    pub fn on(
        context: &UffdContext,
        memory: Arc<dyn GuestMemorySource>,
    ) -> Result<Self, DirtyError> {
        if !context.is_tracking() {
            let missing = "the userfaultfd that serves the memory was not made to track its writes";
            return Err(DirtyError::Unsupported {
                name: NAME,
                missing,
            });
        }
        Self::watching(memory, Watch::Shared { is_started: false })
    }

    fn watching(memory: Arc<dyn GuestMemorySource>, watch: Watch) -> Result<Self, DirtyError> {
        let segments = segments_of(&*memory)?;
        let pagemap =
            File::open("/proc/self/pagemap").map_err(system("open /proc/self/pagemap"))?;
        let found = vec![PageRegion::default(); REGIONS_A_SCAN].into_boxed_slice();
        Ok(Self {
            memory,
            segments,
            pagemap: Arc::new(pagemap),
            watch,
            found,
            handle: WpAsyncMemory::new(),
            crew: None,
        })
    }

    /// What tells this source of memory that is plugged or unplugged.
    #[must_use]
    pub fn handle(&self) -> WpAsyncMemory {
        self.handle.clone()
    }

    /// How pages are found; a harvest protects them again.
    fn scan_for(&self, protects: bool) -> WrittenScan {
        WrittenScan {
            protects,
            is_served: matches!(self.watch, Watch::Shared { .. }),
        }
    }

    /// Scans all memory, one segment after the other.
    fn scan_all(&mut self, scan_for: WrittenScan, into: &DirtyBitmap) -> Result<(), DirtyError> {
        let (pagemap, found) = (&self.pagemap, &mut self.found);
        self.segments.iter().try_for_each(|segment| {
            let addresses = &segment.addresses;
            scan_range(pagemap, addresses, scan_for, found, &mut |region| {
                into.set_range(segment.pages_at(&(region.start..region.end)));
            })
        })
    }

    fn check_started(&self) -> Result<(), DirtyError> {
        if self.watch.is_started() {
            return Ok(());
        }
        Err(DirtyError::System {
            name: NAME,
            call: "harvest",
            source: io::Error::other("not started"),
        })
    }
}

impl DirtySource for WpAsyncSource {
    fn name(&self) -> &'static str {
        NAME
    }

    fn guarantee(&self) -> DirtyGuarantee {
        // Huge pages are reported whole.
        DirtyGuarantee::Superset
    }

    fn blind_spots(&self) -> BlindSpots {
        // vhost threads write as this process does, and fault as it does.
        let seen = [BlindSpot::Vcpus, BlindSpot::Vmm, BlindSpot::VhostKernel];
        BlindSpots::all_but(&seen)
    }

    fn layout(&self) -> &MemoryLayout {
        self.memory.layout()
    }

    fn granule_bytes(&self) -> u64 {
        PAGE_BYTES
    }

    fn start(&mut self) -> Result<(), DirtyError> {
        match &mut self.watch {
            Watch::Own(own) => {
                let uffd = open_uffd()?;
                for segment in &self.segments {
                    register(uffd.as_fd(), &segment.addresses)?;
                }
                *own = Some(uffd);
            }
            Watch::Shared { is_started, .. } => *is_started = true,
        }
        Ok(())
    }

    fn harvest(&mut self, into: &DirtyBitmap) -> Result<(), DirtyError> {
        self.check_started()?;
        if let Some(crew) = &mut self.crew {
            crew.refill();
        }
        self.scan_all(self.scan_for(true), into)
    }

    /// Protects nothing: a scan that does takes several times as long.
    fn peek(&mut self, into: &DirtyBitmap) -> Result<(), DirtyError> {
        self.check_started()?;
        match &mut self.crew {
            Some(crew) => crew.scan(&self.segments, &mut self.found, into),
            None => self.scan_all(self.scan_for(false), into),
        }
    }

    fn make_ready(&mut self, threads: NonZeroUsize) -> Result<(), DirtyError> {
        let scan_for = self.scan_for(false);
        self.crew = ScanCrew::start(&self.pagemap, &self.segments, scan_for, threads);
        Ok(())
    }

    fn rouse(&mut self) {
        if let Some(crew) = &self.crew {
            crew.rouse();
        }
    }

    fn rest(&mut self) {
        self.crew = None;
    }

    fn stop(&mut self) -> Result<(), DirtyError> {
        let uffd = match &mut self.watch {
            Watch::Own(uffd) => uffd.take(),
            Watch::Shared { is_started, .. } => {
                *is_started = false;
                None
            }
        };
        let Some(uffd) = uffd else {
            return Ok(());
        };
        self.segments.iter().try_for_each(|segment| {
            ioctl::unregister(uffd.as_fd(), &segment.addresses)
                .map_err(system("unregister the memory from userfaultfd"))
        })
    }

    fn change_layout(
        &mut self,
        layout: &MemoryLayout,
        changed: &DirtyBitmap,
    ) -> Result<(), DirtyError> {
        self.follow(layout, changed)
    }
}

impl fmt::Debug for WpAsyncSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WpAsyncSource")
            .field("segments", &self.segments)
            .field("watch", &self.watch)
            .finish_non_exhaustive()
    }
}

/// Scans `addresses` in as many calls as it takes, and gives each run that is found to `each`.
fn scan_range(
    pagemap: &File,
    addresses: &Range<u64>,
    scan_for: WrittenScan,
    found: &mut [PageRegion],
    each: &mut dyn FnMut(&PageRegion),
) -> Result<(), DirtyError> {
    let mut rest = addresses.clone();
    while rest.start < rest.end {
        let (count, walked_to) = match ioctl::find_written(pagemap, &rest, scan_for, found) {
            // A signal; the pages walked so far were reported or left as they were.
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            other => other.map_err(system("scan the page map"))?,
        };
        found.iter().take(count).for_each(&mut *each);
        if walked_to <= rest.start {
            return Err(DirtyError::System {
                name: NAME,
                call: "scan the page map",
                source: io::Error::other("the scan made no progress"),
            });
        }
        rest.start = walked_to;
    }
    Ok(())
}

/// Has the writes to `addresses` watched from now on.
fn register(uffd: BorrowedFd<'_>, addresses: &Range<u64>) -> Result<(), DirtyError> {
    ioctl::register_writes(uffd, addresses).map_err(|source| {
        if source.raw_os_error() == Some(libc::EBUSY) {
            let missing = "the memory has a userfaultfd already: share that one";
            return DirtyError::Unsupported {
                name: NAME,
                missing,
            };
        }
        system("register the memory with userfaultfd")(source)
    })?;
    ioctl::write_protect(uffd, addresses).map_err(system("write-protect the memory"))
}

fn open_uffd() -> Result<OwnedFd, DirtyError> {
    let features = abi::FEATURE_WP_ASYNC | abi::FEATURE_WP_UNPOPULATED | abi::FEATURE_WP_SHMEM;
    let missing = "Linux 6.7 with userfaultfd WP_ASYNC is needed; use the hypervisor's dirty log";
    match ioctl::open(features) {
        Ok(Some(uffd)) => Ok(uffd),
        Ok(None) => Err(DirtyError::Unsupported {
            name: NAME,
            missing,
        }),
        Err(source) if source.raw_os_error() == Some(libc::ENOSYS) => {
            Err(DirtyError::Unsupported {
                name: NAME,
                missing,
            })
        }
        Err(source) => Err(DirtyError::System {
            name: NAME,
            call: "open a userfaultfd",
            source,
        }),
    }
}

fn segments_of(memory: &dyn GuestMemorySource) -> Result<Vec<ServedRange>, DirtyError> {
    let missing = "the memory is not mapped in this process; use the hypervisor's dirty log";
    ServedRange::of(memory).ok_or(DirtyError::Unsupported {
        name: NAME,
        missing,
    })
}

fn system(call: &'static str) -> impl FnOnce(io::Error) -> DirtyError {
    move |source| DirtyError::System {
        name: NAME,
        call,
        source,
    }
}

const NAME: &str = "wp-async";

/// Runs that one scan reports at most: 24 KiB of kernel output.
const REGIONS_A_SCAN: usize = 1024;

mod change;
mod crew;
#[cfg(test)]
mod tests;

pub use change::WpAsyncMemory;
