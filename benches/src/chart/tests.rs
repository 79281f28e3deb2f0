use serde_json::json;

use super::*;
use crate::machine::Machine;

fn report() -> Report {
    let row = |case: &str, rival: serde_json::Value| {
        let mut row = json!({
            "suite": "memory", "case": case, "policy": "", "file_system": "ext4",
            "ours_ms": 55.5, "ours_p25_ms": 50.0, "ours_p75_ms": 60.0, "runs": 11,
            "mem_bytes": 1 << 30,
        });
        for (name, value) in rival.as_object().unwrap() {
            row[name] = value.clone();
        }
        row
    };
    let peer = json!({
        "peer": "squib-4k", "peer_ms": 360.0, "ratio": 6.49,
        "pair_p25": 6.2, "pair_p75": 9.7, "unstable": true,
    });
    let limit = json!({
        "limit": "contiguous", "limit_ms": 48.0, "limit_ratio": 1.16,
        "pair_p25": 1.1, "pair_p75": 1.2, "unstable": false,
    });
    let of = |suite: &str, case: &str| {
        let mut row = row(case, peer.clone());
        row["suite"] = suite.into();
        row
    };
    let rows = json!([
        of("live", "pause-4g"),
        of("restore", "first-read-1g"),
        of("restore", "clone-100"),
        row("diff-10pct", peer.clone()),
        row("diff-10pct", limit.clone()),
        row("diff-10pct-xfs", peer.clone()),
        row("diff-10pct-sparse", limit),
        row("rss", json!({"rss_bytes": 1})),
    ]);
    Report {
        machine: Machine::look(&std::env::temp_dir()),
        rows: serde_json::from_value(rows).unwrap(),
    }
}

#[test]
fn each_group_has_a_chart_of_times_and_one_of_ratios() {
    let dir = tempfile::tempdir().unwrap();
    draw(&report(), dir.path()).unwrap();
    let mut names: Vec<String> = fs::read_dir(dir.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort_unstable();
    let expected = [
        "live-ratios.svg",
        "live.svg",
        "memory-ratios.svg",
        "memory-variants-ratios.svg",
        "memory-variants.svg",
        "memory-xfs-ratios.svg",
        "memory-xfs.svg",
        "memory.svg",
        "restore-first-ratios.svg",
        "restore-first.svg",
        "restore-warm-ratios.svg",
        "restore-warm.svg",
    ];
    assert_eq!(names, expected);
}

#[test]
fn a_chart_names_title_axis_legend_and_figures() {
    let report = report();
    let groups = groups(&report.rows);
    let rows = &groups["memory"];
    let times = svg(Kind::Times, rows).unwrap();
    for word in [
        "Time to write guest memory: 1024 MiB on ext4",
        "milliseconds, median, logarithmic (less is better)",
        "limit of the machine",
        "diff-10pct: vmsnap",
        "squib-4k",
        "55.5 ms",
        "360 ms",
        "48.0 ms",
    ] {
        assert!(times.contains(word), "{word} is not in the chart");
    }
    let ratios = svg(Kind::Ratios, rows).unwrap();
    for word in [
        "peer ÷ vmsnap (more is better)",
        "what the design asks for",
        "diff-10pct: contiguous",
        "6.49 unstable",
        "1.16",
    ] {
        assert!(ratios.contains(word), "{word} is not in the chart");
    }
}

#[test]
fn the_same_rows_give_the_same_bytes() {
    let report = report();
    let groups = groups(&report.rows);
    let draw = || svg(Kind::Ratios, &groups["memory"]).unwrap();
    assert_eq!(draw(), draw());
}

#[test]
fn a_bar_is_as_long_as_the_logarithm_of_its_time() {
    let report = report();
    let lines = line::times(&groups(&report.rows)["memory"]);
    let (low, high) = bounds(&lines);
    assert!(low < 48.0 && low > 4.8 && high > 360.0);
    let ratios = line::ratios(&groups(&report.rows)["memory"]);
    assert_eq!(ratios[0].asked, Some(5.0));
    assert_eq!(ratios[1].asked, Some(1.25));
    // Both bars and both whiskers lie on the axis.
    let (low, high) = bounds(&ratios);
    assert!(low < 1.1 && high > 9.7);
}
