//! The cases of the suite `live`.

use std::num::NonZeroUsize;
use std::time::Duration;

use super::guest::Tracking;

/// Live snapshots of a case: the two longest pauses lie beyond the 99th percentile.
const PAUSES: usize = 200;

/// Snapshots of a stopped machine, which take as long as hundreds of pauses: enough for a median.
const STOPPED: usize = 5;

/// When a case on a slow disk is enough, if there was a pause beyond the percentile.
const LONG_ENOUGH: Duration = Duration::from_secs(25);

/// Without which there is no 99th percentile.
const LEAST_PAUSES: usize = 100;

/// One case.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    pub(crate) name: &'static str,
    /// Whether it is measured unless others are asked for.
    pub(crate) is_default: bool,
    pub(super) mem_bytes: u64,
    pub(super) tracking: Tracking,
    pub(super) huge_pages: bool,
    /// Whether snapshots go to the file system of `--dir`, and not to memory.
    pub(super) on_disk: bool,
}

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

const fn plan(name: &'static str, mem_bytes: u64, tracking: Tracking) -> Plan {
    Plan {
        name,
        is_default: true,
        mem_bytes,
        tracking,
        huge_pages: false,
        on_disk: false,
    }
}

/// All cases.
pub(crate) const PLANS: &[Plan] = &[
    plan("pause-256m", 256 * MIB, Tracking::Log),
    plan("pause-1g", GIB, Tracking::Log),
    plan("pause-4g", 4 * GIB, Tracking::Log),
    plan("pause-256m-ring", 256 * MIB, Tracking::Ring),
    plan("pause-4g-ring", 4 * GIB, Tracking::Ring),
    plan("pause-256m-wp-async", 256 * MIB, Tracking::WpAsync),
    plan("pause-1g-wp-async", GIB, Tracking::WpAsync),
    plan("pause-4g-wp-async", 4 * GIB, Tracking::WpAsync),
    Plan {
        on_disk: true,
        ..plan("pause-1g-disk", GIB, Tracking::Log)
    },
    Plan {
        is_default: false,
        huge_pages: true,
        ..plan("pause-4g-2m", 4 * GIB, Tracking::Log)
    },
    Plan {
        is_default: false,
        huge_pages: true,
        ..plan("pause-4g-wp-async-2m", 4 * GIB, Tracking::WpAsync)
    },
];

impl Plan {
    /// What was done, and who told of written pages.
    pub(super) fn policy(&self) -> String {
        let tracking = match self.tracking {
            Tracking::Log => "KVM dirty log",
            Tracking::Ring => "KVM dirty ring",
            Tracking::WpAsync => "userfaultfd WP_ASYNC",
        };
        let pages = if self.huge_pages { "2 MiB" } else { "4 KiB" };
        format!("{tracking}, {pages} host pages; diff with digests, published; state capture apart")
    }
}

/// Blocks of snapshots: so many live ones each, then one of the stopped machine.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Blocks {
    /// How many, at most.
    pub(super) count: usize,
    /// Live snapshots of each.
    pub(super) pauses: usize,
}

impl Blocks {
    /// Those of a case. More pauses than a percentile needs are taken if they were asked for.
    pub(super) fn new(asked: NonZeroUsize, is_quick: bool) -> Self {
        if is_quick {
            return Self {
                count: 1,
                pauses: 3,
            };
        }
        Self {
            count: STOPPED,
            pauses: asked.get().max(PAUSES).div_ceil(STOPPED),
        }
    }

    /// Whether another one is due, after so many that took so long.
    pub(super) fn go_on(self, done: usize, took: Duration) -> bool {
        let is_enough = took >= LONG_ENOUGH && done * self.pauses >= LEAST_PAUSES;
        done < self.count && !is_enough
    }
}

/// The names of all cases.
pub(crate) fn names() -> impl Iterator<Item = &'static str> {
    PLANS.iter().map(|plan| plan.name)
}
