//! Bytes to values and back: the versioned files of a virtual machine snapshot.

#![forbid(unsafe_code)]

mod address;
mod bytes;
mod codec;
pub mod envelope;
mod error;
mod id;
mod inspect;
mod layout;
pub mod limits;
mod manifest;
mod name;
pub mod page_map;
mod placement;
#[doc(hidden)]
pub mod sabotage;
mod section;
pub mod state;
mod state_file;

pub use address::{GuestAddress, GuestPage, PAGE_BYTES, PAGE_SHIFT, PageIndex, PageRange};
pub use codec::Codec;
pub use envelope::{
    Arch, Envelope, EnvelopeBuilder, FORMAT, Features, FileKind, FormatVersion, Header, Operation,
    SectionEntry, SectionTable,
};
pub use error::{DecodeError, ErrorKind, Part};
pub use id::{Digest, ParseIdError, SnapshotId, SnapshotRef};
pub use inspect::{
    Content, HeaderView, Inspection, MapView, Problem, SectionView, inspect, inspect_ends,
    table_range,
};
pub use layout::{LayoutError, MemoryLayout, MemoryRegion};
pub use manifest::Manifest;
pub use name::{
    BranchName, Description, LabelKey, LabelValue, NameError, SnapshotName, Tag, VmName,
};
pub use page_map::{
    DataLayout, IndexLeaf, IndexLeafBuilder, LEAF_PAGES, LeafRef, LeafTable, MapRoot, OwnerLeaf,
    PageBits, PageState,
};
pub use placement::{DataFileRef, FileEntry, Placement};
pub use section::{SectionKind, SectionOffers, SectionPayload, StatePayload};
pub use state_file::StateFile;
