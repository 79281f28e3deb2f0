//! What the guest may write in 128 MiB, and so has written since the last harvest.

use std::collections::BTreeMap;
use std::ops::Range;

/// Bytes of what is protected as a whole until it is hot.
pub(super) const BLOCK_BYTES: u64 = 2 << 20;

/// Bytes of what is protected on its own in a hot block: a page of the host.
pub(super) const GRANULE_BYTES: u64 = 16 << 10;

/// Blocks of one stripe.
pub(super) const STRIPE_BLOCKS: u64 = u64::BITS as u64;

/// Bytes of one stripe.
pub(super) const STRIPE_BYTES: u64 = STRIPE_BLOCKS * BLOCK_BYTES;

/// A block in which so many granules were written is protected as a whole again: faults cost more
/// than the pages that need not be copied.
const DENSE_GRANULES: u32 = 96;

/// What the guest may write. Open is the same as dirty: a block or a granule is open from the
/// fault of its first write until it was harvested and protected again.
#[derive(Clone, Debug, Default)]
pub(super) struct Stripe {
    /// Whether writes are recorded.
    pub(super) is_on: bool,
    /// Whole blocks that are open, a bit each.
    open: u64,
    /// Blocks that are protected by granule, and their open granules, a bit each.
    split: BTreeMap<u32, u128>,
    /// For how many harvests in a row a block was dirty.
    streaks: BTreeMap<u32, u32>,
}

impl Stripe {
    /// A stripe of `len_bytes` that starts to record, with every block split or none.
    pub(super) fn recording(len_bytes: u64, is_split: bool) -> Self {
        let blocks = if is_split {
            len_bytes.div_ceil(BLOCK_BYTES)
        } else {
            0
        };
        Self {
            is_on: true,
            split: (0..).zip((0..blocks).map(|_| 0)).collect(),
            ..Self::default()
        }
    }

    /// Opens what the byte at `offset` is protected with, and says which bytes that are.
    ///
    /// The caller makes them writable next: a write can never come before its mark.
    pub(super) fn open(&mut self, offset: u64) -> Range<u64> {
        let (block, start) = block_of(offset);
        if let Some(granules) = self.split.get_mut(&block) {
            let granule = (offset - start) / GRANULE_BYTES;
            *granules |= 1 << granule;
            let start = start + granule * GRANULE_BYTES;
            return start..start + GRANULE_BYTES;
        }
        self.open |= 1 << block;
        start..start + BLOCK_BYTES
    }

    /// Opens the block of the byte at `offset` as a whole: it is not known what the guest may
    /// write there.
    pub(super) fn open_block(&mut self, offset: u64) {
        let (block, _) = block_of(offset);
        self.open |= 1 << block;
    }

    /// The bytes that are open, in order; neighbours are not always joined.
    pub(super) fn dirty(&self) -> Vec<Range<u64>> {
        let whole = runs(self.open.into(), BLOCK_BYTES, 0);
        let parts = self.split.iter().flat_map(|(block, granules)| {
            runs(*granules, GRANULE_BYTES, u64::from(*block) * BLOCK_BYTES)
        });
        whole.chain(parts).collect()
    }

    /// Runs of blocks that hold anything open: what has to be protected again. A call for each is
    /// cheaper than one for each granule, and protects nothing that is not protected already.
    pub(super) fn to_close(&self) -> Vec<Range<u64>> {
        runs(self.busy().into(), BLOCK_BYTES, 0).collect()
    }

    /// Closes every block in `bytes`, which are protected now.
    ///
    /// Blocks that were dirty at `split_after` harvests in a row are split from here on. Nothing
    /// of them is open at this moment, so that no mark has to move.
    pub(super) fn close(&mut self, bytes: Range<u64>, split_after: u32) {
        let blocks = block_of(bytes.start).0..block_of(bytes.end - 1).0 + 1;
        for block in blocks {
            self.open &= !(1 << block);
            let streak = self.streaks.entry(block).or_default();
            *streak = streak.saturating_add(1);
            let is_hot = *streak >= split_after;
            match self.split.get_mut(&block) {
                Some(granules) if granules.count_ones() >= DENSE_GRANULES && split_after > 0 => {
                    self.split.remove(&block);
                    self.streaks.remove(&block);
                }
                Some(granules) => *granules = 0,
                None if is_hot => {
                    self.split.insert(block, 0);
                }
                None => {}
            }
        }
    }

