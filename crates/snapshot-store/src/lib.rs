//! Snapshots as a set: staged, sealed, published, found, verified, deleted and brought back.
//!
//! ```
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use std::ops::ControlFlow;
//! use std::sync::Arc;
//!
//! use snapshot_format::{MemoryLayout, PageRange, VmName};
//! use snapshot_memory::backend::{Backend, FsBackend, RelPath};
//! use snapshot_memory::{DirtyBitmap, MappedMemory, MappingOptions, Pages, Stability};
//! use snapshot_store::{NewSnapshot, OpenOptions, Selection, Store};
//!
//! let dir = tempfile::tempdir()?;
//! let backend = FsBackend::create(&dir.path().join("store"))?;
//! let store = Store::open_or_create(Arc::new(backend), &OpenOptions::default())?;
//!
//! // A guest of 1 MiB, and a full snapshot of it.
//! let layout = MemoryLayout::single(1 << 20)?;
//! let guest = MappedMemory::new(layout, MappingOptions::default())?;
//! guest.write(3 * 4096, &[7; 4096])?;
//! let new = NewSnapshot::of(VmName::new("web")?);
//! let mut stage = store.sink(new.clone()).stage()?;
//! stage.memory(&guest, Pages::Full, Stability::Paused)?;
//! let base = stage.seal()?.publish()?.snapshot;
//!
//! // One page changes: a diff of one page.
//! guest.write(5 * 4096, &[9; 4096])?;
//! let dirty = DirtyBitmap::new(256);
//! dirty.set_range(PageRange::new(5, 1));
//! let mut stage = store.sink(new.parent(Some(base))).stage()?;
//! let pages = Pages::Since { base, dirty: &dirty };
//! assert_eq!(stage.memory(&guest, pages, Stability::Paused)?.present, 1);
//! let diff = stage.seal()?.publish()?.snapshot;
//!
//! // Both verify, and the second restores to one raw image.
//! let report = store.verify(Selection::All, &mut |_| ControlFlow::Continue(()))?;
//! assert!(report.ok && report.snapshots == 2);
//! let name = RelPath::root().join("restored.img")?;
//! let out = FsBackend::open(dir.path())?;
//! let mut file = out.create(&name)?;
//! let mut progress = |_| ControlFlow::Continue(());
//! store.restore(diff.id, file.as_mut(), "restored.img", &mut progress)?;
//! let mut page = [0; 4096];
//! out.open(&name)?.read_exact_at(5 * 4096, &mut page)?;
//! assert_eq!(page, [9; 4096]);
//! # Ok(())
//! # }
//! ```
//!
//! Which module holds what:
//!
//! - `store`, `open`, `options`, `header`, `recovery`: an open store, and what a crash left in it
//! - `directory`, `file`, `checked_json`: names and small files
//! - `record`, `catalog`, `reference`, `metadata`: which snapshots there are
//! - `forest`, `tree`, `lost`, `branch`, `merge`, `recreate`: who descends from whom, and lines of them
//! - `filter`, `pattern`: which of them are meant, and what new ones are called
//! - `known`, `vm`, `vm_file`: sequence numbers, names and branch heads of one virtual machine
//! - `lock`, `lease`: who may do what at the same time
//! - `sink`, `identity`: taking a snapshot
//! - `placed`, `feature`, `reading`, `image`, `parts`: what this build must know to read one, and reading it
//! - `relayout`, `placing`, `working_set`, `refresher`: new placements, with the same memory in another data
//!   file, or with another working set
//! - `consolidation`: new placements that need fewer data files
//! - `cache`: materialised images
//! - `repair`: mending damage from copies
//! - `access`: who may read what is published
//! - `audit`: who changed what, in a log that is only appended to
//! - `index`, with the feature of that name: lists of many snapshots, without reading each
//! - `analysis`: differences, pictures, space, chains, and what to do about them
//! - `retention`, `prune`: which snapshots a policy keeps, and moving the others to the trash
//! - `garbage`: giving the space of deleted snapshots and superseded files back
//! - `vm_policy`, `quota`: what an operator set for one virtual machine
//! - `relabel`, `deletion`, `usage`, `verify`: names and labels, the trash, disk space, and checking
//!   everything

