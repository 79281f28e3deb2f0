//! Bytes to values and back: the versioned files of a virtual machine snapshot.

#![forbid(unsafe_code)]

mod address;
mod id;
mod layout;
pub mod limits;
#[doc(hidden)]
pub mod sabotage;

pub use address::{GuestAddress, GuestPage, PAGE_BYTES, PAGE_SHIFT, PageIndex, PageRange};
pub use id::{Digest, ParseIdError, SnapshotId, SnapshotRef};
pub use layout::{LayoutError, MemoryLayout, MemoryRegion};
