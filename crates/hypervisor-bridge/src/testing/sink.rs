//! A sink in memory.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use snapshot_format::{
    Digest, MemoryLayout, PAGE_BYTES, PageRange, SectionOffers, SectionPayload, SnapshotId,
    SnapshotRef,
};
use snapshot_memory::{
    DirtyBitmap, GuestMemorySource, LiveMemory, LivePlan, LiveRound, MemoryError, MemoryPlan,
    MemoryStats, Pages, PublishError, Published, SealedSink, SinkError, SnapshotSink, Stability,
    StagedSink,
};

use super::script::Script;
use crate::error::StepError;

/// One published snapshot: its sections, and the flat image of memory.
#[derive(Clone, Debug)]
pub struct KeptSnapshot {
    /// How later ones name it.
    pub reference: SnapshotRef,
    /// Machine state.
    pub sections: Vec<SectionPayload>,
    /// Memory, merged with that of the parents.
    pub image: Vec<u8>,
    /// How it is laid out.
    pub layout: MemoryLayout,
}

/// Keeps snapshots in memory. It records `begin`, `prepare`, `memory`, `section`, `seal` and
/// `publish`; of live ones `live`, `round`, `set aside` and `finish` instead of `memory`.
///
/// Clones share what is kept.
#[derive(Clone, Debug, Default)]
pub struct MemorySink {
    kept: Arc<Mutex<Vec<KeptSnapshot>>>,
    script: Script,
}

impl MemorySink {
    /// An empty sink that follows `script`.
    #[must_use]
    pub fn new(script: Script) -> Self {
        Self {
            kept: Arc::default(),
            script,
        }
    }

    /// What was published, oldest first.
    #[must_use]
    pub fn kept(&self) -> Vec<KeptSnapshot> {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<KeptSnapshot>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn reach(&self, step: &str) -> Result<(), SinkError> {
        self.script.reach(step).map_err(SinkError::Catalog)
    }
}

impl KeptSnapshot {
    /// Its sections, to be taken.
    #[must_use]
    pub fn offers(&self) -> SectionOffers {
        SectionOffers::new(self.sections.clone())
    }

    /// Reads pages of the image.
    pub fn read_pages(&self, pages: PageRange, out: &mut [u8]) -> Result<(), StepError> {
        let start = usize::try_from(pages.start.0 * PAGE_BYTES)?;
        let bytes = self.image.get(start..start + out.len());
        out.copy_from_slice(bytes.ok_or("pages beyond the image")?);
        Ok(())
    }
}

impl SnapshotSink for MemorySink {
    fn begin(&mut self) -> Result<Box<dyn StagedSink>, SinkError> {
        self.reach("begin")?;
        let number = u8::try_from(self.lock().len()).unwrap_or(u8::MAX);
        let id = SnapshotId([number.saturating_add(1); 16]);
        Ok(Box::new(Staged {
            sink: self.clone(),
            id,
            sections: Vec::new(),
            image: Vec::new(),
            layout: None,
        }))
    }
}

struct Staged {
    sink: MemorySink,
    id: SnapshotId,
    sections: Vec<SectionPayload>,
    image: Vec<u8>,
    layout: Option<MemoryLayout>,
}

impl Staged {
    fn take(
        &mut self,
        source: &dyn GuestMemorySource,
        range: PageRange,
    ) -> Result<(), MemoryError> {
        let start = usize::try_from(range.start.0 * PAGE_BYTES).unwrap_or(usize::MAX);
        let len = usize::try_from(range.count * PAGE_BYTES).unwrap_or(usize::MAX);
        let page_count = source.layout().page_count();
        match self.image.get_mut(start..start.saturating_add(len)) {
            Some(out) => source.read_pages(range, out),
            None => Err(MemoryError::OutOfRange { range, page_count }),
        }
    }

    /// The memory of the parent, as far as it is memory of `layout`.
    fn parent(&self, base: SnapshotRef, layout: &MemoryLayout) -> Result<Vec<u8>, SinkError> {
        let mut kept = self.sink.kept().into_iter();
        let parent = kept.find(|snapshot| snapshot.reference == base);
        let parent = parent.ok_or(SinkError::WrongParent {
            expected: None,
            found: base,
        })?;
        let mut image = zeroed(layout);
        let place = |page: u64| usize::try_from(page * PAGE_BYTES).unwrap_or(usize::MAX);
        for run in parent.layout.shared_runs(layout) {
            let (from, to, len) = (run.pages.start.0, run.other.0, place(run.pages.count));
            let from = parent.image.get(place(from)..place(from) + len);
            let to = image.get_mut(place(to)..place(to) + len);
            if let (Some(from), Some(to)) = (from, to) {
                to.copy_from_slice(from);
            }
        }
        Ok(image)
    }
}

impl StagedSink for Staged {
    fn id(&self) -> SnapshotId {
        self.id
    }

