//! One change of a tree, by inode, so that it can be replayed without the others.

use std::ops::Range;
use std::sync::Arc;

use super::disk::Inode;

/// A name in a directory.
pub(in crate::backend) type Slot = (Inode, String);

#[derive(Clone, Debug)]
pub(in crate::backend) enum Op {
    /// Bytes of a file.
    Write {
        inode: Inode,
        offset: u64,
        bytes: Arc<[u8]>,
    },
    /// The length of a file.
    SetLen { inode: Inode, len: u64 },
    /// Write permission taken away.
    ReadOnly { inode: Inode },
    /// A new name for a file or directory.
    Link { slot: Slot, inode: Inode },
    /// One name for another, at once.
    Rename { from: Slot, to: Slot, inode: Inode },
    /// A name that goes.
    Unlink { slot: Slot },
    /// The bytes of a file, or the names in a directory, made durable.
    Sync { inode: Inode },
}

impl Op {
    /// The file or directory that must be synced to make this durable; `None` for a sync itself.
    ///
    /// A rename is one step of the file system's journal. It counts as durable with the directory
    /// of its new name, which is where a reader looks for it.
    pub(in crate::backend) fn subject(&self) -> Option<Inode> {
        match self {
            Self::Write { inode, .. } | Self::SetLen { inode, .. } | Self::ReadOnly { inode } => {
                Some(*inode)
            }
            Self::Link { slot, .. } | Self::Rename { to: slot, .. } | Self::Unlink { slot } => {
                Some(slot.0)
            }
            Self::Sync { .. } => None,
        }
    }

    /// The names that this changes; none where it changes bytes.
    pub(in crate::backend) fn slots(&self) -> impl Iterator<Item = &Slot> {
        let (first, second) = match self {
            Self::Link { slot, .. } | Self::Unlink { slot } => (Some(slot), None),
            Self::Rename { from, to, .. } => (Some(from), Some(to)),
            _ => (None, None),
        };
        first.into_iter().chain(second)
    }

    /// Whether this changes names and not bytes.
    pub(in crate::backend) fn is_name(&self) -> bool {
        self.slots().next().is_some()
    }

    /// How many bytes a write has; `None` for anything else.
    pub(in crate::backend) fn write_len(&self) -> Option<usize> {
        match self {
            Self::Write { bytes, .. } => Some(bytes.len()),
            _ => None,
        }
    }

    /// The part of a write that `range` of its bytes makes.
    pub(in crate::backend) fn part(&self, range: Range<usize>) -> Self {
        match self {
            Self::Write {
                inode,
                offset,
                bytes,
            } => Self::Write {
                inode: *inode,
                offset: offset.saturating_add(range.start as u64),
                bytes: bytes.get(range).unwrap_or_default().into(),
            },
            other => other.clone(),
        }
    }

    /// A write that brings length and blocks, but zeros for bytes.
    pub(in crate::backend) fn zeroed(&self) -> Self {
        match self {
            Self::Write {
                inode,
                offset,
                bytes,
            } => Self::Write {
                inode: *inode,
                offset: *offset,
                bytes: vec![0; bytes.len()].into(),
            },
            other => other.clone(),
        }
    }
}
