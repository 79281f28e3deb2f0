//! How the memory of a snapshot is brought back: what is best, as pure data, and the doing of it.

#[cfg(target_os = "linux")]
mod background;
#[cfg(target_os = "linux")]
mod check;
mod costs;
mod facts;
mod fill;
#[cfg(target_os = "linux")]
mod host;
mod mappings;
mod method;
#[cfg(target_os = "linux")]
mod observe;
mod offer;
mod refusal;
#[cfg(target_os = "linux")]
mod replay;
mod report;
#[cfg(target_os = "linux")]
mod restore_from;
mod restore_plan;
#[cfg(target_os = "linux")]
mod restored;
#[cfg(target_os = "linux")]
mod run;
#[cfg(target_os = "linux")]
mod sealed;
#[cfg(target_os = "linux")]
mod served;
mod summary;
#[cfg(target_os = "linux")]
mod verity;
mod wanted;
#[cfg(target_os = "linux")]
mod watch;

#[cfg(target_os = "linux")]
pub use background::{BackgroundCheck, CheckHandle, CheckOutcome};
#[cfg(target_os = "linux")]
pub use check::{RawDiffers, RawImage};
pub use costs::RestoreCosts;
pub use facts::{
    Discards, KernelFacts, MappingCount, MemoryFacts, RawImageFacts, TargetFacts, TargetKind,
};
pub use fill::{FillError, FillOptions, FillTarget, Filled, fill_memory};
pub use mappings::{FileRun, MAX_MAPPINGS, Mappable};
pub use method::{Faults, GivenBack, MappedFrom, MethodKind, RestoreMethod};
pub use refusal::{Refusal, Why};
#[cfg(target_os = "linux")]
pub use replay::{ReplayOutcome, WorkingSetReplay};
pub use report::{MemoryReport, WorkingSetReport};
#[cfg(target_os = "linux")]
pub use restore_from::RestoreFrom;
pub use restore_plan::{Advice, CheckedBy, Estimate, NoPlan, RestorePlan};
#[cfg(target_os = "linux")]
pub use restored::RestoredMemory;
#[cfg(target_os = "linux")]
pub use run::RestoreMemoryError;
#[cfg(target_os = "linux")]
pub use sealed::{SealedError, SealedMemory};
pub use summary::{FileSummary, MapSummary, RegionSummary};
#[cfg(target_os = "linux")]
pub use verity::has_verity;
pub use wanted::Wanted;

#[cfg(test)]
mod tests;
