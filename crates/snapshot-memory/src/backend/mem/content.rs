//! The bytes of a file in memory, with holes where nothing was written.

use std::collections::BTreeMap;
use std::sync::Arc;

const BLOCK_BYTES: u64 = 4096;
const BLOCK_LEN: usize = 4096;

/// Bytes in blocks of 4 KiB. A block that nobody wrote takes no space and reads as zero.
///
/// Clones share the blocks until one of them writes.
#[derive(Clone, Debug, Default)]
pub(in crate::backend) struct Content {
    len: u64,
    blocks: BTreeMap<u64, Arc<[u8; BLOCK_LEN]>>,
}

impl Content {
    pub(super) fn from_bytes(bytes: &[u8]) -> Self {
        let mut content = Self::default();
        content.write_at(0, bytes);
        content
    }

    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0; usize::try_from(self.len).unwrap_or_default()];
        self.copy_to(0, &mut bytes);
        bytes
    }

    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// Fills `out` from `offset`; false where the file ends before.
    pub(super) fn read_at(&self, offset: u64, out: &mut [u8]) -> bool {
        let end = offset.checked_add(out.len() as u64);
        let inside = out.is_empty() || end.is_some_and(|end| end <= self.len);
        if inside {
            self.copy_to(offset, out);
        }
        inside
    }

    /// Puts `bytes` at `offset`, which together stay below `u64::MAX`, and grows as needed.
    pub(super) fn write_at(&mut self, offset: u64, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let mut at = offset;
        let mut rest = bytes;
        while !rest.is_empty() {
            let (index, from) = split(at);
            let (here, after) = rest.split_at(rest.len().min(BLOCK_LEN - from));
            let block = self.blocks.entry(index).or_insert_with(zero_block);
            if let Some(target) = Arc::make_mut(block).get_mut(from..from + here.len()) {
                target.copy_from_slice(here);
            }
            at += here.len() as u64;
            rest = after;
        }
        self.len = self.len.max(at);
    }

    /// Cuts the file off, or lets it grow by a hole.
    pub(super) fn set_len(&mut self, len: u64) {
        if len < self.len {
            let (index, from) = split(len);
            drop(self.blocks.split_off(&len.div_ceil(BLOCK_BYTES)));
            if let Some(block) = self.blocks.get_mut(&index) {
                let tail = Arc::make_mut(block).get_mut(from..);
                tail.unwrap_or_default().fill(0);
            }
        }
        self.len = len;
    }

    /// The first run of written blocks at or after `offset`; the end of the file twice where there
    /// is none.
    pub(super) fn data_run(&self, offset: u64) -> (u64, u64) {
        let mut blocks = self.blocks.range(offset / BLOCK_BYTES..).map(|(at, _)| *at);
        let first = blocks.next().filter(|_| offset < self.len);
        let Some(first) = first else {
            return (self.len, self.len);
        };
        let run = blocks.zip(first + 1..).take_while(|(at, next)| at == next);
        let end = run.last().map_or(first, |(at, _)| at) + 1;
        let start = (first * BLOCK_BYTES).max(offset);
        (start, (end * BLOCK_BYTES).min(self.len))
    }

    pub(super) fn allocated_bytes(&self) -> u64 {
        self.blocks.len() as u64 * BLOCK_BYTES
    }

    fn copy_to(&self, offset: u64, out: &mut [u8]) {
        let mut at = offset;
        let mut rest = out;
        while !rest.is_empty() {
            let (index, from) = split(at);
            let len = rest.len().min(BLOCK_LEN - from);
            let (here, after) = rest.split_at_mut(len);
            match self
                .blocks
                .get(&index)
                .and_then(|b| b.get(from..from + len))
            {
                Some(bytes) => here.copy_from_slice(bytes),
                None => here.fill(0),
            }
            at += len as u64;
            rest = after;
        }
    }
}

/// The block of an offset, and the place within it.
fn split(offset: u64) -> (u64, usize) {
    let within = usize::try_from(offset % BLOCK_BYTES).unwrap_or_default();
    (offset / BLOCK_BYTES, within)
}

fn zero_block() -> Arc<[u8; BLOCK_LEN]> {
    Arc::new([0; BLOCK_LEN])
}
