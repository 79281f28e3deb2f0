//! The tables of `README.md`.

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use crate::bar::{self, Bar};
use crate::error::BenchError;
use crate::report::{Report, millis};
use crate::row::Row;

/// What the tables stand between in a file that has other text too.
const BEGIN: &str = "<!-- measured -->\n";
const END: &str = "<!-- end of measured -->\n";

/// Writes the tables, and links to `charts`, to `path`: between the marks of a file that has them,
/// else as all of it.
pub(crate) fn write(report: &Report, charts: &[PathBuf], path: &Path) -> Result<(), BenchError> {
    let mut tables = tables(report);
    let folder = path.parent().unwrap_or_else(|| Path::new(""));
    for chart in charts {
        let link = chart.strip_prefix(folder).unwrap_or(chart).display();
        let name = chart.file_stem().unwrap_or_default().display();
        // Writing to a string can't fail.
        let _ = writeln!(tables, "![{name}]({link})\n");
    }
    let old = fs::read_to_string(path).unwrap_or_default();
    let text = match (old.split_once(BEGIN), old.split_once(END)) {
        (Some((before, _)), Some((_, after))) => format!("{before}{BEGIN}{tables}{END}{after}"),
        _ => tables,
    };
    fs::write(path, text).map_err(BenchError::at("write", path))
}

/// A table for each suite and file system, in the order of the rows.
fn tables(report: &Report) -> String {
    let mut text = format!("\n{}\n", report.machine);
    let groups = report.rows.chunk_by(|a, b| title(a) == title(b));
    for rows in groups {
        text.push_str(&heading(&rows[0]));
        match rows[0].suite.as_str() {
            "cost" => rows.iter().for_each(|row| text.push_str(&cost_line(row))),
            _ => rows.chunk_by(|a, b| a.case == b.case).for_each(|rows| {
                text.push_str(&case_lines(rows));
            }),
        }
    }
    text.push('\n');
    text
}

fn title(row: &Row) -> (&str, Option<&str>) {
    (&row.suite, row.file_system.as_deref())
}

fn heading(row: &Row) -> String {
    let (suite, file_system) = title(row);
    let place = file_system.map_or_else(String::new, |name| format!(" on {name}"));
    let columns = match suite {
        "cost" => "| Figure | Measured | Quartiles | Built in | Runs |\n|---|---|---|---|---|\n",
        suite if names_policy(suite) => {
            "| Case | Policy | Ours | Quartiles | Against | Its | Ratio | Quartiles | Runs | Bar |\n\
             |---|---|---|---|---|---|---|---|---|---|\n"
        }
        _ => {
            "| Case | Ours | Quartiles | Against | Its | Ratio | Quartiles | Runs | Bar |\n\
             |---|---|---|---|---|---|---|---|---|\n"
        }
    };
    format!("\n### Suite `{suite}`{place}\n\n{columns}")
}

/// One line for each rival of a case; what belongs to the case itself is in the first.
fn case_lines(rows: &[Row]) -> String {
    let mut lines = String::new();
    for (number, row) in rows.iter().enumerate() {
        let policy = match (names_policy(&row.suite), number) {
            (false, _) => String::new(),
            (true, 0) => format!("{} |", policy(row)),
            (true, _) => " |".to_owned(),
        };
        let own = if number == 0 {
            format!(
                "`{}` |{policy} {} | {}–{}",
                row.case,
                millis(row.ours_ms),
                millis(row.ours_p25_ms),
                millis(row.ours_p75_ms)
            )
        } else {
            format!("|{policy} |")
        };
        let rival = row.against().map_or_else(
            || "| | |".to_owned(),
            |rival| {
                let kind = if rival.is_limit { "limit" } else { "peer" };
                let mark = if rival.pairs.unstable {
                    " (unstable)"
                } else {
                    ""
                };
                format!(
                    "{kind} `{}` | {} | {:.2}{mark} | {:.2}–{:.2}",
                    rival.name,
                    millis(rival.ms),
                    rival.pairs.median,
                    rival.pairs.p25,
                    rival.pairs.p75
                )
            },
        );
        let of_case = bar::of_case(row).filter(|_| number == 0);
        let bars: Vec<String> = of_case
            .into_iter()
            .chain(bar::of_rival(row))
            .map(|bar| verdict(&bar))
            .collect();
        let _ = writeln!(
            lines,
            "| {own} | {rival} | {} | {} |",
            row.runs,
            bars.join("; ")
        );
    }
    lines
}

/// Whether the cases of a suite differ in what is checked, and when.
fn names_policy(suite: &str) -> bool {
    matches!(suite, "restore" | "live" | "store")
}

/// The policy of a row and the times that its own is made of.
fn policy(row: &Row) -> String {
    let parts = row.counts.keys().filter_map(|name| {
        let part = name.strip_suffix("_ms")?;
        let ms = row.figure(name)?;
        Some(format!("{} {}", part.replace('_', " "), millis(ms)))
    });
    let parts: Vec<String> = parts.collect();
    if parts.is_empty() {
        return format!(" {}", row.policy);
    }
    format!(" {} ({})", row.policy, parts.join(", "))
}

