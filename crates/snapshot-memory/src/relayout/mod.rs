//! The pages of one snapshot in another data file, laid out anew.
//!
//! States, owners and digests are carried over; every page is checked on its way. What a reader
//! gets from either file is the same.

mod copy;
mod error;
mod files;
mod merge;
mod output;
mod refill;
mod target;

use std::ops::ControlFlow;

use snapshot_format::{DataLayout, Digest, FrameCoding, LeafTable, PAGE_BYTES};

use crate::capture::{CaptureControl, CaptureProgress};
use crate::error::SinkError;
use crate::frames::{FrameCodec, FrameEncoder};
use crate::image::DataFile;

pub(crate) use copy::{copy, room};
pub use error::RelayoutError;
pub(crate) use merge::Merge;
pub(crate) use refill::{filled_pages, refill, refill_room};

/// How a data file is laid out anew.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct RelayoutOptions {
    /// How present pages will lie.
    pub layout: DataLayout,
    /// How frames are compressed; of no account in other layouts.
    pub codec: FrameCodec,
    /// Being told how far the work is, breaking it off, slowing it down.
    pub control: CaptureControl,
}

/// A data file and a map as they were written.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct WrittenLayout {
    /// The digest of the root of the map.
    pub map_root: Digest,
    /// What a placement names the map by: BLAKE3 of its header and section table.
    pub map_frame: Digest,
    /// The length of the map in bytes.
    pub map_len_bytes: u64,
    /// The length of the data file in bytes.
    pub data_len_bytes: u64,
    /// The leaves of the flattened map that the new map holds.
    pub owners: LeafTable,
    /// Pages whose bytes are in the data file.
    pub present: u64,
    /// Bytes of blocks that the data file and the map occupy.
    pub allocated_bytes: u64,
}

impl RelayoutOptions {
    /// Options for data that will lie as `layout` says.
    #[must_use]
    pub fn of(layout: DataLayout) -> Self {
        Self {
            layout,
            codec: FrameCodec::ZSTD,
            control: CaptureControl::default(),
        }
    }

    /// Options for data in frames, compressed by `codec` where that is shorter.
    #[must_use]
    pub fn compressed(codec: FrameCodec) -> Self {
        Self {
            codec,
            ..Self::of(DataLayout::Frames)
        }
    }

    /// Refuses a codec that cannot be set up.
    pub fn check(&self) -> Result<(), RelayoutError> {
        if self.layout == DataLayout::Frames {
            FrameEncoder::new(self.codec)?;
        }
        Ok(())
    }

    /// Whether a data file lies as is asked for: in the layout, and each of its frames that is
    /// compressed in the coding. The level of a coding leaves no trace.
    pub fn are_met_by(&self, file: &DataFile) -> Result<bool, RelayoutError> {
        let root = file.root();
        if root.data_layout != self.layout || self.layout != DataLayout::Frames {
            return Ok(root.data_layout == self.layout);
        }
        let wanted = [FrameCoding::Plain, self.codec.coding()];
        for leaf in root.index.refs() {
            if let Some(leaf) = file.index_leaf(leaf.number)? {
                let mut codings = leaf.frames().map(|frame| frame.entry.coding);
                if codings.any(|coding| !wanted.contains(&coding)) {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    /// Sets [`control`](Self::control).
    #[must_use]
    pub fn control(mut self, control: CaptureControl) -> Self {
        self.control = control;
        self
    }

    /// Checks every byte of a data file that is there already. The first error is given, and a
    /// wish to break off is obeyed.
    pub fn recheck(&self, file: &DataFile) -> Result<(), RelayoutError> {
        let total_bytes = file.page_counts()?.present * PAGE_BYTES;
        let mut taken_bytes = 0;
        let mut first = None;
        let mut keep = |error| {
            if first.is_none() {
                first = Some(error);
            }
        };
        file.check(&mut keep, &mut |bytes| {
            taken_bytes += bytes;
            self.control.tell(CaptureProgress {
                taken_bytes: taken_bytes.min(total_bytes),
                total_bytes,
                written_bytes: 0,
            });
            if self.control.cancel.is_asked() {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        });
        match first {
            Some(error) => Err(error.into()),
            None if self.control.cancel.is_asked() => Err(SinkError::Cancelled.into()),
            None => Ok(()),
        }
    }
}
