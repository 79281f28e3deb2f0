//! What one data file holds of one leaf.

use serde::{Deserialize, Serialize};

use crate::address::{GuestPage, PAGE_BYTES};
use crate::bytes::Fields;
use crate::error::{DecodeError, Part};
use crate::id::Digest;
use crate::page_map::frame_table::{FRAME_PAGES, Frame, FrameTable, frame_count};
use crate::page_map::{
    FRAME_ENTRY_BYTES, INDEX_LEAF, LEAF_HEADER_BYTES, LEAF_PAGES, LEAF_SHIFT, LEAF_WORDS,
    MAX_UNIT_PAGES, PageBits,
};

/// What a snapshot says of one page.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PageState {
    /// As in the parent.
    Inherited,
    /// All bytes are zero, and none are stored.
    Zero,
    /// The bytes are in the data file.
    Present,
}

/// What one data file holds of one leaf: the state of each page, where the present ones lie, and
/// a digest for each unit of pages that holds a present one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct IndexLeaf {
    number: u32,
    unit_pages: u16,
    data_offset: u64,
    present: PageBits,
    zero: PageBits,
    digests: Vec<Digest>,
    frames: FrameTable,
    ranks: Box<[Rank; LEAF_WORDS]>,
}

/// How many present pages, and units with one, come before a word.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Rank {
    pages: u16,
    units: u16,
}

impl IndexLeaf {
    /// A leaf of parts that are known to agree.
    pub(crate) fn assemble(
        number: u32,
        unit_pages: u16,
        data_offset: u64,
        [present, zero]: [PageBits; 2],
        digests: Vec<Digest>,
        frames: FrameTable,
    ) -> Self {
        let mut ranks = Box::new([Rank::default(); LEAF_WORDS]);
        let mut next = Rank::default();
        for (rank, &word) in ranks.iter_mut().zip(present.words()) {
            *rank = next;
            next.pages += ones(word);
            next.units += ones(unit_heads(word, unit_pages));
        }
        Self {
            number,
            unit_pages,
            data_offset,
            present,
            zero,
            digests,
            frames,
            ranks,
        }
    }

    /// Which leaf it is: the guest page number of its first page divided by 16384.
    #[must_use]
    pub const fn number(&self) -> u32 {
        self.number
    }

    /// The first guest page of the leaf.
    #[must_use]
    pub fn first_page(&self) -> GuestPage {
        GuestPage(u64::from(self.number) << LEAF_SHIFT)
    }

    /// Pages in one digest unit: a power of two up to 16.
    #[must_use]
    pub const fn unit_pages(&self) -> u16 {
        self.unit_pages
    }

    /// Where the present pages of the leaf, or their frames, start in the data file; 0 in sparse
    /// data.
    #[must_use]
    pub const fn data_offset(&self) -> u64 {
        self.data_offset
    }

    /// The pages whose bytes are in the data file.
    #[must_use]
    pub const fn present(&self) -> &PageBits {
        &self.present
    }

    /// The pages that are zero.
    #[must_use]
    pub const fn zero(&self) -> &PageBits {
        &self.zero
    }

    /// The digests of the units that hold a present page, by ascending page.
    #[must_use]
    pub fn digests(&self) -> &[Digest] {
        &self.digests
    }

    /// The state of a page of the leaf; beyond the leaf, inherited.
    #[must_use]
    pub fn state(&self, page: usize) -> PageState {
        if self.present.contains(page) {
            PageState::Present
        } else if self.zero.contains(page) {
            PageState::Zero
        } else {
            PageState::Inherited
        }
    }

    /// How many present pages of the leaf come before a present page; `None` if it is not present.
    #[must_use]
    pub fn present_rank(&self, page: usize) -> Option<usize> {
        let (word, rank, bit) = self.find(page)?;
        let before = word & (bit - 1);
        Some(usize::from(rank.pages) + before.count_ones() as usize)
    }

    /// Packed data: where the bytes of a present page are in the data file; `None` if it is not
    /// present.
    #[must_use]
    pub fn packed_offset(&self, page: usize) -> Option<u64> {
        let rank = self.present_rank(page)? as u64;
        self.data_offset.checked_add(rank * PAGE_BYTES)
    }

