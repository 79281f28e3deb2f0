//! The cases of the suite `live`.

use std::num::NonZeroUsize;

use super::guest::Tracking;

/// Snapshots of each kind: enough for a 99th percentile.
const SNAPSHOTS: NonZeroUsize = NonZeroUsize::new(200).unwrap();

/// And with `--quick`.
const QUICK_SNAPSHOTS: NonZeroUsize = NonZeroUsize::new(3).unwrap();

/// One case.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    pub(crate) name: &'static str,
    /// Whether it is measured unless others are asked for.
    pub(crate) is_default: bool,
    pub(super) mem_bytes: u64,
    pub(super) tracking: Tracking,
    pub(super) huge_pages: bool,
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
        format!(
            "{tracking}, {pages} host pages; diff with digests, durable, published; state capture apart"
        )
    }
}

/// Snapshots of each kind in a case. A number that was asked for is kept to if it is more than a
/// percentile needs.
pub(super) fn rounds(asked: NonZeroUsize, is_quick: bool) -> NonZeroUsize {
    if is_quick {
        QUICK_SNAPSHOTS
    } else {
        asked.max(SNAPSHOTS)
    }
}

/// The names of all cases.
pub(crate) fn names() -> impl Iterator<Item = &'static str> {
    PLANS.iter().map(|plan| plan.name)
}
