//! Chunks from the guest to the disk: handed out to threads, placed in order.

use std::thread::{self, Scope};

use super::choice::Choice;
use super::chunk::{Body, Chunk, ChunkReader, Seen};
use super::inherit::Inheritance;
use super::plan::Plan;
use super::pool::{ClosesPool, Pool};
use crate::direct::DirectBuffer;
use crate::dirty::DirtyBitmap;
use crate::error::SinkError;
use crate::image::MemoryImage;
use crate::source::GuestMemorySource;

/// Gives chunks their places in the data file and in the map.
pub(super) trait PlaceChunks {
    /// A buffer to copy pages to; waits for the disk if need be.
    fn buffer(&mut self) -> Result<DirectBuffer, SinkError>;

    /// A buffer to copy pages to, if there is one without waiting for the disk.
    fn free_buffer(&mut self) -> Result<Option<DirectBuffer>, SinkError>;

    /// Places a chunk that was read. Chunks come in ascending order.
    fn place(&mut self, chunk: Chunk) -> Result<(), SinkError>;
}

/// How chunks get from the guest to the disk.
#[derive(Clone, Copy)]
pub(super) struct Pipeline<'a> {
    pub(super) source: &'a dyn GuestMemorySource,
    pub(super) choice: Choice,
    /// What dirty pages are compared with, and which they are.
    pub(super) parent: Option<(&'a MemoryImage, &'a DirtyBitmap)>,
}

impl<'a> Pipeline<'a> {
    /// Reads all that `plan` gives, on several threads, and has `placer` place it, in order.
    ///
    /// Everything that touches a file happens on this thread.
    pub(super) fn run(
        self,
        plan: &mut Plan<'_>,
        placer: &mut dyn PlaceChunks,
    ) -> Result<(), SinkError> {
        let pool = Pool::default();
        thread::scope(|scope| {
            let _closes = ClosesPool(&pool);
            for _ in 1..self.choice.threads {
                self.spawn(scope, &pool);
            }
            self.feed(&pool, plan, placer)
        })
    }

    fn spawn<'s>(self, scope: &'s Scope<'s, '_>, pool: &'s Pool)
    where
        'a: 's,
    {
        let reader = self.reader();
        let thread = thread::Builder::new().name("vmsnap-capture".to_owned());
        if let Err(error) = thread.spawn_scoped(scope, move || pool.help(reader)) {
            // The work is done by those that there are.
            tracing::debug!(%error, "a capture has one thread less");
        }
    }

    fn reader(self) -> ChunkReader<'a> {
        let inheritance = self.parent.and_then(|(image, dirty)| {
            Inheritance::new(image, self.source.layout(), dirty, self.choice.dedup)
        });
        ChunkReader::new(self.source, self.choice.unit_pages, inheritance)
    }

    fn feed(
        self,
        pool: &Pool,
        plan: &mut Plan<'_>,
        placer: &mut dyn PlaceChunks,
    ) -> Result<(), SinkError> {
        let mut reader = self.reader();
        let (mut handed_out, mut placed) = (0, 0);
        let mut is_more = true;
        loop {
            while let Some(chunk) = pool.take(placed) {
                placed += 1;
                placer.place(chunk?)?;
            }
            // A chunk that is read must not wait for the buffer that the next one needs.
            if is_more
                && handed_out - placed < AHEAD * self.choice.threads as u64
                && let Some(body) = self.body(placer, handed_out == placed)?
            {
                let parts = plan.next_parts(self.choice.chunk_pages);
                is_more = !parts.is_empty();
                if is_more {
                    pool.push(Chunk {
                        number: handed_out,
                        parts,
                        body,
                        seen: Seen::default(),
                    });
                    handed_out += 1;
                }
            } else if handed_out == placed {
                return Ok(());
            } else if !pool.work_or_wait(placed, &mut reader) {
                // Its panic goes on when the scope ends, whatever is returned.
                return Err(SinkError::Cancelled);
            }
        }
    }

    /// What the next chunk is read to; `None` if that would have to be waited for.
    fn body(self, placer: &mut dyn PlaceChunks, may_wait: bool) -> Result<Option<Body>, SinkError> {
        if self.choice.in_place {
            return Ok(Some(Body::InPlace));
        }
        if may_wait {
            return Ok(Some(Body::Copy(placer.buffer()?)));
        }
        Ok(placer.free_buffer()?.map(Body::Copy))
    }
}

/// Chunks that are handed out and not yet placed, for each thread: one to read, one to go on with.
pub(super) const AHEAD: u64 = 2;
