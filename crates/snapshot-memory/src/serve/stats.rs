//! What a server did, counted.

use std::sync::atomic::{AtomicU64, Ordering};

/// What a [`PageServer`](super::PageServer) did since it started.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct ServeStats {
    /// Faults that were heard of.
    pub faults: u64,
    /// Pages with data that were put in place since a thread waited for one of their window.
    pub demand_pages: u64,
    /// Pages that were put in place since somebody handed them in before they were needed.
    pub prefetch_pages: u64,
    /// Pages that were put in place in the background, or by a call that fills.
    pub background_pages: u64,
    /// Pages that were put in place as zero, without reading.
    pub zero_pages: u64,
    /// Huge pages among those that were put in place on demand.
    pub huge_pages: u64,
    /// Bytes that the source was asked for.
    pub bytes_read: u64,
    /// Pages that the VMM gave back.
    pub discarded_pages: u64,
    /// Pages that were there when they were to be put in place.
    pub already_there: u64,
    /// Calls that had to be made again, as the address space was changing.
    pub tried_again: u64,
    /// Pages whose memory was no longer registered.
    pub unregistered_pages: u64,
    /// Pages that were waited for and could not be given.
    pub lost_pages: u64,
}

/// What is counted.
#[derive(Clone, Copy, Debug)]
#[repr(usize)]
pub(super) enum Counter {
    Faults,
    Demand,
    Prefetch,
    Background,
    Zero,
    Huge,
    BytesRead,
    Discarded,
    AlreadyThere,
    TriedAgain,
    Unregistered,
    Lost,
}

const COUNTERS: usize = Counter::Lost as usize + 1;

/// Counts of several threads.
#[derive(Debug, Default)]
pub(super) struct Counters([AtomicU64; COUNTERS]);

impl Counters {
    pub(super) fn add(&self, counter: Counter, count: u64) {
        if let Some(sum) = self.0.get(counter as usize) {
            sum.fetch_add(count, Ordering::Relaxed);
        }
    }

    pub(super) fn stats(&self) -> ServeStats {
        let count = |counter: Counter| {
            let sum = self.0.get(counter as usize);
            sum.map_or(0, |sum| sum.load(Ordering::Relaxed))
        };
        ServeStats {
            faults: count(Counter::Faults),
            demand_pages: count(Counter::Demand),
            prefetch_pages: count(Counter::Prefetch),
            background_pages: count(Counter::Background),
            zero_pages: count(Counter::Zero),
            huge_pages: count(Counter::Huge),
            bytes_read: count(Counter::BytesRead),
            discarded_pages: count(Counter::Discarded),
            already_there: count(Counter::AlreadyThere),
            tried_again: count(Counter::TriedAgain),
            unregistered_pages: count(Counter::Unregistered),
            lost_pages: count(Counter::Lost),
        }
    }
}
