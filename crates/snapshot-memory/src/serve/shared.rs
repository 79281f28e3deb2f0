//! Pages of one snapshot in one memfd, for all its clones.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::uio::pwrite;
use snapshot_format::{PAGE_BYTES, PageRange};

use super::ServeError;
use super::state::{PageState, PageStates};
use crate::mapping::MappedMemory;
use crate::restore::{PageSource, SourceError};

/// Pages of one snapshot, read and checked once and kept in a memfd that every clone maps.
///
/// Each clone maps the memfd privately, so that what it writes is its own, and is served by a
/// [`PageServer`](super::PageServer) of its own, in this process or another. A page that one clone
/// has asked for is there for all; a page that nobody asked for takes no memory, and neither does
/// one that is zero.
pub struct SharedPages {
    source: Arc<dyn PageSource>,
    memfd: OwnedFd,
    states: PageStates,
    /// Pages that somebody is reading.
    claims: Mutex<Vec<PageRange>>,
    landed: Condvar,
}

impl SharedPages {
    /// No pages yet of `source`.
    pub fn new(source: Arc<dyn PageSource>) -> Result<Arc<Self>, ServeError> {
        let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
        let memfd = memfd_create(c"shared-pages", flags);
        let memfd = memfd.map_err(ServeError::system("make a memfd"))?;
        let len = i64::try_from(source.layout().len_bytes()).map_err(|_| Errno::EFBIG);
        len.and_then(|len| nix::unistd::ftruncate(&memfd, len))
            .and_then(|()| seal(&memfd, SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW))
            .map_err(ServeError::system("set the length of a memfd"))?;
        let page_count = source.layout().page_count();
        Ok(Arc::new(Self {
            source,
            memfd,
            states: PageStates::new(page_count),
            claims: Mutex::default(),
            landed: Condvar::new(),
        }))
    }

    /// Where the pages come from.
    #[must_use]
    pub fn source(&self) -> &dyn PageSource {
        &*self.source
    }

    /// The memfd, as long as the image, to be mapped privately by clones. Its pages are not all
    /// there until [`fill`](Self::fill) has said so.
    #[must_use]
    pub fn memfd(&self) -> BorrowedFd<'_> {
        self.memfd.as_fd()
    }

    /// A private mapping in this process.
    pub fn map(&self) -> io::Result<MappedMemory> {
        MappedMemory::private(self.source.layout().clone(), self.memfd())
    }

    /// Reads all pages that are not there and seals the memfd: from then on nobody can change it,
    /// and a private mapping of it needs no server.
    pub fn fill(&self) -> Result<(), ServeError> {
        let mut buffer = vec![0; FILL_BYTES];
        let end = self.source.layout().page_count();
        let mut at = 0;
        while at < end {
            let asked = PageRange::new(at, (end - at).min(FILL_BYTES as u64 / PAGE_BYTES));
            let failed = |pages| move |source| ServeError::source(pages, source);
            let run = self.source.run(asked).map_err(failed(asked))?;
            let pages = PageRange::new(at, run.count.clamp(1, asked.count));
            if !run.is_zero {
                let len = usize::try_from(pages.count * PAGE_BYTES).unwrap_or(FILL_BYTES);
                let (bytes, _) = buffer.split_at_mut(len.min(FILL_BYTES));
                self.bring(pages, bytes).map_err(failed(pages))?;
            }
            at = pages.end().0;
        }
        match seal(&self.memfd, SealFlag::F_SEAL_WRITE | SealFlag::F_SEAL_SEAL) {
            // It is sealed already.
            Err(Errno::EPERM) => Ok(()),
            other => other.map_err(ServeError::system("seal a memfd")),
        }
    }

    /// Has `pages` be in the memfd; `buffer` is as long.
    pub(super) fn bring(&self, pages: PageRange, buffer: &mut [u8]) -> Result<(), SourceError> {
        self.claim(pages);
        let result = self.bring_claimed(pages, buffer);
        self.land(pages);
        result
    }

    fn bring_claimed(&self, pages: PageRange, buffer: &mut [u8]) -> Result<(), SourceError> {
        let mut rest = pages;
        while !rest.is_empty() {
            let (state, count) = self.states.run(rest);
            let count = count.clamp(1, rest.count);
            let here = PageRange::new(rest.start.0, count);
            if state == PageState::Absent {
                let len = usize::try_from(count * PAGE_BYTES).unwrap_or(usize::MAX);
                let (bytes, _) = buffer.split_at_mut(len.min(buffer.len()));
                self.source.read_pages(here, bytes)?;
                self.write(here, bytes)?;
            }
            rest = PageRange::new(here.end().0, rest.count - count);
        }
        Ok(())
    }

    /// Has `pages`, which were read and checked before, be in the memfd as `bytes`.
    pub(super) fn store(&self, pages: PageRange, bytes: &[u8]) -> Result<(), SourceError> {
        self.claim(pages);
        let mut result = Ok(());
        let mut rest = pages;
        while !rest.is_empty() && result.is_ok() {
            let (state, count) = self.states.run(rest);
            let here = PageRange::new(rest.start.0, count.clamp(1, rest.count));
            if state == PageState::Absent {
                let at = |page: u64| usize::try_from((page - pages.start.0) * PAGE_BYTES);
                let range = at(here.start.0).unwrap_or(usize::MAX)..at(here.end().0).unwrap_or(0);
                result = self.write(here, bytes.get(range).unwrap_or_default());
            }
            rest = PageRange::new(here.end().0, rest.count - here.count);
        }
        self.land(pages);
        result
    }

    fn write(&self, pages: PageRange, mut bytes: &[u8]) -> Result<(), SourceError> {
        let mut offset = pages.start.image_offset().unwrap_or(u64::MAX);
        while !bytes.is_empty() {
            let written = i64::try_from(offset)
                .map_err(|_| Errno::EFBIG)
                .and_then(|offset| pwrite(&self.memfd, bytes, offset));
            match written {
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(SourceError::Other(Box::new(io::Error::from(errno)))),
                Ok(written) => {
                    offset += written as u64;
                    bytes = bytes.get(written..).unwrap_or_default();
                }
            }
        }
        self.states.fill(pages);
        Ok(())
    }

    /// Waits until nobody reads any of `pages`, and does so then.
    fn claim(&self, pages: PageRange) {
        let overlaps = |other: &PageRange| other.start < pages.end() && pages.start < other.end();
        let is_taken = |claims: &mut Vec<PageRange>| claims.iter().any(overlaps);
        let claims = self.landed.wait_while(self.lock(), is_taken);
        claims.unwrap_or_else(PoisonError::into_inner).push(pages);
    }

    fn land(&self, pages: PageRange) {
        self.lock().retain(|claim| *claim != pages);
        self.landed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, Vec<PageRange>> {
        self.claims.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn seal(memfd: &OwnedFd, seals: SealFlag) -> Result<(), Errno> {
    fcntl(memfd, FcntlArg::F_ADD_SEALS(seals)).map(drop)
}

impl fmt::Debug for SharedPages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedPages")
            .field("memfd", &self.memfd)
            .finish_non_exhaustive()
    }
}

/// Bytes that are read at a time to fill everything.
const FILL_BYTES: usize = 1 << 20;

#[cfg(test)]
mod tests;
