//! Random writes for tests, and the file that they must give.

use std::io;

use proptest::prelude::*;
use snapshot_format::{MemoryLayout, PageIndex, PageRange};

use super::{Piece, WriteQueue};
use crate::mapping::{MappedMemory, MappingOptions};
use crate::source::GuestMemorySource;

const PAGE: usize = 4096;

/// Pages of a place in the file; a piece lies in one place, so that none overlap.
const PLACE_PAGES: usize = 8;

const GUEST_PAGES: u64 = 256;

/// Where a piece comes from.
#[derive(Clone, Copy, Debug)]
enum From {
    /// A page of the buffer that is being filled.
    Buffer(usize),
    /// A page of the guest.
    Guest(usize),
}

#[derive(Clone, Copy, Debug)]
struct Part {
    from: From,
    pages: usize,
    place: usize,
    /// Whether the buffer is handed over before this piece.
    next_buffer: bool,
}

/// Random pieces, of buffers and of a guest, each to a place of its own.
#[derive(Clone, Debug)]
pub(super) struct Plan(Vec<Part>);

/// Random plans of at most 48 pieces.
pub(super) fn plans() -> impl Strategy<Value = Plan> {
    let places: Vec<usize> = (0..48).collect();
    let part = (any::<bool>(), 0..240_usize, 1..=PLACE_PAGES, any::<bool>());
    let parts = prop::collection::vec(part, 0..48);
    (parts, Just(places).prop_shuffle()).prop_map(|(parts, places)| {
        let parts = parts.into_iter().zip(places);
        let parts = parts.map(|((guest, start, pages, next_buffer), place)| Part {
            from: if guest {
                From::Guest(start)
            } else {
                From::Buffer(start)
            },
            pages,
            place,
            next_buffer,
        });
        Plan(parts.collect())
    })
}

impl Plan {
    /// The guest that runs are of.
    pub(super) fn memory() -> MappedMemory {
        let layout = MemoryLayout::single(GUEST_PAGES * PAGE as u64).unwrap();
        let memory = MappedMemory::new(layout, MappingOptions::default()).unwrap();
        for page in 0..GUEST_PAGES as usize {
            let at = (page * PAGE) as u64;
            memory.write(at, &bytes_of(0, page)).unwrap();
        }
        memory
    }

    /// Hands everything over; the caller finishes the queue.
    pub(super) fn submit<'m>(
        &self,
        queue: &mut dyn WriteQueue<'m>,
        memory: &'m MappedMemory,
    ) -> io::Result<()> {
        let mut number = 1;
        let mut pieces = Vec::new();
        for part in &self.0 {
            if part.next_buffer {
                submit_buffer(queue, number, &pieces)?;
                number += 1;
                pieces.clear();
            }
            let offset = (part.place * PLACE_PAGES * PAGE) as u64;
            match part.from {
                From::Buffer(page) => pieces.push(Piece {
                    start: page * PAGE,
                    len_bytes: part.pages * PAGE,
                    offset,
                }),
                From::Guest(page) => {
                    let range = PageRange::new(PageIndex(page as u64).0, part.pages as u64);
                    queue.submit_run(memory.host_run(range).unwrap(), offset)?;
                }
            }
        }
        submit_buffer(queue, number, &pieces)
    }

    /// The file, up to the end of the last piece.
    pub(super) fn expected(&self) -> Vec<u8> {
        let mut file = Vec::new();
        let mut number = 1;
        for part in &self.0 {
            number += usize::from(part.next_buffer);
            let (source, first) = match part.from {
                From::Buffer(page) => (number, page),
                From::Guest(page) => (0, page),
            };
            for page in 0..part.pages {
                let at = (part.place * PLACE_PAGES + page) * PAGE;
                if file.len() < at + PAGE {
                    file.resize(at + PAGE, 0);
                }
                file[at..at + PAGE].copy_from_slice(&bytes_of(source, first + page));
            }
        }
        file
    }
}

fn submit_buffer(
    queue: &mut dyn WriteQueue<'_>,
    number: usize,
    pieces: &[Piece],
) -> io::Result<()> {
    let mut buffer = queue.buffer()?;
    for (page, bytes) in buffer.chunks_mut(PAGE).take(256).enumerate() {
        bytes.copy_from_slice(&bytes_of(number, page));
    }
    queue.submit(buffer, pieces)
}

/// A page of source `source`: no two are alike.
fn bytes_of(source: usize, page: usize) -> [u8; PAGE] {
    let mut bytes = [0; PAGE];
    for (word, chunk) in bytes.chunks_mut(8).enumerate() {
        let value = (source << 40 | page << 16 | word) as u64;
        chunk.copy_from_slice(&(value ^ 0x5EED_0000_0000_0000).to_le_bytes());
    }
    bytes
}
