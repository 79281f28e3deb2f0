//! The cases of the suite `memory`.

use std::num::NonZeroUsize;

use snapshot_memory::{CaptureOptions, Dedup, EngineChoice, LayoutChoice};

use crate::engine::{Until, Way};
use crate::guest::{Content, HostPages};
use crate::page_set::Dirt;

/// One case: whose memory, which pages of it, how they are written, and against whom.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    /// What the case is called on the file system of `--dir`.
    pub(crate) name: &'static str,
    /// Whether it is measured unless others are asked for.
    pub(crate) is_default: bool,
    pub(crate) content: Content,
    pub(crate) host_pages: HostPages,
    /// `None`: all of them.
    pub(crate) dirty: Option<(u64, Dirt)>,
    layout: LayoutChoice,
    engine: EngineChoice,
    pub(crate) dedup: Dedup,
    threads: Option<NonZeroUsize>,
    until: Until,
    pub(crate) cold_parent: bool,
    pub(crate) against: &'static [Against],
}

/// Whom a case is measured against.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Against {
    Squib4k,
    Squib16k,
    Plain4m,
    /// Ourselves without anything that the case forces.
    Auto,
    /// The limit.
    Direct,
}

use Against::{Auto, Direct, Plain4m, Squib4k, Squib16k};

const PEERS: &[Against] = &[Squib4k, Squib16k, Plain4m, Direct];

const FULL: Plan = Plan {
    name: "full-random",
    is_default: true,
    content: Content::Random,
    host_pages: HostPages::Small,
    dirty: None,
    layout: LayoutChoice::Auto,
    engine: EngineChoice::Auto,
    dedup: Dedup::Off,
    threads: None,
    until: Until::Published,
    cold_parent: false,
    against: PEERS,
};

const DIFF: Plan = Plan {
    name: "diff-10pct",
    dirty: Some((10, Dirt::Random)),
    ..FULL
};

/// A full in which something is forced, against what is chosen otherwise.
const FORCED_FULL: Plan = Plan {
    is_default: false,
    against: &[Auto, Direct],
    ..FULL
};

const FORCED_DIFF: Plan = Plan {
    dirty: DIFF.dirty,
    ..FORCED_FULL
};

/// All cases.
pub(crate) const PLANS: &[Plan] = &[
    FULL,
    Plan {
        name: "diff-1pct",
        dirty: Some((1, Dirt::Random)),
        ..FULL
    },
    DIFF,
    Plan {
        name: "diff-50pct",
        dirty: Some((50, Dirt::Random)),
        ..FULL
    },
    Plan {
        name: "full-60pct-zero",
        content: Content::ZeroPercent(60),
        ..FULL
    },
    Plan {
        name: "full-random-2m",
        host_pages: HostPages::Huge,
        is_default: false,
        ..FULL
    },
    Plan {
        name: "diff-10pct-2m",
        host_pages: HostPages::Huge,
        dirty: Some((10, Dirt::Granules(512))),
        is_default: false,
        ..FULL
    },
    Plan {
        name: "diff-10pct-16k",
        dirty: Some((10, Dirt::Granules(4))),
        is_default: false,
        ..FULL
    },
    Plan {
        name: "diff-10pct-clustered",
        dirty: Some((10, Dirt::Clustered)),
        is_default: false,
        ..FULL
    },
    Plan {
        name: "diff-10pct-cold-parent",
        cold_parent: true,
        ..FORCED_DIFF
    },
    Plan {
        name: "diff-10pct-dedup",
        dedup: Dedup::Compare,
        ..FORCED_DIFF
    },
    Plan {
        name: "diff-10pct-dedup-cold-parent",
        dedup: Dedup::Compare,
        cold_parent: true,
        ..FORCED_DIFF
    },
    Plan {
        name: "full-random-data-only",
        until: Until::Sealed,
        against: &[Plain4m, Direct],
        ..FORCED_FULL
    },
    Plan {
        name: "full-random-nosync",
        until: Until::Written,
        against: PEERS,
        ..FORCED_FULL
    },
    Plan {
        name: "full-random-vectored",
        engine: EngineChoice::Vectored,
        ..FORCED_FULL
    },
    Plan {
        name: "full-random-buffered",
        engine: EngineChoice::Buffered,
        ..FORCED_FULL
    },
    Plan {
        name: "full-random-direct",
        engine: EngineChoice::Direct,
        ..FORCED_FULL
    },
    Plan {
        name: "full-random-1thread",
        threads: NonZeroUsize::new(1),
        ..FORCED_FULL
    },
    Plan {
        name: "diff-10pct-sparse",
        layout: LayoutChoice::Sparse,
        ..FORCED_DIFF
    },
    Plan {
        name: "diff-10pct-packed",
        layout: LayoutChoice::Packed,
        ..FORCED_DIFF
    },
    Plan {
        name: "diff-10pct-vectored",
        engine: EngineChoice::Vectored,
        ..FORCED_DIFF
    },
    Plan {
        name: "diff-10pct-buffered",
        engine: EngineChoice::Buffered,
        ..FORCED_DIFF
    },
    Plan {
        name: "diff-10pct-direct",
        engine: EngineChoice::Direct,
        ..FORCED_DIFF
    },
    Plan {
        name: "diff-10pct-1thread",
        threads: NonZeroUsize::new(1),
        ..FORCED_DIFF
    },
];

/// The case that measures memory instead of time.
pub(crate) const RSS: &str = "rss";

/// The names of all cases.
pub(crate) fn names() -> impl Iterator<Item = &'static str> {
    std::iter::once(RSS).chain(PLANS.iter().map(|plan| plan.name))
}

impl Plan {
    /// How we write.
    pub(crate) fn way(&self) -> Way {
        let threads = self.threads.unwrap_or_else(CaptureOptions::best_threads);
        let options = CaptureOptions::default()
            .layout(self.layout)
            .engine(self.engine)
            .dedup(self.dedup)
            .threads(threads);
        Way {
            options,
            until: self.until,
            cold_parent: self.cold_parent,
        }
    }

    /// Where the measured time ends.
    pub(crate) fn until(&self) -> Until {
        self.until
    }

    /// What is done within the measured time.
    pub(crate) fn policy(&self) -> &'static str {
        match self.until {
            Until::Published => "durable, digests, published",
            Until::Sealed => "data synced, digests, not published",
            Until::Written => "digests, nothing synced",
        }
    }

    /// What the limit is called.
    pub(crate) fn limit_name(&self) -> &'static str {
        if self.dirty.is_some() {
            "contiguous"
        } else {
            "odirect"
        }
    }
}
