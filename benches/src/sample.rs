//! Measured times: alternating rounds.

use std::num::NonZeroUsize;
use std::time::Duration;

use crate::error::BenchError;
use crate::statistics::quantile;

/// Somebody who does the work that is compared; each call does it once, from fresh, and says how
/// long the measured part took.
pub(crate) struct Contestant<'a> {
    /// Who it is.
    pub(crate) name: &'static str,
    /// Does the work once.
    pub(crate) run: Box<dyn FnMut() -> Result<Duration, BenchError> + 'a>,
}

impl<'a> Contestant<'a> {
    /// Names a way to do the work.
    pub(crate) fn new(
        name: &'static str,
        run: impl FnMut() -> Result<Duration, BenchError> + 'a,
    ) -> Self {
        Self {
            name,
            run: Box::new(run),
        }
    }
}

/// The times of one contestant, one a round.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Samples {
    /// Whose they are.
    pub(crate) name: &'static str,
    /// Milliseconds, in the order of the rounds.
    pub(crate) ms: Vec<f64>,
}

/// Lets every contestant run once a round, after one round that does not count.
///
/// Each run begins with `prepare`, outside of the time. The order of a round is drawn anew, from a
/// fixed seed, so that nobody always follows the same neighbour.
pub(crate) fn alternate(
    mut contestants: Vec<Contestant<'_>>,
    rounds: NonZeroUsize,
    prepare: impl Fn() -> Result<(), BenchError>,
) -> Result<Vec<Samples>, BenchError> {
    let mut samples: Vec<Samples> = contestants
        .iter()
        .map(|contestant| Samples {
            name: contestant.name,
            ms: Vec::with_capacity(rounds.get()),
        })
        .collect();
    let mut rng = fastrand::Rng::with_seed(0x0de7);
    let mut order: Vec<usize> = (0..contestants.len()).collect();
    for round in 0..=rounds.get() {
        rng.shuffle(&mut order);
        for &who in &order {
            prepare()?;
            let took = (contestants[who].run)()?;
            if round > 0 {
                samples[who].ms.push(took.as_secs_f64() * 1e3);
            }
        }
    }
    Ok(samples)
}

impl Samples {
    /// The quantile `at` of the times, in milliseconds.
    pub(crate) fn quantile_ms(&self, at: f64) -> f64 {
        quantile(&self.ms, at)
    }

    /// The medians of so many rounds of equal length, in order.
    pub(crate) fn rounds_ms(&self, rounds: usize) -> impl Iterator<Item = f64> {
        let each = self.ms.len() / rounds.max(1);
        let rounds = self.ms.chunks_exact(each.max(1)).take(rounds);
        rounds.map(|round| quantile(round, 0.5))
    }

    /// The median in milliseconds.
    pub(crate) fn median_ms(&self) -> f64 {
        self.quantile_ms(0.5)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};

    use super::*;

    #[test]
    fn everybody_runs_once_a_round_and_the_first_round_is_not_counted() {
        let order = RefCell::new(String::new());
        let contestant = |name: &'static str| {
            let order = &order;
            Contestant::new(name, move || {
                order.borrow_mut().push_str(name);
                Ok(Duration::from_millis(1))
            })
        };
        let contestants = vec![contestant("a"), contestant("b"), contestant("c")];
        let prepared = Cell::new(0);
        let prepare = || {
            prepared.set(prepared.get() + 1);
            Ok(())
        };
        let samples = alternate(contestants, NonZeroUsize::new(2).unwrap(), prepare).unwrap();
        assert_eq!(prepared.get(), 9);
        for round in order.into_inner().as_bytes().chunks(3) {
            let mut names = round.to_vec();
            names.sort_unstable();
            assert_eq!(names, b"abc");
        }
        assert!(samples.iter().all(|samples| samples.ms.len() == 2));
    }
}
