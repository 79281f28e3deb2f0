//! When the bytes of a snapshot are checked.

use std::fmt;

use serde::{Deserialize, Serialize};

/// When guest memory is checked against the digests of its snapshot.
///
/// Headers, maps and machine state are always checked before they are used; this is about pages
/// alone. The caller names it, and every restore says which one it kept to.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verification {
    /// All of it before the guest runs.
    Eager,
    /// Each page before the guest first sees it.
    OnFault,
    /// All of it, while the guest runs on pages that may not have been checked yet. Damage is told
    /// by an event, after the guest may have read it.
    Background,
    /// Never: the pages are as good as the file and whatever checks it from below.
    Trusted,
}

impl Verification {
    /// Every policy.
    pub const ALL: [Self; 4] = [Self::Eager, Self::OnFault, Self::Background, Self::Trusted];

    /// The name in reports and on command lines.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Eager => "eager",
            Self::OnFault => "on-fault",
            Self::Background => "background",
            Self::Trusted => "trusted",
        }
    }

    /// The policy with this name.
    #[must_use]
    pub fn of_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|policy| policy.name() == name)
    }

    /// How much it keeps from the guest; a larger number is stricter.
    const fn rank(self) -> u8 {
        match self {
            Self::Trusted => 0,
            Self::Background => 1,
            Self::OnFault => 2,
            Self::Eager => 3,
        }
    }

    /// Whether whoever asked for `wanted` gets at least that much.
    #[must_use]
    pub const fn satisfies(self, wanted: Self) -> bool {
        self.rank() >= wanted.rank()
    }

    /// Whether no byte reaches the guest unchecked.
    #[must_use]
    pub const fn is_strict(self) -> bool {
        matches!(self, Self::Eager | Self::OnFault)
    }
}

impl fmt::Display for Verification {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}