    fn prepare(&mut self, _: MemoryPlan<'_>) -> Result<(), SinkError> {
        self.sink.reach("prepare")
    }

    fn section(&mut self, section: SectionPayload) -> Result<(), SinkError> {
        self.sink.reach("section")?;
        self.sections.push(section);
        Ok(())
    }

    fn memory(
        &mut self,
        source: &dyn GuestMemorySource,
        pages: Pages<'_>,
        _: Stability,
    ) -> Result<MemoryStats, SinkError> {
        self.sink.reach("memory")?;
        self.layout = Some(source.layout().clone());
        let page_count = source.layout().page_count();
        let mut stats = MemoryStats::default();
        if let Pages::Since { base, dirty } = pages {
            self.image = self.parent(base, source.layout())?;
            for run in dirty.iter_runs() {
                self.take(source, run)?;
            }
            stats.present = dirty.count();
            stats.inherited = page_count - stats.present;
        } else {
            self.image = zeroed(source.layout());
            self.take(source, PageRange::new(0, page_count))?;
            stats.present = page_count;
        }
        Ok(stats)
    }

    fn live(&mut self, plan: LivePlan<'_>) -> Result<Box<dyn LiveMemory + '_>, SinkError> {
        self.sink.reach("live")?;
        self.layout = Some(plan.layout.clone());
        self.image = match plan.base {
            Some(base) => self.parent(base, plan.layout)?,
            None => zeroed(plan.layout),
        };
        let taken = DirtyBitmap::new(plan.layout.page_count());
        Ok(Box::new(Live {
            staged: self,
            taken,
            room_pages: plan.aside_bytes / PAGE_BYTES,
        }))
    }

    fn seal(self: Box<Self>) -> Result<Box<dyn SealedSink>, SinkError> {
        self.sink.reach("seal")?;
        Ok(Box::new(Sealed(*self)))
    }
}

/// A live snapshot: records `round`, `set aside` and `finish`.
struct Live<'a> {
    staged: &'a mut Staged,
    taken: DirtyBitmap,
    room_pages: u64,
}

impl Live<'_> {
    fn take(
        &mut self,
        source: &dyn GuestMemorySource,
        dirty: &DirtyBitmap,
    ) -> Result<(), SinkError> {
        self.taken.or_from(dirty);
        for run in dirty.iter_runs() {
            self.staged.take(source, run)?;
        }
        Ok(())
    }
}

impl LiveMemory for Live<'_> {
    fn round(
        &mut self,
        source: &dyn GuestMemorySource,
        dirty: &DirtyBitmap,
        _: Stability,
    ) -> Result<LiveRound, SinkError> {
        self.staged.sink.reach("round")?;
        self.take(source, dirty)?;
        let pages = dirty.count();
        Ok(LiveRound {
            pages,
            written_bytes: pages * PAGE_BYTES,
            ns: 0,
        })
    }

    fn set_aside(
        &mut self,
        source: &dyn GuestMemorySource,
        dirty: &DirtyBitmap,
    ) -> Result<u64, SinkError> {
        self.staged.sink.reach("set aside")?;
        let pages = dirty.count();
        if pages > self.room_pages {
            return Err(SinkError::AsideFull {
                needed_bytes: pages * PAGE_BYTES,
                room_bytes: self.room_pages * PAGE_BYTES,
            });
        }
        self.take(source, dirty)?;
        Ok(pages)
    }

    fn finish(self: Box<Self>) -> Result<MemoryStats, SinkError> {
        self.staged.sink.reach("finish")?;
        let present = self.taken.count();
        Ok(MemoryStats {
            present,
            inherited: self.taken.page_count() - present,
            ..MemoryStats::default()
        })
    }
}

struct Sealed(Staged);

impl SealedSink for Sealed {
    fn publish(self: Box<Self>) -> Result<Published, PublishError> {
        let Self(mut staged) = *self;
        let id = staged.id;
        let not_committed = |source: SinkError| PublishError::NotCommitted {
            id,
            source: source.into(),
        };
        let layout = staged.layout.take();
        let layout = layout.ok_or(not_committed(SinkError::Missing { what: "memory" }))?;
        staged.sink.reach("publish").map_err(not_committed)?;
        let digest = Digest::of(&id.0);
        let reference = SnapshotRef { id, digest };
        staged.sink.lock().push(KeptSnapshot {
            reference,
            sections: staged.sections,
            image: staged.image,
            layout,
        });
        Ok(Published {
            snapshot: reference,
        })
    }
}

fn zeroed(layout: &MemoryLayout) -> Vec<u8> {
    vec![0; usize::try_from(layout.len_bytes()).unwrap_or(usize::MAX)]
}
