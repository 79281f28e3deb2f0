//! Runs of pages of a working set, and how it was recorded.

use serde::Serialize;

use crate::address::PageRange;

/// Pages of the image that follow each other: all of them with bytes in the file, or all zero.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize)]
pub struct WorkingSetRun {
    /// Which pages of the image.
    pub pages: PageRange,
    /// Whether all of them are zero, so that the file holds no byte of them.
    pub is_zero: bool,
}

/// How it became known which pages are touched.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum WorkingSetOrigin {
    /// A trace of faults: the order is the one in which pages were first touched.
    Trace,
    /// Pages of a mapped file that were in the page cache, in the order of their addresses.
    Resident,
    /// Pages of memory that were present after a run, in the order of their addresses.
    Present,
    /// Named by the caller, in his order.
    Named,
}

/// The bit of a run's length that says that its pages are zero.
const ZERO: u32 = 1 << 31;

impl WorkingSetRun {
    /// One past the last page.
    pub(super) const fn end(&self) -> u64 {
        self.pages.start.0.saturating_add(self.pages.count)
    }

    /// Pages of which the file holds bytes.
    #[must_use]
    pub const fn data_pages(&self) -> u64 {
        if self.is_zero { 0 } else { self.pages.count }
    }

    /// The two words of a run; saturates, which the decoder refuses.
    pub(super) fn encode(&self) -> [u8; super::WORKING_SET_RUN_BYTES] {
        let start = u32::try_from(self.pages.start.0).unwrap_or(u32::MAX);
        let count = u32::try_from(self.pages.count).unwrap_or(u32::MAX);
        let count = count.min(ZERO - 1) | if self.is_zero { ZERO } else { 0 };
        let word = u64::from(start) | u64::from(count) << 32;
        word.to_le_bytes()
    }

    pub(super) fn decode([start, count]: [u32; 2]) -> Self {
        Self {
            pages: PageRange::new(start.into(), (count & !ZERO).into()),
            is_zero: count & ZERO != 0,
        }
    }
}

impl WorkingSetOrigin {
    /// Every origin.
    pub const ALL: [Self; 4] = [Self::Trace, Self::Resident, Self::Present, Self::Named];

    /// The number in an index.
    #[must_use]
    pub const fn number(self) -> u16 {
        match self {
            Self::Trace => 1,
            Self::Resident => 2,
            Self::Present => 3,
            Self::Named => 4,
        }
    }

    /// The origin of a number; `None` if this build does not know it.
    #[must_use]
    pub fn from_number(number: u16) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|origin| origin.number() == number)
    }

    /// The name in reports and on command lines.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Trace => "trace",
            Self::Resident => "resident",
            Self::Present => "present",
            Self::Named => "named",
        }
    }
}
