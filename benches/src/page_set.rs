//! Which pages of a guest are dirty.

use snapshot_format::{PAGE_BYTES, PageIndex};
use snapshot_memory::DirtyBitmap;

/// Pages of a guest, sorted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct PageSet(Vec<u64>);

/// How dirty pages lie.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Dirt {
    /// Each page is as likely as any other.
    Random,
    /// So do aligned granules of this many pages, each dirty as a whole: the larger pages of a host
    /// or of a log.
    Granules(u64),
    /// The first page of each row of this many, whatever percentage that is.
    Every(u64),
    /// In clusters of up to 2 MiB, in which three of four pages are dirty.
    Clustered,
}

/// Pages of a cluster at most.
const MAX_CLUSTER: u64 = 512;

impl PageSet {
    /// `percent` of the pages of a guest of `len_bytes` bytes, lying as `dirt` says.
    pub(crate) fn new(len_bytes: u64, percent: u64, dirt: Dirt, seed: u64) -> Self {
        match dirt {
            Dirt::Random => Self::random(len_bytes, percent, seed),
            Dirt::Granules(pages) => {
                let granules = Self::random(len_bytes / pages, percent, seed);
                let pages_of = |granule: u64| granule * pages..(granule + 1) * pages;
                Self(granules.0.into_iter().flat_map(pages_of).collect())
            }
            Dirt::Every(pages) => {
                let rows = 0..len_bytes / PAGE_BYTES / pages;
                Self(rows.map(|row| row * pages).collect())
            }
            Dirt::Clustered => Self::clustered(len_bytes, percent, seed),
        }
    }

    /// `percent` of the pages, at least one, each as likely as any other.
    pub(crate) fn random(len_bytes: u64, percent: u64, seed: u64) -> Self {
        let page_count = len_bytes / PAGE_BYTES;
        let wanted = usize::try_from(page_count * percent / 100).unwrap_or(usize::MAX);
        let wanted = wanted.max(1);
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut pages: Vec<u64> = (0..page_count).collect();
        rng.shuffle(&mut pages);
        pages.truncate(wanted);
        pages.sort_unstable();
        Self(pages)
    }

    fn clustered(len_bytes: u64, percent: u64, seed: u64) -> Self {
        let page_count = len_bytes / PAGE_BYTES;
        let wanted = usize::try_from(page_count * percent / 100).unwrap_or(usize::MAX);
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut pages = std::collections::BTreeSet::new();
        while pages.len() < wanted {
            let start = rng.u64(..page_count);
            let end = (start + rng.u64(1..=MAX_CLUSTER)).min(page_count);
            for page in start..end {
                if pages.len() < wanted && rng.u8(..4) > 0 {
                    pages.insert(page);
                }
            }
        }
        Self(pages.into_iter().collect())
    }

    /// Where each of them begins in the image, in bytes.
    pub(crate) fn offsets(&self) -> impl Iterator<Item = u64> + '_ {
        self.0.iter().map(|page| page * PAGE_BYTES)
    }

    /// Bytes in all of them.
    pub(crate) fn len_bytes(&self) -> u64 {
        self.0.len() as u64 * PAGE_BYTES
    }

    /// One bit for each page of a guest of `len_bytes` bytes.
    pub(crate) fn bitmap(&self, len_bytes: u64) -> DirtyBitmap {
        let bitmap = DirtyBitmap::new(len_bytes / PAGE_BYTES);
        for &page in &self.0 {
            bitmap.set(PageIndex(page));
        }
        bitmap
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEN: u64 = 64 << 20;

    #[test]
    fn a_page_set_is_sorted_and_as_large_as_asked_for() {
        for (dirt, pages) in [
            (Dirt::Random, 1638),
            (Dirt::Granules(4), 1636),
            (Dirt::Granules(512), 3 * 512),
            (Dirt::Every(16), 1024),
            (Dirt::Clustered, 1638),
        ] {
            let set = PageSet::new(LEN, 10, dirt, 7);
            let offsets: Vec<u64> = set.offsets().collect();
            assert_eq!(offsets.len(), pages, "{dirt:?}");
            assert!(offsets.is_sorted_by(|a, b| a < b));
            assert!(offsets.iter().all(|&offset| offset < LEN));
            assert_eq!(set.len_bytes(), pages as u64 * PAGE_BYTES);
            assert_eq!(set.bitmap(LEN).count(), pages as u64);
        }
    }

    #[test]
    fn granules_are_aligned_and_clusters_have_fewer_runs() {
        let runs = |dirt| {
            PageSet::new(LEN, 10, dirt, 7)
                .bitmap(LEN)
                .iter_runs()
                .count()
        };
        assert!(runs(Dirt::Clustered) < runs(Dirt::Random) / 2);
        let set = PageSet::new(LEN, 10, Dirt::Granules(4), 7);
        let bitmap = set.bitmap(LEN);
        assert!(
            bitmap
                .iter_runs()
                .all(|run| run.start.0 % 4 == 0 && run.count % 4 == 0)
        );
    }
}
