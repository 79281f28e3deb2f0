//! All memory of an archive to one raw image.

use std::io;
use std::ops::ControlFlow;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use snapshot_format::PageRange;
use snapshot_memory::backend::WriteFile;
use snapshot_memory::{DirectBuffer, PageSource, Piece, QueueMode, WriteQueue};

use crate::error::VaultError;
use crate::image::ColdImage;
use crate::limits::CHUNK_PAGES;

/// A part of the image, read and checked.
#[derive(Debug)]
struct Part {
    /// Where it starts in the image, in bytes.
    offset: u64,
    /// Where bytes that are not zero start in it, and how many they are.
    runs: Vec<(usize, usize)>,
    bytes: Vec<u8>,
}

type Answer = Result<Part, VaultError>;

impl ColdImage {
    /// Writes all memory to `target`, which is empty: the regions in the order of their addresses,
    /// with holes for what is zero, every chunk checked. `threads` read and decode, beside the
    /// caller's, which writes; without any the caller's does both.
    ///
    /// After an error or a break by `tell`, which is given the bytes that are done, the content of
    /// `target` is of no use.
    pub fn write_raw(
        &self,
        target: &mut dyn WriteFile,
        threads: usize,
        tell: &mut dyn FnMut(u64) -> ControlFlow<()>,
    ) -> Result<(), VaultError> {
        let len_bytes = self.layout().len_bytes();
        target.set_len(len_bytes).map_err(failed)?;
        let pages = self.layout().page_count();
        let parts = (0..pages).step_by(usize::try_from(PART_PAGES).unwrap_or(usize::MAX));
        let parts = parts.map(|start| PageRange::new(start, PART_PAGES.min(pages - start)));
        let parts: Vec<PageRange> = parts.collect();
        let mut queue = target
            .write_queue(QueueMode::PreferDirect, BUFFERS)
            .map_err(failed)?;
        let mut done = |part: &Part, range: PageRange| {
            place(queue.as_mut(), part)?;
            let done = part.offset + range.len_bytes().unwrap_or_default();
            match tell(done) {
                ControlFlow::Continue(()) => Ok(()),
                ControlFlow::Break(()) => Err(VaultError::Interrupted),
            }
        };
        if threads == 0 {
            for range in &parts {
                done(&self.part(*range)?, *range)?;
            }
        } else {
            self.write_parts(&parts, threads, &mut done)?;
        }
        queue.finish().map_err(failed)
    }

    /// Each thread reads every n-th part and has a queue of its own, so that parts come in order.
    fn write_parts(
        &self,
        parts: &[PageRange],
        threads: usize,
        done: &mut dyn FnMut(&Part, PageRange) -> Result<(), VaultError>,
    ) -> Result<(), VaultError> {
        thread::scope(|scope| {
            let mut queues: Vec<Receiver<Answer>> = Vec::with_capacity(threads);
            for first in 0..threads {
                let (sender, receiver) = sync_channel(AHEAD);
                let own = parts.iter().copied().skip(first).step_by(threads);
                let thread = thread::Builder::new().name("vmsnap-thaw".to_owned());
                let spawned = thread.spawn_scoped(scope, move || self.read_parts(own, &sender));
                spawned.map_err(|error| VaultError::Host {
                    what: "start a thread for the restore",
                    source: Some(Box::new(error)),
                })?;
                queues.push(receiver);
            }
            for (range, queue) in parts.iter().zip(queues.iter().cycle()) {
                // Its panic goes on when the scope ends, whatever is returned.
                let answer = queue.recv().map_err(|_| VaultError::Host {
                    what: "a thread of the restore ended",
                    source: None,
                })?;
                done(&answer?, *range)?;
            }
            Ok(())
        })
    }

    /// Reads until nobody takes what comes out.
    fn read_parts(&self, parts: impl Iterator<Item = PageRange>, answers: &SyncSender<Answer>) {
        for range in parts {
            let part = self.part(range);
            let is_last = part.is_err();
            if answers.send(part).is_err() || is_last {
                return;
            }
        }
    }

