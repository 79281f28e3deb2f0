//! The flattened map of one leaf: which data file owns each page.

use crate::bytes::Fields;
use crate::error::{DecodeError, Part};
use crate::page_map::{LEAF_HEADER_BYTES, LEAF_PAGES, OWNER_LEAF, PageBits};

/// For each page of a leaf its owner: 0 for a page that is zero, else the place of a data file in
/// the list of dependencies, counted from 1.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OwnerLeaf {
    number: u32,
    owners: Owners,
}

/// The narrowest form that holds the owners; a slice has one owner for each page of the leaf.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Owners {
    Uniform(u16),
    Bytes(Box<[u8]>),
    Words(Box<[u16]>),
}

impl OwnerLeaf {
    /// A leaf with one owner for every page.
    #[must_use]
    pub const fn uniform(number: u32, owner: u16) -> Self {
        Self {
            number,
            owners: Owners::Uniform(owner),
        }
    }

    /// A leaf whose owners `owner_of` gives, page by page.
    #[must_use]
    pub fn from_fn(number: u32, owner_of: impl FnMut(usize) -> u16) -> Self {
        Self::of_words(number, (0..LEAF_PAGES).map(owner_of).collect())
    }

    /// A leaf of owners of two bytes, kept in the narrowest form.
    pub(crate) fn of_words(number: u32, words: Box<[u16]>) -> Self {
        let bytes: Option<Box<[u8]>> = words.iter().map(|word| u8::try_from(*word).ok()).collect();
        if let Some(bytes) = bytes {
            return Self::of_bytes(number, bytes);
        }
        let owners = match one_value(&words) {
            Some(owner) => Owners::Uniform(owner),
            None => Owners::Words(words),
        };
        Self { number, owners }
    }

    /// A leaf of owners of one byte, kept in the narrowest form.
    pub(crate) fn of_bytes(number: u32, bytes: Box<[u8]>) -> Self {
        let owners = match one_value(&bytes) {
            Some(owner) => Owners::Uniform(owner.into()),
            None => Owners::Bytes(bytes),
        };
        Self { number, owners }
    }

    pub(crate) const fn owners(&self) -> &Owners {
        &self.owners
    }

    /// Which leaf it is.
    #[must_use]
    pub const fn number(&self) -> u32 {
        self.number
    }

    /// The owner of a page of the leaf; 0 beyond the leaf.
    #[must_use]
    pub fn owner(&self, page: usize) -> u16 {
        match &self.owners {
            Owners::Uniform(owner) if page < LEAF_PAGES => *owner,
            Owners::Uniform(_) => 0,
            Owners::Bytes(owners) => owners.get(page).copied().map_or(0, u16::from),
            Owners::Words(owners) => owners.get(page).copied().unwrap_or(0),
        }
    }

    /// This leaf for a layout in which `memory` are the pages of it that are memory: all others
    /// are owned by nobody.
    #[must_use]
    pub fn within(&self, memory: &PageBits) -> Self {
        let owner = |page| {
            let owner = self.owner(page);
            if memory.contains(page) { owner } else { 0 }
        };
        Self::from_fn(self.number, owner)
    }

    /// The first page that is owned by a data file and is not in `memory`.
    #[must_use]
    pub fn owned_outside(&self, memory: &PageBits) -> Option<usize> {
        // Most leaves are memory as a whole: a word at a time.
        let words = memory.words().iter().enumerate();
        let mut outside = words.filter(|(_, word)| **word != u64::MAX);
        outside.find_map(|(index, word)| {
            let mut pages = (0..64).filter(|bit| word >> bit & 1 == 0);
            let page = pages.find(|bit| self.owner(index * 64 + bit) != 0)?;
            Some(index * 64 + page)
        })
    }

    /// The largest owner.
    #[must_use]
    pub fn max_owner(&self) -> u16 {
        match &self.owners {
            Owners::Uniform(owner) => *owner,
            Owners::Bytes(owners) => owners.iter().copied().max().unwrap_or(0).into(),
            Owners::Words(owners) => owners.iter().copied().max().unwrap_or(0),
        }
    }

