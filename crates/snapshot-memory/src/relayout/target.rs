//! Where copied pages go, by data layout.

use snapshot_format::page_map::{FRAME_BYTES, LeafError};
use snapshot_format::{DataLayout, FrameEntry, IndexLeaf, IndexLeafBuilder, PAGE_BYTES, PageIndex};

use super::RelayoutError;
use super::output::Output;
use crate::error::SinkError;
use crate::frames::FrameEncoder;

/// Takes present pages by ascending page, leaf by leaf.
pub(super) struct Target<'a> {
    output: Output<'a>,
    way: Way,
    /// Bytes of the data file so far; in sparse data, those of present pages.
    len_bytes: u64,
    /// What it was when the leaf began.
    leaf_start: u64,
}

/// How pages lie.
enum Way {
    Sparse,
    Packed,
    Frames(Box<Framing>),
}

/// The frame that fills, and those of the leaf before it.
struct Framing {
    encoder: FrameEncoder,
    pages: Vec<u8>,
    filled: usize,
    stored: Vec<u8>,
    entries: Vec<FrameEntry>,
}

impl<'a> Target<'a> {
    /// A data file of `layout`; frames need an encoder.
    pub(super) fn new(
        output: Output<'a>,
        layout: DataLayout,
        encoder: Option<FrameEncoder>,
    ) -> Result<Self, RelayoutError> {
        let way = match (layout, encoder) {
            (DataLayout::Sparse, None) => Way::Sparse,
            (DataLayout::Packed, None) => Way::Packed,
            (DataLayout::Frames, Some(encoder)) => Way::Frames(Box::new(Framing {
                encoder,
                pages: vec![0; FRAME_BYTES],
                filled: 0,
                stored: Vec::new(),
                entries: Vec::new(),
            })),
            (layout, _) => return Err(RelayoutError::Unsupported { layout }),
        };
        Ok(Self {
            output,
            way,
            len_bytes: 0,
            leaf_start: 0,
        })
    }

    /// Room for up to `pages` more pages, not zero, and for at least one.
    pub(super) fn room(&mut self, pages: u64) -> Result<&mut [u8], SinkError> {
        let wanted = usize::try_from(pages.saturating_mul(PAGE_BYTES)).unwrap_or(FRAME_BYTES);
        match &mut self.way {
            Way::Frames(framing) => {
                let end = FRAME_BYTES.min(framing.filled.saturating_add(wanted));
                let room = framing.pages.get_mut(framing.filled..end);
                Ok(room.unwrap_or_default())
            }
            _ => self.output.room(wanted),
        }
    }

    /// Keeps the first `pages` pages of the room, which are image pages from `first` on.
    pub(super) fn keep(&mut self, first: PageIndex, pages: u64) -> Result<(), SinkError> {
        let len_bytes = usize::try_from(pages * PAGE_BYTES).unwrap_or(0);
        self.output.took(len_bytes as u64);
        match &mut self.way {
            // A page that a layout holds: below 2^52.
            Way::Sparse => self
                .output
                .keep(len_bytes, first.image_offset().unwrap_or(u64::MAX)),
            Way::Packed => self.output.keep(len_bytes, self.len_bytes),
            Way::Frames(framing) => {
                framing.filled += len_bytes;
                if framing.filled == FRAME_BYTES {
                    self.close_frame()?;
                }
                return Ok(());
            }
        }
        self.len_bytes += len_bytes as u64;
        Ok(())
    }

    /// The leaf of the pages that were kept since the last one.
    pub(super) fn close_leaf(&mut self, leaf: IndexLeafBuilder) -> Result<IndexLeaf, SinkError> {
        self.close_frame()?;
        let start = std::mem::replace(&mut self.leaf_start, self.len_bytes);
        let finished: Result<IndexLeaf, LeafError> = match &mut self.way {
            Way::Sparse => leaf.finish(0),
            Way::Packed => leaf.finish(start),
            Way::Frames(framing) => leaf.finish_frames(start, std::mem::take(&mut framing.entries)),
        };
        finished.map_err(SinkError::Leaf)
    }

    /// Waits until all is written; how many bytes pages or frames took.
    pub(super) fn finish(self) -> Result<u64, SinkError> {
        self.output.finish()?;
        Ok(self.len_bytes)
    }

    /// Compresses the frame that fills, if it holds a page, and writes it.
    fn close_frame(&mut self) -> Result<(), SinkError> {
        let Way::Frames(framing) = &mut self.way else {
            return Ok(());
        };
        let filled = std::mem::take(&mut framing.filled);
        let pages = framing.pages.get(..filled).unwrap_or_default();
        if pages.is_empty() {
            return Ok(());
        }
        framing.stored.clear();
        let entry = framing.encoder.append(pages, &mut framing.stored);
        framing.entries.push(entry);
        let mut rest = framing.stored.as_slice();
        while !rest.is_empty() {
            let room = self.output.room(rest.len())?;
            let (now, later) = rest.split_at(room.len());
            room.copy_from_slice(now);
            self.output.keep(now.len(), self.len_bytes);
            self.len_bytes += now.len() as u64;
            rest = later;
        }
        Ok(())
    }
}