    fn part(&self, range: PageRange) -> Result<Part, VaultError> {
        let mut runs: Vec<(usize, usize)> = Vec::new();
        let mut at = 0;
        while at < range.count {
            let rest = PageRange::new(range.start.0 + at, range.count - at);
            let run = self.run(rest).map_err(VaultError::memory)?;
            let count = run.count.clamp(1, rest.count);
            if !run.is_zero {
                // At most a part.
                let from = usize::try_from(at).unwrap_or_default() * PAGE_BYTES;
                let len = usize::try_from(count).unwrap_or_default() * PAGE_BYTES;
                runs.push((from, len));
            }
            at += count;
        }
        let mut bytes = Vec::new();
        if !runs.is_empty() {
            let len = range.len_bytes().and_then(|len| usize::try_from(len).ok());
            bytes.resize(len.unwrap_or_default(), 0);
            self.read_pages(range, &mut bytes)
                .map_err(VaultError::memory)?;
        }
        let offset = range.start.image_offset().unwrap_or(u64::MAX);
        Ok(Part {
            offset,
            runs,
            bytes,
        })
    }
}

/// Starts writing what is not zero in a part.
fn place(queue: &mut (dyn WriteQueue<'_> + '_), part: &Part) -> Result<(), VaultError> {
    if part.runs.is_empty() {
        return Ok(());
    }
    let mut buffer = queue.buffer().map_err(failed)?;
    for (to, from) in buffer
        .chunks_mut(PAGE_BYTES)
        .zip(part.bytes.chunks(PAGE_BYTES))
    {
        to.copy_from_slice(from);
    }
    let pieces = part.runs.iter().map(|(start, len_bytes)| Piece {
        start: *start,
        len_bytes: *len_bytes,
        offset: part.offset + *start as u64,
    });
    let pieces: Vec<Piece> = pieces.collect();
    queue.submit(buffer, &pieces).map_err(failed)
}

fn failed(error: io::Error) -> VaultError {
    VaultError::Host {
        what: "write the image",
        source: Some(Box::new(error)),
    }
}

const PAGE_BYTES: usize = 4096;

/// Pages of a part: a buffer full, 32 chunks where memory begins with one.
const PART_PAGES: u64 = (DirectBuffer::LEN_BYTES / PAGE_BYTES) as u64;

/// Parts that a thread may be ahead of the one who writes.
const AHEAD: usize = 2;

/// Buffers under way.
const BUFFERS: usize = 4;

const _: () = assert!(PART_PAGES.is_multiple_of(CHUNK_PAGES as u64));

#[cfg(test)]
mod tests {
    use snapshot_format::{GuestAddress, MemoryLayout, MemoryRegion};
    use snapshot_memory::backend::{Backend, MemBackend, RelPath};

    use super::*;
    use crate::MemoryObjects;
    use crate::testing::{Guest, archive, domain};

    #[test]
    fn the_raw_image_is_the_memory_whatever_the_threads() {
        let domain = domain(&MemoryObjects::new());
        let region = |start: u64, pages: u64| MemoryRegion {
            start: GuestAddress(start * 4096),
            len_bytes: pages * 4096,
        };
        let layout = MemoryLayout::new(vec![region(3, 600), region(20_000, 33)]).unwrap();
        let guest = Guest::of_layout(layout, 1);
        (100..400).for_each(|page| guest.write(page, 0));
        let archived = archive(&domain, 1, &guest, None).unwrap();
        let cold = domain.open_archive(archived.id).unwrap().memory().unwrap();
        for threads in 0..3 {
            let backend = MemBackend::new();
            let path = RelPath::root().join("image").unwrap();
            let mut told = 0;
            let mut file = backend.create(&path).unwrap();
            let mut tell = |done| {
                told = done;
                ControlFlow::Continue(())
            };
            cold.write_raw(file.as_mut(), threads, &mut tell).unwrap();
            let image = guest.image();
            let mut found = vec![0xEE; image.len()];
            backend
                .open(&path)
                .unwrap()
                .read_exact_at(0, &mut found)
                .unwrap();
            assert!(found == image, "{threads} threads");
            assert_eq!(told, image.len() as u64);
        }
    }

    #[test]
    fn a_restore_that_is_told_to_stop_stops() {
        let domain = domain(&MemoryObjects::new());
        let guest = Guest::new(1200, 1);
        let archived = archive(&domain, 1, &guest, None).unwrap();
        let cold = domain.open_archive(archived.id).unwrap().memory().unwrap();
        for threads in 0..3 {
            let backend = MemBackend::new();
            let mut file = backend
                .create(&RelPath::root().join("image").unwrap())
                .unwrap();
            let mut calls = 0;
            let mut tell = |_| {
                calls += 1;
                ControlFlow::Break(())
            };
            let stopped = cold.write_raw(file.as_mut(), threads, &mut tell);
            assert!(
                matches!(stopped, Err(VaultError::Interrupted)),
                "{stopped:?}"
            );
            assert_eq!(calls, 1);
        }
    }
}
