//! Guest memory that is there at once and filled when it is touched.

use std::sync::Arc;

use snapshot_format::{MemoryLayout, PageRange};

use super::options::ServeOptions;
use super::server::PageServer;
use super::shared::SharedPages;
use super::{ServeError, ServedDiscards};
use crate::error::{DirtyError, MemoryError};
use crate::mapping::{MappedMemory, MappingKind, MappingOptions};
use crate::restore::{MemoryEvents, PageSource};
use crate::source::{GuestMemorySource, HostRun};
use crate::uffd::{UffdContext, UffdOptions, WpAsyncSource};

/// Guest memory in this process that is served from a snapshot: its mapping, its userfaultfd and
/// its server in one.
///
/// Whoever holds the memory holds the server: share it by an `Arc`. It is unmapped before the server
/// ends, so that no page can be seen that was not served.
#[derive(Debug)]
pub struct LazyMemory {
    // Dropped in this order.
    memory: MappedMemory,
    server: PageServer,
}

/// How [`LazyMemory`] is made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LazyOptions {
    serve: ServeOptions,
    mapping: MappingOptions,
    uffd: UffdOptions,
}

impl LazyOptions {
    /// Served as `serve` says, in anonymous memory, writes not tracked.
    #[must_use]
    pub fn new(serve: ServeOptions) -> Self {
        Self {
            serve,
            mapping: MappingOptions::default(),
            uffd: UffdOptions::default(),
        }
    }

    /// The same, in memory of another kind. Of no effect on clones, which map shared pages.
    #[must_use]
    pub fn mapping(self, mapping: MappingOptions) -> Self {
        Self { mapping, ..self }
    }

    /// The same, with another userfaultfd.
    #[must_use]
    pub fn uffd(self, uffd: UffdOptions) -> Self {
        Self { uffd, ..self }
    }

    /// The same, whether writes are tracked by the same userfaultfd: [`LazyMemory::track`].
    #[must_use]
    pub fn tracks(self, tracks: bool) -> Self {
        let uffd = self.uffd.tracks(tracks);
        Self { uffd, ..self }
    }
}

impl LazyMemory {
    /// The memory of `source`: mapped at once, each page read when somebody touches it.
    ///
    /// A memfd that is tracked is refused.
    pub fn restore(source: Arc<dyn PageSource>, options: LazyOptions) -> Result<Self, ServeError> {
        if options.uffd.is_tracking() && options.mapping.kind == MappingKind::Memfd {
            // The kernel forgets where pages of files are whenever it likes, and then that they were
            // written.
            let what = "writes to a memfd cannot be tracked while its pages are served: use \
                        anonymous memory, or the dirty log of the hypervisor";
            return Err(ServeError::Unsupported { what });
        }
        let memory = MappedMemory::new(source.layout().clone(), options.mapping);
        let memory = memory.map_err(ServeError::system("map guest memory"))?;
        let (context, ranges) = UffdContext::serving(&memory, options.uffd, false)?;
        let server = PageServer::start(context, ranges, source, options.serve)?;
        Ok(Self { memory, server })
    }

    /// A clone: as [`restore`](Self::restore), sharing with all others of `pages` what none of them
    /// has written.
    pub fn share(pages: Arc<SharedPages>, options: LazyOptions) -> Result<Self, ServeError> {
        let memory = pages.map();
        let memory = memory.map_err(ServeError::system("map guest memory"))?;
        let (context, ranges) = UffdContext::serving(&memory, options.uffd, true)?;
        let server = PageServer::start_shared(context, ranges, pages, options.serve)?;
        Ok(Self { memory, server })
    }

    /// The mapping. What reads it, or hands it to a hypervisor, waits for pages.
    #[must_use]
    pub fn memory(&self) -> &MappedMemory {
        &self.memory
    }

    /// The server.
    #[must_use]
    pub fn server(&self) -> &PageServer {
        &self.server
    }

    /// The server, to finish or to stop it.
    pub fn server_mut(&mut self) -> &mut PageServer {
        &mut self.server
    }

    /// What was lost of the memory.
    #[must_use]
    pub fn events(&self) -> &MemoryEvents {
        self.server.events()
    }

    /// Sources of dirty pages: of those that are written, and of those that are given back. The
    /// memory was made to [track](LazyOptions::tracks).
    pub fn track(this: &Arc<Self>) -> Result<(WpAsyncSource, ServedDiscards), DirtyError> {
        let memory: Arc<dyn GuestMemorySource> = Arc::clone(this) as _;
        let writes = WpAsyncSource::on(this.server.context(), memory)?;
        Ok((writes, this.server.discards()))
    }
}

impl GuestMemorySource for LazyMemory {
    fn layout(&self) -> &MemoryLayout {
        self.memory.layout()
    }

    fn read_pages(&self, pages: PageRange, out: &mut [u8]) -> Result<(), MemoryError> {
        self.memory.read_pages(pages, out)
    }

    fn host_run(&self, pages: PageRange) -> Option<HostRun<'_>> {
        self.memory.host_run(pages)
    }
}

#[cfg(test)]
mod tests;
