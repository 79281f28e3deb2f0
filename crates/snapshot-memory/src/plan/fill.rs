//! Copying all of a snapshot to fresh memory, checked, with several threads.

use std::io;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

use snapshot_format::{MemoryLayout, PAGE_BYTES, PageRange};

use crate::capture::Cancel;
use crate::direct::DirectBuffer;
use crate::error::MemoryError;
use crate::mapping::MappedMemory;
use crate::restore::{PageSource, SourceError};
use crate::source::GuestMemorySource;

/// Fresh memory that pages are copied to: nobody has written it since it was made, so that it is
/// zero, and no guest runs on it.
pub trait FillTarget: Send + Sync {
    /// Which guest physical addresses are memory.
    fn memory_layout(&self) -> &MemoryLayout;

    /// Copies `bytes` to `pages`, which are exactly as long. Called from several threads, for
    /// different pages.
    fn write_pages(&self, pages: PageRange, bytes: &[u8]) -> Result<(), MemoryError>;
}

impl FillTarget for MappedMemory {
    fn memory_layout(&self) -> &MemoryLayout {
        GuestMemorySource::layout(self)
    }

    fn write_pages(&self, pages: PageRange, bytes: &[u8]) -> Result<(), MemoryError> {
        MemoryError::check_buffer(pages, bytes.len())?;
        self.write(pages.start.image_offset().unwrap_or(u64::MAX), bytes)
    }
}

/// How memory is filled.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct FillOptions {
    /// Threads, the caller's included. All have ended when the call returns.
    pub threads: NonZeroUsize,
    /// Breaks it off, within some milliseconds.
    pub cancel: Cancel,
}

impl Default for FillOptions {
    fn default() -> Self {
        Self {
            threads: NonZeroUsize::MIN,
            cancel: Cancel::default(),
        }
    }
}

impl FillOptions {
    /// Sets the number of threads.
    #[must_use]
    pub fn threads(mut self, threads: NonZeroUsize) -> Self {
        self.threads = threads;
        self
    }

    /// Sets the flag that breaks it off.
    #[must_use]
    pub fn cancel(mut self, cancel: Cancel) -> Self {
        self.cancel = cancel;
        self
    }
}

/// Memory could not be filled; what it holds is of no use.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FillError {
    /// Pages could not be read, or are not what was written.
    #[error("fill guest pages {}..{}", pages.start.0, pages.end().0)]
    Source {
        /// Which, and some around them.
        pages: PageRange,
        /// Why.
        #[source]
        source: Box<SourceError>,
    },
    /// Pages could not be put in place.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// The memory is of another layout than the snapshot.
    #[error(
        "the memory to fill has {found} pages and another layout than the snapshot, which has {expected}"
    )]
    LayoutDiffers {
        /// Pages of the snapshot.
        expected: u64,
        /// Pages of the memory.
        found: u64,
    },
    /// There is no memory for a buffer.
    #[error("get a buffer to fill memory through")]
    Buffer(#[source] io::Error),
    /// The caller asked for the end.
    #[error("filling memory was cancelled")]
    Cancelled,
}

/// What filling did.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Filled {
    /// Bytes that were read, checked and copied.
    pub copied_bytes: u64,
    /// Bytes that are zero, and were left alone.
    pub zero_bytes: u64,
}

/// Copies all pages of `source` to `target`; every byte is checked before it is copied.
///
/// Each thread takes 2 MiB at a time, aligned in the image: huge pages of the target are each
/// touched by one thread first, and stay huge. What is zero is not touched.
pub fn fill_memory(
    source: &dyn PageSource,
    target: &dyn FillTarget,
    options: &FillOptions,
) -> Result<Filled, FillError> {
    if source.layout() != target.memory_layout() {
        return Err(FillError::LayoutDiffers {
            expected: source.layout().page_count(),
            found: target.memory_layout().page_count(),
        });
    }
    let work = Work {
        source,
        target,
        cancel: &options.cancel,
        page_count: source.layout().page_count(),
        next: AtomicU64::new(0),
        stopped: AtomicBool::new(false),
        copied: AtomicU64::new(0),
        first_error: Mutex::new(None),
    };
    thread::scope(|scope| {
        for _ in 1..options.threads.get() {
            // One thread less is slower, and no less right.
            if let Err(error) = thread::Builder::new().spawn_scoped(scope, || work.run()) {
                tracing::warn!(%error, "no thread to fill memory with");
                break;
            }
        }
        work.run();
    });
    let error = work.first_error.into_inner();
    if let Some(error) = error.unwrap_or_else(PoisonError::into_inner) {
        return Err(error);
    }
    let copied_bytes = work.copied.into_inner();
    Ok(Filled {
        copied_bytes,
        zero_bytes: work.page_count * PAGE_BYTES - copied_bytes,
    })
}

/// What the threads share.
struct Work<'w> {
    source: &'w dyn PageSource,
    target: &'w dyn FillTarget,
    cancel: &'w Cancel,
    page_count: u64,
    /// The first page that nobody has taken.
    next: AtomicU64,
    stopped: AtomicBool,
    copied: AtomicU64,
    first_error: Mutex<Option<FillError>>,
}

impl Work<'_> {
    fn run(&self) {
        let mut buffer = match DirectBuffer::new() {
            Ok(buffer) => buffer,
            Err(error) => return self.fail(FillError::Buffer(error)),
        };
        while !self.stopped.load(Ordering::Relaxed) {
            let start = self.next.fetch_add(CHUNK_PAGES, Ordering::Relaxed);
            if start >= self.page_count {
                return;
            }
            let count = CHUNK_PAGES.min(self.page_count - start);
            if let Err(error) = self.copy(PageRange::new(start, count), &mut buffer) {
                return self.fail(error);
            }
        }
    }

    /// Ends the work of all threads. The first error counts.
    fn fail(&self, error: FillError) {
        self.stopped.store(true, Ordering::Relaxed);
        let first = self.first_error.lock();
        first
            .unwrap_or_else(PoisonError::into_inner)
            .get_or_insert(error);
    }

    /// Copies the pages of one chunk, run by run.
    fn copy(&self, chunk: PageRange, buffer: &mut [u8]) -> Result<(), FillError> {
        if self.cancel.is_asked() {
            return Err(FillError::Cancelled);
        }
        let mut at = chunk.start.0;
        while at < chunk.end().0 {
            let rest = PageRange::new(at, chunk.end().0 - at);
            let failed = |source| FillError::Source {
                pages: rest,
                source: Box::new(source),
            };
            let run = self.source.run(rest).map_err(failed)?;
            // A source that gives none, or more than there are, must not stall this.
            let count = run.count.clamp(1, rest.count);
            if run.is_zero {
                at += count;
                continue;
            }
            let piece = PageRange::new(at, count.min(PIECE_PAGES));
            let len = usize::try_from(piece.count * PAGE_BYTES).unwrap_or(PIECE_BYTES);
            let (bytes, _) = buffer.split_at_mut(len.min(PIECE_BYTES));
            self.source.read_pages(piece, bytes).map_err(failed)?;
            self.target.write_pages(piece, bytes)?;
            self.copied.fetch_add(bytes.len() as u64, Ordering::Relaxed);
            at += piece.count;
        }
        Ok(())
    }
}

/// Pages that a thread takes at a time: a huge page.
const CHUNK_PAGES: u64 = 512;

/// Pages that are read, checked and copied before the next are: they stay in the cache of a core.
const PIECE_PAGES: u64 = 64;

/// Their bytes.
const PIECE_BYTES: usize = 256 << 10;

#[cfg(test)]
mod tests;
