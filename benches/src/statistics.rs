//! Medians, quartiles, and how far pairs spread.

use crate::sample::Samples;

/// Two contestants compared round by round.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) struct Pairs {
    /// Median of the ratios of the pairs.
    pub(crate) median: f64,
    /// First quartile.
    pub(crate) p25: f64,
    /// Third quartile.
    pub(crate) p75: f64,
    /// Whether the quartiles lie more than a fifth of the median apart: the machine was too
    /// restless for the ratio to be believed.
    pub(crate) unstable: bool,
}

impl Pairs {
    /// How far the quartiles may lie apart, as a part of the median.
    const STEADY: f64 = 0.2;

    /// The ratios `over / under`, round by round. Where one of them ran several times a round, the
    /// median of the round counts.
    pub(crate) fn of(over: &Samples, under: &Samples) -> Self {
        let rounds = over.ms.len().min(under.ms.len());
        let ratios = over.rounds_ms(rounds).zip(under.rounds_ms(rounds));
        let ratios: Vec<f64> = ratios.map(|(over, under)| over / under).collect();
        let [p25, median, p75] = [0.25, 0.5, 0.75].map(|at| quantile(&ratios, at));
        Self {
            median,
            p25,
            p75,
            unstable: p75 - p25 > Self::STEADY * median,
        }
    }
}

/// The quantile `at` of `values`, linear between neighbours; not a number where there are none.
pub(crate) fn quantile(values: &[f64], at: f64) -> f64 {
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
    fn who_runs_more_often_counts_by_the_median_of_each_round() {
        let over = samples(&[30.0, 80.0]);
        let under = samples(&[1.0, 10.0, 99.0, 19.0, 20.0, 21.0]);
        let pairs = Pairs::of(&over, &under);
        assert!((pairs.median - 3.5).abs() < 1e-9);
        assert!((Pairs::of(&under, &over).median - f64::midpoint(10.0 / 30.0, 0.25)).abs() < 1e-9);
    }

    #[test]
    fn the_ratio_is_the_median_of_the_pairs_and_not_of_the_times() {
        // A machine that turns twice as slow between rounds slows both of a pair.
        let over = samples(&[20.0, 90.0, 40.0]);
        let under = samples(&[10.0, 30.0, 40.0]);
        let pairs = Pairs::of(&over, &under);
        assert!((pairs.median - 2.0).abs() < 1e-9);
        assert!((over.median_ms() / under.median_ms() - 4.0 / 3.0).abs() < 1e-9);
    }
}
