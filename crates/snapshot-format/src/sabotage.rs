//! Deliberate defects, compiled in by the feature `sabotage` and switched on by name.
//!
//! They exist to prove that the checks of this project can fail. Without the feature every
//! question is answered `false` at compile time.

/// A defect that a check must catch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Sabotage {
    /// Directories are not synced.
    NoDirFsync = 1,
    /// A failed sync of a file is taken for a success.
    IgnoredFsyncError,
    /// The staged directory is renamed before its placement file is written.
    RenameFirst,
    /// The dirty epoch is committed before the snapshot is published.
    EarlyEpochCommit,
    /// Digests are not compared.
    UncheckedDigest,
    /// Lengths from a file are believed without looking at the file.
    TrustedLength,
    /// A vCPU is saved with its exit pending.
    UnfinishedExit,
    /// What waits to be delivered to a vCPU is not restored.
    DroppedEvents,
    /// The registers of a vCPU are restored before its local APIC.
    MsrsBeforeLapic,
    /// Pages that a guest gave back are taken for those that nobody brought yet.
    IgnoredDiscard,
    /// What was copied aside in the pause of a live snapshot is not written.
    StaleAside,
    /// Pages are put in place while what was given back is not heard of.
    SkippedGate,
    /// A snapshot is written under the name that it is published by.
    Unstaged,
    /// A snapshot is deleted although it is in use.
    IgnoredLease,
    /// A collection takes data that other snapshots name.
    UnmarkedBase,
    /// A merge of data files takes pages that fail their digest.
    UncheckedMerge,
    /// A repair puts no copy of what is damaged aside.
    NoCopyAside,
}

impl Sabotage {
    /// Every defect.
    pub const ALL: [Self; 17] = [
        Self::NoDirFsync,
        Self::IgnoredFsyncError,
        Self::RenameFirst,
        Self::EarlyEpochCommit,
        Self::UncheckedDigest,
        Self::TrustedLength,
        Self::UnfinishedExit,
        Self::DroppedEvents,
        Self::MsrsBeforeLapic,
        Self::IgnoredDiscard,
        Self::StaleAside,
        Self::SkippedGate,
        Self::Unstaged,
        Self::IgnoredLease,
        Self::UnmarkedBase,
        Self::UncheckedMerge,
        Self::NoCopyAside,
    ];

    /// The name on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::NoDirFsync => "no-dir-fsync",
            Self::IgnoredFsyncError => "ignored-fsync-error",
            Self::RenameFirst => "rename-first",
            Self::EarlyEpochCommit => "early-epoch-commit",
            Self::UncheckedDigest => "unchecked-digest",
            Self::TrustedLength => "trusted-length",
            Self::UnfinishedExit => "unfinished-exit",
            Self::DroppedEvents => "dropped-events",
            Self::MsrsBeforeLapic => "msrs-before-lapic",
            Self::IgnoredDiscard => "ignored-discard",
            Self::StaleAside => "stale-aside",
            Self::SkippedGate => "skipped-gate",
            Self::Unstaged => "unstaged",
            Self::IgnoredLease => "ignored-lease",
            Self::UnmarkedBase => "unmarked-base",
            Self::UncheckedMerge => "unchecked-merge",
            Self::NoCopyAside => "no-copy-aside",
        }
    }

    /// Whether this defect is switched on in this process.
    #[cfg(feature = "sabotage")]
    #[must_use]
    pub fn is_on(self) -> bool {
        ACTIVE.load(std::sync::atomic::Ordering::Relaxed) == self as u8
    }

    /// Always `false`: the feature `sabotage` is off.
    #[cfg(not(feature = "sabotage"))]
    #[must_use]
    #[inline]
    pub const fn is_on(self) -> bool {
        false
    }

    /// Switches this defect on, and every other off, for the whole process.
    #[cfg(feature = "sabotage")]
    pub fn enable(self) {
        ACTIVE.store(self as u8, std::sync::atomic::Ordering::Relaxed);
    }
}

#[cfg(feature = "sabotage")]
static ACTIVE: std::sync::atomic::AtomicU8 = std::sync::atomic::AtomicU8::new(0);
