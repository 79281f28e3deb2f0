//! One line of a report: a case with a peer, a case with a limit, or a case by itself.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Number;

use crate::sample::Samples;
use crate::statistics::Pairs;

/// One comparison. Times are medians in milliseconds, ratios are medians of the rounds' ratios.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Row {
    pub(crate) suite: String,
    pub(crate) case: String,
    /// What the engine had to do within its time.
    pub(crate) policy: String,
    /// The kind of file system that was written to, if any was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) file_system: Option<String>,
    pub(crate) ours_ms: f64,
    pub(crate) ours_p25_ms: f64,
    pub(crate) ours_p75_ms: f64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    peer: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    peer_ms: Option<f64>,
    /// The peer's time by ours: bigger is better.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ratio: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    limit: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    limit_ms: Option<f64>,
    /// Our time by the limit's: 1 is perfect.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    limit_ratio: Option<f64>,
    /// Quartiles of the rounds' ratios.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pair_p25: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pair_p75: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    unstable: Option<bool>,
    pub(crate) runs: usize,
    /// Figures that belong to the case, such as bytes.
    #[serde(flatten)]
    pub(crate) counts: BTreeMap<String, Number>,
}

/// Whom a case is compared with.
#[derive(Clone, PartialEq, Debug)]
pub(crate) enum Rival {
    /// Another program, or another way, that does the job.
    Peer(Samples),
    /// The machine at its best.
    Limit(Samples),
}

/// The rival of a row that has one.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) struct Against<'a> {
    pub(crate) name: &'a str,
    pub(crate) is_limit: bool,
    pub(crate) ms: f64,
    /// A peer's time by ours, or ours by a limit's.
    pub(crate) pairs: Pairs,
}

/// A case, before it is compared.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Case {
    /// The suite it belongs to.
    pub(crate) suite: &'static str,
    /// Its name.
    pub(crate) name: String,
    /// What the engine had to do within its time.
    pub(crate) policy: String,
    /// The kind of file system that is written to, if any is.
    pub(crate) file_system: Option<String>,
    /// Counts that belong to it.
    pub(crate) counts: BTreeMap<String, u64>,
    /// And figures that are no whole numbers.
    pub(crate) figures: BTreeMap<String, f64>,
}

impl Case {
    /// A row for each of `rivals`, or one without a rival where there are none.
    pub(crate) fn compare(&self, ours: &Samples, rivals: &[Rival]) -> Vec<Row> {
        let counts = self.counts.iter();
        let counts = counts.map(|(name, &count)| (name.clone(), count.into()));
        let figures = self.figures.iter();
        // What is no number was not measured.
        let figures =
            figures.filter_map(|(name, &figure)| Some((name.clone(), Number::from_f64(figure)?)));
        let row = Row {
            suite: self.suite.to_owned(),
            case: self.name.clone(),
            policy: self.policy.clone(),
            file_system: self.file_system.clone(),
            ours_ms: ours.median_ms(),
            ours_p25_ms: ours.quantile_ms(0.25),
            ours_p75_ms: ours.quantile_ms(0.75),
            runs: ours.ms.len(),
            counts: counts.chain(figures).collect(),
            ..Row::default()
        };
        if rivals.is_empty() {
            return vec![row];
        }
        rivals
            .iter()
            .map(|rival| rival.enter(ours, row.clone()))
            .collect()
    }
}

impl Rival {
    /// Fills in the half of `row` that is about it.
    fn enter(&self, ours: &Samples, row: Row) -> Row {
        let (pairs, row) = match self {
            Self::Peer(peer) => {
                let pairs = Pairs::of(peer, ours);
                let row = Row {
                    peer: Some(peer.name.to_owned()),
                    peer_ms: Some(peer.median_ms()),
                    ratio: Some(pairs.median),
                    ..row
                };
                (pairs, row)
            }
            Self::Limit(limit) => {
                let pairs = Pairs::of(ours, limit);
                let row = Row {
                    limit: Some(limit.name.to_owned()),
                    limit_ms: Some(limit.median_ms()),
                    limit_ratio: Some(pairs.median),
                    ..row
                };
                (pairs, row)
            }
        };
        Row {
            pair_p25: Some(pairs.p25),
            pair_p75: Some(pairs.p75),
            unstable: Some(pairs.unstable),
            ..row
        }
    }
}

