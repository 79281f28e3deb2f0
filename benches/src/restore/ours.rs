//! Memory brought back by this project, from the store on.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use snapshot_format::{PAGE_BYTES, SnapshotId};
use snapshot_memory::backend::FsBackend;
use snapshot_memory::{
    GuestMemorySource, KernelFacts, LazyMemory, LazyOptions, MappedMemory, MappingOptions,
    MemoryFacts, MemoryImage, MethodKind, PageServer, RawImage, RawImageFacts, ReplayOptions,
    RestoreCosts, RestoreFrom, RestorePlan, RestoredMemory, ServeOptions, SharedPages, TargetFacts,
    TargetKind, Verification, Wanted, WorkingSet,
};
use snapshot_store::{CachedImage, Lease, OpenOptions, Store};

use super::touch::GuestWords;
use crate::clones::GuestBytes;
use crate::error::BenchError;
use crate::kvm::HostMemory;

/// Which of our ways, and when pages are checked.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) enum Recipe {
    /// Pages are read and checked when they are touched.
    Served,
    /// The same, once all pages of the recorded working set are there.
    WorkingSet,
    /// Files are mapped, and nothing is checked.
    Mapped,
    /// The raw image in the cache of the store is mapped, and nothing is checked.
    Cached,
    /// Files are mapped, and checked while the guest runs.
    Background,
    /// All is read and checked before the guest runs.
    Eager,
}

/// What the kernel can do, without which the suite is of no use.
const KERNEL: KernelFacts = KernelFacts {
    page_bytes: PAGE_BYTES,
    missing: true,
    missing_memfd: true,
    minor_memfd: true,
};

/// Threads that check and place a working set.
const REPLAY_THREADS: usize = 2;

/// Memory of a snapshot, and what it needs while it is used.
#[derive(Debug)]
pub(crate) struct Ours {
    // Dropped in this order: the lease goes last.
    memory: Memory,
    _lease: Option<Lease>,
}

#[derive(Debug)]
enum Memory {
    Restored(Box<RestoredMemory>),
    /// A clone of several that share pages.
    Shared(Box<LazyMemory>),
}

/// What the clones of one process have in common.
#[derive(Debug)]
pub(crate) struct Shared {
    recipe: Recipe,
    image: Arc<MemoryImage>,
    pages: Option<Arc<SharedPages>>,
    _lease: Lease,
}

impl Recipe {
    /// When pages are checked.
    pub(crate) fn verification(self) -> Verification {
        match self {
            Self::Served | Self::WorkingSet => Verification::OnFault,
            Self::Mapped | Self::Cached => Verification::Trusted,
            Self::Background => Verification::Background,
            Self::Eager => Verification::Eager,
        }
    }

    /// How pages come to be there.
    pub(crate) fn method(self) -> MethodKind {
        match self {
            Self::Served | Self::WorkingSet => MethodKind::Served,
            Self::Mapped | Self::Cached | Self::Background => MethodKind::Mapped,
            Self::Eager => MethodKind::Eager,
        }
    }

    /// Puts the memory of `image` in place, as is planned for it and for the raw image of it.
    fn put(
        self,
        image: &Arc<MemoryImage>,
        cached: Option<CachedImage>,
    ) -> Result<RestoredMemory, BenchError> {
        let wanted = Wanted::default()
            .verification(self.verification())
            .method(self.method());
        let mut from = RestoreFrom::new(Arc::clone(image));
        let facts = if let Some(cached) = cached {
            let name = cached.path().as_str().to_owned();
            let raw = RawImageFacts::of(cached.file());
            let raw = raw.map_err(BenchError::at("look at", Path::new(&name)))?;
            let file = Arc::from(cached.into_file());
            from.raw = Some(RawImage { file, name });
            MemoryFacts::of_cached(image, wanted, raw)?
        } else {
            MemoryFacts::of(image, wanted)?
        };
        let target = TargetFacts::new(TargetKind::Anonymous, KERNEL).threads(2);
        let plan = RestorePlan::choose(&facts, &target, wanted, &RestoreCosts::default())?;
        let memory = MappedMemory::new(image.layout().clone(), MappingOptions::default());
        let memory = Arc::new(memory.map_err(BenchError::at("map", Path::new("guest memory")))?);
        from.serve = serving();
        Ok(plan.run(&memory, &from)?)
    }
}