    /// How many pages from `start` on have the same owner, up to `limit`; 0 beyond the leaf.
    #[must_use]
    pub fn run(&self, start: usize, limit: usize) -> usize {
        let end = start.saturating_add(limit).min(LEAF_PAGES);
        match &self.owners {
            Owners::Uniform(_) => end.saturating_sub(start),
            Owners::Bytes(owners) => same(owners.get(start..end)),
            Owners::Words(owners) => same(owners.get(start..end)),
        }
    }

    /// The bytes of the leaf.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(LEAF_HEADER_BYTES + 2 * LEAF_PAGES);
        self.encode_into(&mut out);
        out
    }

    /// Appends the bytes of the leaf.
    pub fn encode_into(&self, out: &mut Vec<u8>) {
        let (width, uniform): (u16, u16) = match &self.owners {
            Owners::Uniform(owner) => (0, *owner),
            Owners::Bytes(_) => (1, 0),
            Owners::Words(_) => (2, 0),
        };
        out.extend(OWNER_LEAF.to_le_bytes());
        out.extend(width.to_le_bytes());
        out.extend(self.number.to_le_bytes());
        out.extend(uniform.to_le_bytes());
        out.extend([0; 22]);
        match &self.owners {
            Owners::Uniform(_) => {}
            Owners::Bytes(owners) => out.extend_from_slice(owners),
            Owners::Words(owners) => {
                for owner in owners {
                    out.extend(owner.to_le_bytes());
                }
            }
        }
    }

    /// Checks the bytes of leaf `number` of a map that knows the data files `1..=max_owner`.
    pub fn parse(bytes: &[u8], number: u32, max_owner: u16) -> Result<Self, DecodeError> {
        let mut fields = Fields::new(bytes, Part::OwnerLeaf(number));
        let sort = fields.u16()?;
        if sort != OWNER_LEAF {
            return Err(fields.invalid(0, "an owner leaf has the mark 2", sort.into()));
        }
        let width = fields.u16()?;
        let found = fields.u32()?;
        if found != number {
            return Err(fields.invalid(
                4,
                "the leaf must have the number it is named by",
                found.into(),
            ));
        }
        let uniform = fields.u16()?;
        fields.reserved::<22>()?;
        let leaf = match width {
            0 => Self::uniform(number, uniform),
            1 => Self::of_bytes(number, fields.take(LEAF_PAGES)?.into()),
            2 => {
                let owners = fields.take(2 * LEAF_PAGES)?.as_chunks().0.iter();
                Self::of_words(number, owners.copied().map(u16::from_le_bytes).collect())
            }
            _ => return Err(fields.invalid(2, "an owner has 0, 1 or 2 bytes", width.into())),
        };
        fields.finish()?;
        if leaf.width() != width {
            return Err(fields.invalid(2, "owners have the narrowest width", width.into()));
        }
        if width != 0 && uniform != 0 {
            return Err(fields.invalid(8, "only owners of no bytes are uniform", uniform.into()));
        }
        if leaf.max_owner() > max_owner {
            return Err(fields.invalid(
                LEAF_HEADER_BYTES as u64,
                "an owner is a data file that the map knows",
                leaf.max_owner().into(),
            ));
        }
        Ok(leaf)
    }

    const fn width(&self) -> u16 {
        match &self.owners {
            Owners::Uniform(_) => 0,
            Owners::Bytes(_) => 1,
            Owners::Words(_) => 2,
        }
    }
}

/// The value that all items have, if it is one.
fn one_value<T: Copy + PartialEq>(items: &[T]) -> Option<T> {
    let first = *items.first()?;
    items.iter().all(|item| *item == first).then_some(first)
}

/// How many of the first items are equal.
fn same<T: PartialEq>(items: Option<&[T]>) -> usize {
    let items = items.unwrap_or_default();
    match items.first() {
        None => 0,
        Some(first) => items.iter().take_while(|item| *item == first).count(),
    }
}
