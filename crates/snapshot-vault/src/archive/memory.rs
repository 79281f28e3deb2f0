//! Guest memory to chunks and leaves: worked on by several threads, stored in order by one.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use snapshot_format::{LEAF_PAGES, MemoryLayout};

use crate::archive::options::{ArchiveOptions, ArchiveProgress};
use crate::archive::store::ChunkStore;
use crate::archive::work::{BATCH_CHUNKS, Batch, LEAF_BATCHES, Source, Worked, Worker};
use crate::chunk::ChunkEncoder;
use crate::error::VaultError;
use crate::id::ChunkId;
use crate::leaf::RecipeLeaf;
use crate::limits::CHUNK_BYTES;
use crate::pack::Representation;

type Answer = Result<Vec<Worked>, VaultError>;

/// Stores the chunks of memory, and gives its leaves that are not all zero.
pub(super) fn archive(
    source: Source<'_>,
    store: &mut ChunkStore,
    options: &ArchiveOptions,
) -> Result<Vec<(u32, ChunkId)>, VaultError> {
    let leaves = leaves_of(source.memory.layout());
    let count = leaves.len() * LEAF_BATCHES;
    let batch = |number: usize| {
        let leaf = leaves.get(number / LEAF_BATCHES).copied()?;
        let number = number % LEAF_BATCHES;
        Some(Batch { leaf, number })
    };
    let mut placer = Placer::new(source, store, options)?;
    if options.threads == 0 {
        let mut worker = Worker::new(source, ChunkEncoder::new(options.codec)?);
        for batch in (0..count).map_while(batch) {
            placer.place(batch, worker.work(batch)?)?;
        }
        return Ok(placer.leaves);
    }
    // Each thread takes every n-th batch and has a queue of its own, so that batches come in order,
    // and nobody is far ahead.
    let threads = options.threads;
    thread::scope(|scope| {
        let mut queues: Vec<Receiver<Answer>> = Vec::with_capacity(threads);
        for first in 0..threads {
            let (sender, receiver) = sync_channel((AHEAD / threads).max(2));
            let worker = Worker::new(source, ChunkEncoder::new(options.codec)?);
            let batches = (first..count).step_by(threads).map_while(batch);
            let thread = thread::Builder::new().name("vmsnap-archive".to_owned());
            let spawned = thread.spawn_scoped(scope, move || serve(worker, batches, &sender));
            spawned.map_err(|error| VaultError::Host {
                what: "start a thread for the archive",
                source: Some(Box::new(error)),
            })?;
            queues.push(receiver);
        }
        for (batch, queue) in (0..count).map_while(batch).zip(queues.iter().cycle()) {
            // Its panic goes on when the scope ends, whatever is returned.
            let answer = queue.recv().map_err(|_| VaultError::Host {
                what: "a thread of the archive ended",
                source: None,
            })?;
            placer.place(batch, answer?)?;
        }
        // Whoever still waits to send gives up.
        drop(queues);
        Ok(placer.leaves)
    })
}

/// Works until nobody takes what comes out.
fn serve(
    mut worker: Worker<'_>,
    batches: impl Iterator<Item = Batch>,
    answers: &SyncSender<Answer>,
) {
    for batch in batches {
        let answer = worker.work(batch);
        let is_last = answer.is_err();
        if answers.send(answer).is_err() || is_last {
            return;
        }
    }
}

/// Stores what comes out, in order, and puts leaves together.
struct Placer<'a> {
    source: Source<'a>,
    store: &'a mut ChunkStore,
    options: &'a ArchiveOptions,
    encoder: ChunkEncoder,
    leaf: RecipeLeaf,
    leaves: Vec<(u32, ChunkId)>,
    taken_bytes: u64,
}

impl<'a> Placer<'a> {
    fn new(
        source: Source<'a>,
        store: &'a mut ChunkStore,
        options: &'a ArchiveOptions,
    ) -> Result<Self, VaultError> {
        Ok(Self {
            source,
            store,
            options,
            encoder: ChunkEncoder::new(options.codec)?,
            leaf: RecipeLeaf { chunks: Vec::new() },
            leaves: Vec::new(),
            taken_bytes: 0,
        })
    }

    fn place(&mut self, batch: Batch, worked: Vec<Worked>) -> Result<(), VaultError> {
        self.options.check()?;
        for chunk in worked {
            self.leaf.chunks.push(match chunk {
                Worked::Zero => None,
                Worked::Known(id, way) => {
                    self.store.keep(way);
                    Some(id)
                }
                Worked::New(encoded, over) => {
                    // Whatever becomes of the base's pack until the recipe is committed, it counts.
                    if let Some(way) = over {
                        self.store.keep(way);
                    }
                    self.store.push(&encoded)?;
                    Some(encoded.id)
                }
            });
        }
        if batch.number + 1 == LEAF_BATCHES {
            self.end_leaf(batch.leaf)?;
        }
        self.taken_bytes += (BATCH_CHUNKS * CHUNK_BYTES) as u64;
        let total_bytes = self.source.memory.layout().len_bytes();
        self.options.tell(ArchiveProgress {
            taken_bytes: self.taken_bytes.min(total_bytes),
            total_bytes,
            stored_bytes: self.store.stats().stored_bytes,
        });
        Ok(())
    }

    fn end_leaf(&mut self, number: u32) -> Result<(), VaultError> {
        let leaf = std::mem::replace(&mut self.leaf, RecipeLeaf { chunks: Vec::new() });
        if leaf.is_zero() {
            return Ok(());
        }
        let chunk = leaf.encode();
        let id = self
            .source
            .chunks
            .domain()
            .secrets()
            .chunk_id(chunk.as_slice());
        let found = self.source.chunks.index().find(id);
        if let Some(way) = found {
            self.store.keep(way);
        } else {
            let encoded = self.encoder.encode(id, &chunk, Representation::Full);
            self.store.push(&encoded)?;
        }
        self.leaves.push((number, id));
        Ok(())
    }
}

/// The numbers of leaves that hold memory, ascending.
fn leaves_of(layout: &MemoryLayout) -> Vec<u32> {
    let mut leaves = Vec::new();
    let mut free_from = 0;
    for region in layout.regions() {
        let first = region.start.page().0 / LEAF_PAGES as u64;
        let last = (region.start.page().0 + region.len_bytes / PAGE_BYTES - 1) / LEAF_PAGES as u64;
        let numbers = first.max(free_from)..=last;
        leaves.extend(numbers.filter_map(|number| u32::try_from(number).ok()));
        free_from = last + 1;
    }
    leaves
}

const PAGE_BYTES: u64 = 4096;

/// Batches that all threads together may be ahead of the one who stores: what they work on while a
/// pack is made durable, at most 48 MiB.
const AHEAD: usize = 48;
