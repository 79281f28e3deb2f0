//! Snapshots: of all pages, of those that changed, and given up.

use std::num::NonZeroUsize;
use std::sync::Arc;

use snapshot_format::{
    BranchName, Description, PageRange, SectionKind, SectionPayload, SnapshotName, VmName,
};
use snapshot_memory::{DirtyBitmap, MappedMemory, MappingOptions, Pages, SinkError, Stability};
use snapshot_store::{NewSnapshot, StoreError, StoreStage};

use super::model::{self, Kept, Key, Model, PAGE, PAGES, VMS};
use super::plan::{Hands, Plan};
use crate::Way;
use crate::random::Random;

const BRANCHES: [&str; 2] = ["main", "side"];

/// One in so many diffs is of another machine than its parent, as a clone's is.
const CLONE: u64 = 6;

/// A snapshot to be taken.
struct Take {
    key: Key,
    kept: Kept,
    /// Which pages are said to have changed since the parent.
    dirty: Vec<PageRange>,
    way: Way,
    stability: Stability,
}

/// All pages.
pub(super) fn full(model: &Model, random: &mut Random) -> Option<Plan> {
    Some(Take::full(model, random)?.plan(model))
}

/// The pages that changed since any snapshot in use.
pub(super) fn diff(model: &Model, random: &mut Random) -> Option<Plan> {
    Some(Take::diff(model, random)?.plan(model))
}

/// A snapshot of which nothing stays: given up before it is sealed, or before it is published.
pub(super) fn give_up(model: &Model, random: &mut Random) -> Option<Plan> {
    let take = Take::full(model, random)?;
    let is_sealed = random.is_one_in(2);
    let what = format!("give up {}, sealed: {is_sealed}", take.key);
    Some(Plan::new(what, model.clone(), move |hands| {
        let stage = take.stage(hands)?;
        if is_sealed {
            drop(stage.seal()?);
        }
        Ok(())
    }))
}

impl Take {
    fn full(model: &Model, random: &mut Random) -> Option<Self> {
        let mut image = vec![0; PAGE * usize::try_from(PAGES).ok()?];
        for page in 0..PAGES {
            write_page(&mut image, page, random);
        }
        let kept = Kept {
            vm: random.pick(&VMS)?,
            branch: random.pick(&BRANCHES)?,
            parent: None,
            image: Arc::new(image),
            state: model.next,
            is_live: true,
            is_protected: false,
            description: String::new(),
        };
        Self::of(model, kept, Vec::new(), random)
    }

    fn diff(model: &Model, random: &mut Random) -> Option<Self> {
        let (parent, from) = model.pick_live(random)?;
        let mut kept = Kept {
            parent: Some(parent),
            state: model.next,
            is_protected: false,
            description: String::new(),
            ..from.clone()
        };
        if random.is_one_in(CLONE) {
            kept.vm = random.pick(&VMS)?;
        }
        kept.branch = random.pick(&BRANCHES)?;
        let image = Arc::make_mut(&mut kept.image);
        let mut dirty = Vec::new();
        for _ in 0..random.below(12) {
            let page = random.below(PAGES);
            write_page(image, page, random);
            dirty.push(PageRange::new(page, 1));
        }
        // Told to be dirty, and the same as before.
        for _ in 0..random.below(3) {
            dirty.push(PageRange::new(random.below(PAGES), 1));
        }
        Self::of(model, kept, dirty, random)
    }

    fn of(model: &Model, kept: Kept, dirty: Vec<PageRange>, random: &mut Random) -> Option<Self> {
        let stabilities = [Stability::Paused, Stability::Running];
        Some(Self {
            key: model.next,
            kept,
            dirty,
            way: *random.pick(&Way::ALL)?,
            stability: *random.pick(&stabilities)?,
        })
    }

    fn plan(self, model: &Model) -> Plan {
        let mut after = model.clone();
        after.next += 1;
        after.snapshots.insert(self.key, self.kept.clone());
        let parent = self.kept.parent;
        let what = format!("take {} of {parent:?}, {}", self.key, self.way);
        Plan::new(what, after, move |hands| {
            let stage = self.stage(hands)?;
            stage.seal()?.publish().map(drop)
        })
    }

    fn stage(&self, hands: &Hands<'_>) -> Result<StoreStage, StoreError> {
        let parent = match self.kept.parent {
            Some(key) => Some(hands.store.snapshot(hands.id(key)?)?.reference()),
            None => None,
        };
        let layout = model::layout().map_err(own)?;
        let guest = MappedMemory::new(layout, MappingOptions::default()).map_err(own)?;
        guest.write(0, &self.kept.image).map_err(own)?;
        let dirty = DirtyBitmap::new(PAGES);
        self.dirty.iter().for_each(|pages| dirty.set_range(*pages));
        let mut new = NewSnapshot::of(VmName::new(self.kept.vm).map_err(own)?)
            .branch(BranchName::new(self.kept.branch).map_err(own)?)
            .name(SnapshotName::new(model::name(self.key)).map_err(own)?)
            .parent(parent)
            .capture(self.way.options(NonZeroUsize::MIN));
        new.metadata.description = Description::new(&self.kept.description).map_err(own)?;
        let mut stage = hands.store.sink(new).stage()?;
        let state = model::state(self.key);
        stage.section(SectionPayload::raw(SectionKind::CALLER, 0, 1, state));
        let pages = match parent {
            Some(base) => Pages::Since {
                base,
                dirty: &dirty,
            },
            None => Pages::Full,
        };
        stage.memory(&guest, pages, self.stability)?;
        Ok(stage)
    }
}

/// Gives a page new bytes: zero, all alike, or like noise.
fn write_page(image: &mut [u8], page: u64, random: &mut Random) {
    let start = usize::try_from(page).unwrap_or_default() * PAGE;
    let bytes = image.get_mut(start..start + PAGE).unwrap_or_default();
    match random.below(5) {
        0 | 1 => bytes.fill(0),
        2 | 3 => bytes.fill(random.next().to_le_bytes()[0]),
        _ => {
            for word in bytes.chunks_exact_mut(8) {
                word.copy_from_slice(&random.next().to_le_bytes());
            }
        }
    }
}

/// An error of this check's own doing.
fn own(error: impl std::error::Error + Send + Sync + 'static) -> StoreError {
    SinkError::Catalog(Box::new(error)).into()
}
