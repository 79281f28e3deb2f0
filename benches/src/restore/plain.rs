//! How memory is brought back without any snapshot engine: by the kernel alone, or by one loop.

// UNSAFETY: a file is mapped.
#![expect(unsafe_code, reason = "maps a file that only the benches know of")]

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use memmap2::{Advice, MmapMut, MmapOptions};

use super::touch::GuestWords;
use crate::error::BenchError;

/// Bytes of a read.
const READ_BYTES: usize = 4 << 20;

/// Whether the kernel reads ahead.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum ReadAhead {
    Default,
    Off,
}

/// A private mapping of a raw image.
#[derive(Debug)]
pub(crate) struct FileMap(MmapMut);

/// Anonymous memory that all of a raw image was read into.
#[derive(Debug)]
pub(crate) struct Eager(MmapMut);

impl FileMap {
    /// Maps `path`.
    pub(crate) fn new(path: &Path, ahead: ReadAhead) -> Result<Self, BenchError> {
        let file = File::open(path).map_err(BenchError::at("open", path))?;
        // SAFETY: the file lies in a directory of this run, and nobody writes to it or cuts it.
        let map = unsafe { MmapOptions::new().map_copy(&file) };
        let map = map.map_err(BenchError::at("map", path))?;
        if ahead == ReadAhead::Off {
            let advised = map.advise(Advice::Random);
            advised.map_err(BenchError::at("advise of", path))?;
        }
        Ok(Self(map))
    }

    /// The memory itself.
    pub(crate) fn bytes(&mut self) -> &mut [u8] {
        &mut self.0
    }
}

impl Eager {
    /// Reads `path`.
    pub(crate) fn read(path: &Path) -> Result<Self, BenchError> {
        let file = File::open(path).map_err(BenchError::at("open", path))?;
        let len = file.metadata().map_err(BenchError::at("measure", path))?;
        let len_bytes = usize::try_from(len.len()).unwrap_or(usize::MAX);
        let failed = |source| BenchError::Map { len_bytes, source };
        let mut map = MmapMut::map_anon(len_bytes).map_err(failed)?;
        let mut offset = 0;
        for chunk in map.chunks_mut(READ_BYTES) {
            file.read_exact_at(chunk, offset)
                .map_err(BenchError::at("read", path))?;
            offset += chunk.len() as u64;
        }
        Ok(Self(map))
    }

    /// The memory itself.
    pub(crate) fn bytes(&mut self) -> &mut [u8] {
        &mut self.0
    }
}

/// The word at `offset` of `bytes`.
pub(crate) fn word(bytes: &[u8], offset: u64) -> Result<u64, BenchError> {
    let word = usize::try_from(offset)
        .ok()
        .and_then(|offset| bytes.get(offset..)?.first_chunk());
    let word = word.ok_or(BenchError::Outside { offset })?;
    Ok(u64::from_le_bytes(*std::hint::black_box(word)))
}

impl GuestWords for FileMap {
    fn word(&self, offset: u64) -> Result<u64, BenchError> {
        word(&self.0, offset)
    }
}

impl GuestWords for Eager {
    fn word(&self, offset: u64) -> Result<u64, BenchError> {
        word(&self.0, offset)
    }
}
