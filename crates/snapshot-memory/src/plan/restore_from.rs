//! What a plan works on.

use std::sync::Arc;

use super::check::RawImage;
use super::sealed::SealedMemory;
use crate::bus_guard::BusGuard;
use crate::capture::Cancel;
use crate::image::MemoryImage;
use crate::serve::{ServeOptions, SharedPages};
use crate::uffd::UffdOptions;
use crate::working_set::{HoldBack, WorkingSetKeeper};

/// What a plan works on.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct RestoreFrom {
    /// The memory of the snapshot. Whoever opened it keeps its files from being deleted.
    pub image: Arc<MemoryImage>,
    /// The raw image in the cache, where the plan was made with one.
    pub raw: Option<RawImage>,
    /// The memfd of this snapshot that guests share, filled already; a plan that needs one makes it
    /// where there is none.
    pub sealed: Option<Arc<SealedMemory>>,
    /// The pages that served clones of this snapshot share; a plan that needs them makes them where
    /// there are none.
    pub shared: Option<Arc<SharedPages>>,
    /// How memory is served, by a plan that serves it.
    pub serve: ServeOptions,
    /// What the userfaultfd of a served memory is to be able to do: whether it tracks writes, too.
    pub uffd: UffdOptions,
    /// Tells of mapped files that are cut, in place of a signal that ends the process.
    pub guard: Option<BusGuard>,
    /// Whose working set is brought in, by a plan that says so, and made anew from what the guest
    /// touches.
    pub working_set: Option<Arc<dyn WorkingSetKeeper>>,
    /// Threads that bring the working set beside the guest; 0: all of it comes before.
    pub replay_threads: usize,
    /// The sample that is left out of it, so that a refreshed one loses what is no longer touched.
    pub hold_back: Option<HoldBack>,
    /// Breaks off what runs before the guest does.
    pub cancel: Cancel,
}

impl RestoreFrom {
    /// The memory of a snapshot; served by one thread, if it is. One thread more brings a working
    /// set, where one is given, and ends with it.
    #[must_use]
    pub fn new(image: Arc<MemoryImage>) -> Self {
        Self {
            image,
            raw: None,
            sealed: None,
            shared: None,
            serve: ServeOptions::new(1),
            uffd: UffdOptions::default(),
            guard: None,
            working_set: None,
            replay_threads: 1,
            hold_back: None,
            cancel: Cancel::default(),
        }
    }

    /// The same, with a raw image in the cache.
    #[must_use]
    pub fn raw(mut self, raw: RawImage) -> Self {
        self.raw = Some(raw);
        self
    }

    /// The same, with the memfd that was filled for another guest of the snapshot.
    #[must_use]
    pub fn sealed(mut self, sealed: Arc<SealedMemory>) -> Self {
        self.sealed = Some(sealed);
        self
    }

    /// The same, with the pages that were made for other clones of the snapshot.
    #[must_use]
    pub fn shared(mut self, pages: Arc<SharedPages>) -> Self {
        self.shared = Some(pages);
        self
    }

    /// The same, served in another way.
    #[must_use]
    pub fn serve(mut self, serve: ServeOptions) -> Self {
        self.serve = serve;
        self
    }

    /// The same, served by another userfaultfd.
    #[must_use]
    pub fn uffd(mut self, uffd: UffdOptions) -> Self {
        self.uffd = uffd;
        self
    }

    /// The same, with a guard over the files that are mapped.
    #[must_use]
    pub fn guard(mut self, guard: BusGuard) -> Self {
        self.guard = Some(guard);
        self
    }

    /// The same, with what keeps the working set of the snapshot.
    #[must_use]
    pub fn working_set(mut self, keeper: Arc<dyn WorkingSetKeeper>) -> Self {
        self.working_set = Some(keeper);
        self
    }

    /// The same, with so many threads that bring the working set beside the guest.
    #[must_use]
    pub fn replay_threads(mut self, threads: usize) -> Self {
        self.replay_threads = threads;
        self
    }

    /// The same, for a guest that is to be [observed](crate::RestoredMemory::observe): a sample is left out
    /// of the working set, and of mapped files it is asked first what the page cache has.
    #[must_use]
    pub fn hold_back(mut self, sample: HoldBack) -> Self {
        self.hold_back = Some(sample);
        self
    }

    /// The same, with a flag that breaks it off.
    #[must_use]
    pub fn cancel(mut self, cancel: Cancel) -> Self {
        self.cancel = cancel;
        self
    }
}
