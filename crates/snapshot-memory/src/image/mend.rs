//! A data file written again as it was: what is sound is copied, what is damaged comes from elsewhere.

use std::io;
use std::ops::ControlFlow;
use std::os::fd::BorrowedFd;

use snapshot_format::page_map::FRAME_PAGES;
use snapshot_format::{
    DataFileRef, DataLayout, Digest, Frame, FrameCoding, FrameEntry, GuestPage, IndexLeaf,
    LEAF_PAGES, PAGE_BYTES, PageIndex, PageRange,
};

use super::data_file::{DataFile, DataFileNames, within_leaf};
use super::error::ImageError;
use super::framed::DecodedFrame;
use crate::backend::ReadFile;
use crate::error::SinkError;
use crate::frames::{FrameCodec, FrameEncoder};
use crate::relayout::RelayoutError;
use crate::staged::StagedFile;

/// Pages of a data file that share a digest, which their bytes in the file do not have.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DamagedUnit {
    /// Its image pages, in the layout of the data file.
    pub pages: PageRange,
    /// Which of them are present; the bytes of all others are zero.
    pub present: Vec<bool>,
    /// The digest of all its bytes.
    pub digest: Digest,
    /// The bytes that are there now; `None` if they cannot be read.
    pub found: Option<Vec<u8>>,
}

/// What became of the damaged units of a data file that was written again.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct MendedData {
    /// How many have their bytes again.
    pub mended: u64,
    /// Those that lie in the new file as they were found.
    pub lost: Vec<DamagedUnit>,
}

/// Gives the bytes of a damaged unit, of whatever origin: they are compared with its digest.
pub type FindUnit<'f> = dyn FnMut(&DamagedUnit) -> Option<Vec<u8>> + 'f;

/// Told the bytes of each step; breaking ends the work.
type Tell<'t> = dyn FnMut(u64) -> ControlFlow<()> + 't;

impl DamagedUnit {
    /// Its first page that is present, as an image page.
    #[must_use]
    pub fn first_present(&self) -> PageIndex {
        let before = self.present.iter().take_while(|present| !**present).count();
        PageIndex(self.pages.start.0 + before as u64)
    }

    /// The length of its bytes.
    #[must_use]
    pub fn len_bytes(&self) -> usize {
        self.present.len() * PAGE
    }
}

/// A unit in its place.
struct Place {
    unit: DamagedUnit,
    offset: u64,
}

impl DataFile {
    /// Opens a data file whose data may be missing or of another length: its map must be sound.
    pub fn open_damaged(
        map: Box<dyn ReadFile>,
        data: Option<Box<dyn ReadFile>>,
        names: DataFileNames,
        wanted: &DataFileRef,
    ) -> Result<Self, ImageError> {
        let data = data.unwrap_or_else(|| Box::new(Nothing));
        Self::open_any(map, data, names, wanted)
    }

    /// Bytes of the pages that it stores.
    pub fn stored_bytes(&self) -> Result<u64, ImageError> {
        Ok(self.page_counts()?.present * PAGE_BYTES)
    }

    /// Every unit whose bytes do not have its digest. `None` where `progress` breaks.
    ///
    /// An error is one of the map. In data of frames each page is a unit.
    pub fn damaged_units(
        &self,
        progress: &mut Tell<'_>,
    ) -> Result<Option<Vec<DamagedUnit>>, ImageError> {
        let mut damaged = Vec::new();
        for leaf in self.root.index.refs() {
            let Some(leaf) = self.index_leaf(leaf.number)? else {
                continue;
            };
            if self.root.data_layout == DataLayout::Frames {
                for (frame, pages) in frames(&leaf) {
                    let units = self.frame_units(&leaf, &frame, &pages)?;
                    damaged.extend(units.into_iter().filter(is_damaged));
                    forget_some(&mut damaged);
                    if progress(frame.entry.stored_len.into()).is_break() {
                        return Ok(None);
                    }
                }
                continue;
            }
            for (first, digest) in leaf.units() {
                let place = self.place(&leaf, first, digest)?;
                let len = place.unit.len_bytes() as u64;
                if is_damaged(&place.unit) {
                    damaged.push(place.unit);
                    forget_some(&mut damaged);
                }
                if progress(len).is_break() {
                    return Ok(None);
                }
            }
        }
        Ok(Some(damaged))
    }