    /// The frames of the present pages, by ascending page; none but in data that lies in frames.
    pub fn frames(&self) -> impl Iterator<Item = Frame> + '_ {
        let count = self.frames.entries().len();
        (0..count).filter_map(|index| self.frames.frame(index, self.data_offset))
    }

    /// The frame that holds a present page; `None` if it is not present, or in no frame.
    #[must_use]
    pub fn frame_of(&self, page: usize) -> Option<Frame> {
        let index = self.present_rank(page)? / FRAME_PAGES;
        self.frames.frame(index, self.data_offset)
    }

    /// How many frames there are; 0 in data that does not lie in frames.
    #[must_use]
    pub fn frame_count(&self) -> usize {
        self.frames.entries().len()
    }

    /// What the frames of the leaf take in the data file, in bytes.
    #[must_use]
    pub const fn frame_bytes(&self) -> u32 {
        self.frames.len_bytes()
    }

    /// The digest of the unit that holds a present page; `None` if the page is not present.
    #[must_use]
    pub fn unit_digest(&self, page: usize) -> Option<&Digest> {
        let (word, rank, bit) = self.find(page)?;
        let unit = u64::from(self.unit_pages);
        let head_bit =
            bit.trailing_zeros() / u32::try_from(unit).ok()? * u32::from(self.unit_pages);
        let before = unit_heads(word, self.unit_pages) & ((1u64 << head_bit) - 1);
        let index = usize::from(rank.units) + before.count_ones() as usize;
        self.digests.get(index)
    }

    /// Every unit that holds a present page, with its digest: (first page in the leaf, digest).
    pub fn units(&self) -> impl Iterator<Item = (usize, &Digest)> + '_ {
        let words = self.present.words().iter().enumerate();
        let heads = words.flat_map(|(index, &word)| {
            let mut heads = unit_heads(word, self.unit_pages);
            std::iter::from_fn(move || {
                let bit = (heads != 0).then(|| heads.trailing_zeros() as usize)?;
                heads &= heads - 1;
                Some(index * 64 + bit)
            })
        });
        heads.zip(&self.digests)
    }

    /// The bytes of the leaf.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let frames = self.frames.entries().len();
        let mut out = Vec::with_capacity(Self::encoded_len(self.digests.len(), frames));
        self.encode_into(&mut out);
        out
    }

    /// Appends the bytes of the leaf.
    pub fn encode_into(&self, out: &mut Vec<u8>) {
        out.extend(INDEX_LEAF.to_le_bytes());
        out.extend(self.unit_pages.to_le_bytes());
        out.extend(self.number.to_le_bytes());
        out.extend(self.data_offset.to_le_bytes());
        out.extend(len32(self.present.count()).to_le_bytes());
        out.extend(len32(self.zero.count()).to_le_bytes());
        out.extend(len32(self.digests.len()).to_le_bytes());
        out.extend(len32(self.frames.entries().len()).to_le_bytes());
        for bits in [&self.present, &self.zero] {
            for word in bits.words() {
                out.extend(word.to_le_bytes());
            }
        }
        for digest in &self.digests {
            out.extend(digest.0);
        }
        self.frames.encode_into(out);
    }

    /// The length of a leaf with so many digests and frames, in bytes.
    #[must_use]
    pub const fn encoded_len(digest_count: usize, frame_count: usize) -> usize {
        LEAF_HEADER_BYTES + LEAF_PAGES / 4 + digest_count * 32 + frame_count * FRAME_ENTRY_BYTES
    }

    /// Checks the bytes of leaf `number`. Whether they fit the rest of a map is checked by
    /// [`MapRoot::index_leaf`](crate::MapRoot::index_leaf).
    pub fn parse(bytes: &[u8], number: u32) -> Result<Self, DecodeError> {
        let part = Part::IndexLeaf(number);
        let mut fields = Fields::new(bytes, part);
        let sort = fields.u16()?;
        if sort != INDEX_LEAF {
            return Err(fields.invalid(0, "an index leaf has the mark 1", sort.into()));
        }
        let unit_pages = fields.u16()?;
        if !unit_pages.is_power_of_two() || unit_pages > MAX_UNIT_PAGES {
            return Err(fields.invalid(2, "a unit has 1, 2, 4, 8 or 16 pages", unit_pages.into()));
        }
        let found = fields.u32()?;
        if found != number {
            return Err(fields.invalid(
                4,
                "the leaf must have the number it is named by",
                found.into(),
            ));
        }
        let data_offset = fields.u64()?;
        let counts = [fields.u32()?, fields.u32()?, fields.u32()?];
        let found_frames = fields.u32()?;
        let present = parse_bits(&mut fields)?;
        let zero = parse_bits(&mut fields)?;
        check_disjoint(&fields, &present, &zero)?;
        let heads = present
            .words()
            .iter()
            .map(|word| unit_heads(*word, unit_pages).count_ones());
        let expected = [
            (
                16,
                "the count of present pages must agree",
                len32(present.count()),
            ),
            (
                20,
                "the count of zero pages must agree",
                len32(zero.count()),
            ),
            (
                24,
                "there is a digest for each unit that holds a page",
                heads.sum(),
            ),
        ];
        for ((offset, rule, expected), found) in expected.into_iter().zip(counts) {
            if expected != found {
                return Err(fields.invalid(offset, rule, found.into()));
            }
        }
        check_frame_count(&fields, found_frames, present.count(), unit_pages)?;
        let [_, _, digest_count] = counts;
        let mut digests = Vec::with_capacity(digest_count as usize);
        for _ in 0..digest_count {
            digests.push(Digest(fields.array()?));
        }
        let frames = FrameTable::decode(&mut fields, part, found_frames as usize, present.count())?;
        fields.finish()?;
        Ok(Self::assemble(
            number,
            unit_pages,
            data_offset,
            [present, zero],
            digests,
            frames,
        ))
    }

    /// The word of a present page, the rank of the word, and the bit of the page.
    fn find(&self, page: usize) -> Option<(u64, Rank, u64)> {
        let word = *self.present.words().get(page / 64)?;
        let rank = *self.ranks.get(page / 64)?;
        let bit = 1 << (page % 64);
        (word & bit != 0).then_some((word, rank, bit))
    }
}

