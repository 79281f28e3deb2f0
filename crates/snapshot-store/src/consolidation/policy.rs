//! When the chains of a machine are made shorter by themselves.

use serde::{Deserialize, Serialize};
use snapshot_format::{DataLayout, limits};
use snapshot_memory::{
    CaptureControl, ChainLimits, ConsolidateOptions, FileShare, Fragmentation, FrameCodec,
    RelayoutOptions, choose_prefix,
};

/// When chains of a machine are too long, or keep too much for nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct ConsolidationPolicy {
    /// Data files that a snapshot may need; `None`: as many as can be.
    #[serde(default)]
    pub max_files: Option<u16>,
    /// Pages of hidden bases that a snapshot may not use, in hundredths of all that its chain
    /// stores; `None`: all of them.
    #[serde(default)]
    pub max_wasted_percent: Option<u8>,
    /// Runs that a leaf may have before gaps are copied, too; `None`: as without a policy.
    #[serde(default)]
    pub max_runs: Option<u16>,
    /// Pages that are copied for that at most, in hundredths of those that must be; `None`: as
    /// without a policy.
    #[serde(default)]
    pub max_extra_percent: Option<u16>,
}

/// What a policy makes of the chain of a machine whose snapshots all are diffs, each relative to the
/// one before, and share no page.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[non_exhaustive]
pub struct ChainSimulation {
    /// The most data files that one of them needs once it is looked after.
    pub longest: usize,
    /// How many of them have a merged file.
    pub cut: u64,
}

/// Why a policy cannot be used.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConsolidationPolicyError {
    /// Neither limit is set.
    #[error("it does not say when a chain is too long or wastes too much")]
    Empty,
    /// A number is out of its range.
    #[error("{what} is {found}, and must be between {least} and {most}")]
    Range {
        /// Which number.
        what: &'static str,
        /// What it is.
        found: u64,
        /// The least that it may be.
        least: u64,
        /// The most that it may be.
        most: u64,
    },
}

impl ConsolidationPolicy {
    /// Sets [`max_files`](Self::max_files).
    #[must_use]
    pub fn max_files(mut self, files: Option<u16>) -> Self {
        self.max_files = files;
        self
    }

    /// Sets [`max_wasted_percent`](Self::max_wasted_percent).
    #[must_use]
    pub fn max_wasted_percent(mut self, percent: Option<u8>) -> Self {
        self.max_wasted_percent = percent;
        self
    }

    /// Sets [`max_runs`](Self::max_runs).
    #[must_use]
    pub fn max_runs(mut self, runs: Option<u16>) -> Self {
        self.max_runs = runs;
        self
    }

    /// Sets [`max_extra_percent`](Self::max_extra_percent).
    #[must_use]
    pub fn max_extra_percent(mut self, percent: Option<u16>) -> Self {
        self.max_extra_percent = percent;
        self
    }

    /// Refuses a policy that says nothing, and numbers out of their range.
    pub fn check(&self) -> Result<(), ConsolidationPolicyError> {
        if self.max_files.is_none() && self.max_wasted_percent.is_none() {
            return Err(ConsolidationPolicyError::Empty);
        }
        let files = self.max_files.map(u64::from);
        let most_files = limits::MAX_DATA_FILES as u64;
        let numbers = [
            ("the number of data files", files, 1, most_files),
            (
                "the wasted share",
                self.max_wasted_percent.map(u64::from),
                0,
                100,
            ),
            (
                "the number of runs",
                self.max_runs.map(u64::from),
                1,
                16_384,
            ),
            (
                "the extra share",
                self.max_extra_percent.map(u64::from),
                0,
                1_000,
            ),
        ];
        for (what, found, least, most) in numbers {
            if let Some(found) = found.filter(|found| !(least..=most).contains(found)) {
                return Err(ConsolidationPolicyError::Range {
                    what,
                    found,
                    least,
                    most,
                });
            }
        }
        Ok(())
    }

    /// What becomes of the chain while so many snapshots are taken.
    pub fn simulate(&self, taken: u64) -> Result<ChainSimulation, ConsolidationPolicyError> {
        self.check()?;
        let mut found = ChainSimulation { longest: 0, cut: 0 };
        let mut files: Vec<FileShare> = Vec::new();
        for _ in 0..taken {
            files.push(FileShare {
                stored_pages: 1,
                owned_pages: 1,
                is_needed: true,
            });
            if let Some(kept) = choose_prefix(&files, self.limits()) {
                files.truncate(kept + 1);
                found.cut += 1;
            }
            found.longest = found.longest.max(files.len());
        }
        Ok(found)
    }

    /// When a chain is beyond it.
    #[must_use]
    pub fn limits(&self) -> ChainLimits {
        let files = self.max_files.map(usize::from);
        ChainLimits::default()
            .max_files(files.unwrap_or(limits::MAX_DATA_FILES))
            .max_wasted_percent(self.max_wasted_percent.unwrap_or(100))
    }

    /// How data is merged whose own pages lie as `layout` says: so does the merged file.
    pub(super) fn options(
        &self,
        layout: DataLayout,
        control: &CaptureControl,
    ) -> ConsolidateOptions {
        let mut fragmentation = Fragmentation::default();
        if let Some(runs) = self.max_runs {
            fragmentation = fragmentation.max_runs(runs.into());
        }
        if let Some(percent) = self.max_extra_percent {
            fragmentation = fragmentation.max_extra_percent(percent.into());
        }
        let relayout = match layout {
            DataLayout::Frames => RelayoutOptions::compressed(FrameCodec::ZSTD),
            layout => RelayoutOptions::of(layout),
        };
        ConsolidateOptions::default()
            .limits(self.limits())
            .fragmentation(fragmentation)
            .relayout(relayout.control(control.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // spec: CON-12
    #[test]
    fn a_policy_says_when_and_stays_within_the_ranges() {
        let empty = ConsolidationPolicy::default();
        assert_eq!(empty.check(), Err(ConsolidationPolicyError::Empty));
        let files = |files| empty.max_files(Some(files));
        assert_eq!(
            empty.max_runs(Some(9)).check(),
            Err(ConsolidationPolicyError::Empty)
        );
        assert_eq!(empty.max_wasted_percent(Some(0)).check(), Ok(()));
        assert_eq!(files(4096).check(), Ok(()));
        for wrong in [
            files(0),
            files(4097),
            files(2).max_wasted_percent(Some(101)),
            files(2).max_runs(Some(0)),
            files(2).max_runs(Some(16_385)),
            files(2).max_extra_percent(Some(1_001)),
        ] {
            assert!(
                matches!(wrong.check(), Err(ConsolidationPolicyError::Range { .. })),
                "{wrong:?}"
            );
        }
        let simulated = files(6).simulate(19).unwrap();
        assert_eq!((simulated.longest, simulated.cut), (6, 4));
        let json = r#"{"max_files":3,"max_waste":1}"#;
        serde_json::from_str::<ConsolidationPolicy>(json).unwrap_err();
    }
}
