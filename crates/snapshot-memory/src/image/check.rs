//! Checking everything of one data file: every digest, and every byte that must be zero.

use std::ops::ControlFlow;

use snapshot_format::page_map::FRAME_PAGES;
use snapshot_format::{
    DataLayout, DecodeError, GuestPage, IndexLeaf, LEAF_PAGES, LeafRef, PAGE_BYTES, Part,
    SectionKind,
};

use super::data_file::DataFile;
use super::error::ImageError;
use super::framed::DecodedFrame;
use crate::envelope_file::check_sections;

/// What a check has read.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct CheckedBytes {
    /// Bytes of the data file whose digest was computed.
    pub data: u64,
    /// Bytes of the memory map.
    pub map: u64,
}

/// Who is told of a check.
struct Watch<'a> {
    report: &'a mut dyn FnMut(ImageError),
    progress: &'a mut dyn FnMut(u64) -> ControlFlow<()>,
    checked: CheckedBytes,
}

impl Watch<'_> {
    fn sift(&mut self, result: Result<(), ImageError>) {
        if let Err(error) = result {
            (self.report)(error);
        }
    }
}

impl DataFile {
    /// Reads and checks every byte of the map and of the data file.
    ///
    /// Each damage is given to `report`; the check goes on behind it. Holes that the file system
    /// names are taken for zero. `progress` is told the bytes of each step, and ends the check
    /// early by breaking.
    pub fn check(
        &self,
        report: &mut dyn FnMut(ImageError),
        progress: &mut dyn FnMut(u64) -> ControlFlow<()>,
    ) -> CheckedBytes {
        let mut watch = Watch {
            report,
            progress,
            checked: CheckedBytes::default(),
        };
        // Breaking off is no error.
        let (ControlFlow::Continue(()) | ControlFlow::Break(())) = self.check_all(&mut watch);
        watch.checked
    }

    fn check_all(&self, watch: &mut Watch<'_>) -> ControlFlow<()> {
        let mut map = 0;
        let result = check_sections(&*self.map, &self.names.map, self.table(), &mut map);
        watch.sift(result);
        watch.checked.map = map;
        (watch.progress)(map)?;
        let mut free_from = 0;
        let (mut frames_end, mut decoded) = (Some(0), DecodedFrame::default());
        for place in self.root.index.refs() {
            match self.index_leaf(place.number) {
                Ok(Some(leaf)) => {
                    watch.sift(self.check_owners(&leaf));
                    if self.root.data_layout == DataLayout::Frames {
                        self.check_frames(place, &leaf, &mut frames_end, &mut decoded, watch)?;
                    } else {
                        self.check_leaf(&leaf, &mut free_from, watch)?;
                    }
                }
                Ok(None) => {}
                Err(error) => {
                    frames_end = None;
                    (watch.report)(error);
                }
            }
        }
        watch.sift(self.check_frames_end(frames_end));
        watch.sift(self.check_zero(free_from, self.root.data_len_bytes));
        ControlFlow::Continue(())
    }

    /// Checks that the last frame ends the data file, where it is known at which `end` it ends.
    fn check_frames_end(&self, end: Option<u64>) -> Result<(), ImageError> {
        let root = self.table().get(SectionKind::MAP_ROOT, 0);
        let root = root.map_err(|error| self.map_error(error))?;
        let ends = end.map_or(Ok(()), |end| self.root.end_frames(end));
        ends.map_err(|error| self.map_error(error.shifted(root.offset)))
    }

