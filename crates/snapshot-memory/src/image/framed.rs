//! Reading pages out of a data file of frames, each frame decoded once where reads follow each
//! other.

use snapshot_format::{Frame, FrameCoding, GuestPage, IndexLeaf, PAGE_BYTES};

use super::data_file::{DataFile, within_leaf};
use super::error::ImageError;
use crate::frames::FrameDecoder;

/// A frame as the guest sees it, and what it takes to decode one: 128 KiB and tables.
#[derive(Debug, Default)]
pub(super) struct DecodedFrame {
    /// Which it is: number of the data file, and all that its map says of the frame.
    held: Option<(u16, Frame)>,
    stored: Vec<u8>,
    pages: Vec<u8>,
    decoder: FrameDecoder,
}

impl DecodedFrame {
    /// The pages of a frame, read and decoded unless it was the last one. Their digests are not
    /// checked yet.
    pub(super) fn pages(&mut self, file: &DataFile, frame: &Frame) -> Result<&[u8], ImageError> {
        let wanted = Some((file.root.file, *frame));
        if self.held != wanted {
            self.held = None;
            // Both lengths are those of 16 pages at most: the table was checked.
            self.stored.resize(frame.entry.stored_len as usize, 0);
            self.pages.resize(frame.decoded_len(), 0);
            file.read_data(frame.offset, &mut self.stored)?;
            let decoded = self
                .decoder
                .decode(&frame.entry, &self.stored, &mut self.pages);
            decoded.map_err(|source| ImageError::Frame {
                file: file.names.data.clone(),
                offset: frame.offset,
                len_bytes: frame.entry.stored_len,
                source,
            })?;
            self.held = wanted;
        }
        Ok(&self.pages)
    }
}

impl DataFile {
    /// Fills `out` with guest pages from `first` on, all of one leaf and present in it. The data
    /// file is one of frames.
    pub(super) fn read_framed(
        &self,
        leaf: &IndexLeaf,
        first: GuestPage,
        out: &mut [u8],
    ) -> Result<(), ImageError> {
        let mut decoded = self.spares.frame.take();
        let (mut page, mut rest) = (first, out);
        while !rest.is_empty() {
            let (frame, before) = self.frame(leaf, page)?;
            let len = (frame.decoded_len() - before).min(rest.len());
            let (now, later) = rest.split_at_mut(len);
            if frame.entry.coding == FrameCoding::Plain {
                self.read_data(frame.offset + before as u64, now)?;
                self.check_pages(leaf, page, frame.offset + before as u64, now)?;
            } else {
                let pages = decoded.pages(self, &frame)?;
                let pages = pages.get(before..before + len);
                let pages = pages.ok_or_else(|| self.not_held(page))?;
                self.check_pages(leaf, page, frame.offset, pages)?;
                now.copy_from_slice(pages);
            }
            page.0 += (len / PAGE) as u64;
            rest = later;
        }
        self.spares.frame.put(decoded);
        Ok(())
    }

    /// Reads, decodes and checks a whole frame of whatever coding; it holds `pages` of the leaf.
    pub(super) fn check_frame(
        &self,
        leaf: &IndexLeaf,
        frame: &Frame,
        pages: &[usize],
        decoded: &mut DecodedFrame,
    ) -> Result<(), ImageError> {
        let bytes = decoded.pages(self, frame)?;
        for (&page, bytes) in pages.iter().zip(bytes.chunks(PAGE)) {
            let page = GuestPage(leaf.first_page().0 + page as u64);
            self.check_unit(leaf, page, frame.offset, bytes)?;
        }
        Ok(())
    }

    /// The frame of a present page, and how many of its bytes come before the page.
    fn frame(&self, leaf: &IndexLeaf, page: GuestPage) -> Result<(Frame, usize), ImageError> {
        let within = within_leaf(page);
        let found = leaf.frame_of(within).zip(leaf.present_rank(within));
        let (frame, rank) = found.ok_or_else(|| self.not_held(page))?;
        Ok((frame, (rank - frame.first_rank) * PAGE))
    }

    /// Checks the digests of pages in a row.
    fn check_pages(
        &self,
        leaf: &IndexLeaf,
        first: GuestPage,
        offset: u64,
        bytes: &[u8],
    ) -> Result<(), ImageError> {
        for (page, bytes) in (first.0..).zip(bytes.chunks(PAGE)) {
            self.check_unit(leaf, GuestPage(page), offset, bytes)?;
        }
        Ok(())
    }
}

#[expect(clippy::cast_possible_truncation, reason = "4096")]
const PAGE: usize = PAGE_BYTES as usize;
