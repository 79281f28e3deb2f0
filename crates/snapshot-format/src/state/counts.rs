//! The caps on counts that a decoded payload must keep.

use crate::error::{DecodeError, Part};
use crate::section::SectionKind;

/// What is counted, how many there are, and the cap.
pub(super) type Count = (&'static str, usize, usize);

/// That no count exceeds its cap.
pub(super) fn check_counts(kind: SectionKind, counts: &[Count]) -> Result<(), DecodeError> {
    match counts.iter().find(|(_, found, limit)| found > limit) {
        None => Ok(()),
        Some(&(what, found, limit)) => Err(DecodeError::Limit {
            part: kind.part(0),
            offset: 0,
            what,
            found: found as u64,
            limit: limit as u64,
        }),
    }
}

/// The error for a payload version that this build does not read.
pub(super) fn unknown_version(kind: SectionKind, found: u16, reads: u16) -> DecodeError {
    let part: Part = kind.part(0);
    DecodeError::Version {
        part,
        offset: 0,
        found,
        reads,
    }
}
