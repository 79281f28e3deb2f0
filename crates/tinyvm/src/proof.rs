//! Which program a guest runs: the pattern, or one of those that prove that a machine came back
//! exactly.

use serde::{Deserialize, Serialize};

/// What a guest runs.
///
/// All but the pattern are programs for several vCPUs of a KVM machine. Each computes its checksum
/// from what a restore may lose or repeat, so that it ends differently, or not at all.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Program {
    /// Writes a pattern over memory and talks to a port: one vCPU, or none but a thread.
    #[default]
    Pattern,
    /// Two tokens go round the vCPUs, in opposite directions, by interrupts between them.
    Token,
    /// Every vCPU waits for the ticks of a timer of its own: PIT, by the old interrupt controllers
    /// and by the new one; local APIC one-shot, periodic, and by TSC deadline.
    Timers,
    /// x87, SSE and AVX registers hold values of their own on each vCPU, and move.
    Vectors,
    /// String I/O that crosses a page, reads of device memory that cross one, port reads.
    Io,
    /// A vCPU sleeps, one is initialized and not started for long, one never starts.
    Parked,
    /// Hardware breakpoints in turn: each must be hit, once.
    Breakpoints,
    /// The vCPUs read their time stamp counters in turns, and none may be behind the last one.
    Clock,
    /// Non-maskable interrupts that wait while the one before is handled.
    Nmi,
}

impl Program {
    /// The programs that prove.
    pub const PROOFS: [Self; 8] = [
        Self::Token,
        Self::Timers,
        Self::Vectors,
        Self::Io,
        Self::Parked,
        Self::Breakpoints,
        Self::Clock,
        Self::Nmi,
    ];

    /// Every program.
    pub const ALL: [Self; 9] = [
        Self::Pattern,
        Self::Token,
        Self::Timers,
        Self::Vectors,
        Self::Io,
        Self::Parked,
        Self::Breakpoints,
        Self::Clock,
        Self::Nmi,
    ];

    /// What it is called.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Pattern => "pattern",
            Self::Token => "token",
            Self::Timers => "timers",
            Self::Vectors => "vectors",
            Self::Io => "io",
            Self::Parked => "parked",
            Self::Breakpoints => "breakpoints",
            Self::Clock => "clock",
            Self::Nmi => "nmi",
        }
    }

    /// vCPUs of its machine.
    #[must_use]
    pub fn vcpu_count(self) -> usize {
        match self {
            Self::Pattern => 1,
            _ => 4,
        }
    }

    /// How many of them, from the first on, must say that they are done.
    #[must_use]
    pub fn finisher_count(self) -> usize {
        match self {
            Self::Parked => 3,
            other => other.vcpu_count(),
        }
    }

    /// Its number in a configuration.
    pub(crate) fn number(self) -> u64 {
        match self {
            Self::Pattern => 0,
            Self::Token => 1,
            Self::Timers => 2,
            Self::Vectors => 3,
            Self::Io => 4,
            Self::Parked => 5,
            Self::Breakpoints => 6,
            Self::Clock => 7,
            Self::Nmi => 8,
        }
    }

    /// The proof of that number.
    pub(crate) fn proof(number: u64) -> Option<Self> {
        let mut proofs = Self::PROOFS.into_iter();
        proofs.find(|program| program.number() == number)
    }
}
