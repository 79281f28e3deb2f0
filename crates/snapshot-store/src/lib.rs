//! Snapshots as a set: staged, sealed, published, found, verified, deleted and brought back.
//!
//! Which module holds what:
//!
//! - `store`, `open`, `options`, `header`, `recovery`: an open store, and what a crash left in it
//! - `directory`, `file`, `checked_json`: names and small files
//! - `record`, `catalog`, `reference`, `tree`, `metadata`: which snapshots there are
//! - `vm`, `vm_file`: sequence numbers, names and branch heads of one virtual machine
//! - `lock`, `lease`: who may do what at the same time
//! - `sink`: taking a snapshot
//! - `placed`, `image`: reading one
//! - `deletion`, `usage`, `verify`: the trash, disk space, and checking everything

#![forbid(unsafe_code)]

mod catalog;
mod checked_json;
mod deletion;
mod directory;
mod error;
mod file;
mod header;
mod identity;
mod image;
mod lease;
mod lock;
mod metadata;
mod open;
mod options;
mod placed;
mod reading;
mod record;
mod recovery;
mod reference;
mod relabel;
mod sink;
mod store;
mod tree;
mod usage;
mod verify;
mod vm;
mod vm_file;

pub use deletion::DeletePlan;
pub use directory::Location;
pub use error::{ErrorKind, Refusal, StoreError};
pub use header::{STORE_VERSION, StoreHeader};
pub use image::StoredImage;
pub use lease::Lease;
pub use metadata::Metadata;
pub use options::{Access, OpenOptions};
pub use reading::SnapshotDetail;
pub use record::{DamagedSnapshot, Listing, SnapshotRecord};
pub use reference::Reference;
pub use sink::{NewSnapshot, StoreSealed, StoreSink, StoreStage};
pub use store::Store;
pub use tree::{ParentLink, TreeEntry};
pub use usage::{SnapshotUsage, Usage};
pub use verify::{Problem, Selection, VerifyProgress, VerifyReport};
