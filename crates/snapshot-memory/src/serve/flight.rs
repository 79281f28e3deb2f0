//! Windows that a thread is bringing, so that no other brings them as well.

use std::sync::{Mutex, MutexGuard, PoisonError};

use snapshot_format::PageIndex;

/// The windows under way: one for each thread at most.
#[derive(Debug, Default)]
pub(super) struct Flights(Mutex<Vec<Flight>>);

#[derive(Debug)]
struct Flight {
    window: u64,
    waiting: Vec<PageIndex>,
}

impl Flights {
    /// Whether the caller is to bring `window`. If not, another thread is about to, and will look
    /// after `page` as well.
    pub(super) fn claim(&self, window: u64, page: PageIndex) -> bool {
        let mut flights = self.lock();
        let flight = flights.iter_mut().find(|flight| flight.window == window);
        if let Some(flight) = flight {
            flight.waiting.push(page);
            return false;
        }
        let waiting = Vec::new();
        flights.push(Flight { window, waiting });
        true
    }

    /// The caller is done with `window`; the pages of it that others were asked for meanwhile.
    pub(super) fn land(&self, window: u64) -> Vec<PageIndex> {
        let mut flights = self.lock();
        let place = flights.iter().position(|flight| flight.window == window);
        place.map_or_else(Vec::new, |place| flights.swap_remove(place).waiting)
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Flight>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_is_brought_once_and_those_who_asked_meanwhile_are_named() {
        let flights = Flights::default();
        assert!(flights.claim(3, PageIndex(48)));
        assert!(!flights.claim(3, PageIndex(50)));
        assert!(flights.claim(4, PageIndex(64)));
        assert!(!flights.claim(3, PageIndex(48)));
        assert_eq!(flights.land(3), [PageIndex(50), PageIndex(48)]);
        assert_eq!(flights.land(3), []);
        assert!(flights.claim(3, PageIndex(49)));
        assert_eq!(flights.land(4), []);
    }
}
