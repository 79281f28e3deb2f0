//! What all ways of bringing guest memory back have in common.

#[cfg(target_os = "linux")]
mod events;
mod failure;
mod page_source;
mod verification;

#[cfg(target_os = "linux")]
pub(crate) use events::NotedFailures;
#[cfg(target_os = "linux")]
pub use events::{MemoryEvents, MemoryReporter};
pub use failure::{FailureCause, MemoryFailure, SourceError};
pub use page_source::{PageRun, PageSource};
pub use verification::Verification;
