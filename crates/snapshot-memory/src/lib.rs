//! Guest memory in and out: dirty pages, memory files, atomic publish.
//!
//! ```
//! use std::sync::Arc;
//!
//! use snapshot_format::{Arch, MemoryLayout, PAGE_BYTES, PageRange, VmName};
//! use snapshot_memory::backend::FsBackend;
//! use snapshot_memory::{
//!     DirectorySink, DirtyTracker, GuestMemorySource, MappedMemory, MappingOptions,
//!     PublishedSnapshot, SnapshotSink, Stability, VmmWrites,
//! };
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let folder = tempfile::tempdir()?;
//! let memory = MappedMemory::new(MemoryLayout::single(1 << 20)?, MappingOptions::default())?;
//! let (writes, marker) = VmmWrites::new(memory.layout().clone());
//! let tracker = DirtyTracker::new(memory.layout().clone(), vec![Box::new(writes)])?;
//! let consumer = tracker.subscribe(None);
//!
//! let backend = Arc::new(FsBackend::open(folder.path())?);
//! let mut sink = DirectorySink::new(backend.clone(), VmName::new("demo")?, Arch::host());
//! for page in [3, 5] {
//!     memory.write(page * PAGE_BYTES, b"hello")?;
//!     marker.mark(PageRange::new(page, 1));
//!     // Stop the machine here. The first epoch is of all pages, the second of one.
//!     let epoch = tracker.epoch(consumer)?;
//!     let mut staged = sink.begin()?;
//!     staged.memory(&memory, epoch.selection(), Stability::Paused)?;
//!     let published = staged.seal()?.publish()?;
//!     // Only now may the bits go: the snapshot is durable.
//!     epoch.commit(published.snapshot)?;
//!
//!     let image = PublishedSnapshot::open(&*backend, published.snapshot.id)?.image(&*backend)?;
//!     let mut bytes = vec![0; 4096];
//!     image.read_pages(PageRange::new(page, 1), &mut bytes)?;
//!     assert!(bytes.starts_with(b"hello"));
//! }
//! # Ok(())
//! # }
//! ```
//!
//! | Module | Holds |
//! |---|---|
//! | [`backend`] | the one way to files: real, in memory, failing on purpose |
//! | `bus_guard` | mapped files that are cut under a running guest, told by an event |
//! | `capture` | the writer of a data file and its map |
//! | `consolidation` | which files of a chain stay, and which pages a merged file takes over |
//! | `directory` | snapshots in a plain directory |
//! | `dirty` | bitmaps, sources, the tracker and its epochs |
//! | `frames` | pages compressed and decoded, 16 at a time |
//! | `handler` | pages of a guest from another process |
//! | `guest_io`, `mapping`, `source` | guest memory, reached without a reference |
//! | `plan` | which way of bringing memory back is best, and the doing of it |
//! | `priority` | giving way to others |
//! | `image`, `raw_file` | memory of a snapshot, or of another VMM's file, brought back |
//! | `rust_vmm` | guest memory of rust-vmm; under the feature `vm-memory` |
//! | `restore` | what all ways of bringing memory back share: when pages are checked, where they come from, what is lost |
//! | `relayout` | the pages of a snapshot in another data file, laid out anew |
//! | `sink`, `staged` | stage, seal, publish |
//! | `serve` | memory that is there at once: pages served when they are touched |
//! | `uffd` | userfaultfd: missing pages and dirty pages |
//! | `working_set` | the pages that a guest touches first: recorded, written, brought back |
//! | `syscalls` | the system calls of each feature |
//! | `testing`, `skip` | conformance suites, tests under a filter; under the feature `testing` |
//!
//! # System calls and threads
//!
//! `syscalls` lists the system calls of each feature, for those who filter them. No thread is
//! started unless [`CaptureOptions::threads`] allows it, and nothing is read from the environment.
//!
//! # Features
//!
//! `vm-memory` captures guest memory of rust-vmm's crate of that name. `testing` adds the backends and suites for tests; `sabotage` compiles in deliberate defects
//! that prove that the checks can fail. None changes a byte on disk.

#![cfg_attr(
    test,
    expect(
        clippy::assertions_on_result_states,
        clippy::cast_possible_truncation,
        clippy::needless_for_each,
        reason = "tests count in small numbers and look at outcomes"
    )
)]

pub mod backend;
#[cfg(target_os = "linux")]
mod bus_guard;
mod capture;
mod consolidation;
mod direct;
mod directory;
mod dirty;
mod envelope_file;
mod error;
mod frames;
mod guest_io;
#[cfg(target_os = "linux")]
mod handler;
mod image;
mod mapping;
mod plan;
mod priority;
mod raw_file;
mod relayout;
mod restore;
#[cfg(feature = "vm-memory")]
mod rust_vmm;
#[cfg(target_os = "linux")]
mod serve;
mod sink;
#[cfg(any(test, feature = "testing"))]
pub mod skip;
mod source;
mod staged;
#[cfg(target_os = "linux")]
pub mod syscalls;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
#[cfg(target_os = "linux")]
mod uffd;
mod working_set;
mod zero;

