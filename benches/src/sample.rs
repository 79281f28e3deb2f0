//! Measured times: alternating rounds, medians and how far the pairs spread.

use std::time::{Duration, Instant};

use serde::Serialize;

use crate::error::BenchError;

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

/// How often a case is measured.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Rounds {
    /// Rounds, unless the time runs out.
    pub(crate) most: usize,
    /// Rounds that are measured however long they take.
    pub(crate) fewest: usize,
    /// When the time runs out.
    pub(crate) budget: Duration,
}

impl Rounds {
    /// So many rounds, however long they take.
    pub(crate) fn exactly(count: usize) -> Self {
        Self {
            most: count,
            fewest: count,
            budget: Duration::ZERO,
        }
    }

    /// Whether round `number`, counted from 1, is still to be measured.
    fn allow(self, number: usize, spent: Duration) -> bool {
        number <= self.fewest || (number <= self.most && spent < self.budget)
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
    rounds: Rounds,
    prepare: impl Fn() -> Result<(), BenchError>,
) -> Result<Vec<Samples>, BenchError> {
    let mut samples: Vec<Samples> = contestants
        .iter()
        .map(|contestant| Samples {
            name: contestant.name,
            ms: Vec::with_capacity(rounds.most),
        })
        .collect();
    let mut rng = fastrand::Rng::with_seed(0x0de7);
    let mut order: Vec<usize> = (0..contestants.len()).collect();
    let start = Instant::now();
    for round in (0..).take_while(|&round| rounds.allow(round, start.elapsed())) {
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
    /// The median in milliseconds.
    pub(crate) fn median_ms(&self) -> f64 {
        quantile(&self.ms, 0.5)
    }
}

/// Two contestants compared round by round.
#[derive(Clone, Copy, PartialEq, Debug, Serialize)]
pub(crate) struct Pairs {
    /// First quartile of the ratios of the pairs.
    #[serde(rename = "pair_p25")]
    p25: f64,
    /// Third quartile.
    #[serde(rename = "pair_p75")]
    p75: f64,
    /// Whether the quartiles lie more than a fifth of the median apart: the machine was too
    /// restless for the ratio to be believed.
    pub(crate) unstable: bool,
}

impl Pairs {
    /// How far the quartiles may lie apart, as a part of the median.
    const STEADY: f64 = 0.2;

    /// The ratios `over / under`, round by round.
    pub(crate) fn of(over: &Samples, under: &Samples) -> Self {
        let ratios: Vec<f64> = over
            .ms
            .iter()
            .zip(&under.ms)
            .map(|(over, under)| over / under)
            .collect();
        let (p25, p75) = (quantile(&ratios, 0.25), quantile(&ratios, 0.75));
        Self {
            p25,
            p75,
            unstable: p75 - p25 > Self::STEADY * quantile(&ratios, 0.5),
        }
    }

    /// Both quartiles, as people read them.
    pub(crate) fn quartiles(&self) -> String {
        format!("{:.2} to {:.2}", self.p25, self.p75)
    }
}

/// The quantile `at` of `values`, linear between neighbours.
fn quantile(values: &[f64], at: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let Some(last) = sorted.len().checked_sub(1) else {
        return f64::NAN;
    };
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "an index among a handful of rounds"
    )]
    let (below, part) = {
        let position = at * last as f64;
        (position as usize, position.fract())
    };
    let above = (below + 1).min(last);
    sorted[below] + (sorted[above] - sorted[below]) * part
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};

    use super::*;

    fn samples(ms: &[f64]) -> Samples {
        Samples {
            name: "x",
            ms: ms.to_vec(),
        }
    }

    #[test]
    fn quantiles_lie_between_neighbours() {
        assert!((samples(&[3.0, 1.0, 2.0]).median_ms() - 2.0).abs() < 1e-9);
        assert!((samples(&[4.0, 1.0, 2.0, 3.0]).median_ms() - 2.5).abs() < 1e-9);
        assert!((quantile(&[1.0, 2.0, 3.0, 4.0, 5.0], 0.25) - 2.0).abs() < 1e-9);
        assert!(quantile(&[], 0.5).is_nan());
    }

    #[test]
    fn pairs_that_spread_are_marked() {
        let ours = samples(&[10.0, 10.0, 10.0, 10.0]);
        let steady = Pairs::of(&samples(&[20.0, 20.5, 21.0, 20.2]), &ours);
        assert!(!steady.unstable && steady.p25 > 2.0 && steady.p75 < 2.1);
        assert!(Pairs::of(&samples(&[20.0, 40.0, 20.0, 40.0]), &ours).unstable);
    }

    #[test]
    fn a_case_that_takes_long_gets_the_fewest_rounds() {
        let rounds = Rounds {
            most: 11,
            fewest: 5,
            budget: Duration::from_mins(1),
        };
        assert!(rounds.allow(5, Duration::from_secs(1000)));
        assert!(!rounds.allow(6, Duration::from_mins(1)));
        assert!(rounds.allow(11, Duration::from_secs(59)));
        assert!(!rounds.allow(12, Duration::ZERO));
    }

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
        let rounds = Rounds::exactly(2);
        let contestants = vec![contestant("a"), contestant("b"), contestant("c")];
        let prepared = Cell::new(0);
        let prepare = || {
            prepared.set(prepared.get() + 1);
            Ok(())
        };
        let samples = alternate(contestants, rounds, prepare).unwrap();
        assert_eq!(prepared.get(), 9);
        for round in order.into_inner().as_bytes().chunks(3) {
            let mut names = round.to_vec();
            names.sort_unstable();
            assert_eq!(names, b"abc");
        }
        assert!(samples.iter().all(|samples| samples.ms.len() == 2));
    }
}
