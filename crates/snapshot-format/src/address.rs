//! Guest physical addresses, guest page numbers and image page indices.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Bytes in one page: the granule of every map, bitmap and digest, whatever the host page size.
pub const PAGE_BYTES: u64 = 4096;

/// log2 of [`PAGE_BYTES`].
pub const PAGE_SHIFT: u32 = 12;

/// A guest physical address in bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct GuestAddress(pub u64);

/// A guest page number: guest physical address divided by [`PAGE_BYTES`].
///
/// Page maps are keyed by it, so that they stay true when memory is plugged or unplugged.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct GuestPage(pub u64);

/// The index of a page in the raw image: the regions of a layout, concatenated in the order of
/// their guest physical addresses.
///
/// Bitmaps and guest memory sources are keyed by it. [`MemoryLayout`](crate::MemoryLayout)
/// converts between it and [`GuestPage`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PageIndex(pub u64);

/// A run of image pages: `count` pages from `start`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct PageRange {
    /// The first page.
    pub start: PageIndex,
    /// How many pages.
    pub count: u64,
}

impl GuestAddress {
    /// The page that holds this address.
    #[must_use]
    pub const fn page(self) -> GuestPage {
        GuestPage(self.0 >> PAGE_SHIFT)
    }

    /// Whether the address is a multiple of [`PAGE_BYTES`].
    #[must_use]
    pub const fn is_page_aligned(self) -> bool {
        self.0.is_multiple_of(PAGE_BYTES)
    }
}

impl GuestPage {
    /// The address of the first byte of the page; `None` past the end of the address space.
    #[must_use]
    pub const fn address(self) -> Option<GuestAddress> {
        match self.0.checked_mul(PAGE_BYTES) {
            Some(address) => Some(GuestAddress(address)),
            None => None,
        }
    }
}

impl PageIndex {
    /// The offset in bytes of the page in the raw image; `None` on overflow.
    #[must_use]
    pub const fn image_offset(self) -> Option<u64> {
        self.0.checked_mul(PAGE_BYTES)
    }
}

impl PageRange {
    /// The run of `count` pages that begins at `start`.
    #[must_use]
    pub const fn new(start: u64, count: u64) -> Self {
        Self {
            start: PageIndex(start),
            count,
        }
    }

    /// One past the last page; saturates at the end of the index space.
    #[must_use]
    pub const fn end(self) -> PageIndex {
        PageIndex(self.start.0.saturating_add(self.count))
    }

    /// The length in bytes; `None` on overflow.
    #[must_use]
    pub const fn len_bytes(self) -> Option<u64> {
        self.count.checked_mul(PAGE_BYTES)
    }

    /// Whether the run holds no page.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.count == 0
    }
}

impl fmt::Debug for GuestAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "GuestAddress({:#x})", self.0)
    }
}

impl fmt::Display for GuestAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

impl fmt::Debug for GuestPage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "GuestPage({:#x})", self.0)
    }
}

impl fmt::Debug for PageIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PageIndex({})", self.0)
    }
}
