//! Writing a working set: segments in the order of the trace, sorted by address within.

use serde::Serialize;
use snapshot_format::{
    Digest, PAGE_BYTES, PageIndex, PageRange, SnapshotRef, WORKING_SET_UNIT_BYTES,
    WORKING_SET_UNIT_PAGES, WorkingSetIndex, WorkingSetRun, limits,
};

use super::error::WorkingSetError;
use super::touched::TouchedPages;
use crate::restore::{PageSource, SourceError};
use crate::staged::StagedFile;

/// Touched pages that are sorted by address together: 4 MiB.
const SEGMENT_PAGES: u64 = 1024;

/// How much a working set may hold.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct WorkingSetOptions {
    /// Bytes of pages, zero pages apart; at most 1 GiB. Pages that were touched later are left out.
    pub max_bytes: u64,
}

/// A working set that was written, but for its durability.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[non_exhaustive]
pub struct WrittenWorkingSet {
    /// The length of the file in bytes.
    pub len_bytes: u64,
    /// What a placement names the file by.
    pub digest: Digest,
    /// Pages of which it holds the bytes.
    pub data_pages: u64,
    /// Pages that are zero.
    pub zero_pages: u64,
    /// Runs of pages.
    pub runs: u64,
    /// Touched pages that were left out, as it may not hold more.
    pub left_out_pages: u64,
}

impl Default for WorkingSetOptions {
    fn default() -> Self {
        Self {
            max_bytes: 256 << 20,
        }
    }
}

impl WorkingSetOptions {
    /// The same with another bound.
    #[must_use]
    pub fn max_bytes(self, max_bytes: u64) -> Self {
        Self { max_bytes }
    }
}

/// Writes the pages of `touched`, read from `source`, to an empty file. `snapshot` is whose pages they
/// are.
///
/// Every byte of the file is written once. Its durability is the caller's.
pub fn write_working_set(
    source: &dyn PageSource,
    snapshot: SnapshotRef,
    touched: &TouchedPages,
    options: &WorkingSetOptions,
    file: &mut StagedFile,
) -> Result<WrittenWorkingSet, WorkingSetError> {
    let page_count = source.layout().page_count();
    if page_count != touched.page_count() {
        return Err(WorkingSetError::PageCount {
            expected: page_count,
            found: touched.page_count(),
        });
    }
    let runs = plan(source, touched, options.max_bytes / PAGE_BYTES)?;
    if runs.is_empty() {
        return Err(WorkingSetError::Empty);
    }
    let kept: u64 = runs.iter().map(|run| run.pages.count).sum();
    let mut index = WorkingSetIndex {
        manifest: snapshot.digest,
        page_count,
        origin: touched.origin(),
        runs,
        digests: Vec::new(),
    };
    let units = index.data_pages().div_ceil(WORKING_SET_UNIT_PAGES.into());
    let units = usize::try_from(units).unwrap_or(usize::MAX);
    // Their number says where the data starts.
    index.digests = vec![Digest([0; 32]); units];
    let mut data = Data::new(index.data_offset(), units, file);
    for run in index.runs.iter().filter(|run| !run.is_zero) {
        data.add(source, run.pages)?;
    }
    let (digests, whole) = data.finish()?;
    index.digests = digests;
    let frame = index.frame(snapshot.id, whole);
    file.write_all_at(0, &frame.head)?;
    file.write_all_at(frame.file_len - frame.tail.len() as u64, &frame.tail)?;
    Ok(WrittenWorkingSet {
        len_bytes: frame.file_len,
        digest: frame.digest,
        data_pages: index.data_pages(),
        zero_pages: index.zero_pages(),
        runs: index.runs.len() as u64,
        left_out_pages: touched.pages() - kept,
    })
}

/// The runs of the file: segment by segment, told apart into zero and not, until `max_pages` pages
/// have bytes.
fn plan(
    source: &dyn PageSource,
    touched: &TouchedPages,
    max_pages: u64,
) -> Result<Vec<WorkingSetRun>, WorkingSetError> {
    let mut plan = Plan {
        source,
        runs: Vec::new(),
        left: max_pages.min(limits::MAX_WORKING_SET_PAGES),
    };
    let (mut segment, mut pages) = (Vec::new(), 0);
    for run in touched.runs() {
        let mut rest = *run;
        while !rest.is_empty() && !plan.is_full() {
            let now = rest.count.min(SEGMENT_PAGES - pages);
            segment.push(PageRange::new(rest.start.0, now));
            rest = PageRange::new(rest.start.0 + now, rest.count - now);
            pages += now;
            if pages == SEGMENT_PAGES {
                plan.add_segment(&mut segment)?;
                pages = 0;
            }
        }
    }
    plan.add_segment(&mut segment)?;
    Ok(plan.runs)
}