fn verdict(bar: &Bar) -> String {
    let verdict = if bar.is_met { "met" } else { "**missed**" };
    format!("{}: {verdict}", bar.text)
}

/// A figure of the cost model.
fn cost_line(row: &Row) -> String {
    let cell = |name: &str| {
        row.count(name)
            .map_or_else(String::new, |count| count.to_string())
    };
    format!(
        "| `{}` | {} | {}–{} | {} | {} |\n",
        row.case,
        cell("measured"),
        cell("measured_p25"),
        cell("measured_p75"),
        cell("built_in"),
        row.runs
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::machine::Machine;

    fn report() -> Report {
        let rows = json!([
            {
                "suite": "memory", "case": "full-random", "policy": "", "file_system": "ext4",
                "ours_ms": 600.0, "ours_p25_ms": 590.0, "ours_p75_ms": 612.5,
                "peer": "squib-16k", "peer_ms": 1500.0, "ratio": 2.5,
                "pair_p25": 2.0, "pair_p75": 3.0, "unstable": true, "runs": 11,
            },
            {
                "suite": "memory", "case": "full-random", "policy": "", "file_system": "ext4",
                "ours_ms": 600.0, "ours_p25_ms": 590.0, "ours_p75_ms": 612.5,
                "limit": "odirect", "limit_ms": 400.0, "limit_ratio": 1.5,
                "pair_p25": 1.4, "pair_p75": 1.6, "unstable": false, "runs": 11,
            },
            {
                "suite": "bitmap", "case": "iterate-16m-1pct", "policy": "", "ours_ms": 1.67,
                "ours_p25_ms": 1.6, "ours_p75_ms": 1.7, "runs": 11,
            },
            {
                "suite": "cost", "case": "extent-ns", "policy": "", "file_system": "xfs",
                "ours_ms": 1.67, "ours_p25_ms": 1.6, "ours_p75_ms": 1.7, "runs": 11,
                "measured": 4700, "measured_p25": 4500, "measured_p75": 5100, "built_in": 5000,
            },
            {
                "suite": "live", "case": "pause-4g", "policy": "KVM dirty log", "ours_ms": 0.2,
                "ours_p25_ms": 0.1, "ours_p75_ms": 0.3, "runs": 200, "stop_ms": 0.125,
                "p99_ms": 0.4, "peer": "stop-and-copy", "peer_ms": 10.0, "ratio": 50.0,
                "pair_p25": 49.0, "pair_p75": 51.0, "unstable": false,
            },
            {
                "suite": "live", "case": "pause-4g", "policy": "KVM dirty log", "ours_ms": 0.2,
                "ours_p25_ms": 0.1, "ours_p75_ms": 0.3, "runs": 200,
            },
        ]);
        Report {
            machine: Machine::look(&std::env::temp_dir()),
            rows: serde_json::from_value(rows).unwrap(),
        }
    }

    #[test]
    fn each_suite_is_a_table_with_its_verdicts() {
        let text = tables(&report());
        for line in [
            "### Suite `memory` on ext4",
            "| `full-random` | 600 | 590–612 | peer `squib-16k` | 1500 | 2.50 (unstable) | \
             2.00–3.00 | 11 | ≥ 2.2: met |",
            "| | | | limit `odirect` | 400 | 1.50 | 1.40–1.60 | 11 | ≤ 1.25: **missed** |",
            "| `iterate-16m-1pct` | 1.67 | 1.60–1.70 | | | | | 11 | ≤ 2 ms: met |",
            "### Suite `cost` on xfs",
            "| `extent-ns` | 4700 | 4500–5100 | 5000 | 11 |",
            "| `pause-4g` | KVM dirty log (p99 0.40, stop 0.12) | 0.20 | 0.10–0.30 | \
             peer `stop-and-copy` | 10.0 | 50.00 | 49.00–51.00 | 200 | p99 of 200 pauses 0.40 ms, ≤ 0.50: met |",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
        let width = |line: &str| line.matches('|').count();
        for table in text.split("\n\n").filter(|text| text.starts_with('|')) {
            let columns = width(table.lines().next().unwrap());
            assert!(table.lines().all(|line| width(line) == columns), "{table}");
        }
    }

    #[test]
    fn text_around_the_marks_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("README.md");
        fs::write(&path, format!("before\n{BEGIN}old\n{END}after\n")).unwrap();
        let charts = [dir.path().join("charts/memory.svg")];
        write(&report(), &charts, &path).unwrap();
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.starts_with("before\n") && text.ends_with("after\n"));
        assert!(text.contains("![memory](charts/memory.svg)"));
        assert!(text.contains("`full-random`") && !text.contains("old"));
        write(&report(), &charts, &path).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), text);
    }
}
