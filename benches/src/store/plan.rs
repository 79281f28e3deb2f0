//! The cases of the suite `store`, which are the parts of one cycle.

/// What a contestant does, one after the other, with one repository.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Phase {
    /// The first snapshot into an empty repository.
    Ingest,
    /// The second, of which 5 % of the pages are new.
    Diff,
    /// Every byte of both read and checked.
    Verify,
    /// The second to a raw file.
    Restore,
}

impl Phase {
    /// All, in their order.
    pub(super) const ALL: [Self; 4] = [Self::Ingest, Self::Diff, Self::Verify, Self::Restore];

    /// The name of the case.
    pub(super) const fn case(self) -> &'static str {
        match self {
            Self::Ingest => "v1-ingest",
            Self::Diff => "v2-diff",
            Self::Verify => "verify-full",
            Self::Restore => "restore-eager",
        }
    }

    /// What is done within the time.
    pub(super) const fn policy(self) -> &'static str {
        match self {
            Self::Ingest => "durable; input in the page cache",
            Self::Diff => "durable; ours from what the snapshot says of its pages",
            Self::Verify => "every stored byte read, decoded and checked; warm cache",
            Self::Restore => "every byte checked; not synced",
        }
    }
}

/// The names of the cases.
pub(crate) fn names() -> impl Iterator<Item = &'static str> {
    Phase::ALL.into_iter().map(Phase::case)
}
