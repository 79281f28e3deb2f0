//! What is reported: one row for each pair of a case and a peer, or a case and a limit.

use std::collections::BTreeMap;

use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;

use crate::machine::Machine;
use crate::sample::{Pairs, Samples};

/// All that one run measured.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    /// On what.
    pub(crate) machine: Machine,
    /// What.
    pub(crate) rows: Vec<Row>,
}

/// One comparison. Times are medians in milliseconds.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub(crate) struct Row {
    suite: &'static str,
    case: &'static str,
    /// What the engine had to do within its time.
    policy: &'static str,
    ours_ms: f64,
    #[serde(flatten)]
    rival: Option<RivalFigures>,
    runs: usize,
    /// Counts that belong to the case, such as bytes.
    #[serde(flatten)]
    counts: BTreeMap<&'static str, u64>,
}

/// Whom a case is compared with.
#[derive(Clone, PartialEq, Debug)]
pub(crate) enum Rival {
    /// Another program that does the job.
    Peer(Samples),
    /// The machine at its best.
    Limit(Samples),
}

#[derive(Clone, PartialEq, Debug, Serialize)]
#[serde(untagged)]
enum RivalFigures {
    Peer {
        peer: &'static str,
        peer_ms: f64,
        /// The peer's time by ours: bigger is better.
        ratio: f64,
        #[serde(flatten)]
        pairs: Pairs,
    },
    Limit {
        limit: &'static str,
        limit_ms: f64,
        /// Our time by the limit's: 1 is perfect.
        limit_ratio: f64,
        #[serde(flatten)]
        pairs: Pairs,
    },
}

/// A case, before it is compared.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Case {
    /// The suite it belongs to.
    pub(crate) suite: &'static str,
    /// Its name.
    pub(crate) name: &'static str,
    /// What the engine had to do within its time.
    pub(crate) policy: &'static str,
    /// Counts that belong to it.
    pub(crate) counts: BTreeMap<&'static str, u64>,
}

impl Case {
    /// A row for each of `rivals`, or one without a rival where there are none.
    pub(crate) fn compare(&self, ours: &Samples, rivals: &[Rival]) -> Vec<Row> {
        let row = |rival| Row {
            suite: self.suite,
            case: self.name,
            policy: self.policy,
            ours_ms: ours.median_ms(),
            rival,
            runs: ours.ms.len(),
            counts: self.counts.clone(),
        };
        if rivals.is_empty() {
            return vec![row(None)];
        }
        let figures = rivals.iter().map(|rival| rival.against(ours));
        figures.map(|figures| row(Some(figures))).collect()
    }
}

impl Rival {
    fn against(&self, ours: &Samples) -> RivalFigures {
        match self {
            Self::Peer(peer) => RivalFigures::Peer {
                peer: peer.name,
                peer_ms: peer.median_ms(),
                ratio: peer.median_ms() / ours.median_ms(),
                pairs: Pairs::of(peer, ours),
            },
            Self::Limit(limit) => RivalFigures::Limit {
                limit: limit.name,
                limit_ms: limit.median_ms(),
                limit_ratio: ours.median_ms() / limit.median_ms(),
                pairs: Pairs::of(ours, limit),
            },
        }
    }
}

impl Report {
    /// The rows as people read them.
    pub(crate) fn table(&self) -> Table {
        let mut table = Table::new();
        table.load_preset(presets::NOTHING);
        table.set_header([
            "case",
            "ours ms",
            "against",
            "its ms",
            "ratio",
            "quartiles",
            "runs",
            "",
        ]);
        for row in &self.rows {
            table.add_row(row.cells());
        }
        for column in [1, 3, 4, 6] {
            if let Some(column) = table.column_mut(column) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        table
    }
}

impl Row {
    fn cells(&self) -> Vec<String> {
        let case = format!("{}/{}", self.suite, self.case);
        let ours = millis(self.ours_ms);
        let (against, theirs, ratio, quartiles, unstable) = match &self.rival {
            None => <_>::default(),
            Some(RivalFigures::Peer {
                peer,
                peer_ms,
                ratio,
                pairs,
            }) => (
                format!("peer {peer}"),
                millis(*peer_ms),
                format!("{ratio:.2} x faster"),
                pairs.quartiles(),
                pairs.unstable,
            ),
            Some(RivalFigures::Limit {
                limit,
                limit_ms,
                limit_ratio,
                pairs,
            }) => (
                format!("limit {limit}"),
                millis(*limit_ms),
                format!("{limit_ratio:.2} of limit"),
                pairs.quartiles(),
                pairs.unstable,
            ),
        };
        let mut notes: Vec<String> = self
            .counts
            .iter()
            .map(|(name, count)| format!("{name} {count}"))
            .collect();
        if unstable {
            notes.insert(0, "unstable".to_owned());
        }
        let runs = self.runs.to_string();
        vec![
            case,
            ours,
            against,
            theirs,
            ratio,
            quartiles,
            runs,
            notes.join(", "),
        ]
    }
}

fn millis(ms: f64) -> String {
    if ms < 10.0 {
        format!("{ms:.3}")
    } else {
        format!("{ms:.1}")
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
            name: "diff-1pct",
            policy: "durable",
            counts: BTreeMap::from([("bytes_stored", 4096)]),
        }
    }

    #[test]
    fn each_pair_is_a_row_with_the_names_of_the_contract() {
        let rivals = [
            Rival::Peer(samples("squib-4k", 20.0)),
            Rival::Limit(samples("contiguous", 8.0)),
        ];
        let rows = case().compare(&samples("ours", 10.0), &rivals);
        assert_eq!(
            serde_json::to_value(rows).unwrap(),
            json!([
                {
                    "suite": "memory", "case": "diff-1pct", "policy": "durable",
                    "ours_ms": 10.0, "peer": "squib-4k", "peer_ms": 20.0, "ratio": 2.0,
                    "pair_p25": 2.0, "pair_p75": 2.0, "unstable": false,
                    "runs": 3, "bytes_stored": 4096,
                },
                {
                    "suite": "memory", "case": "diff-1pct", "policy": "durable",
                    "ours_ms": 10.0, "limit": "contiguous", "limit_ms": 8.0, "limit_ratio": 1.25,
                    "pair_p25": 1.25, "pair_p75": 1.25, "unstable": false,
                    "runs": 3, "bytes_stored": 4096,
                },
            ])
        );
    }

    #[test]
    fn a_case_without_rivals_is_a_row_of_its_own() {
        let rows = case().compare(&samples("ours", 10.0), &[]);
        let value = serde_json::to_value(&rows).unwrap();
        assert_eq!(value[0]["ours_ms"], 10.0);
        assert!(value[0].get("ratio").is_none());
        let report = Report {
            machine: Machine::look(&std::env::temp_dir()),
            rows,
        };
        assert!(report.table().to_string().contains("memory/diff-1pct"));
    }
}
