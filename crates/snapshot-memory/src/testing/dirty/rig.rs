//! What the suite needs of whoever runs it.

use std::error::Error;

use snapshot_format::{MemoryLayout, PageIndex};

use crate::dirty::DirtySource;

/// Memory that is watched, and somebody who writes to it: a machine with a vCPU, or this process.
///
/// A rig need not keep still otherwise, but nobody else whom the source sees may write while the
/// suite runs.
pub trait DirtyRig {
    /// A source of the memory as it is laid out now, not started. The suite drops it before it
    /// asks for the next one.
    fn source(&mut self) -> Box<dyn DirtySource>;

    /// Lets a writer that the source sees write one byte of an image page; returns when that is
    /// done.
    fn write(&mut self, page: PageIndex, byte: usize);

    /// Lets a writer write to each of `pages` in turn, on another thread, and calls `harvest` on
    /// this one again and again until it is done.
    fn write_during(&mut self, pages: &[PageIndex], harvest: &mut dyn FnMut());

    /// Makes the next harvest fail, whichever way; `false` where nothing can.
    fn break_next_harvest(&mut self) -> bool {
        false
    }

    /// Layouts to change the memory to, one after the other; none where the memory is what it is.
    ///
    /// A good list plugs memory behind a hole, unplugs it and plugs it again, grows and shrinks a
    /// region, and moves one.
    fn layouts(&self) -> Vec<MemoryLayout> {
        Vec::new()
    }

    /// Changes the memory, as a VMM does within
    /// [`DirtyTracker::change_layout`](crate::DirtyTracker::change_layout), and tells the source by
    /// its handle, if it has one. Host memory stays the same for pages that stay.
    fn change(&mut self, layout: &MemoryLayout) -> Result<(), Box<dyn Error + Send + Sync>> {
        let _ = layout;
        Err("this rig's memory does not change".into())
    }
}
