//! The guest whose memory is written: 4 KiB pages, physically scattered, as a guest's are after it
//! has run for a while.

// UNSAFETY: the address of the guest's memory is handed out as a `HostRun`.
#![expect(unsafe_code, reason = "makes a HostRun of memory that is mapped here")]

use std::io;

use memmap2::{Advice, MmapMut};
use snapshot_format::{MemoryLayout, PAGE_BYTES, PageRange};
use snapshot_memory::{GuestMemorySource, HostRun, MemoryError};

use crate::error::BenchError;
use crate::page_set::PageSet;

/// Bytes of a page as an index.
pub(crate) const PAGE: usize = 4096;

/// A stopped guest: nobody writes its memory while it is measured.
#[derive(Debug)]
pub(crate) struct Guest {
    layout: MemoryLayout,
    map: MmapMut,
}

/// What the pages of a guest hold.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Content {
    /// Noise in every page.
    Random,
    /// Zero in this percentage of the pages, in runs of up to 1 MiB; noise in all others.
    ZeroPercent(u64),
}

/// The pages of the host that a guest's memory lies in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum HostPages {
    /// 4 KiB each, apart from each other.
    Small,
    /// 2 MiB each, as far as the host has them.
    Huge,
}

impl Guest {
    /// Memory of `len_bytes` bytes, a multiple of 4096. Its pages are touched in random order, so
    /// that small neighbours lie apart in physical memory.
    pub(crate) fn new(
        len_bytes: u64,
        content: Content,
        host_pages: HostPages,
        seed: u64,
    ) -> Result<Self, BenchError> {
        let len = usize::try_from(len_bytes).unwrap_or(usize::MAX);
        let failed = |source| BenchError::Map {
            len_bytes: len,
            source,
        };
        let layout = MemoryLayout::single(len_bytes)
            .map_err(|error| failed(io::Error::new(io::ErrorKind::InvalidInput, error)))?;
        let mut map = MmapMut::map_anon(len).map_err(failed)?;
        map.advise(match host_pages {
            HostPages::Small => Advice::NoHugePage,
            HostPages::Huge => Advice::HugePage,
        })
        .map_err(failed)?;
        let mut rng = fastrand::Rng::with_seed(seed);
        let zero = content.zero_pages(len_bytes / PAGE_BYTES, &mut rng);
        let mut order: Vec<usize> = (0..len / PAGE).collect();
        rng.shuffle(&mut order);
        for page in order {
            let bytes = &mut map[page * PAGE..(page + 1) * PAGE];
            if zero.get(page) == Some(&true) {
                // A page that the guest has zeroed is there, unlike one it has never touched.
                bytes.fill(0);
            } else {
                rng.fill(bytes);
            }
        }
        Ok(Self { layout, map })
    }

    /// Puts new noise into every second page of `pages`.
    pub(crate) fn rewrite_half(&mut self, pages: &PageSet, seed: u64) {
        let mut rng = fastrand::Rng::with_seed(seed);
        for offset in pages.offsets().step_by(2) {
            let at = usize::try_from(offset).unwrap_or(usize::MAX);
            rng.fill(&mut self.map[at..at + PAGE]);
        }
    }

    /// The memory, for those who read it as bytes.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.map
    }

    /// The length in bytes.
    pub(crate) fn len_bytes(&self) -> u64 {
        self.layout.len_bytes()
    }

    /// Bytes of the pages that are not zero.
    pub(crate) fn nonzero_bytes(&self) -> u64 {
        let pages = self.map.chunks_exact(PAGE);
        let nonzero = pages.filter(|page| page.iter().any(|&byte| byte != 0));
        nonzero.count() as u64 * PAGE_BYTES
    }
}

/// Touches `len_bytes` bytes of free memory and gives them back.
///
/// A virtual machine hands free pages back to its host after a while, and the first touch of such
/// a page is slow: whoever writes through the page cache next would pay for it, or not, by chance.
pub(crate) fn touch_free_memory(len_bytes: u64) -> Result<(), BenchError> {
    let len = usize::try_from(len_bytes).unwrap_or(usize::MAX);
    let failed = |source| BenchError::Map {
        len_bytes: len,
        source,
    };
    let map = MmapMut::map_anon(len).map_err(failed)?;
    map.advise(Advice::PopulateWrite).map_err(failed)
}