    /// Checks the frames of one leaf, each read once, and that they follow those before them, if
    /// it is known at which `end` these end.
    fn check_frames(
        &self,
        place: &LeafRef,
        leaf: &IndexLeaf,
        end: &mut Option<u64>,
        decoded: &mut DecodedFrame,
        watch: &mut Watch<'_>,
    ) -> ControlFlow<()> {
        let start = end.unwrap_or(leaf.data_offset());
        let follows = self.root.follow_frames(place, leaf, start);
        watch.sift(follows.map(drop).map_err(|error| self.map_error(error)));
        *end = Some(leaf.data_offset() + u64::from(leaf.frame_bytes()));
        let pages: Vec<usize> = leaf.present().pages().collect();
        for (frame, pages) in leaf.frames().zip(pages.chunks(FRAME_PAGES)) {
            watch.sift(self.check_frame(leaf, &frame, pages, decoded));
            let len_bytes = u64::from(frame.entry.stored_len);
            watch.checked.data += len_bytes;
            (watch.progress)(len_bytes)?;
        }
        ControlFlow::Continue(())
    }

    /// Checks the units of one leaf, and that the bytes between them are zero.
    fn check_leaf(
        &self,
        leaf: &IndexLeaf,
        free_from: &mut u64,
        watch: &mut Watch<'_>,
    ) -> ControlFlow<()> {
        let mut bytes = Vec::new();
        for (first, _) in leaf.units() {
            let Some(present) = (first..LEAF_PAGES).find(|&page| leaf.present().contains(page))
            else {
                break;
            };
            let page = GuestPage(leaf.first_page().0 + present as u64);
            let Some((unit, offset)) = self.unit(leaf, page) else {
                (watch.report)(self.not_held(page));
                continue;
            };
            let len_bytes = unit.count * PAGE_BYTES;
            bytes.resize(usize::try_from(len_bytes).unwrap_or(0), 0);
            let result = self
                .check_zero(*free_from, offset)
                .and_then(|()| self.read_data(offset, &mut bytes))
                .and_then(|()| self.check_unit(leaf, page, offset, &bytes));
            watch.sift(result);
            *free_from = offset + len_bytes;
            watch.checked.data += len_bytes;
            (watch.progress)(len_bytes)?;
        }
        ControlFlow::Continue(())
    }

    /// Checks that bytes of sparse data which belong to no unit are zero.
    fn check_zero(&self, from: u64, to: u64) -> Result<(), ImageError> {
        if self.root.data_layout != DataLayout::Sparse {
            return Ok(());
        }
        let file = &self.names.data;
        let mut buffer = vec![0; 64 << 10];
        let mut at = from;
        while at < to {
            let hint = self
                .data
                .next_data(at)
                .map_err(ImageError::file_at("seek", file))?;
            let (start, end) = match hint {
                Some((start, end)) if start >= at && end > start => (start.min(to), end.min(to)),
                Some((start, _)) if start >= to => return Ok(()),
                _ => (at, to),
            };
            at = start;
            while at < end {
                let len = (end - at).min(buffer.len() as u64);
                let (bytes, _) = buffer.split_at_mut(usize::try_from(len).unwrap_or(0));
                self.read_data(at, bytes)?;
                if let Some(offset) = (at..).zip(&*bytes).find(|(_, byte)| **byte != 0) {
                    return Err(ImageError::Stray {
                        file: file.clone(),
                        offset: offset.0,
                    });
                }
                at += len;
            }
        }
        Ok(())
    }

    /// Checks that the flattened map of a leaf says of this file's pages what its index says.
    fn check_owners(&self, leaf: &IndexLeaf) -> Result<(), ImageError> {
        let Some(place) = self.root.owners.get(leaf.number()) else {
            return Ok(());
        };
        let owners = self.owner_leaf(place)?;
        let sets = [(leaf.present(), self.root.file), (leaf.zero(), 0)];
        for (pages, owner) in sets {
            if let Some(page) = pages.pages().find(|&page| owners.owner(page) != owner) {
                return Err(self.map_error(DecodeError::Mismatch {
                    part: Part::OwnerLeaf(leaf.number()),
                    offset: place.offset,
                    what: "the owner of a page",
                    expected: owner.to_string(),
                    found: format!("{} for page {page} of the leaf", owners.owner(page)),
                }));
            }
        }
        Ok(())
    }
}
