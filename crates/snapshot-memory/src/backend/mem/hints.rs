//! What a file system says of the holes in its files.

use super::content::Content;

/// How [`next_data`](crate::backend::ReadFile::next_data) of a tree in memory answers.
///
/// File systems have told every one of these: a reader must give the right bytes with the first
/// four, and must not be asked to with the last two, unless it never believes a hole.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub enum HoleHints {
    /// What was written and what was not, in blocks of 4 KiB.
    #[default]
    Honest,
    /// Nothing: there is no hint to be had.
    Unknown,
    /// There are no holes.
    AllData,
    /// Runs start and end one byte within the holes beside them.
    Unaligned,
    /// Runs start one byte late, which hides that byte.
    Late,
    /// There is no data.
    AllHole,
}

impl HoleHints {
    pub(super) fn answer(self, content: &Content, offset: u64) -> Option<(u64, u64)> {
        let len = content.len();
        let end = (len, len);
        let (start, stop) = content.data_run(offset);
        Some(match self {
            Self::Unknown => return None,
            Self::Honest => (start, stop),
            Self::AllData if offset < len => (offset, len),
            Self::AllData | Self::AllHole => end,
            Self::Unaligned if start == stop => end,
            Self::Unaligned => (start.saturating_sub(1).max(offset), (stop + 1).min(len)),
            Self::Late if stop - start < 2 => end,
            Self::Late => (start + 1, stop),
        })
    }
}
