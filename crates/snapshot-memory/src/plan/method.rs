//! The ways of putting memory in place.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A way of putting memory in place, by its name alone.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MethodKind {
    /// Files are mapped privately: the kernel reads pages and shares them among guests.
    Mapped,
    /// Faults are answered with checked pages, by userfaultfd.
    Served,
    /// All of it is read, checked and copied before the guest runs.
    Eager,
}

/// A way of putting memory in place, with its particulars.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "name", deny_unknown_fields)]
pub enum RestoreMethod {
    /// See [`MethodKind::Mapped`].
    Mapped {
        /// What is mapped.
        from: MappedFrom,
        /// Calls of `mmap`; zero pages that lie in long runs stay anonymous.
        mappings: u64,
    },
    /// See [`MethodKind::Served`].
    Served {
        /// Which faults are answered.
        faults: Faults,
        /// Whether the target was on huge pages, and will be on small ones.
        splits_huge_pages: bool,
    },
    /// See [`MethodKind::Eager`].
    Eager,
}

/// What is mapped.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MappedFrom {
    /// The data files of the snapshot, run by run.
    DataFiles,
    /// The raw image in the cache.
    RawImage,
    /// A memfd that is filled with checked pages and then sealed, so that no one can change it.
    SealedMemfd,
}

/// Which faults a server answers.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Faults {
    /// Pages that are nowhere yet: each guest has its own copy.
    Missing,
    /// Pages that another guest may have brought into one memfd already: guests share them.
    Minor,
}

/// What a page reads as after it was given back by plain `madvise`: by a balloon, by
/// [`MappedMemory::discard`](crate::MappedMemory::discard). After
/// [`RestoredMemory::discard`](crate::RestoredMemory::discard) it is zero in any case.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GivenBack {
    /// As zero.
    Zero,
    /// As the snapshot has it: the kernel drops what the guest wrote, and the file that is mapped
    /// shows again.
    AsInSnapshot,
}

impl MethodKind {
    /// Every method.
    pub const ALL: [Self; 3] = [Self::Mapped, Self::Served, Self::Eager];

    /// The name in reports and on command lines.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Mapped => "mapped",
            Self::Served => "served",
            Self::Eager => "eager",
        }
    }
}

impl fmt::Display for MethodKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl RestoreMethod {
    /// Its name.
    #[must_use]
    pub const fn kind(&self) -> MethodKind {
        match self {
            Self::Mapped { .. } => MethodKind::Mapped,
            Self::Served { .. } => MethodKind::Served,
            Self::Eager => MethodKind::Eager,
        }
    }

    /// What a page reads as after it was given back by plain `madvise`. Of memory that is served,
    /// that holds until [`PageServer::finish`](crate::PageServer::finish).
    #[must_use]
    pub const fn given_back(&self) -> GivenBack {
        match self {
            Self::Mapped { .. } => GivenBack::AsInSnapshot,
            Self::Served { .. } | Self::Eager => GivenBack::Zero,
        }
    }
}

impl MappedFrom {
    /// In words.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::DataFiles => "data files",
            Self::RawImage => "raw image",
            Self::SealedMemfd => "sealed memfd",
        }
    }
}