impl Row {
    /// Whom the row compares with.
    pub(crate) fn against(&self) -> Option<Against<'_>> {
        let is_limit = self.limit.is_some();
        let median = if is_limit {
            self.limit_ratio
        } else {
            self.ratio
        };
        Some(Against {
            name: self.limit.as_deref().or(self.peer.as_deref())?,
            is_limit,
            ms: self.limit_ms.or(self.peer_ms)?,
            pairs: Pairs {
                median: median?,
                p25: self.pair_p25?,
                p75: self.pair_p75?,
                unstable: self.unstable?,
            },
        })
    }

    /// One of its counts.
    pub(crate) fn count(&self, name: &str) -> Option<u64> {
        self.counts.get(name)?.as_u64()
    }

    /// One of its figures, a count or not.
    pub(crate) fn figure(&self, name: &str) -> Option<f64> {
        self.counts.get(name)?.as_f64()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn samples(name: &'static str, ms: f64) -> Samples {
        Samples {
            name,
            ms: vec![ms; 3],
        }
    }

    fn case() -> Case {
        Case {
            suite: "memory",
            name: "diff-1pct".to_owned(),
            policy: "durable".to_owned(),
            file_system: Some("ext4".to_owned()),
            counts: BTreeMap::from([("bytes_stored".to_owned(), 4096)]),
            figures: BTreeMap::from([("p99_ms".to_owned(), 1.5), ("none".to_owned(), f64::NAN)]),
        }
    }

    #[test]
    fn each_pair_is_a_row_with_the_names_of_the_contract() {
        let rivals = [
            Rival::Peer(samples("squib-4k", 20.0)),
            Rival::Limit(samples("contiguous", 8.0)),
        ];
        let rows = case().compare(&samples("ours", 10.0), &rivals);
        let written = serde_json::to_value(&rows).unwrap();
        assert_eq!(
            written,
            json!([
                {
                    "suite": "memory", "case": "diff-1pct", "policy": "durable",
                    "file_system": "ext4",
                    "ours_ms": 10.0, "ours_p25_ms": 10.0, "ours_p75_ms": 10.0,
                    "peer": "squib-4k", "peer_ms": 20.0, "ratio": 2.0,
                    "pair_p25": 2.0, "pair_p75": 2.0, "unstable": false,
                    "runs": 3, "bytes_stored": 4096, "p99_ms": 1.5,
                },
                {
                    "suite": "memory", "case": "diff-1pct", "policy": "durable",
                    "file_system": "ext4",
                    "ours_ms": 10.0, "ours_p25_ms": 10.0, "ours_p75_ms": 10.0,
                    "limit": "contiguous", "limit_ms": 8.0, "limit_ratio": 1.25,
                    "pair_p25": 1.25, "pair_p75": 1.25, "unstable": false,
                    "runs": 3, "bytes_stored": 4096, "p99_ms": 1.5,
                },
            ])
        );
        assert_eq!(serde_json::from_value::<Vec<Row>>(written).unwrap(), rows);
        assert!(!rows[0].against().unwrap().is_limit);
        assert!((rows[1].against().unwrap().pairs.median - 1.25).abs() < 1e-9);
    }

    #[test]
    fn a_case_without_rivals_is_a_row_of_its_own() {
        let rows = case().compare(&samples("ours", 10.0), &[]);
        assert_eq!(rows.len(), 1);
        assert_eq!(rows[0].against(), None);
        let value = serde_json::to_value(&rows[0]).unwrap();
        assert_eq!(value["ours_ms"], 10.0);
        assert!(value.get("ratio").is_none() && value.get("unstable").is_none());
    }
}
