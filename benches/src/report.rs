//! All that one run measured, and how it is told.

use std::fs;
use std::path::{Path, PathBuf};

use comfy_table::{CellAlignment, Table, presets};
use serde::{Deserialize, Serialize};

use crate::error::BenchError;
use crate::machine::Machine;
use crate::row::Row;

/// All that one run measured.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(crate) struct Report {
    /// On what.
    pub(crate) machine: Machine,
    /// What.
    pub(crate) rows: Vec<Row>,
}

impl Report {
    /// The report of an earlier run.
    pub(crate) fn read(path: &Path) -> Result<Self, BenchError> {
        let bytes = fs::read(path).map_err(BenchError::at("read", path))?;
        serde_json::from_slice(&bytes).map_err(BenchError::Json)
    }

    /// Writes it as JSON, in the place of what is there: whoever is killed half way leaves that.
    pub(crate) fn write(&self, path: &Path) -> Result<(), BenchError> {
        let json = serde_json::to_vec_pretty(self).map_err(BenchError::Json)?;
        let mut part = path.as_os_str().to_owned();
        part.push(".part");
        let part = PathBuf::from(part);
        fs::write(&part, json).map_err(BenchError::at("write", &part))?;
        fs::rename(&part, path).map_err(BenchError::at("rename", &part))
    }

    /// The rows as people read them on a terminal.
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
        for case in self.rows.chunk_by(|a, b| a.case == b.case) {
            for (number, row) in case.iter().enumerate() {
                table.add_row(cells(row, number == 0));
            }
        }
        for column in [1, 3, 4, 6] {
            if let Some(column) = table.column_mut(column) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        table
    }
}

/// One row of the table; counts stand in the first of a case.
fn cells(row: &Row, is_first: bool) -> [String; 8] {
    let counts = row.counts.iter().filter(|_| is_first);
    let mut notes: Vec<String> = counts
        .map(|(name, count)| format!("{name} {count}"))
        .collect();
    let case = format!("{}/{}", row.suite, row.case);
    let ours = millis(row.ours_ms);
    let [against, theirs, ratio, quartiles] =
        row.against().map_or_else(Default::default, |rival| {
            if rival.pairs.unstable {
                notes.insert(0, "unstable".to_owned());
            }
            let (kind, what) = if rival.is_limit {
                ("limit", "of limit")
            } else {
                ("peer", "x faster")
            };
            [
                format!("{kind} {}", rival.name),
                millis(rival.ms),
                format!("{:.2} {what}", rival.pairs.median),
                format!("{:.2} to {:.2}", rival.pairs.p25, rival.pairs.p75),
            ]
        });
    let runs = row.runs.to_string();
    let notes = notes.join(", ");
    [case, ours, against, theirs, ratio, quartiles, runs, notes]
}

/// Milliseconds with three digits or more that mean something.
pub(crate) fn millis(ms: f64) -> String {
    let digits = match ms {
        ms if ms < 10.0 => 2,
        ms if ms < 100.0 => 1,
        _ => 0,
    };
    format!("{ms:.digits$}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_comes_back_from_its_file() {
        let row = serde_json::json!({
            "suite": "memory", "case": "diff-1pct", "policy": "durable", "ours_ms": 12.5,
            "ours_p25_ms": 12.0, "ours_p75_ms": 13.0, "limit": "contiguous", "limit_ms": 10.0,
            "limit_ratio": 1.25, "pair_p25": 1.2, "pair_p75": 1.7, "unstable": true, "runs": 11,
            "bytes_dirty": 4096,
        });
        let report = Report {
            machine: Machine::look(&std::env::temp_dir()),
            rows: vec![serde_json::from_value(row).unwrap()],
        };
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("report.json");
        report.write(&path).unwrap();
        assert_eq!(Report::read(&path).unwrap(), report);
        let table = report.table().to_string();
        for word in [
            "memory/diff-1pct",
            "12.5",
            "limit contiguous",
            "1.25 of limit",
            "unstable",
        ] {
            assert!(table.contains(word), "{word} is not in {table}");
        }
        fs::write(&path, b"{").unwrap();
        assert!(matches!(Report::read(&path), Err(BenchError::Json(_))));
    }

    #[test]
    fn small_times_show_more_digits() {
        assert_eq!(
            [0.456, 5.678, 56.78, 567.8].map(millis),
            ["0.46", "5.68", "56.8", "568"]
        );
    }
}
