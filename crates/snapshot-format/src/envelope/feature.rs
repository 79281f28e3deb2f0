//! Feature bits: what a build must know before it may do something to a file.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::error::DecodeError;

/// What one may want to do with a file.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Operation {
    /// Look at what it says.
    Read,
    /// Bring a machine back from it.
    Restore,
    /// Make a child of it.
    Extend,
    /// Write it anew in another form.
    Rewrite,
    /// Decide from it what may be deleted.
    Gc,
}

/// One word of feature bits for each [`Operation`]. An unknown bit refuses that operation only.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
pub struct Features {
    /// Needed to read.
    pub read: u32,
    /// Needed to restore.
    pub restore: u32,
    /// Needed to extend.
    pub extend: u32,
    /// Needed to rewrite.
    pub rewrite: u32,
    /// Needed to collect garbage.
    pub gc: u32,
}

impl Features {
    /// The bits that this build knows: the format defines none.
    pub const KNOWN: Self = Self {
        read: 0,
        restore: 0,
        extend: 0,
        rewrite: 0,
        gc: 0,
    };

    /// What both ask for.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self {
            read: self.read | other.read,
            restore: self.restore | other.restore,
            extend: self.extend | other.extend,
            rewrite: self.rewrite | other.rewrite,
            gc: self.gc | other.gc,
        }
    }

    /// The word of `operation`.
    #[must_use]
    pub const fn of(&self, operation: Operation) -> u32 {
        match operation {
            Operation::Read => self.read,
            Operation::Restore => self.restore,
            Operation::Extend => self.extend,
            Operation::Rewrite => self.rewrite,
            Operation::Gc => self.gc,
        }
    }

    /// That this build knows every bit of `operation`.
    pub const fn allow(&self, operation: Operation) -> Result<(), DecodeError> {
        let bits = self.of(operation) & !Self::KNOWN.of(operation);
        if bits == 0 {
            Ok(())
        } else {
            Err(DecodeError::Feature { operation, bits })
        }
    }
}

impl Operation {
    /// Every operation, in the order of their words in the header.
    pub const ALL: [Self; 5] = [
        Self::Read,
        Self::Restore,
        Self::Extend,
        Self::Rewrite,
        Self::Gc,
    ];
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Read => "read",
            Self::Restore => "restore",
            Self::Extend => "extend",
            Self::Rewrite => "rewrite",
            Self::Gc => "collect garbage of",
        })
    }
}
