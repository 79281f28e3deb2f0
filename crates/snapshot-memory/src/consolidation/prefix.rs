//! How many files of a chain stay.

/// What a snapshot has of one data file of its chain.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct FileShare {
    /// Pages whose bytes the file stores.
    pub stored_pages: u64,
    /// Those of them that the snapshot's flattened map finds there.
    pub owned_pages: u64,
    /// Whether the file stays whatever is done, so that none of its pages is wasted.
    pub is_needed: bool,
}

/// When a chain is too long, or wastes too much.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct ChainLimits {
    /// Data files that a snapshot may need.
    pub max_files: usize,
    /// Stored pages that it may not own, in hundredths of the stored ones.
    pub max_wasted_percent: u8,
}

impl ChainLimits {
    /// Sets [`max_files`](Self::max_files).
    #[must_use]
    pub fn max_files(mut self, max_files: usize) -> Self {
        self.max_files = max_files;
        self
    }

    /// Sets [`max_wasted_percent`](Self::max_wasted_percent).
    #[must_use]
    pub fn max_wasted_percent(mut self, percent: u8) -> Self {
        self.max_wasted_percent = percent;
        self
    }

    fn allow(self, wasted_pages: u64, stored_pages: u64) -> bool {
        let percent = u128::from(self.max_wasted_percent);
        u128::from(wasted_pages) * 100 <= u128::from(stored_pages) * percent
    }
}

impl Default for ChainLimits {
    /// 64 files, and half of what they store.
    fn default() -> Self {
        Self {
            max_files: 64,
            max_wasted_percent: 50,
        }
    }
}

impl FileShare {
    /// Pages that it stores for nobody, as far as this snapshot knows.
    #[must_use]
    pub fn wasted_pages(&self) -> u64 {
        if self.is_needed {
            return 0;
        }
        self.stored_pages.saturating_sub(self.owned_pages)
    }
}

/// How many of the first `files` of a chain stay, when the others are merged into one; `None` where
/// the chain is within `limits`.
///
/// It is the largest number that leaves half of the files free for diffs to come and that wastes no
/// more than is allowed: so the least is copied. None may stay, so that there always is one.
#[must_use]
pub fn choose_prefix(files: &[FileShare], limits: ChainLimits) -> Option<usize> {
    let sum = |files: &[FileShare], of: fn(&FileShare) -> u64| {
        files.iter().map(of).fold(0, u64::saturating_add)
    };
    let stored = sum(files, |file| file.stored_pages);
    let wasted = sum(files, FileShare::wasted_pages);
    let is_short = files.len() <= limits.max_files;
    if is_short && limits.allow(wasted, stored) {
        return None;
    }
    let most = (limits.max_files / 2).max(1) - 1;
    // Merging the last file alone would copy it and save nothing.
    let most = most.min(files.len().saturating_sub(2));
    let fits = |kept: &usize| {
        let (stays, goes) = files.split_at(*kept);
        let merged = sum(goes, |file| file.owned_pages);
        let stored = sum(stays, |file| file.stored_pages).saturating_add(merged);
        limits.allow(sum(stays, FileShare::wasted_pages), stored)
    };
    (0..=most).rev().find(fits).or(Some(0))
}
