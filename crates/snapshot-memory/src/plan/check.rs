//! Checking mapped files against the digests of the snapshot.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread;

use snapshot_format::{PAGE_BYTES, PageRange};

use super::fill::{FillError, FillOptions};
use super::mappings::FileRun;
use super::run::RestoreMemoryError;
use crate::backend::ReadFile;
use crate::direct::DirectBuffer;
use crate::image::{Extent, ImageError, MemoryImage};
use crate::restore::{FailureCause, MemoryFailure, SourceError};

/// A raw image of all of the memory: page n at n * 4096.
#[derive(Clone, Debug)]
pub struct RawImage {
    /// The file.
    pub file: Arc<dyn ReadFile>,
    /// What it is called in errors.
    pub name: String,
}

/// A page of a raw image that is not what the snapshot holds.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{file} at offset {offset:#x} is not what the snapshot holds; remove it, and make it anew")]
pub struct RawDiffers {
    /// The raw image.
    pub file: String,
    /// Where the first page that differs starts.
    pub offset: u64,
}

/// The files that a guest has mapped, and what they must hold.
#[derive(Clone, Debug)]
pub(super) struct MappedFiles {
    pub(super) image: Arc<MemoryImage>,
    pub(super) mapped: Mapped,
}

/// What is mapped.
#[derive(Clone, Debug)]
pub(super) enum Mapped {
    /// Runs of the data files.
    Runs(Vec<FileRun>),
    /// One raw image.
    Raw(RawImage),
}

/// Buffers of one check.
#[derive(Debug)]
pub(super) struct Buffers {
    expected: DirectBuffer,
    found: DirectBuffer,
}

impl Buffers {
    pub(super) fn new() -> Result<Self, RestoreMemoryError> {
        let buffer = || DirectBuffer::new().map_err(FillError::Buffer);
        Ok(Self {
            expected: buffer()?,
            found: buffer()?,
        })
    }
}

impl MappedFiles {
    /// Checks all of the memory before a guest sees any, up to the first failure. Gives the bytes
    /// that were looked at.
    pub(super) fn check_all(&self, options: &FillOptions) -> Result<u64, RestoreMemoryError> {
        let page_count = self.image.layout().page_count();
        let next = AtomicU64::new(0);
        let failed: OnceLock<RestoreMemoryError> = OnceLock::new();
        let work = || {
            let mut buffers = match Buffers::new() {
                Ok(buffers) => buffers,
                Err(error) => {
                    let _ = failed.set(error);
                    return;
                }
            };
            let mut fail = |failure: MemoryFailure| {
                // The first counts.
                let _ = failed.set(RestoreMemoryError::Damaged(Box::new(failure)));
                ControlFlow::Break(())
            };
            while failed.get().is_none() {
                let start = next.fetch_add(CHUNK_PAGES, Ordering::Relaxed);
                if start >= page_count {
                    return;
                }
                if options.cancel.is_asked() {
                    let _ = failed.set(FillError::Cancelled.into());
                    return;
                }
                let pages = PageRange::new(start, CHUNK_PAGES.min(page_count - start));
                if self.check(pages, &mut buffers, &mut fail).is_break() {
                    return;
                }
            }
        };
        thread::scope(|scope| {
            for _ in 1..options.threads.get() {
                // One thread less is slower, and no less right.
                if let Err(error) = thread::Builder::new().spawn_scoped(scope, work) {
                    tracing::warn!(%error, "no thread to check memory with");
                    break;
                }
            }
            work();
        });
        failed.into_inner().map_or(Ok(page_count * PAGE_BYTES), Err)
    }

    /// Checks what the guest sees of `pages`: those that are stored by their digests, those that
    /// are zero and mapped by their bytes. Each failure is given to `report`; the check goes on
    /// behind it.
    ///
    /// It reads the files, and so the pages of the page cache that the guest has mapped; pages that
    /// the guest has written are its own, and of no interest.
    pub(super) fn check(
        &self,
        pages: PageRange,
        buffers: &mut Buffers,
        report: &mut dyn FnMut(MemoryFailure) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        let mut at = pages.start.0;
        while at < pages.end().0 {
            let rest = PageRange::new(at, pages.end().0 - at);
            let (checked, result) = match self.image.extent(rest) {
                Ok(extent) => {
                    let count = extent.pages.count.min(PIECE_PAGES);
                    let piece = Extent {
                        pages: PageRange::new(at, count),
                        ..extent
                    };
                    (piece.pages, self.check_piece(piece, buffers))
                }
                // The page map cannot be read: nothing is known of the rest of the range.
                Err(error) => (rest, Err(SourceError::from(error))),
            };
            if let Err(error) = result {
                report(MemoryFailure {
                    pages: checked,
                    cause: FailureCause::Source(error),
                })?;
            }
            at = checked.end().0;
        }
        ControlFlow::Continue(())
    }

    fn check_piece(&self, piece: Extent, buffers: &mut Buffers) -> Result<(), SourceError> {
        let len = usize::try_from(piece.pages.count * PAGE_BYTES).unwrap_or(PIECE_BYTES);
        let (expected, _) = buffers.expected.split_at_mut(len);
        let (found, _) = buffers.found.split_at_mut(len);
        match &self.mapped {
            Mapped::Runs(runs) => match piece.file {
                Some(_) => self.image.read_pages(piece.pages, expected)?,
                None => self.check_zero(runs, piece.pages, found)?,
            },
            Mapped::Raw(raw) => {
                let offset = piece.pages.start.0 * PAGE_BYTES;
                let read = raw.file.read_exact_at(offset, found);
                read.map_err(ImageError::file_at("read", &raw.name))?;
                self.image.read_pages(piece.pages, expected)?;
                let differs = |(_, (found, expected)): &(u64, (&[u8], &[u8]))| found != expected;
                let pairs = found.chunks(PAGE).zip(expected.chunks(PAGE));
                let mut pairs = (piece.pages.start.0..).zip(pairs);
                if let Some((page, _)) = pairs.find(differs) {
                    return Err(SourceError::Other(Box::new(RawDiffers {
                        file: raw.name.clone(),
                        offset: page * PAGE_BYTES,
                    })));
                }
            }
        }
        Ok(())
    }

    /// Checks that zero pages are zero in the files in which they are mapped along.
    fn check_zero(
        &self,
        runs: &[FileRun],
        pages: PageRange,
        buffer: &mut [u8],
    ) -> Result<(), ImageError> {
        let first = runs.partition_point(|run| run.pages.end().0 <= pages.start.0);
        let later = runs.get(first..).unwrap_or_default();
        let overlapping = later.iter().take_while(|run| run.pages.start < pages.end());
        for run in overlapping {
            let start = run.pages.start.max(pages.start).0;
            let end = run.pages.end().min(pages.end()).0;
            let len = usize::try_from((end - start) * PAGE_BYTES).unwrap_or(PIECE_BYTES);
            let (bytes, _) = buffer.split_at_mut(len);
            let offset = run.offset + (start - run.pages.start.0) * PAGE_BYTES;
            let file = self.image.file(run.file)?;
            file.read_data(offset, bytes)?;
            if let Some((at, _)) = (offset..).zip(&*bytes).find(|(_, byte)| **byte != 0) {
                return Err(file.stray(at));
            }
        }
        Ok(())
    }
}

const PAGE: usize = 4096;

/// Pages that a thread takes at a time: 2 MiB.
const CHUNK_PAGES: u64 = 512;

/// Pages that are checked at a time.
const PIECE_PAGES: u64 = 64;

/// Their bytes.
const PIECE_BYTES: usize = 256 << 10;
