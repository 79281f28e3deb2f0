//! How a chain is consolidated.

use snapshot_format::DataLayout;

use super::{ChainLimits, Fragmentation};
use crate::relayout::RelayoutOptions;

/// How the data files of a snapshot become fewer.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ConsolidateOptions {
    /// When it is done at all, and how much stays.
    pub limits: ChainLimits,
    /// How far pages that could stay are copied so that memory falls into fewer runs.
    pub fragmentation: Fragmentation,
    /// How the merged file lies; being told, breaking off, slowing down.
    pub relayout: RelayoutOptions,
}

impl ConsolidateOptions {
    /// Sets [`limits`](Self::limits).
    #[must_use]
    pub fn limits(mut self, limits: ChainLimits) -> Self {
        self.limits = limits;
        self
    }

    /// Sets [`fragmentation`](Self::fragmentation).
    #[must_use]
    pub fn fragmentation(mut self, fragmentation: Fragmentation) -> Self {
        self.fragmentation = fragmentation;
        self
    }

    /// Sets [`relayout`](Self::relayout).
    #[must_use]
    pub fn relayout(mut self, relayout: RelayoutOptions) -> Self {
        self.relayout = relayout;
        self
    }
}

impl Default for ConsolidateOptions {
    /// Sparse, which can be mapped.
    fn default() -> Self {
        Self {
            limits: ChainLimits::default(),
            fragmentation: Fragmentation::default(),
            relayout: RelayoutOptions::of(DataLayout::Sparse),
        }
    }
}