/// The runs of a file as they become known.
struct Plan<'s> {
    source: &'s dyn PageSource,
    runs: Vec<WorkingSetRun>,
    /// Pages with bytes that there is still room for.
    left: u64,
}

impl Plan<'_> {
    fn is_full(&self) -> bool {
        self.left == 0 || self.runs.len() == limits::MAX_WORKING_SET_RUNS
    }

    fn add_segment(&mut self, segment: &mut Vec<PageRange>) -> Result<(), SourceError> {
        if self.left < SEGMENT_PAGES {
            self.cut(segment)?;
        }
        segment.sort_unstable_by_key(|run| run.start);
        for mut rest in segment.drain(..) {
            // Zero pages need no room.
            while !rest.is_empty() && self.runs.len() < limits::MAX_WORKING_SET_RUNS {
                let alike = self.source.run(rest)?;
                let count = alike.count.clamp(1, rest.count);
                if alike.is_zero || self.left > 0 {
                    self.push(rest.start, count, alike.is_zero);
                }
                rest = PageRange::new(rest.start.0 + count, rest.count - count);
            }
        }
        Ok(())
    }

    /// Leaves of a segment in the order of the trace what there is room for: sorted by address, it
    /// would lose others than those that were touched last.
    fn cut(&self, segment: &mut Vec<PageRange>) -> Result<(), SourceError> {
        let mut left = self.left;
        for place in 0..segment.len() {
            let Some(run) = segment.get_mut(place) else {
                break;
            };
            let mut done = 0;
            while done < run.count && left > 0 {
                let rest = PageRange::new(run.start.0 + done, run.count - done);
                let alike = self.source.run(rest)?;
                let count = alike.count.clamp(1, rest.count);
                let count = if alike.is_zero {
                    count
                } else {
                    count.min(left)
                };
                if !alike.is_zero {
                    left -= count;
                }
                done += count;
            }
            run.count = done;
            if left == 0 {
                segment.truncate(place + 1);
                break;
            }
        }
        Ok(())
    }

    fn push(&mut self, start: PageIndex, count: u64, is_zero: bool) {
        let count = if is_zero { count } else { count.min(self.left) };
        if !is_zero {
            self.left -= count;
        }
        match self.runs.last_mut() {
            Some(last) if last.is_zero == is_zero && last.pages.end() == start => {
                last.pages.count += count;
            }
            _ => self.runs.push(WorkingSetRun {
                pages: PageRange { start, count },
                is_zero,
            }),
        }
    }
}

/// The data on its way: gathered in pieces, digested, written.
struct Data<'w> {
    file: &'w mut StagedFile,
    /// Where the piece goes.
    offset: u64,
    piece: Vec<u8>,
    filled: usize,
    digests: Vec<Digest>,
    whole: blake3::Hasher,
}

/// Bytes of a piece: whole units.
const PIECE_BYTES: usize = 16 * WORKING_SET_UNIT_BYTES;

impl<'w> Data<'w> {
    fn new(offset: u64, units: usize, file: &'w mut StagedFile) -> Self {
        Self {
            file,
            offset,
            piece: vec![0; PIECE_BYTES],
            filled: 0,
            digests: Vec::with_capacity(units),
            whole: blake3::Hasher::new(),
        }
    }

    fn add(
        &mut self,
        source: &dyn PageSource,
        mut pages: PageRange,
    ) -> Result<(), WorkingSetError> {
        while !pages.is_empty() {
            let room = ((PIECE_BYTES - self.filled) as u64) / PAGE_BYTES;
            let now = PageRange::new(pages.start.0, pages.count.min(room));
            let len = usize::try_from(now.count * PAGE_BYTES).unwrap_or(usize::MAX);
            let range = self.filled..self.filled + len;
            let out = self.piece.get_mut(range).unwrap_or_default();
            source.read_pages(now, out)?;
            self.filled += len;
            pages = PageRange::new(now.end().0, pages.count - now.count);
            if self.filled == PIECE_BYTES {
                self.flush()?;
            }
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), WorkingSetError> {
        let bytes = self.piece.get(..self.filled).unwrap_or_default();
        let units = bytes.chunks(WORKING_SET_UNIT_BYTES);
        self.digests.extend(units.map(Digest::of));
        self.whole.update(bytes);
        if !bytes.is_empty() {
            self.file.write_all_at(self.offset, bytes)?;
        }
        self.offset += bytes.len() as u64;
        self.filled = 0;
        Ok(())
    }

    /// The digests of all units, and that of the data.
    fn finish(mut self) -> Result<(Vec<Digest>, Digest), WorkingSetError> {
        self.flush()?;
        Ok((self.digests, Digest(*self.whole.finalize().as_bytes())))
    }
}

#[cfg(test)]
mod tests;
