//! The plainest way to write memory: `write` in a loop, through the page cache, and one sync.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::error::BenchError;
use crate::guest::{Guest, PAGE};
use crate::page_set::PageSet;

/// The name of this way.
pub(crate) const PLAIN_4M: &str = "plain-4m";

/// Bytes of a write.
const WRITE_BYTES: usize = 4 << 20;

/// How a contestant other than ours makes its file durable.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Sync {
    /// Data and all metadata.
    All,
    /// Data and the metadata without which it cannot be read.
    Data,
    /// Not at all.
    Nothing,
}

impl Sync {
    /// Syncs `file`, which lies at `path`.
    pub(crate) fn apply(self, file: &File, path: &Path) -> Result<(), BenchError> {
        match self {
            Self::All => file.sync_all(),
            Self::Data => file.sync_data(),
            Self::Nothing => Ok(()),
        }
        .map_err(BenchError::at("sync", path))
    }
}

/// Writes all of the guest's memory, zero pages too, or the pages of `dirty` back to back, to the
/// new file `path`.
pub(crate) fn write_plain(
    guest: &Guest,
    dirty: Option<&PageSet>,
    sync: Sync,
    path: &Path,
) -> Result<Duration, BenchError> {
    let start = Instant::now();
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(path)
        .map_err(BenchError::at("create", path))?;
    let mut write = |bytes: &[u8]| file.write_all(bytes).map_err(BenchError::at("write", path));
    if let Some(dirty) = dirty {
        let mut buffer = Vec::with_capacity(WRITE_BYTES);
        for offset in dirty.offsets() {
            let at = usize::try_from(offset).unwrap_or(usize::MAX);
            buffer.extend_from_slice(&guest.bytes()[at..at + PAGE]);
            if buffer.len() == WRITE_BYTES {
                write(&buffer)?;
                buffer.clear();
            }
        }
        write(&buffer)?;
    } else {
        for chunk in guest.bytes().chunks(WRITE_BYTES) {
            write(chunk)?;
        }
    }
    sync.apply(&file, path)?;
    Ok(start.elapsed())
}
