//! Whose writes a dirty source does not see.

use std::fmt;

/// Somebody who changes guest memory.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[non_exhaustive]
pub enum BlindSpot {
    /// The vCPUs, and the hypervisor on their behalf.
    Vcpus,
    /// This process: device emulation, boot code, and the kernel when it fills this process's
    /// buffers.
    Vmm,
    /// Threads of the kernel that serve virtqueues: vhost-net, vhost-vsock.
    VhostKernel,
    /// Other processes that map the memory: vhost-user backends, fault handlers.
    OtherProcesses,
    /// Whoever pinned pages before: devices passed through with VFIO, buffers registered with
    /// `io_uring`.
    PinnedWriters,
    /// Pages that are given back and read as zero from then on: a balloon, free page reporting.
    Discards,
}

impl BlindSpot {
    /// Everyone.
    pub const EVERY: [Self; 6] = [
        Self::Vcpus,
        Self::Vmm,
        Self::VhostKernel,
        Self::OtherProcesses,
        Self::PinnedWriters,
        Self::Discards,
    ];

    /// A short name for reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Vcpus => "vcpus",
            Self::Vmm => "vmm",
            Self::VhostKernel => "vhost-kernel",
            Self::OtherProcesses => "other-processes",
            Self::PinnedWriters => "pinned-writers",
            Self::Discards => "discards",
        }
    }

    const fn bit(self) -> u8 {
        1 << self as u8
    }
}

impl fmt::Display for BlindSpot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A set of writers that are not seen.
///
/// ```
/// use snapshot_memory::{BlindSpot, BlindSpots};
///
/// let log = BlindSpots::all_but(&[BlindSpot::Vcpus]);
/// let vmm = BlindSpots::all_but(&[BlindSpot::Vmm, BlindSpot::Discards]);
/// // A machine without passed-through devices, whose disks are served by vhost-user.
/// let writers = BlindSpots::of(&[BlindSpot::Vcpus, BlindSpot::Vmm, BlindSpot::OtherProcesses]);
/// let uncovered = (log & vmm) & writers;
/// assert_eq!(uncovered.to_string(), "other-processes");
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct BlindSpots(u8);

impl BlindSpots {
    /// Nobody: every write is seen.
    pub const NONE: Self = Self(0);

    /// Everyone.
    pub const ALL: Self = Self::of(&BlindSpot::EVERY);

    /// Those named.
    #[must_use]
    pub const fn of(spots: &[BlindSpot]) -> Self {
        let (mut bits, mut rest) = (0, spots);
        while let [first, others @ ..] = rest {
            bits |= first.bit();
            rest = others;
        }
        Self(bits)
    }

    /// Everyone but those named: what a source says that sees these only.
    #[must_use]
    pub const fn all_but(seen: &[BlindSpot]) -> Self {
        Self(Self::ALL.0 & !Self::of(seen).0)
    }

    /// Whether `spot` is among them.
    #[must_use]
    pub const fn contains(self, spot: BlindSpot) -> bool {
        self.0 & spot.bit() != 0
    }

    /// Whether every write is seen.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Those in the set.
    pub fn iter(self) -> impl Iterator<Item = BlindSpot> {
        let spots = BlindSpot::EVERY.into_iter();
        spots.filter(move |spot| self.contains(*spot))
    }

    /// Their names.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        self.iter().map(BlindSpot::name)
    }
}

/// What neither of two sources sees, or what of a set concerns a machine.
impl std::ops::BitAnd for BlindSpots {
    type Output = Self;

    fn bitand(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }
}

impl fmt::Display for BlindSpots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, name) in self.names().enumerate() {
            if at > 0 {
                f.write_str(", ")?;
            }
            f.write_str(name)?;
        }
        Ok(())
    }
}

impl fmt::Debug for BlindSpots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_one_source_sees_is_no_blind_spot_of_all() {
        let vcpus = BlindSpots::all_but(&[BlindSpot::Vcpus]);
        let vmm = BlindSpots::all_but(&[BlindSpot::Vmm, BlindSpot::Discards]);
        let left: Vec<_> = (vcpus & vmm).names().collect();
        assert_eq!(left, ["vhost-kernel", "other-processes", "pinned-writers"]);
        assert!(!vcpus.contains(BlindSpot::Vcpus) && vcpus.contains(BlindSpot::Vmm));
        assert_eq!(BlindSpots::ALL.iter().count(), BlindSpot::EVERY.len());
        assert!((BlindSpots::ALL & BlindSpots::NONE).is_empty());
    }
}