/// The first bit of each unit of `unit_pages` bits that has any bit of `word`.
pub(crate) const fn unit_heads(mut word: u64, unit_pages: u16) -> u64 {
    let mut shift = 1;
    while shift < unit_pages {
        word |= word >> shift;
        shift *= 2;
    }
    word & match unit_pages {
        1 => u64::MAX,
        2 => 0x5555_5555_5555_5555,
        4 => 0x1111_1111_1111_1111,
        8 => 0x0101_0101_0101_0101,
        _ => 0x0001_0001_0001_0001,
    }
}

fn parse_bits(fields: &mut Fields<'_>) -> Result<PageBits, DecodeError> {
    let mut bits = PageBits::new();
    for word in bits.words_mut() {
        *word = fields.u64()?;
    }
    Ok(bits)
}

fn check_disjoint(
    fields: &Fields<'_>,
    present: &PageBits,
    zero: &PageBits,
) -> Result<(), DecodeError> {
    let pairs = present.words().iter().zip(zero.words());
    match (0u64..)
        .zip(pairs)
        .find(|(_, (present, zero))| *present & *zero != 0)
    {
        None => Ok(()),
        Some((index, (present, zero))) => Err(fields.invalid(
            LEAF_HEADER_BYTES as u64 + LEAF_PAGES as u64 / 8 + index * 8,
            "no page is both present and zero",
            present & zero,
        )),
    }
}

/// That there is a frame for each 16 of `pages` present pages, or none at all.
fn check_frame_count(
    fields: &Fields<'_>,
    found: u32,
    pages: usize,
    unit_pages: u16,
) -> Result<(), DecodeError> {
    if found == 0 || (found == len32(frame_count(pages)) && unit_pages == 1) {
        return Ok(());
    }
    let rule = "there is a frame for each 16 present pages of units of one page, or none";
    Err(fields.invalid(28, rule, found.into()))
}

/// A count of at most 16384.
fn len32(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

fn ones(word: u64) -> u16 {
    u16::try_from(word.count_ones()).unwrap_or(u16::MAX)
}