    /// Ends the streaks of blocks that nobody wrote. Call it before [`close`](Self::close).
    pub(super) fn cool(&mut self) {
        let busy = self.busy();
        self.streaks.retain(|block, _| busy >> block & 1 == 1);
    }

    /// How many blocks are protected by granule.
    pub(super) fn split_count(&self) -> usize {
        self.split.len()
    }

    fn busy(&self) -> u64 {
        let split = self.split.iter().filter(|(_, granules)| **granules != 0);
        split.fold(self.open, |busy, (block, _)| busy | 1 << block)
    }
}

/// The block of a byte, and where it starts.
fn block_of(offset: u64) -> (u32, u64) {
    let block = offset / BLOCK_BYTES;
    // A stripe has 64 blocks.
    let number = u32::try_from(block % STRIPE_BLOCKS).unwrap_or(0);
    (number, block * BLOCK_BYTES)
}

/// The runs of ones in `bits`, each bit standing for `unit` bytes from `base` on.
fn runs(bits: u128, unit: u64, base: u64) -> impl Iterator<Item = Range<u64>> {
    let mut rest = bits;
    let mut at = 0;
    std::iter::from_fn(move || {
        if rest == 0 {
            return None;
        }
        let skip = rest.trailing_zeros();
        rest >>= skip;
        let count = rest.trailing_ones();
        rest = rest.checked_shr(count).unwrap_or(0);
        let start = at + skip;
        at = start + count;
        let place = |bit: u32| base + u64::from(bit) * unit;
        Some(place(start)..place(at))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const BLOCK: u64 = BLOCK_BYTES;
    const GRANULE: u64 = GRANULE_BYTES;

    fn ends(ranges: impl IntoIterator<Item = Range<u64>>) -> Vec<(u64, u64)> {
        let ranges = ranges.into_iter();
        ranges.map(|range| (range.start, range.end)).collect()
    }

    /// Harvests as the source does.
    fn harvest(stripe: &mut Stripe, split_after: u32) -> Vec<(u64, u64)> {
        let dirty = ends(stripe.dirty());
        stripe.cool();
        for run in stripe.to_close() {
            stripe.close(run, split_after);
        }
        assert!(stripe.dirty().is_empty());
        dirty
    }

    #[test]
    fn a_block_opens_as_a_whole_until_it_is_hot_and_dense_ones_are_joined_again() {
        let mut stripe = Stripe::recording(STRIPE_BYTES, false);
        for _ in 0..2 {
            assert_eq!(stripe.open(5 * BLOCK + 77), 5 * BLOCK..6 * BLOCK);
            assert_eq!(stripe.open(6 * BLOCK), 6 * BLOCK..7 * BLOCK);
            assert_eq!(harvest(&mut stripe, 2), [(5 * BLOCK, 7 * BLOCK)]);
        }
        // Hot: by granule from here on.
        let granule = 5 * BLOCK + 3 * GRANULE;
        assert_eq!(stripe.open(granule + 5), granule..granule + GRANULE);
        assert_eq!(ends(stripe.to_close()), [(5 * BLOCK, 6 * BLOCK)]);
        assert_eq!(harvest(&mut stripe, 2), [(granule, granule + GRANULE)]);
        for granule in 0..u64::from(DENSE_GRANULES) {
            stripe.open(5 * BLOCK + granule * GRANULE);
        }
        harvest(&mut stripe, 2);
        assert_eq!(stripe.open(5 * BLOCK), 5 * BLOCK..6 * BLOCK);
        assert_eq!(stripe.split_count(), 1);
    }

    #[test]
    fn a_block_that_rests_is_not_hot() {
        let mut stripe = Stripe::recording(STRIPE_BYTES, false);
        for _ in 0..5 {
            assert_eq!(stripe.open(0), 0..BLOCK);
            harvest(&mut stripe, 2);
            stripe.open(63 * BLOCK);
            harvest(&mut stripe, 2);
        }
        assert_eq!(stripe.split_count(), 0);
    }

    #[test]
    fn runs_reach_both_ends() {
        assert_eq!(ends(runs(u128::MAX, 1, 10)), [(10, 138)]);
        assert_eq!(ends(runs(1 | 1 << 127, 1, 0)), [(0, 1), (127, 128)]);
        assert_eq!(runs(0, 1, 0).count(), 0);
    }
}
