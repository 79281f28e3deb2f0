//! Bytes to values and back: the versioned files of a virtual machine snapshot.
//!
//! A file is an [`Envelope`]: a header that every version can read, sections with a digest each,
//! and a table of them. Nothing here opens a file, maps one, or knows a hypervisor; the files
//! themselves are specified in `specs/`.
//!
//! ```
//! use snapshot_format::{
//!     Arch, DecodeError, SectionKind, SectionPayload, SnapshotId, StateFile, inspect,
//! };
//!
//! # fn main() -> Result<(), DecodeError> {
//! let serial = SectionKind(SectionKind::CALLER.0 + 1);
//! let file = StateFile {
//!     id: SnapshotId([7; 16]),
//!     parent: None,
//!     arch: Arch::X86_64,
//!     sections: vec![SectionPayload::raw(serial, 0, 1, b"line control 3".to_vec())],
//! };
//! let mut bytes = file.encode();
//!
//! let mut offers = StateFile::offers(&bytes)?;
//! let section = offers.take_payload(serial, 0).expect("the section above");
//! assert_eq!(section.bytes, b"line control 3");
//! offers.finish()?; // a section that nobody took would be an error
//!
//! bytes[130] ^= 1; // one flipped bit
//! let error = StateFile::parse(&bytes).expect_err("damage is always found");
//! assert_eq!(error.offset(), Some(128));
//! assert!(inspect(&bytes, bytes.len() as u64).header.is_some());
//! # Ok(())
//! # }
//! ```
//!
//! # Modules
//!
//! | Module | Holds |
//! |---|---|
//! | `address`, `layout`, `layout_overlap`, `id`, `name` | guest addresses and pages, which of them are memory, digests and ids, names |
//! | [`envelope`] | header, section table, feature bits, kinds of files |
//! | `section`, `codec` | typed payloads, the offers they are taken from, the one use of bitcode |
//! | [`page_map`] | leaves, their tables, the root, flattening |
//! | `manifest`, `placement`, `state_file`, `working_set` | the whole files |
//! | [`state`] | vCPUs, interrupt controllers, clocks, devices, the fingerprint |
//! | `inspect` | a look at files that are damaged or from the future |
//! | [`limits`] | every cap |
//! | `error` | [`DecodeError`]: which part, which offset, which rule |
//!
//! The feature `sabotage` compiles in deliberate defects that prove that the checks can fail; it
//! is for this project's own checks. The minimum supported Rust version is that of the workspace.

#![forbid(unsafe_code)]

mod address;
mod bytes;
mod codec;
pub mod envelope;
mod error;
mod id;
mod inspect;
mod layout;
mod layout_overlap;
pub mod limits;
mod manifest;
mod name;
pub mod page_map;
mod parity;
mod placement;
#[doc(hidden)]
pub mod sabotage;
mod section;
pub mod state;
mod state_file;
mod working_set;

pub use address::{GuestAddress, GuestPage, PAGE_BYTES, PAGE_SHIFT, PageIndex, PageRange};
pub use codec::Codec;
pub use envelope::{
    Arch, Envelope, EnvelopeBuilder, FORMAT, Features, FileKind, FormatVersion, Header, Operation,
    SectionEntry, SectionTable,
};
pub use error::{DecodeError, ErrorKind, Part};
pub use id::{Digest, ParseIdError, SnapshotId, SnapshotRef};
pub use inspect::{
    Content, HeaderView, Inspection, MapView, Problem, SectionView, StateView, WorkingSetView,
    inspect, inspect_ends, table_range,
};
pub use layout::{LayoutError, MemoryLayout, MemoryRegion};
pub use layout_overlap::SharedRun;
pub use manifest::Manifest;
pub use name::{
    BranchName, Description, LabelKey, LabelValue, NameError, SnapshotName, Tag, VmName,
};
pub use page_map::{
    DataLayout, Frame, FrameCoding, FrameEntry, IndexLeaf, IndexLeafBuilder, LEAF_PAGES, LeafRef,
    LeafTable, MapRoot, OwnerLeaf, PageBits, PageState,
};
pub use parity::{PARITY_HEAD_BYTES, PARITY_VERSION, ParityFile, ParityHead, ParityTable};
pub use placement::{DataFileRef, FileEntry, Placement};
pub use section::{SectionKind, SectionOffers, SectionPayload, StatePayload};
pub use state_file::StateFile;
pub use working_set::{
    WORKING_SET_READER_MINOR, WORKING_SET_UNIT_BYTES, WORKING_SET_UNIT_PAGES, WorkingSetFrame,
    WorkingSetIndex, WorkingSetOrigin, WorkingSetRun,
};