#![forbid(unsafe_code)]

mod access;
mod analysis;
mod audit;
mod branch;
mod cache;
mod catalog;
mod checked_json;
mod consolidation;
mod deletion;
mod directory;
mod error;
mod feature;
mod file;
mod filter;
mod forest;
mod garbage;
mod header;
mod identity;
mod image;
#[cfg(feature = "index")]
mod index;
mod known;
mod lease;
mod lock;
mod lost;
mod merge;
mod metadata;
mod open;
mod options;
mod parity;
mod parts;
mod pattern;
mod placed;
mod placing;
mod prune;
mod quota;
mod reading;
mod record;
mod recovery;
mod recreate;
mod reference;
mod refresher;
mod relabel;
mod relayout;
mod repair;
pub mod retention;
mod sink;
mod store;
#[cfg(target_os = "linux")]
pub mod syscalls;
mod tree;
mod usage;
mod verify;
mod vm;
mod vm_file;
mod vm_policy;
mod working_set;

pub use access::ReadAccess;
pub use analysis::{
    AttachedChange, ChainLayer, ChainReport, Diagnosis, Finding, FindingKind, MachineSpace,
    MemoryDifference, PageCountsBy, Picture, PictureCell, RegionDifference, SectionChange,
    SectionChanges, SnapshotDifference, SnapshotSpace, SpaceReport, open_metrics,
};
pub use audit::{
    Actor, AuditEntry, AuditEvent, AuditProblem, AuditReport, Intent, UnfinishedIntent,
};
pub use branch::BranchRecord;
pub use cache::{CachedImage, WarmEnd, WarmJob, WarmReport};
pub use consolidation::{
    ChainAction, ChainDecision, ChainReason, ChainSimulation, ConsolidationOutcome,
    ConsolidationPlan, ConsolidationPolicy, ConsolidationPolicyError, ConsolidationReport,
    FailedConsolidation, KeptFiles,
};
pub use deletion::DeletePlan;
pub use directory::Location;
pub use error::{ErrorKind, Refusal, StoreError, with_causes};
pub use filter::{CATEGORY, Filter, SearchText};
pub use forest::Forest;
pub use garbage::{
    Collected, GarbageOptions, GarbageProblem, GarbageReport, KeptInTrash, KeptReason, Trimmed,
};
pub use header::{STORE_VERSION, StoreHeader};
pub use image::StoredImage;
#[cfg(feature = "index")]
pub use index::{Index, IndexUse, Reindexed};
pub use lease::Lease;
pub use lost::LostSnapshot;
pub use merge::{Giver, MERGED, Merge, MergeReport};
pub use metadata::Metadata;
pub use options::{Access, OpenOptions};
pub use parity::{ParityOptions, ParityReport};
pub use parts::SnapshotParts;
pub use pattern::{NamePattern, NameTemplate};
pub use prune::{PrunePlan, PruneReport, RefusedRemoval};
pub use reading::SnapshotDetail;
pub use record::{DamagedSnapshot, Listing, SnapshotRecord};
pub use recreate::RecreateReport;
pub use reference::Reference;
pub use refresher::WorkingSetRefresher;
pub use relayout::RelayoutReport;
pub use repair::{
    HurtSnapshot, LostRange, RepairOutcome, RepairReport, RepairSource, RepairedFile, WantedFile,
    WantedPages,
};
pub use sink::{NewSnapshot, Returned, ReturningSnapshot, StoreSealed, StoreSink, StoreStage};
pub use store::Store;
pub use tree::{ParentLink, TreeEntry};
pub use usage::{CachedUsage, SnapshotUsage, Usage};
pub use verify::{LastCheck, Problem, Selection, VerifyOptions, VerifyProgress, VerifyReport};
pub use vm_policy::{ArchivePlace, VmPolicy};
pub use working_set::{StoredWorkingSet, WorkingSetReport, WorkingSetStage};

#[cfg(test)]
mod tests;
