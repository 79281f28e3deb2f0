//! The nearest peer: the memory writer of squib-snapshot, used as its own documentation says.

use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use squib_snapshot::{DirtyBitmap, MemoryWriter, PageReader};

use crate::error::BenchError;
use crate::guest::Guest;
use crate::page_set::PageSet;

/// squib-snapshot with one size of file page.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Squib {
    /// `squib-4k` or `squib-16k`.
    pub(crate) name: &'static str,
    page_bytes: u64,
}

/// With the host page of x86_64.
pub(crate) const SQUIB_4K: Squib = Squib {
    name: "squib-4k",
    page_bytes: 4 << 10,
};

/// With the host page that it was made for.
pub(crate) const SQUIB_16K: Squib = Squib {
    name: "squib-16k",
    page_bytes: 16 << 10,
};

struct Reader<'a>(&'a [u8]);

impl PageReader for Reader<'_> {
    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let from = usize::try_from(offset)
            .ok()
            .and_then(|offset| self.0.get(offset..)?.get(..out.len()))
            .ok_or(io::ErrorKind::UnexpectedEof)?;
        out.copy_from_slice(from);
        Ok(())
    }
}

impl Squib {
    /// Writes all of the guest's memory to the new file `path`; how long that took.
    pub(crate) fn full(self, guest: &Guest, path: &Path) -> Result<Duration, BenchError> {
        self.timed(guest, path, |writer, reader| writer.write_full(reader))
    }

    /// Writes all of the guest's memory to a temporary file beside `path`, which goes away without
    /// having been synced; how long the writing took.
    pub(crate) fn full_unsynced(self, guest: &Guest, path: &Path) -> Result<Duration, BenchError> {
        let start = Instant::now();
        let mut writer = MemoryWriter::open(path, guest.len_bytes(), self.page_bytes)?;
        writer.write_full(&Reader(guest.bytes()))?;
        Ok(start.elapsed())
    }

    /// Writes the pages of `dirty` to the new file `path`; how long that took.
    pub(crate) fn diff(
        self,
        guest: &Guest,
        dirty: &PageSet,
        path: &Path,
    ) -> Result<Duration, BenchError> {
        let bits = DirtyBitmap::new(0, guest.len_bytes(), self.page_bytes)?;
        for offset in dirty.offsets() {
            bits.set_dirty(offset);
        }
        self.timed(guest, path, |writer, reader| {
            writer.write_diff(reader, &bits).map(drop)
        })
    }

    fn timed(
        self,
        guest: &Guest,
        path: &Path,
        write: impl FnOnce(&mut MemoryWriter, &Reader<'_>) -> squib_snapshot::Result<()>,
    ) -> Result<Duration, BenchError> {
        let start = Instant::now();
        let mut writer = MemoryWriter::open(path, guest.len_bytes(), self.page_bytes)?;
        write(&mut writer, &Reader(guest.bytes()))?;
        writer.commit()?;
        Ok(start.elapsed())
    }
}
