//! The limit of a cold restore: the bytes that are needed, in a row, read at once.

use std::fs::OpenOptions;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Instant;

use serde::{Deserialize, Serialize};

use crate::error::BenchError;
use crate::limit::HugeBuffer;

/// A file that is read from its start to its end by `O_DIRECT`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct DirectJob {
    path: PathBuf,
    len_bytes: u64,
}

/// How long it took.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
pub(crate) struct DirectRead {
    pub(crate) ms: f64,
}

impl DirectJob {
    /// Reads `len_bytes` bytes of `path`.
    pub(crate) fn new(path: &Path, len_bytes: u64) -> Self {
        Self {
            path: path.to_owned(),
            len_bytes,
        }
    }

    /// Does it: into memory on huge pages that is there before the time begins.
    pub(crate) fn run(&self) -> Result<DirectRead, BenchError> {
        let len = usize::try_from(self.len_bytes).unwrap_or(usize::MAX);
        let mut buffer = HugeBuffer::noise(len, 1)?;
        let start = Instant::now();
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_DIRECT)
            .open(&self.path)
            .map_err(BenchError::at("open", &self.path))?;
        file.read_exact_at(buffer.bytes(), 0)
            .map_err(BenchError::at("read", &self.path))?;
        Ok(DirectRead {
            ms: start.elapsed().as_secs_f64() * 1e3,
        })
    }
}
