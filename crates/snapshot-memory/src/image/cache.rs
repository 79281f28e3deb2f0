//! Leaves that were read and checked, kept up to a number of bytes.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

/// A map of checked leaves; the oldest go first when it is full.
#[derive(Debug)]
pub(super) struct LeafCache<T> {
    held: Mutex<Held<T>>,
    max_bytes: usize,
}

#[derive(Debug)]
struct Held<T> {
    leaves: BTreeMap<u32, (Arc<T>, usize)>,
    order: VecDeque<u32>,
    bytes: usize,
}

impl<T> LeafCache<T> {
    /// An empty cache that holds about `max_bytes`, and always at least one leaf.
    pub(super) fn new(max_bytes: usize) -> Self {
        let held = Held {
            leaves: BTreeMap::new(),
            order: VecDeque::new(),
            bytes: 0,
        };
        Self {
            held: Mutex::new(held),
            max_bytes,
        }
    }

    /// The leaf `number`, read by `read` where it is not held; `read` also gives its size.
    ///
    /// Two threads may read the same leaf at the same time; both get an equal one.
    pub(super) fn get<E>(
        &self,
        number: u32,
        read: impl FnOnce() -> Result<(T, usize), E>,
    ) -> Result<Arc<T>, E> {
        if let Some((leaf, _)) = self.lock().leaves.get(&number) {
            return Ok(leaf.clone());
        }
        let (leaf, bytes) = read()?;
        let leaf = Arc::new(leaf);
        let mut held = self.lock();
        if held.leaves.insert(number, (leaf.clone(), bytes)).is_none() {
            held.order.push_back(number);
            held.bytes += bytes;
        }
        while held.bytes > self.max_bytes && held.order.len() > 1 {
            let oldest = held.order.pop_front();
            if let Some((_, bytes)) = oldest.and_then(|oldest| held.leaves.remove(&oldest)) {
                held.bytes -= bytes;
            }
        }
        Ok(leaf)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Held<T>> {
        // Every change leaves the maps in agreement, so that a panic elsewhere does no harm.
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_leaf_goes_when_the_cache_is_full() {
        let cache = LeafCache::new(100);
        let mut reads = Vec::new();
        for number in [1, 2, 1, 3, 2, 1] {
            let read = || {
                reads.push(number);
                Ok::<_, ()>((number, 50))
            };
            assert_eq!(*cache.get(number, read).unwrap(), number);
        }
        assert_eq!(reads, [1, 2, 3, 1]);
    }

    #[test]
    fn a_leaf_larger_than_the_cache_is_still_handed_out() {
        let cache = LeafCache::new(10);
        assert_eq!(*cache.get(7, || Ok::<_, ()>((7, 50))).unwrap(), 7);
    }
}
