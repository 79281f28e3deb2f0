//! Where each guest page is: zero, present in a data file, or inherited from the parent.
//!
//! A map is a tree of leaves of 64 MiB. An [`IndexLeaf`] says what one data file holds of its
//! leaf, an [`OwnerLeaf`] which data file owns each page after flattening, and a [`MapRoot`] names
//! the leaves of one `memory.map` with their digests. Leaves are read on demand.

mod bits;
mod flatten;
mod frame_table;
mod index_leaf;
mod layout_leaves;
mod leaf_builder;
mod leaf_table;
mod owner_leaf;
mod root;
mod unit;

pub use bits::PageBits;
pub use flatten::flatten;
pub use frame_table::{
    FRAME_BYTES, FRAME_ENTRY_BYTES, FRAME_PAGES, Frame, FrameCoding, FrameEntry,
};
pub use index_leaf::{IndexLeaf, PageState};
pub use leaf_builder::{IndexLeafBuilder, LeafError};
pub use leaf_table::{LEAF_REF_BYTES, LeafRef, LeafTable};
pub use owner_leaf::OwnerLeaf;
pub use root::{DataLayout, MAP_ROOT_VERSION, MERGED_READER_MINOR, MapRoot};

/// Guest pages in one leaf: 64 MiB of guest physical addresses.
pub const LEAF_PAGES: usize = 16_384;

/// log2 of [`LEAF_PAGES`].
pub const LEAF_SHIFT: u32 = 14;

/// Bytes before the maps of a leaf.
pub const LEAF_HEADER_BYTES: usize = 32;

/// The largest digest unit, in pages.
pub const MAX_UNIT_PAGES: u16 = 16;

/// 64-page words in one leaf.
pub(crate) const LEAF_WORDS: usize = LEAF_PAGES / 64;

/// The numbers that tell the two sorts of leaves apart.
pub(crate) const INDEX_LEAF: u16 = 1;
pub(crate) const OWNER_LEAF: u16 = 2;