impl GuestMemorySource for Guest {
    fn layout(&self) -> &MemoryLayout {
        &self.layout
    }

    fn read_pages(&self, pages: PageRange, out: &mut [u8]) -> Result<(), MemoryError> {
        MemoryError::check_buffer(pages, out.len())?;
        let beyond = || MemoryError::OutOfRange {
            range: pages,
            page_count: self.layout.page_count(),
        };
        out.copy_from_slice(self.slice(pages).ok_or_else(beyond)?);
        Ok(())
    }

    fn host_run(&self, pages: PageRange) -> Option<HostRun<'_>> {
        let bytes = self.slice(pages)?;
        // SAFETY:
        // - the bytes are mapped and readable as long as `self` is borrowed;
        // - a page is aligned to 4096;
        // - nobody writes them: `self.map` is changed in `new` only.
        Some(unsafe { HostRun::new(bytes.as_ptr(), bytes.len()) })
    }
}

impl Guest {
    fn slice(&self, pages: PageRange) -> Option<&[u8]> {
        let start = usize::try_from(pages.start.image_offset()?).ok()?;
        let len = usize::try_from(pages.len_bytes()?).ok()?;
        self.map.get(start..start.checked_add(len)?)
    }
}

impl Content {
    /// The longest run of zero pages: 1 MiB.
    const MAX_RUN: u64 = 256;

    /// Which of `page_count` pages are zero.
    fn zero_pages(self, page_count: u64, rng: &mut fastrand::Rng) -> Vec<bool> {
        let Self::ZeroPercent(percent) = self else {
            return Vec::new();
        };
        let mut zero = Vec::new();
        let mut owed = 0;
        let mut left = page_count;
        while left > 0 {
            // A run of zero pages and a run of others, in the proportion that is asked for.
            let run = rng.u64(1..=Self::MAX_RUN).min(left);
            owed += run * percent;
            let zeros = owed / 100;
            owed %= 100;
            zero.extend((0..run).map(|page| page < zeros));
            left -= run;
        }
        zero
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEN: u64 = 16 << 20;

    #[test]
    fn the_given_part_of_the_pages_is_zero() {
        let guest = Guest::new(LEN, Content::ZeroPercent(60), HostPages::Small, 1).unwrap();
        let percent = guest.nonzero_bytes() * 1000 / LEN;
        assert!(
            (399..=402).contains(&percent),
            "{percent} per mille hold data"
        );
        let noise = Guest::new(LEN, Content::Random, HostPages::Huge, 1).unwrap();
        assert_eq!(noise.nonzero_bytes(), LEN);
    }

    #[test]
    fn every_second_page_of_a_set_is_rewritten_and_no_other() {
        let mut guest = Guest::new(LEN, Content::Random, HostPages::Small, 1).unwrap();
        let before = guest.bytes().to_vec();
        let pages = PageSet::random(LEN, 10, 2);
        guest.rewrite_half(&pages, 3);
        let differs = |page: &usize| {
            let at = page * PAGE..(page + 1) * PAGE;
            guest.bytes()[at.clone()] != before[at]
        };
        let changed: Vec<u64> = (0..before.len() / PAGE)
            .filter(differs)
            .map(|page| (page * PAGE) as u64)
            .collect();
        assert!(pages.offsets().step_by(2).eq(changed));
    }

    #[test]
    fn runs_and_copies_give_the_same_bytes_and_end_with_the_memory() {
        let guest = Guest::new(LEN, Content::Random, HostPages::Small, 3).unwrap();
        let pages = PageRange::new(5, 2);
        let mut copy = vec![0; 2 * PAGE];
        guest.read_pages(pages, &mut copy).unwrap();
        assert_eq!(copy, guest.bytes()[5 * PAGE..7 * PAGE]);
        let mut run = vec![0; 2 * PAGE];
        guest.host_run(pages).unwrap().copy_to(0, &mut run);
        assert_eq!(run, copy);
        assert!(
            guest
                .host_run(PageRange::new(LEN / PAGE_BYTES, 1))
                .is_none()
        );
        let beyond = guest.read_pages(PageRange::new(LEN / PAGE_BYTES, 1), &mut copy[..PAGE]);
        assert!(matches!(beyond, Err(MemoryError::OutOfRange { .. })));
    }
}
