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
use crate::planned::{GuestPages, PlannedRestore};
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
    /// Whoever the plan says, if anybody.
    Planned(Arc<GuestPages>),
}

/// What puts pages in place when the restore is at memory.
pub(crate) enum Bringer<'i, 'r> {
    /// All are read.
    Reader(&'i mut PageReader<'r>),
    /// They are served already.
    Server,
    /// A plan is followed.
    Plan(Box<PlannedRestore>),
}

impl GuestMemory {
    /// Fresh memory.
    pub(crate) fn fresh(config: &GuestConfig) -> Result<Self, GuestError> {
        Ok(Self::Mapped(Arc::new(map(config)?)))
    }

    /// Memory whose pages are brought when they are touched.
    fn served(
        config: &GuestConfig,
        pages: ServedPages,
        tracking: Tracking,
    ) -> Result<Self, GuestError> {
        check_layout(pages.source().layout(), config)?;
        let tracks = tracking == Tracking::Userfaultfd;
        Ok(Self::Served(Arc::new(pages.serve(tracks)?)))
    }

    /// The mapping.
    pub(crate) fn mapped(&self) -> &MappedMemory {
        match self {
            Self::Mapped(memory) => memory,
            Self::Served(memory) => memory.memory(),
            Self::Planned(memory) => memory.mapped(),
        }
    }

    /// The memory that a plan restored, if one did.
    pub(crate) fn planned(&self) -> Option<&Arc<GuestPages>> {
        match self {
            Self::Mapped(_) | Self::Served(_) => None,
            Self::Planned(memory) => Some(memory),
        }
    }

    /// Gives pages back to the host: they are zero from now on.
    pub(crate) fn discard(&self, pages: PageRange) -> Result<(), MemoryError> {
        match self.planned().and_then(|pages| pages.restored()) {
            Some(restored) => restored.discard(pages),
            None => self.mapped().discard(pages),
        }
    }

    /// How it is brought where nothing is read before the guest runs.
    fn report(&self) -> MemoryReport {
        let faults = match self {
            Self::Served(memory) if memory.server().shares_pages() => Faults::Minor,
            _ => Faults::Missing,
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
            Self::Planned(memory) => {
                let events = memory.restored()?.events()?;
                events.take().into_iter().next()
            }
        }
    }

    /// Lets whoever waits for a page go on without it: the guest never runs again.
    pub(crate) fn abandon(&self) {
        match self {
            Self::Mapped(_) => {}
            Self::Served(memory) => memory.server().abandon(),
            Self::Planned(memory) => {
                if let Some(restored) = memory.restored() {
                    restored.abandon();
                }
            }
        }
    }

    /// What names the pages that this process writes.
    pub(crate) fn watch_writes(&self) -> Result<WpAsyncSource, DirtyError> {
        let (memory, server): (Arc<dyn GuestMemorySource>, _) = match self {
            Self::Mapped(memory) => (memory.clone(), None),
            Self::Served(memory) => (memory.clone(), Some(memory.server())),
            Self::Planned(memory) => (memory.clone(), memory.server()),
        };
        match server {
            // A second userfaultfd would be refused.
            Some(server) => WpAsyncSource::on(server.context(), memory),
            None => WpAsyncSource::new(memory),
        }
    }

    /// What names the pages that were given back to the host, where it is not the VMM itself.
    pub(crate) fn discards(&self) -> Option<Box<dyn DirtySource>> {
        let server = match self {
            Self::Mapped(_) => None,
            Self::Served(memory) => Some(memory.server()),
            Self::Planned(memory) => memory.server(),
        }?;
        Some(Box::new(server.discards()))
    }
}

fn map(config: &GuestConfig) -> Result<MappedMemory, GuestError> {
    let memory = MappedMemory::new(config.layout()?, MappingOptions::default());
    memory.map_err(|source| GuestError::System {
        call: "map guest memory",
        source,
    })
}

/// Refuses the memory of another machine.
fn check_layout(found: &MemoryLayout, config: &GuestConfig) -> Result<(), GuestError> {
    if *found == config.layout()? {
        return Ok(());
    }
    let len_bytes = found.len_bytes();
    Err(GuestError::ForeignMemory { len_bytes })
}

impl<'i, 'r> ImagePages<'i, 'r> {
    /// Memory for these pages, and what puts them there before its guest runs.
    pub(crate) fn into_memory(
        self,
        config: &GuestConfig,
        tracking: Tracking,
    ) -> Result<(GuestMemory, Bringer<'i, 'r>), GuestError> {
        match self {
            Self::Copied(reader) => Ok((GuestMemory::fresh(config)?, Bringer::Reader(reader))),
            Self::Served(pages) => {
                let memory = GuestMemory::served(config, pages, tracking)?;
                Ok((memory, Bringer::Server))
            }
            Self::Planned(pages) => {
                check_layout(pages.layout(), config)?;
                let pages = pages.tracks(tracking == Tracking::Userfaultfd);
                let (memory, restore) = pages.into_memory(map(config)?);
                Ok((
                    GuestMemory::Planned(memory),
                    Bringer::Plan(Box::new(restore)),
                ))
            }
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

/// Puts memory in place before the vCPUs.
pub(crate) struct Brought<'m, 'i, 'r> {
    pub(crate) memory: &'m GuestMemory,
    pub(crate) bringer: Bringer<'i, 'r>,
}

impl MemoryRestore for Brought<'_, '_, '_> {
    fn restore(&mut self) -> Result<MemoryReport, StepError> {
        match &mut self.bringer {
            Bringer::Reader(read) => {
                let memory = self.memory.mapped();
                CopiedMemory { memory, read }.restore()
            }
            Bringer::Server => Ok(self.memory.report()),
            Bringer::Plan(restore) => restore.restore(),
        }
    }
}
