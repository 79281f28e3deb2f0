//! Keeping a capture to its rate, and to the wish that it end.

use std::num::NonZeroU64;
use std::thread;
use std::time::{Duration, Instant};

use super::Cancel;
use crate::error::SinkError;

/// Longest sleep before the flag is looked at again.
const NAP: Duration = Duration::from_millis(10);

/// Keeps bytes that are read or written to a rate, on average from the start.
#[derive(Debug)]
pub struct Pace {
    cancel: Cancel,
    bytes_per_second: Option<NonZeroU64>,
    started: Instant,
    spent_bytes: u64,
}

impl Pace {
    /// Starts the clock.
    #[must_use]
    pub fn start(cancel: Cancel, bytes_per_second: Option<NonZeroU64>) -> Self {
        Self {
            cancel,
            bytes_per_second,
            started: Instant::now(),
            spent_bytes: 0,
        }
    }

    /// Waits until `bytes` more may be written; fails once the end was asked for.
    pub fn spend(&mut self, bytes: u64) -> Result<(), SinkError> {
        self.check()?;
        let Some(rate) = self.bytes_per_second else {
            return Ok(());
        };
        self.spent_bytes = self.spent_bytes.saturating_add(bytes);
        let due = due(self.spent_bytes, rate);
        while let Some(left) = due.checked_sub(self.started.elapsed()) {
            if left.is_zero() {
                break;
            }
            thread::sleep(left.min(NAP));
            self.check()?;
        }
        Ok(())
    }

    /// Fails once the end was asked for.
    pub fn check(&self) -> Result<(), SinkError> {
        if self.cancel.is_asked() {
            return Err(SinkError::Cancelled);
        }
        Ok(())
    }
}

/// When so many bytes may be written at the earliest, from the start.
fn due(bytes: u64, per_second: NonZeroU64) -> Duration {
    let nanoseconds = u128::from(bytes) * 1_000_000_000 / u128::from(per_second.get());
    Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_due_at_their_rate() {
        let rate = NonZeroU64::new(1 << 20).unwrap();
        assert_eq!(due(0, rate), Duration::ZERO);
        assert_eq!(due(1 << 19, rate), Duration::from_millis(500));
        assert_eq!(
            due(u64::MAX, NonZeroU64::MIN),
            Duration::from_nanos(u64::MAX)
        );
    }

    #[test]
    fn a_wait_ends_when_the_end_is_asked_for() {
        let cancel = Cancel::default();
        let mut pace = Pace::start(cancel.clone(), NonZeroU64::new(1));
        thread::scope(|scope| {
            // It is asked for while the wait, which would be for ever, is on.
            scope.spawn(|| {
                thread::sleep(2 * NAP);
                cancel.ask();
            });
            assert!(matches!(pace.spend(u64::MAX), Err(SinkError::Cancelled)));
        });
    }

    #[test]
    fn an_end_that_was_asked_for_before_is_seen_without_a_limit() {
        let cancel = Cancel::default();
        let mut pace = Pace::start(cancel.clone(), None);
        pace.spend(1).unwrap();
        cancel.ask();
        assert!(matches!(pace.spend(1), Err(SinkError::Cancelled)));
    }
}
