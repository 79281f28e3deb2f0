//! The cold tier: snapshots as deduplicated chunks in packs, on anything that keeps objects.
//!
//! ```
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use std::sync::Arc;
//!
//! use snapshot_format::{MemoryLayout, PageRange, SnapshotId};
//! use snapshot_memory::backend::FsBackend;
//! use snapshot_memory::{PageRun, PageSource, SourceError};
//! use snapshot_vault::{
//!     ArchiveFile, ArchiveInput, ArchiveOptions, ArchivedKind, CollectOptions, FolderObjects,
//!     ScopeName, Sealing, Vault,
//! };
//!
//! // Memory of 1 MiB, all sevens.
//! struct Sevens(MemoryLayout);
//! impl PageSource for Sevens {
//!     fn layout(&self) -> &MemoryLayout {
//!         &self.0
//!     }
//!     fn run(&self, pages: PageRange) -> Result<PageRun, SourceError> {
//!         Ok(PageRun { count: pages.count, is_zero: false })
//!     }
//!     fn read_pages(&self, _: PageRange, out: &mut [u8]) -> Result<(), SourceError> {
//!         out.fill(7);
//!         Ok(())
//!     }
//! }
//!
//! let folder = tempfile::tempdir()?;
//! let objects = FolderObjects::open(Arc::new(FsBackend::open(folder.path())?))?;
//! let vault = Vault::open_or_create(Arc::new(objects))?;
//! let domain = vault.create_domain(&ScopeName::default_scope(), &Sealing::Open)?;
//!
//! let manifest = ArchiveFile { kind: ArchivedKind::MANIFEST, index: 0, bytes: b"manifest" };
//! let memory = Sevens(MemoryLayout::single(1 << 20)?);
//! let input = ArchiveInput {
//!     snapshot: SnapshotId([1; 16]),
//!     files: &[manifest],
//!     memory: Some(&memory),
//!     relative: None,
//! };
//! let archived = domain.archive(&input, &ArchiveOptions::default())?;
//! // Sixteen chunks of sevens are one; the leaf and the manifest are the others.
//! assert_eq!(archived.new_chunks, 3);
//!
//! // Pages come straight from the packs, each chunk checked.
//! let cold = domain.open_archive(archived.id)?.memory().ok_or("it has memory")?;
//! let mut page = [0; 4096];
//! cold.read_pages(PageRange::new(200, 1), &mut page)?;
//! assert_eq!(page, [7; 4096]);
//!
//! domain.delete_archive(archived.id)?;
//! let mut options = CollectOptions::default();
//! options.expire_trash = true;
//! assert_eq!(domain.collect(&options)?.deleted_packs, 1);
//! # Ok(())
//! # }
//! ```
//!
//! Which module holds what:
//!
//! - `objects`: the four calls that a vault needs, on a local folder or in memory
//! - `frame`, `fields`, `limits`: the frame of every object, and how bytes are taken apart
//! - `id`, `secrets`: what things are called, and the keys of a domain
//! - `chunk`, `pack`: chunks to records and back; packs of records
//! - `leaf`, `recipe`, `tombstone`: the other objects
//! - `keeper`: keys of sealed domains, wrapped for recipients or a passphrase (feature `age`)
//! - `vault`, `domain`, `archives`, `lease`: scopes, their domains, what is archived in them, and
//!   what keeps it
//! - `index`, `fetch`, `image`: where chunks are, and memory read straight from packs
//! - `stored`, `thaw`: snapshots of a store to a vault, and back
//! - `catalog`: the archives with what their manifests say
//! - `copies`: archives as copies from which a store is repaired
//! - `restore`, `verify`, `share`: all memory to a raw image; reading every byte; threads for it
//! - [`syscalls`]: the system calls of a vault in a folder, for those who filter them
//! - `archive`, `collect`: writing archives and deleting what none needs, in the order that
//!   `specs/41-vault-protocol.md` proves
//!
//! No thread is started unless [`ArchiveOptions::threads`] allows it, and no clock is read.

#![forbid(unsafe_code)]
#![cfg_attr(
    test,
    expect(
        clippy::assertions_on_result_states,
        clippy::cast_possible_truncation,
        clippy::panic,
        reason = "tests count in small numbers and look at outcomes"
    )
)]

mod archive;
mod archives;
mod catalog;
mod chunk;
mod collect;
mod copies;
mod domain;
mod error;
mod fetch;
mod fields;
mod frame;
mod id;
mod image;
mod index;
#[cfg(feature = "age")]
mod keeper;
mod leaf;
mod lease;
pub mod limits;
mod objects;
mod pack;
mod recipe;
mod restore;
mod secrets;
mod share;
mod stored;
pub mod syscalls;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod thaw;
mod tombstone;
mod vault;
mod verify;

pub use archive::{ArchiveFile, ArchiveInput, ArchiveOptions, ArchiveProgress, Archived, Relative};
pub use archives::{ArchiveList, ArchiveSummary, ColdSnapshot};
pub use catalog::{ArchivedSnapshot, Catalog};
pub use collect::{CollectOptions, CollectPlan, Collected, CondemnedPack};
pub use copies::ArchivedCopies;
pub use domain::Domain;
pub use error::{ErrorKind, FormatError, VaultError};
pub use id::{ChunkId, DomainId, ObjectId, ParseNameError, ScopeName};
pub use image::ColdImage;
#[cfg(feature = "age")]
pub use keeper::{PassphraseKeeper, RecipientKeeper};
pub use lease::{ArchiveLease, LeaseList};
pub use objects::{FolderObjects, ListedObject, ObjectError, ObjectKind, ObjectName, Objects};
#[cfg(any(test, feature = "testing"))]
pub use objects::{MemoryObjects, Step, objects_suite};
pub use recipe::ArchivedKind;
pub use secrets::RootKey;
pub use thaw::{ThawBase, ThawName, ThawOptions, Thawed};
pub use vault::{DomainSummary, KeyKeeper, Sealing, Vault};
pub use verify::VaultReport;
