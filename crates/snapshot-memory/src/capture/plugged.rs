//! Memory that was plugged and unplugged since the parent.

use snapshot_format::MemoryLayout;

use crate::dirty::DirtyBitmap;
use crate::sink::Pages;

use snapshot_format::PageRange;

/// What differs between the layouts of a snapshot and of its parent.
#[derive(Debug, Default)]
pub(super) struct Plugged {
    /// Pages that were no memory: nothing can be inherited for them.
    new: Vec<PageRange>,
    /// Leaves whose memory is not what it was, ascending, without those that hold none now.
    pub(super) leaves: Vec<u32>,
}

impl Plugged {
    /// What has to be done for memory of `now` over a parent of `before`.
    pub(super) fn between(before: &MemoryLayout, now: &MemoryLayout) -> Self {
        if before == now {
            return Self::default();
        }
        let leaves = now.leaves().into_iter();
        let changed = |number: &u32| before.leaf_pages(*number) != now.leaf_pages(*number);
        Self {
            new: now.pages_not_in(before),
            leaves: leaves.filter(changed).collect(),
        }
    }

    /// The dirty pages with all those that are new; `None` where none is.
    pub(super) fn widen(&self, pages: Pages<'_>) -> Option<DirtyBitmap> {
        widened(pages.dirty()?, &self.new)
    }

    /// The same the first time; `None` from then on.
    pub(super) fn widen_once(&mut self, dirty: &DirtyBitmap) -> Option<DirtyBitmap> {
        widened(dirty, &std::mem::take(&mut self.new))
    }
}

fn widened(dirty: &DirtyBitmap, new: &[PageRange]) -> Option<DirtyBitmap> {
    let dirty = (!new.is_empty()).then(|| dirty.clone())?;
    for pages in new {
        dirty.set_range(*pages);
    }
    Some(dirty)
}
