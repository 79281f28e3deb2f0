//! Bringing memory back in a fresh process, and reading of it as a guest would.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use snapshot_format::{PAGE_BYTES, SnapshotId};

use super::one_page::OnePage;
use super::ours::{Ours, Recipe};
use super::plain::{Eager, FileMap, ReadAhead};
use super::subject::Subject;
use crate::error::BenchError;

/// What is brought back, how, and what is read of it.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(crate) struct TouchJob {
    store: PathBuf,
    id: String,
    raw: PathBuf,
    mem_bytes: u64,
    way: Way,
    reading: Reading,
}

/// How memory is brought back.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) enum Way {
    /// By this project.
    Ours(Recipe),
    /// A private mapping of the raw image, as the kernel does it.
    MapPrivate,
    /// The same, with read-ahead off.
    MapPrivateRandom,
    /// userfaultfd, and one page from the raw image a fault.
    OnePage,
    /// All of the raw image by `read` before anything runs.
    Eager,
}

/// Which pages are read.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Reading {
    /// How many.
    pub(crate) pages: u64,
    /// Where the choice of the pages begins.
    pub(crate) choice: u64,
    /// Where their order begins.
    pub(crate) order: u64,
}

/// What came out.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(crate) struct Touched {
    /// From nothing to a guest that may run, in milliseconds.
    pub(crate) ready_ms: f64,
    /// From nothing to the first byte that was read.
    pub(crate) first_ms: f64,
    /// From nothing to the last of the pages.
    pub(crate) all_ms: f64,
    /// Depends on all that was read: alike for everybody who read the same pages.
    pub(crate) sum: u64,
    /// What else is known of it.
    pub(crate) counts: BTreeMap<String, u64>,
}

/// Memory of a guest, to be read a word at a time.
pub(crate) trait GuestWords {
    /// The eight bytes at `offset`, which is in the memory.
    fn word(&self, offset: u64) -> Result<u64, BenchError>;

    /// What is known of how it was brought back.
    fn counts(&self) -> BTreeMap<String, u64> {
        BTreeMap::new()
    }
}

impl TouchJob {
    /// Brings `subject` back in this way and reads of it.
    pub(crate) fn new(subject: &Subject, way: Way, reading: Reading) -> Self {
        Self {
            store: subject.store.clone(),
            id: subject.id.to_string(),
            raw: subject.raw.clone(),
            mem_bytes: subject.mem_bytes,
            way,
            reading,
        }
    }

    /// Does it.
    pub(crate) fn run(&self) -> Result<Touched, BenchError> {
        let id: SnapshotId = self.id.parse()?;
        let pages = self.reading.pages_of(self.mem_bytes / PAGE_BYTES);
        let start = Instant::now();
        let memory: Box<dyn GuestWords> = match self.way {
            Way::Ours(recipe) => Box::new(Ours::restore(&self.store, id, recipe)?),
            Way::MapPrivate => Box::new(FileMap::new(&self.raw, ReadAhead::Default)?),
            Way::MapPrivateRandom => Box::new(FileMap::new(&self.raw, ReadAhead::Off)?),
            Way::OnePage => Box::new(OnePage::new(&self.raw)?),
            Way::Eager => Box::new(Eager::read(&self.raw)?),
        };
        let ready = start.elapsed();
        let mut sum = 0_u64;
        let mut first = ready;
        for (number, page) in pages.iter().enumerate() {
            // Another word of each page: what is read is not always what was touched first.
            let within = page % (PAGE_BYTES / 8) * 8;
            let word = memory.word(page * PAGE_BYTES + within)?;
            sum = sum.wrapping_mul(31).wrapping_add(word);
            if number == 0 {
                first = start.elapsed();
            }
        }
        let all = start.elapsed();
        Ok(Touched {
            ready_ms: millis(ready),
            first_ms: millis(first),
            all_ms: millis(all),
            sum,
            counts: memory.counts(),
        })
    }
}

impl Reading {
    /// The numbers of the pages, in the order in which they are read.
    pub(crate) fn pages_of(self, page_count: u64) -> Vec<u64> {
        let mut rng = fastrand::Rng::with_seed(self.choice);
        if self.pages == 1 {
            return vec![rng.u64(..page_count)];
        }
        let mut pages: Vec<u64> = (0..page_count).collect();
        rng.shuffle(&mut pages);
        pages.truncate(usize::try_from(self.pages).unwrap_or(usize::MAX));
        fastrand::Rng::with_seed(self.order).shuffle(&mut pages);
        pages
    }
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_choice_and_the_order_of_pages_are_apart() {
        let reading = |choice, order| Reading {
            pages: 100,
            choice,
            order,
        };
        let pages = reading(1, 1).pages_of(1000);
        let other = reading(1, 2).pages_of(1000);
        assert_ne!(pages, other);
        let sorted = |mut pages: Vec<u64>| {
            pages.sort_unstable();
            pages
        };
        assert_eq!(sorted(pages.clone()), sorted(other));
        assert_ne!(sorted(pages.clone()), sorted(reading(2, 1).pages_of(1000)));
        assert_eq!(pages.len(), 100);
        let one = Reading {
            pages: 1,
            choice: 5,
            order: 0,
        };
        assert_eq!(one.pages_of(10).len(), 1);
    }
}