#[cfg(target_os = "linux")]
pub use bus_guard::{BusGuard, BusGuardError, BusWatch, MappedRun};
pub use capture::{
    Cancel, CaptureControl, CaptureOptions, CaptureProgress, CostModel, Dedup, Engine,
    EngineChoice, LayoutChoice, MemoryWriter, Pace, WrittenMemory,
};
pub use consolidation::{
    ChainLimits, ConsolidateOptions, FileShare, Fragmentation, Takeover, choose_prefix,
};
pub use direct::{
    DirectBuffer, DirectRefused, Piece, QueueMode, WriteQueue, WriteThrough, release_buffers,
};
pub use directory::{DirectoryError, DirectorySink, PublishedSnapshot};
pub use dirty::{
    BitmapError, BlindSpot, BlindSpots, ConsumerId, DirtyBitmap, DirtyEpoch, DirtyGuarantee,
    DirtySource, DirtyTracker, LiveEpoch, LiveRounds, SourceFacts, VmmWrites, WriteMarker,
};
pub use envelope_file::EnvelopeFile;
pub use error::{DirtyError, FileError, MemoryError, PublishError, SinkError};
pub use frames::{FrameCodec, FrameCodecError, FrameDecoder, FrameEncoder, FrameFault};
#[cfg(target_os = "linux")]
pub use handler::{
    HandlerError, HandlerEvent, HandlerOptions, HandlerState, HandlerStop, HandlerWatch,
    HandshakeError, PageHandler, ServiceEnd, ServiceRefused,
};
pub use image::{
    BoundCheck, CheckedBytes, CompareError, DamagedUnit, DataFile, DataFileNames, Extent, FindUnit,
    FoundMap, ImageError, MapFile, MemoryImage, MendedData, OpenDataFile, PageCounts, RawBytes,
    RawStep, RawWriter,
};
pub use mapping::{MappedMemory, MappingKind, MappingOptions};
pub use plan::{
    Advice, CheckedBy, Discards, Estimate, Faults, FileRun, FileSummary, FillError, FillOptions,
    FillTarget, Filled, GivenBack, KernelFacts, MAX_MAPPINGS, MapSummary, Mappable, MappedFrom,
    MappingCount, MemoryFacts, MemoryReport, MethodKind, NoPlan, RawImageFacts, Refusal,
    RegionSummary, RestoreCosts, RestoreMethod, RestorePlan, TargetFacts, TargetKind, Wanted, Why,
    WorkingSetReport, fill_memory,
};
#[cfg(target_os = "linux")]
pub use plan::{
    BackgroundCheck, CheckHandle, CheckOutcome, RawDiffers, RawImage, ReplayOutcome, RestoreFrom,
    RestoreMemoryError, RestoredMemory, SealedError, SealedMemory, WorkingSetReplay, has_verity,
};
pub use priority::lower_priority;
pub use raw_file::{RawFile, RawFileError};
pub use relayout::{RelayoutError, RelayoutOptions, WrittenLayout};
pub use restore::{FailureCause, MemoryFailure, PageRun, PageSource, SourceError, Verification};
#[cfg(target_os = "linux")]
pub use restore::{MemoryEvents, MemoryReporter};
#[cfg(feature = "vm-memory")]
pub use rust_vmm::{RustVmmMemory, RustVmmWrites};
#[cfg(target_os = "linux")]
pub use serve::{
    Background, FaultTrace, LazyMemory, LazyOptions, PageServer, ServeError, ServeOptions,
    ServeStats, ServedDiscards, SharedPages,
};
pub use sink::{
    LiveMemory, LivePlan, LiveRound, MemoryPlan, MemoryStats, Pages, Published, SealedSink,
    SnapshotSink, StagedSink,
};
pub use source::{GuestMemorySource, HostRun, Stability};
pub use staged::{
    PLACE_PREFIX, STAGE_PREFIX, SealedPlacement, SealedReplacement, SealedSnapshot, SnapshotFacts,
    StagedFile, StagedLive, StagedPlacement, StagedQueue, StagedReturn, StagedSnapshot,
    snapshot_room,
};
#[cfg(target_os = "linux")]
pub use uffd::{
    FaultModes, ServedRange, UffdContext, UffdError, UffdOptions, WpAsyncMemory, WpAsyncSource,
};
pub use working_set::{
    Change, FreshMemory, HoldBack, Observed, PageTarget, REFRESH_MIN_PAGES, REFRESH_MISSING_SHARE,
    REFRESH_STALE_SHARE, Refreshed, ReplayOptions, Replayed, Seen, TouchedPages, Verdict,
    WorkingSet, WorkingSetError, WorkingSetFault, WorkingSetKeeper, WorkingSetOptions,
    WrittenWorkingSet, write_working_set,
};
pub use zero::is_zero;