    /// Writes the data file again to `out`, an empty file: every byte at its place, the bytes of
    /// damaged units by `find`. What nobody has stays as it was found, and zero where it cannot be
    /// read. `None` where `progress` breaks.
    pub fn mend(
        &self,
        out: &mut StagedFile,
        find: &mut FindUnit<'_>,
        progress: &mut Tell<'_>,
    ) -> Result<Option<MendedData>, RelayoutError> {
        out.set_len(self.root.data_len_bytes)
            .map_err(SinkError::from)?;
        let mut writer = Writer {
            out,
            at: 0,
            bytes: Vec::new(),
        };
        let mut done = MendedData::default();
        for leaf in self.root.index.refs() {
            let Some(leaf) = self.index_leaf(leaf.number)? else {
                continue;
            };
            if self.root.data_layout == DataLayout::Frames {
                for (frame, pages) in frames(&leaf) {
                    let stored = self.mended_frame(&leaf, &frame, &pages, find, &mut done)?;
                    writer.write(frame.offset, &stored)?;
                    if progress(stored.len() as u64).is_break() {
                        return Ok(None);
                    }
                }
                continue;
            }
            for (first, digest) in leaf.units() {
                let Place { unit, offset } = self.place(&leaf, first, digest)?;
                let bytes = mended(unit, find, &mut done);
                writer.write(offset, &bytes)?;
                if progress(bytes.len() as u64).is_break() {
                    return Ok(None);
                }
            }
        }
        writer.flush()?;
        Ok(Some(done))
    }

    /// The bytes that this file has of another's unit, page for page of the same memory; those of
    /// pages that are not present there are zero. `None` where it has not all of them.
    pub fn pages_like(&self, unit: &DamagedUnit, other: &Self) -> Option<Vec<u8>> {
        let mut bytes = vec![0; unit.len_bytes()];
        let pages = bytes.chunks_exact_mut(PAGE).zip(&unit.present);
        for (page, (out, present)) in (unit.pages.start.0..).zip(pages) {
            if !present {
                continue;
            }
            let guest = other.root.layout.guest_page(PageIndex(page))?;
            let number = u32::try_from(guest.0 / LEAF_PAGES as u64).ok()?;
            let leaf = self.index_leaf(number).ok()??;
            if !leaf.present().contains(within_leaf(guest)) {
                return None;
            }
            self.read_held(&leaf, guest, out).ok()?;
        }
        Some(bytes)
    }

    /// Every digest of this file whose unit is `wanted`, with the first present page of the unit.
    pub fn find_digests(
        &self,
        wanted: &dyn Fn(&Digest) -> bool,
    ) -> Result<Vec<(Digest, GuestPage)>, ImageError> {
        let mut found = Vec::new();
        for leaf in self.root.index.refs() {
            let Some(leaf) = self.index_leaf(leaf.number)? else {
                continue;
            };
            for (first, digest) in leaf.units().filter(|(_, digest)| wanted(digest)) {
                if let Some(page) = first_present(&leaf, first) {
                    found.push((*digest, page));
                }
            }
        }
        Ok(found)
    }

    /// The bytes of the whole unit of a present page, checked.
    pub fn whole_unit(&self, page: GuestPage) -> Result<Vec<u8>, ImageError> {
        let number = u32::try_from(page.0 / LEAF_PAGES as u64).unwrap_or(u32::MAX);
        let leaf = self.index_leaf(number)?;
        let leaf = leaf.ok_or_else(|| self.not_held(page))?;
        let mut bytes = Vec::new();
        if self.root.data_layout == DataLayout::Frames {
            bytes.resize(PAGE, 0);
            self.read_held(&leaf, page, &mut bytes)?;
        } else {
            self.read_unit(&leaf, page, &mut bytes)?;
        }
        Ok(bytes)
    }

