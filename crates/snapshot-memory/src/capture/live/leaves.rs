//! What is known of every page that a live snapshot has taken so far.

use std::collections::BTreeMap;

use snapshot_format::{Digest, LEAF_PAGES, PageBits};

use crate::capture::leaves::LeafWriter;
use crate::error::SinkError;

/// The pages taken so far, by leaf: 32 bytes for each page of the leaves that hold one.
///
/// The map is written once the last page is known: a page may be taken any number of times before.
#[derive(Debug, Default)]
pub(super) struct LiveLeaves {
    leaves: BTreeMap<u32, LiveLeaf>,
}

/// One leaf of them.
#[derive(Debug)]
pub(super) struct LiveLeaf {
    present: PageBits,
    zero: PageBits,
    /// Pages whose place in the data file holds bytes, whatever they are now.
    stored: PageBits,
    digests: Box<[Digest]>,
}

impl LiveLeaves {
    /// Leaf `number`, empty where nothing of it was taken yet.
    pub(super) fn leaf(&mut self, number: u32) -> &mut LiveLeaf {
        self.leaves.entry(number).or_insert_with(|| LiveLeaf {
            present: PageBits::new(),
            zero: PageBits::new(),
            stored: PageBits::new(),
            digests: vec![Digest([0; 32]); LEAF_PAGES].into(),
        })
    }

    /// Pages that are present, and pages that are zero.
    pub(super) fn counts(&self) -> (u64, u64) {
        let counts = self.leaves.values();
        let counts = counts.map(|leaf| (leaf.present.count() as u64, leaf.zero.count() as u64));
        counts.fold((0, 0), |sum, leaf| (sum.0 + leaf.0, sum.1 + leaf.1))
    }

    /// Enters everything in a map of units of one page, and gives the memory back on the way.
    pub(super) fn write(mut self, map: &mut LeafWriter<'_>) -> Result<(), SinkError> {
        while let Some((number, leaf)) = self.leaves.pop_first() {
            let builder = map.leaf(number, 0)?;
            for (start, count) in leaf.zero.runs() {
                builder.zero().insert(start, count);
            }
            for (start, count) in leaf.present.runs() {
                builder.present().insert(start, count);
                let digests = leaf.digests.get(start..start + count);
                for digest in digests.unwrap_or_default() {
                    builder.digest(*digest);
                }
            }
        }
        Ok(())
    }
}

impl LiveLeaf {
    /// Page `within` of the leaf has bytes of this digest now.
    pub(super) fn present(&mut self, within: usize, digest: Digest) {
        self.present.insert(within, 1);
        self.stored.insert(within, 1);
        remove(&mut self.zero, within);
        if let Some(place) = self.digests.get_mut(within) {
            *place = digest;
        }
    }

    /// Page `within` of the leaf is zero now; whether its place in the data file holds bytes that
    /// must go.
    pub(super) fn zero(&mut self, within: usize) -> bool {
        self.zero.insert(within, 1);
        remove(&mut self.present, within);
        let was_stored = self.stored.contains(within);
        remove(&mut self.stored, within);
        was_stored
    }
}

fn remove(bits: &mut PageBits, page: usize) {
    if let Some(word) = bits.words_mut().get_mut(page / 64) {
        *word &= !(1 << (page % 64));
    }
}
