//! The kinds of files that make up a snapshot, and the architectures that they are for.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What a file holds.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum FileKind {
    /// The identity of a store.
    Store,
    /// What a snapshot is.
    Manifest,
    /// Where its bytes lie.
    Placement,
    /// vCPUs, interrupt controllers, clocks, devices.
    State,
    /// Page map and digests of a data file.
    MemoryMap,
    /// Pages touched soon after a restore.
    WorkingSet,
    /// The bytes of guest memory: the one kind without an envelope.
    MemoryData,
}

/// The architecture of the guest.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Arch {
    /// The file does not depend on one.
    #[default]
    None,
    /// 64-bit x86.
    #[serde(rename = "x86_64")]
    X86_64,
    /// 64-bit Arm.
    Aarch64,
}

impl FileKind {
    /// Every kind.
    pub const ALL: [Self; 7] = [
        Self::Store,
        Self::Manifest,
        Self::Placement,
        Self::State,
        Self::MemoryMap,
        Self::WorkingSet,
        Self::MemoryData,
    ];

    /// The number in a header or a file table.
    #[must_use]
    pub const fn number(self) -> u16 {
        match self {
            Self::Store => 1,
            Self::Manifest => 2,
            Self::Placement => 3,
            Self::State => 4,
            Self::MemoryMap => 5,
            Self::WorkingSet => 6,
            Self::MemoryData => 7,
        }
    }

    /// The kind of a number; `None` if this build does not know it.
    #[must_use]
    pub fn from_number(number: u16) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.number() == number)
    }

    /// Whether the file is an envelope.
    #[must_use]
    pub const fn has_envelope(self) -> bool {
        !matches!(self, Self::MemoryData)
    }

    /// The name of the file in the directory of its snapshot.
    ///
    /// Files are found by id, kind and index; no path is ever read from a file. Only placements,
    /// working sets, maps and data files come in more than one.
    #[must_use]
    pub fn file_name(self, index: u32) -> String {
        match (self, index) {
            (Self::Store, _) => "store.vms".to_owned(),
            (Self::Manifest, _) => "manifest.vms".to_owned(),
            (Self::State, _) => "state.vms".to_owned(),
            (Self::Placement, n) => format!("place.{n}.vms"),
            (Self::WorkingSet, n) => format!("working-set.{n}"),
            (Self::MemoryMap, 0) => "memory.map".to_owned(),
            (Self::MemoryData, 0) => "memory.img".to_owned(),
            (Self::MemoryMap, n) => format!("memory.{n}.map"),
            (Self::MemoryData, n) => format!("memory.{n}.img"),
        }
    }
}

impl Arch {
    /// The architecture that this build runs on.
    #[must_use]
    pub const fn host() -> Self {
        if cfg!(target_arch = "x86_64") {
            Self::X86_64
        } else if cfg!(target_arch = "aarch64") {
            Self::Aarch64
        } else {
            Self::None
        }
    }

    /// The number in a header.
    #[must_use]
    pub const fn number(self) -> u16 {
        match self {
            Self::None => 0,
            Self::X86_64 => 1,
            Self::Aarch64 => 2,
        }
    }

    /// The architecture of a number; `None` if this build does not know it.
    #[must_use]
    pub const fn from_number(number: u16) -> Option<Self> {
        match number {
            0 => Some(Self::None),
            1 => Some(Self::X86_64),
            2 => Some(Self::Aarch64),
            _ => None,
        }
    }
}

impl fmt::Display for FileKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Store => "store",
            Self::Manifest => "manifest",
            Self::Placement => "placement",
            Self::State => "state",
            Self::MemoryMap => "memory map",
            Self::WorkingSet => "working set",
            Self::MemoryData => "memory data",
        })
    }
}

impl fmt::Display for Arch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::None => "none",
            Self::X86_64 => "x86_64",
            Self::Aarch64 => "aarch64",
        })
    }
}