    /// The unit that begins at page `first` of the leaf, as it is in the file.
    fn place(&self, leaf: &IndexLeaf, first: usize, digest: &Digest) -> Result<Place, ImageError> {
        let page = first_present(leaf, first);
        let page = page.ok_or_else(|| self.not_held(leaf.first_page()))?;
        let (pages, offset) = self.held_unit(leaf, page)?;
        let held = |page| {
            let guest = self.root.layout.guest_page(PageIndex(page));
            guest.is_some_and(|guest| leaf.present().contains(within_leaf(guest)))
        };
        let present: Vec<bool> = (pages.start.0..pages.end().0).map(held).collect();
        let mut bytes = vec![0; present.len() * PAGE];
        let found = self.read_data(offset, &mut bytes).ok().map(|()| bytes);
        let unit = DamagedUnit {
            pages,
            present,
            digest: *digest,
            found,
        };
        Ok(Place { unit, offset })
    }

    /// The pages of a frame, each as a unit, as they are in the file.
    fn frame_units(
        &self,
        leaf: &IndexLeaf,
        frame: &Frame,
        pages: &[usize],
    ) -> Result<Vec<DamagedUnit>, ImageError> {
        let mut decoded = DecodedFrame::default();
        let bytes = decoded.pages(self, frame).ok();
        let unit = |(place, page): (usize, &usize)| {
            let guest = GuestPage(leaf.first_page().0 + *page as u64);
            let image = self.root.layout.image_page(guest);
            let known = image.zip(leaf.unit_digest(*page));
            let (image, digest) = known.ok_or_else(|| self.not_held(guest))?;
            let found = bytes.and_then(|bytes| bytes.get(place * PAGE..(place + 1) * PAGE));
            Ok(DamagedUnit {
                pages: PageRange::new(image.0, 1),
                present: vec![true],
                digest: *digest,
                found: found.map(<[u8]>::to_vec),
            })
        };
        pages.iter().enumerate().map(unit).collect()
    }

    /// A frame as it was stored: as it is where it is sound, else encoded again.
    fn mended_frame(
        &self,
        leaf: &IndexLeaf,
        frame: &Frame,
        pages: &[usize],
        find: &mut FindUnit<'_>,
        done: &mut MendedData,
    ) -> Result<Vec<u8>, RelayoutError> {
        let mut stored = vec![0; frame.entry.stored_len as usize];
        let is_read = self.read_data(frame.offset, &mut stored).is_ok();
        let units = self.frame_units(leaf, frame, pages)?;
        if is_read && !units.iter().any(is_damaged) {
            return Ok(stored);
        }
        let mut of_frame = MendedData::default();
        let mut bytes = Vec::new();
        for unit in units.clone() {
            if is_damaged(&unit) {
                bytes.extend(mended(unit, find, &mut of_frame));
            } else {
                bytes.extend(unit.found.unwrap_or_default());
            }
        }
        let again = if of_frame.lost.is_empty() {
            encoded_again(frame, &bytes)
        } else {
            None
        };
        if let Some(again) = again {
            done.mended += of_frame.mended;
            return Ok(again);
        }
        // All of its pages, or those that nobody has: the frame stays as it was found.
        let damaged = units.into_iter().filter(is_damaged);
        done.lost.extend(damaged.map(|unit| DamagedUnit {
            found: None,
            ..unit
        }));
        Ok(stored)
    }
}

/// The frames of a leaf with the pages that each holds.
fn frames(leaf: &IndexLeaf) -> Vec<(Frame, Vec<usize>)> {
    let pages: Vec<usize> = leaf.present().pages().collect();
    let chunks = pages.chunks(FRAME_PAGES).map(<[usize]>::to_vec);
    leaf.frames().zip(chunks).collect()
}

