//! Why a policy cannot be used.

/// A policy, or a part of one, that cannot be used.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PolicyError {
    /// It would remove everything but the heads.
    #[error("a policy without a rule and without a cap")]
    Empty,
    /// Too many rules.
    #[error("{found} rules, at most {limit} are allowed")]
    TooManyRules {
        /// How many there are.
        found: usize,
        /// The cap.
        limit: usize,
    },
    /// No span, or none above zero.
    #[error("{found:?} is no span of time above zero: write 36h, 30d, 2w, 6mo or 1y")]
    Age {
        /// What was given.
        found: String,
    },
    /// No time zone that is built in.
    #[error("{found:?} is no time zone of the IANA database: write Europe/Berlin or UTC")]
    UnknownZone {
        /// What was given.
        found: String,
    },
    /// No folder that means the same everywhere, or a scope that is no name.
    #[error("{found:?} is no path of a vault from the root on, or its scope is no name")]
    ArchivePlace {
        /// The path that was given.
        found: String,
    },
    /// More snapshots than a simulation takes.
    #[error("the schedule has more than {limit} snapshots")]
    TooLongSimulation {
        /// The cap.
        limit: u64,
    },
    /// A time that the calendar does not have.
    #[error("the schedule leaves the calendar")]
    NoSuchTime,
}
