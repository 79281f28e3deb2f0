//! From addresses to pages and back.

use std::ops::Range;

use snapshot_format::{PAGE_BYTES, PageIndex, PageRange};

use super::ServeError;
use crate::uffd::ServedRange;

/// The ranges that are served, in the order of both.
#[derive(Debug)]
pub(super) struct AddressMap {
    by_address: Vec<ServedRange>,
    by_page: Vec<ServedRange>,
}

impl AddressMap {
    /// The map of `ranges`, which come from a peer and hold what they like.
    pub(super) fn new(ranges: Vec<ServedRange>, page_count: u64) -> Result<Self, ServeError> {
        let mut by_address = ranges;
        by_address.sort_by_key(|range| range.addresses.start);
        let mut by_page = by_address.clone();
        by_page.sort_by_key(|range| range.first);
        for range in &by_page {
            let Range { start, end } = range.addresses;
            if start >= end || !start.is_multiple_of(PAGE_BYTES) || !end.is_multiple_of(PAGE_BYTES)
            {
                return Err(refused(range, "is empty or not on page boundaries"));
            }
            let end = range.first.0.checked_add(range.pages().count);
            if end.is_none_or(|end| end > page_count) {
                return Err(refused(range, "holds pages that the snapshot has not"));
            }
        }
        let overlap = |pair: &&[ServedRange]| match pair {
            [one, next] => {
                one.addresses.end > next.addresses.start && next.addresses.end > one.addresses.start
            }
            _ => false,
        };
        if let Some([_, next]) = by_address.windows(2).find(overlap) {
            return Err(refused(next, "overlaps another"));
        }
        let shared = |pair: &&[ServedRange]| match pair {
            [one, next] => one.pages().end() > next.first,
            _ => false,
        };
        if let Some([_, next]) = by_page.windows(2).find(shared) {
            return Err(refused(next, "holds pages of another"));
        }
        Ok(Self {
            by_address,
            by_page,
        })
    }

    /// The ranges by their pages.
    pub(super) fn ranges(&self) -> &[ServedRange] {
        &self.by_page
    }

    /// The page at an address.
    pub(super) fn page_at(&self, address: u64) -> Option<PageIndex> {
        let after = self
            .by_address
            .partition_point(|range| range.addresses.start <= address);
        let range = self.by_address.get(after.checked_sub(1)?)?;
        let is_within = address < range.addresses.end;
        let pages = (address - range.addresses.start) / PAGE_BYTES;
        is_within.then_some(PageIndex(range.first.0 + pages))
    }

    /// The range that holds a page.
    pub(super) fn range_of(&self, page: PageIndex) -> Option<&ServedRange> {
        let after = self.by_page.partition_point(|range| range.first <= page);
        let range = self.by_page.get(after.checked_sub(1)?)?;
        (page < range.pages().end()).then_some(range)
    }

    /// The parts of `pages` that are served, each of one range.
    pub(super) fn parts(&self, pages: PageRange) -> impl Iterator<Item = Part> + '_ {
        let end = pages.end();
        let first = self
            .by_page
            .partition_point(|range| range.pages().end() <= pages.start);
        let ranges = self.by_page.get(first..).unwrap_or_default();
        let ranges = ranges.iter().take_while(move |range| range.first < end);
        ranges.map(move |range| Part::of(range, pages))
    }

    /// The pages of which a byte lies at `addresses`.
    pub(super) fn pages_at(&self, addresses: Range<u64>) -> impl Iterator<Item = PageRange> + '_ {
        let first = self
            .by_address
            .partition_point(|range| range.addresses.end <= addresses.start);
        let ranges = self.by_address.get(first..).unwrap_or_default();
        let end = addresses.end;
        let ranges = ranges
            .iter()
            .take_while(move |range| range.addresses.start < end);
        ranges.map(move |range| range.pages_at(&addresses))
    }
}

/// Pages that are contiguous in memory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Part {
    pub(super) pages: PageRange,
    pub(super) addresses: Range<u64>,
}

impl Part {
    /// What of `pages` lies in `range`.
    pub(super) fn of(range: &ServedRange, pages: PageRange) -> Self {
        let start = pages.start.0.max(range.first.0);
        let end = pages.end().0.min(range.pages().end().0);
        let at = |page: u64| range.addresses.start + (page - range.first.0) * PAGE_BYTES;
        Self {
            pages: PageRange::new(start, end.saturating_sub(start)),
            addresses: at(start)..at(end.max(start)),
        }
    }

    /// Those of its pages that are `pages`.
    pub(super) fn of_pages(&self, pages: PageRange) -> Self {
        let start = pages.start.0.clamp(self.pages.start.0, self.pages.end().0);
        let end = pages.end().0.clamp(start, self.pages.end().0);
        self.slice(start - self.pages.start.0, end - start)
    }

    /// `count` pages of this part, from its page `skip` on.
    pub(super) fn slice(&self, skip: u64, count: u64) -> Self {
        let start = self.addresses.start + skip * PAGE_BYTES;
        Self {
            pages: PageRange::new(self.pages.start.0 + skip, count),
            addresses: start..start + count * PAGE_BYTES,
        }
    }
}

fn refused(range: &ServedRange, what: &'static str) -> ServeError {
    ServeError::Range {
        start: range.addresses.start,
        end: range.addresses.end,
        what,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(start: u64, pages: u64, first: u64) -> ServedRange {
        let addresses = start * PAGE_BYTES..(start + pages) * PAGE_BYTES;
        let first = PageIndex(first);
        ServedRange { addresses, first }
    }

    // spec: SRV-01
    #[test]
    fn ranges_that_make_no_sense_are_refused() {
        let page = |start, end| ServedRange {
            addresses: start..end,
            first: PageIndex(0),
        };
        for bad in [
            vec![page(0, 0)],
            vec![page(4096, 0)],
            vec![page(0, 100)],
            vec![page(100, 8292)],
            vec![range(0, 11, 0)],
            vec![range(0, 1, 10)],
            vec![range(0, 1, u64::MAX)],
            vec![range(0, 4, 0), range(3, 2, 6)],
            vec![range(0, 4, 0), range(10, 2, 3)],
        ] {
            let shown = format!("{bad:?}");
            let refused = AddressMap::new(bad, 10);
            assert!(matches!(refused, Err(ServeError::Range { .. })), "{shown}");
        }
    }

    #[test]
    fn addresses_and_pages_find_each_other_in_any_order_of_both() {
        let map = AddressMap::new(vec![range(100, 4, 6), range(200, 6, 0)], 10).unwrap();
        let at = |page: u64| map.page_at(page * PAGE_BYTES + 5).map(|page| page.0);
        assert_eq!(
            [99, 100, 103, 104, 199, 205, 206].map(at),
            [None, Some(6), Some(9), None, None, Some(5), None]
        );
        let parts: Vec<_> = map.parts(PageRange::new(4, 4)).collect();
        let expected = [(4, 204), (6, 100)].map(|(first, at)| Part {
            pages: PageRange::new(first, 2),
            addresses: at * PAGE_BYTES..(at + 2) * PAGE_BYTES,
        });
        assert_eq!(parts, expected);
        let touched = map.pages_at(102 * PAGE_BYTES + 1..201 * PAGE_BYTES);
        let touched: Vec<_> = touched.map(|pages| (pages.start.0, pages.count)).collect();
        assert_eq!(touched, [(8, 2), (0, 1)]);
        assert_eq!(map.range_of(PageIndex(9)).unwrap().first.0, 6);
        assert_eq!(map.range_of(PageIndex(10)), None);
    }
}