/// The bytes of a frame that encode these pages, if an encoder of this build makes those that were
/// stored: their length and checksum are known.
fn encoded_again(frame: &Frame, pages: &[u8]) -> Option<Vec<u8>> {
    let codecs: Vec<FrameCodec> = match frame.entry.coding {
        FrameCoding::Zstd => (1..=22).map(|level| FrameCodec::Zstd { level }).collect(),
        _ => vec![FrameCodec::Lz4],
    };
    if frame.entry.coding == FrameCoding::Plain {
        let same = FrameEntry::of(FrameCoding::Plain, pages) == frame.entry;
        return same.then(|| pages.to_vec());
    }
    codecs.into_iter().find_map(|codec| {
        let mut encoder = FrameEncoder::new(codec).ok()?;
        let mut out = Vec::new();
        (encoder.append(pages, &mut out) == frame.entry).then_some(out)
    })
}

/// Bounds the memory that many damaged units take: of the later ones the bytes are forgotten.
fn forget_some(damaged: &mut [DamagedUnit]) {
    for unit in damaged.iter_mut().skip(MAX_KEPT_UNITS).rev() {
        if unit.found.take().is_none() {
            break;
        }
    }
}

fn first_present(leaf: &IndexLeaf, first: usize) -> Option<GuestPage> {
    let group = first..first + usize::from(leaf.unit_pages());
    let mut pages = group.filter(|page| *page < LEAF_PAGES);
    let page = pages.find(|page| leaf.present().contains(*page))?;
    Some(GuestPage(leaf.first_page().0 + page as u64))
}

fn is_damaged(unit: &DamagedUnit) -> bool {
    let found = unit.found.as_ref();
    found.is_none_or(|bytes| unit.digest.check(bytes).is_err())
}

/// The bytes that a unit will have, and what that means.
fn mended(unit: DamagedUnit, find: &mut FindUnit<'_>, done: &mut MendedData) -> Vec<u8> {
    if !is_damaged(&unit) {
        return unit.found.unwrap_or_default();
    }
    if let Some(bytes) = find(&unit).filter(|bytes| unit.digest.check(bytes).is_ok()) {
        done.mended += 1;
        return bytes;
    }
    let len = unit.len_bytes();
    done.lost.push(DamagedUnit {
        found: None,
        ..unit.clone()
    });
    unit.found.unwrap_or_else(|| vec![0; len])
}

/// Writes that follow each other as one.
struct Writer<'o> {
    out: &'o mut StagedFile,
    at: u64,
    bytes: Vec<u8>,
}

impl Writer<'_> {
    fn write(&mut self, offset: u64, bytes: &[u8]) -> Result<(), SinkError> {
        let follows = self.at + self.bytes.len() as u64 == offset;
        if !follows || self.bytes.len() >= WRITE_BYTES {
            self.flush()?;
            self.at = offset;
        }
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }

    fn flush(&mut self) -> Result<(), SinkError> {
        if !self.bytes.is_empty() {
            self.out.write_all_at(self.at, &self.bytes)?;
            self.bytes.clear();
        }
        Ok(())
    }
}

/// A data file that is not there.
#[derive(Debug)]
struct Nothing;

impl ReadFile for Nothing {
    fn len(&self) -> io::Result<u64> {
        Ok(0)
    }

    fn read_exact_at(&self, _offset: u64, _out: &mut [u8]) -> io::Result<()> {
        Err(io::ErrorKind::UnexpectedEof.into())
    }

    fn next_data(&self, _offset: u64) -> io::Result<Option<(u64, u64)>> {
        Ok(None)
    }

    fn allocated_bytes(&self) -> io::Result<u64> {
        Ok(0)
    }

    fn as_fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}

#[expect(clippy::cast_possible_truncation, reason = "4096")]
const PAGE: usize = PAGE_BYTES as usize;

/// Damaged units of one file whose bytes are kept.
const MAX_KEPT_UNITS: usize = 1024;

/// Bytes that are gathered for one write.
const WRITE_BYTES: usize = 1 << 20;
