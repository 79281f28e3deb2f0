//! Rounds of memory while the machine runs, until little is left.

use snapshot_format::PAGE_BYTES;
use snapshot_memory::{Cancel, DirtyBitmap, GuestMemorySource, LiveMemory, LiveRounds, Stability};

use super::options::{Behind, LiveOptions, Slowed, Throttle, WhenBehind};
use super::report::{LiveReport, RoundReport};
use crate::breakdown::Stopwatch;
use crate::error::SnapshotError;
use crate::snapshot::{dirty, go_on, refused};
use crate::step::Step;

/// Rounds may fail to shrink by a quarter so often before the guest counts as too fast.
const MAX_STALLS: u32 = 2;

/// After a round of so few pages none follows: to copy what it left takes less than to find it.
const FEW_PAGES: u64 = 32;

/// Rounds that follow the first small one, at most.
const MAX_SETTLING: u32 = 4;

/// What writes rounds.
pub(super) struct Rounds<'a> {
    pub(super) memory: &'a dyn GuestMemorySource,
    pub(super) live: &'a mut dyn LiveMemory,
    pub(super) dirty: &'a mut LiveRounds,
    pub(super) cancel: &'a Cancel,
    pub(super) report: &'a mut LiveReport,
}

/// How the rounds ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Ended {
    /// Little is left.
    Caught,
    /// Much is left, and the pause takes it.
    Behind,
}

/// Rounds that are small already, and become smaller: each leaves less for the pause.
struct Settling {
    left: u32,
    least: u64,
}

/// A hook that was called, or not yet. Dropped, also by a panic, it lifts what it did.
pub(super) struct Slowing<'r> {
    hook: Option<&'r mut dyn Throttle>,
    is_slowed: bool,
}

impl Rounds<'_> {
    /// Writes `first` and what is written meanwhile, until a round was small or the guest is too
    /// fast. What is left is named when the rounds are closed.
    pub(super) fn run(
        &mut self,
        first: DirtyBitmap,
        options: &LiveOptions<'_>,
        gives_up: bool,
        slowing: &mut Slowing<'_>,
    ) -> Result<Ended, SnapshotError> {
        let mut due = first;
        let mut left = options.max_rounds.max(1);
        let (mut least, mut stalls) = (u64::MAX, 0);
        let mut harvest_ns = 0;
        let mut settling = Settling::new();
        loop {
            let round = self.write(&due, harvest_ns)?;
            let is_small = round.pages <= options.threshold_pages;
            if is_small && !settling.goes_on(round.pages) {
                return Ok(Ended::Caught);
            }
            let mut watch = Stopwatch::start();
            due = self.harvest()?;
            harvest_ns = watch.lap();
            let pages = due.count();
            if pages == 0 {
                return Ok(Ended::Caught);
            }
            let is_small = pages <= options.threshold_pages;
            stalls += u32::from(!is_small && pages >= least / 4 * 3);
            least = least.min(pages);
            left -= 1;
            if is_small || (left > 0 && stalls <= MAX_STALLS) {
                left = left.max(1);
                continue;
            }
            self.report.is_behind = true;
            let behind = self.behind(round, pages);
            match slowing.answer(&behind, gives_up, self.report) {
                Slowed::Slower if self.report.slowed <= options.max_rounds => {
                    left = left.max(1);
                }
                Slowed::GiveUp => {
                    let rounds = behind.rounds;
                    return Err(SnapshotError::Behind { rounds, pages });
                }
                _ => {
                    self.dirty.give_back(&due);
                    return Ok(Ended::Behind);
                }
            }
        }
    }

    /// Finds the pages that were written since the last round.
    pub(super) fn harvest(&mut self) -> Result<DirtyBitmap, SnapshotError> {
        go_on(self.cancel, Step::Harvest)?;
        let due = self.dirty.round().map_err(dirty(Step::Harvest))?;
        for failure in self.dirty.take_failures() {
            // Not an error: the tracker has marked all pages instead.
            tracing::warn!(error = %failure, "a dirty source failed, all pages count as dirty");
        }
        Ok(due)
    }

    fn write(&mut self, due: &DirtyBitmap, harvest_ns: u64) -> Result<RoundReport, SnapshotError> {
        go_on(self.cancel, Step::Round)?;
        let round = self.live.round(self.memory, due, Stability::Running);
        let round = round.map_err(refused(Step::Round))?;
        let report = RoundReport {
            pages: round.pages,
            written_bytes: round.written_bytes,
            harvest_ns,
            write_ns: round.ns,
        };
        self.report.rounds.push(report);
        Ok(report)
    }

    fn behind(&self, round: RoundReport, pages: u64) -> Behind {
        let rate = |pages: u64| {
            let bytes = u128::from(pages) * u128::from(PAGE_BYTES) * 1_000_000_000;
            let rate = bytes / u128::from(round.write_ns.max(1));
            u64::try_from(rate).unwrap_or(u64::MAX)
        };
        Behind {
            rounds: u32::try_from(self.report.rounds.len()).unwrap_or(u32::MAX),
            pages,
            dirtied_bytes_per_second: rate(pages),
            taken_bytes_per_second: rate(round.pages),
        }
    }
}

impl Settling {
    fn new() -> Self {
        Self {
            left: MAX_SETTLING,
            least: u64::MAX,
        }
    }

    /// Whether another round is worth it after one of so many pages.
    fn goes_on(&mut self, pages: u64) -> bool {
        let shrinks = pages < self.least / 4 * 3;
        let goes_on = self.left > 0 && shrinks && pages > FEW_PAGES;
        self.left = self.left.saturating_sub(1);
        self.least = self.least.min(pages);
        goes_on
    }
}

impl<'r> Slowing<'r> {
    /// What the caller wants of a guest that is too fast, and whether it wants to give up.
    pub(super) fn new(when_behind: WhenBehind<'r>) -> (Self, bool) {
        let (hook, gives_up) = match when_behind {
            WhenBehind::LongerPause => (None, false),
            WhenBehind::Throttle(hook) => (Some(hook), false),
            WhenBehind::GiveUp => (None, true),
        };
        let is_slowed = false;
        (Self { hook, is_slowed }, gives_up)
    }

    fn answer(&mut self, behind: &Behind, gives_up: bool, report: &mut LiveReport) -> Slowed {
        let Some(hook) = &mut self.hook else {
            return if gives_up {
                Slowed::GiveUp
            } else {
                Slowed::Pause
            };
        };
        // Noted first: half of it is undone, too.
        self.is_slowed = true;
        report.slowed += 1;
        hook.slow(behind)
    }
}

impl Drop for Slowing<'_> {
    fn drop(&mut self) {
        if let (Some(hook), true) = (&mut self.hook, self.is_slowed) {
            hook.lift();
        }
    }
}
