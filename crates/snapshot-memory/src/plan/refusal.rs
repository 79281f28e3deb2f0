//! Why a way of putting memory in place was not chosen.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::mappings::MAX_MAPPINGS;
use super::method::{MappedFrom, MethodKind};
use super::restore_plan::Estimate;
use crate::restore::Verification;

/// A way that was not chosen, and why.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub struct Refusal {
    /// Which.
    pub method: MethodKind,
    /// What would be mapped, where something would.
    pub from: Option<MappedFrom>,
    /// Why not.
    pub why: Why,
}

/// Why a way was not chosen.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "is", deny_unknown_fields)]
pub enum Why {
    /// The caller named another method.
    NotNamed,
    /// It would check less than is wanted.
    Unchecked {
        /// What is wanted at least.
        wanted: Verification,
    },
    /// The kernel may drop a checked page and read it again, which nobody would check.
    ReadAgain,
    /// The file would have to be mapped in more than [`MAX_MAPPINGS`] runs.
    TooManyMappings,
    /// Pages lie compressed in a data file.
    Compressed {
        /// The data file, counted from 1.
        file: u16,
    },
    /// The mappings were not counted: the facts were gathered for something else.
    NotCounted,
    /// The target's own mapping has to stay.
    TargetStays,
    /// The target is on huge pages, which would be lost.
    HugePages,
    /// Pages that are given back would read as in the file again, and must be zero.
    OldBytes,
    /// Pages of the host are larger than those of the snapshot.
    HostPages {
        /// Their size in bytes.
        page_bytes: u64,
    },
    /// The kernel gives this process no userfaultfd for memory of this kind.
    NoUserfaultfd,
    /// There is no raw image in the cache.
    NoRawImage,
    /// No other guest would share it.
    NotShared,
    /// Another way shares pages among guests, which is wanted.
    CannotShare,
    /// It would take longer.
    Slower {
        /// How long.
        estimate: Estimate,
    },
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.method)?;
        if let Some(from) = self.from {
            write!(f, " ({})", from.name())?;
        }
        write!(f, ": {}", self.why)
    }
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotNamed => f.write_str("another method was named"),
            Self::Unchecked { wanted } => {
                write!(
                    f,
                    "it cannot check pages as {wanted} does; name a laxer policy"
                )
            }
            Self::ReadAgain => f.write_str(
                "pages that the kernel drops and reads again would not be checked; name the method \
                 to have it so",
            ),
            Self::TooManyMappings => {
                write!(
                    f,
                    "pages lie in more than {MAX_MAPPINGS} runs; warm the cache"
                )
            }
            Self::Compressed { file } => {
                write!(
                    f,
                    "pages of data file {file} are compressed; warm the cache"
                )
            }
            Self::NotCounted => f.write_str("its mappings were not counted"),
            Self::TargetStays => f.write_str("the target keeps its own mapping"),
            Self::HugePages => f.write_str("the target would lose its huge pages"),
            Self::OldBytes => f.write_str(
                "pages that are given back would read as in the file again, and not as zero",
            ),
            Self::HostPages { page_bytes } => {
                write!(
                    f,
                    "pages of the host have {page_bytes} bytes, and 4096 are needed"
                )
            }
            Self::NoUserfaultfd => {
                f.write_str("the kernel gives no userfaultfd for memory of this kind")
            }
            Self::NoRawImage => f.write_str("there is no raw image in the cache"),
            Self::NotShared => f.write_str("no other guest shares it"),
            Self::CannotShare => f.write_str("another way shares pages among guests"),
            Self::Slower { estimate } => write!(
                f,
                "{} to start and {} to warm up are expected",
                Millis(estimate.start_ns),
                Millis(estimate.warm_ns)
            ),
        }
    }
}

/// Nanoseconds, shown as milliseconds.
pub(super) struct Millis(pub(super) u64);

impl fmt::Display for Millis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:02} ms", self.0 / 1_000_000, self.0 / 10_000 % 100)
    }
}
