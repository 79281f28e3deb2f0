//! The memory of a guest, and whoever brings it.

use std::sync::Arc;

use hypervisor_bridge::{CopiedMemory, MemoryRestore, PageReader, StepError};
use snapshot_format::{MemoryLayout, PageRange};
use snapshot_memory::{
    CheckedBy, DirtyError, DirtySource, Faults, GuestMemorySource, HostRun, MappedMemory,
    MappingOptions, MemoryError, MemoryFailure, MemoryReport, RestoreMethod, Verification,
};
use snapshot_memory::{LazyMemory, WpAsyncSource};

use crate::config::GuestConfig;
use crate::error::GuestError;
use crate::served::ServedPages;
use crate::start::ImagePages;

/// Who notices writes to memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Tracking {
    /// The hypervisor.
    #[cfg_attr(
        not(all(target_os = "linux", target_arch = "x86_64")),
        expect(dead_code, reason = "there is none")
    )]
    Hypervisor,
    /// The userfaultfd that serves it, or one of its own.
    Userfaultfd,
}

/// The memory of a guest: all there, or brought when it is touched.
#[derive(Clone, Debug)]
pub(crate) enum GuestMemory {
    /// Nobody brings anything.
    Mapped(Arc<MappedMemory>),
    /// A server does; it lives as long as the memory.
    Served(Arc<LazyMemory>),
}

impl GuestMemory {
    /// Fresh memory.
    pub(crate) fn fresh(config: &GuestConfig) -> Result<Self, GuestError> {
        let memory = MappedMemory::new(config.layout()?, MappingOptions::default());
        let memory = memory.map_err(|source| GuestError::System {
            call: "map guest memory",
            source,
        })?;
        Ok(Self::Mapped(Arc::new(memory)))
    }

    /// Memory whose pages are brought when they are touched.
    fn served(
        config: &GuestConfig,
        pages: ServedPages,
        tracking: Tracking,
    ) -> Result<Self, GuestError> {
        if *pages.source().layout() != config.layout()? {
            let len_bytes = pages.source().layout().len_bytes();
            return Err(GuestError::ForeignMemory { len_bytes });
        }
        let tracks = tracking == Tracking::Userfaultfd;
        Ok(Self::Served(Arc::new(pages.serve(tracks)?)))
    }

    /// The mapping.
    pub(crate) fn mapped(&self) -> &MappedMemory {
        match self {
            Self::Mapped(memory) => memory,
            Self::Served(memory) => memory.memory(),
        }
    }

    /// How it is brought where nothing is read before the guest runs.
    fn report(&self) -> MemoryReport {
        let faults = match self {
            Self::Served(memory) if memory.server().shares_pages() => Faults::Minor,
            Self::Served(_) | Self::Mapped(_) => Faults::Missing,
        };
        let method = RestoreMethod::Served {
            faults,
            splits_huge_pages: false,
        };
        MemoryReport::new(method, Verification::OnFault, CheckedBy::Digests)
    }

    /// What was lost of it, if anything was since the last time.
    pub(crate) fn take_failure(&self) -> Option<MemoryFailure> {
        match self {
            Self::Mapped(_) => None,
            Self::Served(memory) => memory.events().take().into_iter().next(),
        }
    }

    /// Lets whoever waits for a page go on without it: the guest never runs again.
    pub(crate) fn abandon(&self) {
        match self {
            Self::Mapped(_) => {}
            Self::Served(memory) => memory.server().abandon(),
        }
    }

    /// What names the pages that this process writes.
    pub(crate) fn watch_writes(&self) -> Result<WpAsyncSource, DirtyError> {
        let memory: Arc<dyn GuestMemorySource> = match self {
            Self::Mapped(memory) => memory.clone(),
            // A second userfaultfd would be refused.
            Self::Served(memory) => {
                return WpAsyncSource::on(memory.server().context(), memory.clone());
            }
        };
        WpAsyncSource::new(memory)
    }

    /// What names the pages that were given back to the host, where it is not the VMM itself.
    pub(crate) fn discards(&self) -> Option<Box<dyn DirtySource>> {
        match self {
            Self::Mapped(_) => None,
            Self::Served(memory) => Some(Box::new(memory.server().discards())),
        }
    }
}

impl<'i, 'r> ImagePages<'i, 'r> {
    /// Memory for these pages, and what is to be read into it before its guest runs.
    pub(crate) fn into_memory(
        self,
        config: &GuestConfig,
        tracking: Tracking,
    ) -> Result<(GuestMemory, Option<&'i mut PageReader<'r>>), GuestError> {
        match self {
            Self::Copied(reader) => Ok((GuestMemory::fresh(config)?, Some(reader))),
            Self::Served(pages) => Ok((GuestMemory::served(config, pages, tracking)?, None)),
        }
    }
}

impl GuestMemorySource for GuestMemory {
    fn layout(&self) -> &MemoryLayout {
        self.mapped().layout()
    }

    fn read_pages(&self, pages: PageRange, out: &mut [u8]) -> Result<(), MemoryError> {
        self.mapped().read_pages(pages, out)
    }

    fn host_run(&self, pages: PageRange) -> Option<HostRun<'_>> {
        self.mapped().host_run(pages)
    }
}

/// Puts memory in place before the vCPUs: reads all of it, or nothing where it is served.
pub(crate) struct Brought<'m, 'i, 'r> {
    pub(crate) memory: &'m GuestMemory,
    pub(crate) reader: Option<&'i mut PageReader<'r>>,
}

impl MemoryRestore for Brought<'_, '_, '_> {
    fn restore(&mut self) -> Result<MemoryReport, StepError> {
        let memory = self.memory.mapped();
        let Some(read) = &mut self.reader else {
            return Ok(self.memory.report());
        };
        CopiedMemory { memory, read }.restore()
    }
}