/// One thread, as one guest of many on a host has; nothing in the background, nothing traced.
fn serving() -> ServeOptions {
    ServeOptions::new(1).trace_runs(0)
}

impl Ours {
    /// Opens the store in `dir` and brings the memory of `id` back.
    pub(crate) fn restore(dir: &Path, id: SnapshotId, recipe: Recipe) -> Result<Self, BenchError> {
        let store = open(dir)?;
        let (image, lease) = store.image(id)?.into_parts();
        let cached = match recipe {
            Recipe::Cached => store.cached_image(id)?,
            _ => None,
        };
        let restored = recipe.put(&Arc::new(image), cached)?;
        if let (Recipe::WorkingSet, Some(server)) = (recipe, restored.server()) {
            replay(&store, id, &restored, server)?;
        }
        Ok(Self {
            memory: Memory::Restored(Box::new(restored)),
            _lease: Some(lease),
        })
    }

    fn mapped(&self) -> &MappedMemory {
        match &self.memory {
            Memory::Restored(restored) => restored.memory(),
            Memory::Shared(lazy) => lazy.memory(),
        }
    }
}

/// Brings all pages of the working set of `id`.
fn replay(
    store: &Store,
    id: SnapshotId,
    restored: &RestoredMemory,
    server: &PageServer,
) -> Result<(), BenchError> {
    let stored = store.working_set(id)?.ok_or(BenchError::NoWorkingSet)?;
    let reference = store.snapshot(id)?.reference();
    let (file, _lease) = stored.into_parts();
    let mut set = WorkingSet::from_file(file, reference, restored.memory().layout())?;
    set.replay(server, &ReplayOptions::new(REPLAY_THREADS))?;
    Ok(())
}

impl Shared {
    /// Opens the store in `dir` for clones of `id`.
    pub(crate) fn new(dir: &Path, id: SnapshotId, recipe: Recipe) -> Result<Self, BenchError> {
        let (image, lease) = open(dir)?.image(id)?.into_parts();
        let image = Arc::new(image);
        let pages = match recipe {
            Recipe::Served | Recipe::WorkingSet => {
                let source = Arc::clone(&image);
                Some(SharedPages::new(source)?)
            }
            Recipe::Mapped | Recipe::Cached | Recipe::Background | Recipe::Eager => None,
        };
        Ok(Self {
            recipe,
            image,
            pages,
            _lease: lease,
        })
    }

    /// One of the clones.
    pub(crate) fn clone_of(&self) -> Result<Ours, BenchError> {
        let memory = match &self.pages {
            Some(pages) => {
                let lazy = LazyMemory::share(Arc::clone(pages), LazyOptions::new(serving()))?;
                Memory::Shared(Box::new(lazy))
            }
            None => Memory::Restored(Box::new(self.recipe.put(&self.image, None)?)),
        };
        Ok(Ours {
            memory,
            _lease: None,
        })
    }
}

/// Opens a store to restore from it: what crashed writers left is none of a restore's business.
pub(super) fn open(dir: &Path) -> Result<Store, BenchError> {
    let backend = FsBackend::open(dir).map_err(BenchError::at("open", dir))?;
    Ok(Store::open(
        Arc::new(backend),
        &OpenOptions::default().clean_up(false),
    )?)
}

impl GuestWords for Ours {
    fn word(&self, offset: u64) -> Result<u64, BenchError> {
        let mut word = [0; 8];
        self.mapped()
            .read(offset, &mut word)
            .map_err(|_| BenchError::Outside { offset })?;
        Ok(u64::from_le_bytes(word))
    }

    fn counts(&self) -> BTreeMap<String, u64> {
        let server = match &self.memory {
            Memory::Restored(restored) => restored.server(),
            Memory::Shared(lazy) => Some(lazy.server()),
        };
        let Some(stats) = server.map(PageServer::stats) else {
            return BTreeMap::new();
        };
        BTreeMap::from([
            ("faults".to_owned(), stats.faults),
            ("bytes_read".to_owned(), stats.bytes_read),
        ])
    }
}

impl GuestBytes for Ours {
    fn host(&mut self) -> HostMemory {
        let memory = self.mapped();
        HostMemory {
            address: memory.base().as_ptr().expose_provenance() as u64,
            len_bytes: memory.len_bytes() as u64,
        }
    }
}
