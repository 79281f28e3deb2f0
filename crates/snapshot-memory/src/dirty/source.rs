//! The trait of everything that can say which pages were written.

use snapshot_format::MemoryLayout;

use crate::dirty::DirtyBitmap;
use crate::error::DirtyError;

/// What a source promises about the pages it names.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum DirtyGuarantee {
    /// Every page written by the named writers, and no other, at the source's granule.
    Exact,
    /// Every page written, and possibly more.
    Superset,
}

/// Something that records which pages were written: a KVM log, a write-protecting hypervisor,
/// userfaultfd, the VMM's own writes.
pub trait DirtySource: Send {
    /// A short name for reports: `kvm-log`, `wp-async`, `vmm`.
    fn name(&self) -> &'static str;

    /// What is promised, and for whose writes.
    fn guarantee(&self) -> DirtyGuarantee;

    /// The memory that is watched.
    fn layout(&self) -> &MemoryLayout;

    /// Bytes that one bit of the source stands for: a power of two, at least 4096.
    fn granule_bytes(&self) -> u64;

    /// Starts recording. Pages written before may or may not be named by the first harvest.
    fn start(&mut self) -> Result<(), DirtyError>;

    /// ORs every page written since the last harvest into `into` and clears it at the source.
    ///
    /// On an error the caller must take all pages of the layout for dirty.
    fn harvest(&mut self, into: &DirtyBitmap) -> Result<(), DirtyError>;

    /// Stops recording.
    fn stop(&mut self) -> Result<(), DirtyError>;
}
