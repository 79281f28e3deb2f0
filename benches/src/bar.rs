//! What the design asks of a row.

use crate::row::Row;

/// A requirement, in words, and whether it is met.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Bar {
    pub(crate) text: String,
    pub(crate) is_met: bool,
}

/// How often slower a peer has to be: case, peer, ratio.
const PEERS: [(&str, &str, f64); 12] = [
    ("full-random", "squib-16k", 2.2),
    ("diff-1pct", "squib-4k", 5.0),
    ("diff-10pct", "squib-4k", 5.0),
    ("diff-50pct", "squib-4k", 5.0),
    ("working-set-cold", "demand-paging", 12.0),
    ("v1-ingest", "restic", 2.0),
    ("v1-ingest", "borg", 2.0),
    ("v2-diff", "restic", 8.0),
    ("v2-diff", "borg", 8.0),
    ("verify-full", "restic", 6.0),
    ("restore-eager", "restic", 3.0),
    ("restore-eager", "borg", 3.0),
];

/// How many bytes a case of the cold tier may store: case, count, MiB.
const STORED: [(&str, &str, f64); 2] = [
    ("v1-ingest", "bytes_stored", 280.0),
    ("v2-diff", "bytes_added", 30.0),
];

/// How often slower than a limit we may be: case, limit, ratio.
const LIMITS: [(&str, &str, f64); 8] = [
    ("full-random", "odirect", 1.25),
    ("diff-1pct", "contiguous", 1.6),
    ("diff-10pct", "contiguous", 1.25),
    ("diff-50pct", "contiguous", 1.25),
    ("first-read-8g", "first-read-1g", 1.5),
    ("first-read-depth-64", "first-read-depth-1", 1.2),
    ("warm-100m-depth-64", "warm-100m-depth-1", 1.5),
    ("working-set-cold", "odirect-read", 2.0),
];

/// How long a case may take: case, milliseconds.
const TIMES: [(&str, f64); 7] = [
    ("iterate-16m-1pct", 2.0),
    ("encode-64vcpu", 1.0),
    ("decode-64vcpu", 1.0),
    ("first-read-1g", 1.0),
    ("first-read-8g", 1.0),
    ("first-read-depth-1", 1.0),
    ("first-read-depth-64", 1.0),
];

/// What a clone may take beyond process and machine: beginning of the case, milliseconds. The
/// longest that fits counts.
const CLONES: [(&str, f64); 2] = [("clone-100-in-process", 0.1), ("clone-100", 1.0)];

/// Anonymous memory that a clone may take beyond what it wrote.
const CLONE_BYTES: f64 = 524_288.0;

/// How long a guest may stand still, once in a hundred times: from KVM's log and rings at any size;
/// and from asynchronous write protection, by itself and for each GiB.
const PAUSE_MS: f64 = 0.5;
const SCAN_MS: f64 = 0.3;
const SCAN_GIB_MS: f64 = 0.7;

/// The ratio that is asked of `case` against `rival`, if any is.
pub(crate) fn ratio(case: &str, rival: &str, is_limit: bool) -> Option<f64> {
    let bars = if is_limit { &LIMITS[..] } else { &PEERS };
    let found = bars
        .iter()
        .find(|(name, against, _)| (*name, *against) == (case, rival))?;
    Some(found.2)
}

/// What is asked of the case of `row` by itself.
pub(crate) fn of_case(row: &Row) -> Option<Bar> {
    if let Some((_, most)) = TIMES.iter().find(|(case, _)| *case == row.case) {
        return Some(Bar {
            text: format!("≤ {most} ms"),
            is_met: row.ours_ms <= *most,
        });
    }
    if let Some((_, most)) = CLONES.iter().find(|(case, _)| row.case.starts_with(case)) {
        let (ms, bytes) = (
            row.figure("per_clone_ms")?,
            row.figure("rss_beyond_written_bytes")?,
        );
        return Some(Bar {
            text: format!(
                "{ms:.2} ms each beyond process and machine, ≤ {most}; {:.2} MiB beyond what it wrote, ≤ {:.1}",
                bytes / MIB,
                CLONE_BYTES / MIB
            ),
            is_met: ms <= *most && bytes <= CLONE_BYTES,
        });
    }
    if let (true, Some(p99)) = (row.suite == "live", row.figure("p99_ms")) {
        let most = if row.case.contains("wp-async") {
            SCAN_MS + SCAN_GIB_MS * row.figure("mem_bytes")? / (MIB * 1024.0)
        } else {
            PAUSE_MS
        };
        return Some(Bar {
            text: format!("p99 of {} pauses {p99:.2} ms, ≤ {most:.2}", row.runs),
            is_met: p99 <= most,
        });
    }
    if let (Some(rss), Some(allowed)) = (row.count("rss_bytes"), row.count("rss_allowed_bytes")) {
        return Some(Bar {
            text: format!(
                "{:.1} MiB beyond the guest, ≤ {:.1}",
                mib(rss),
                mib(allowed)
            ),
            is_met: rss <= allowed,
        });
    }
    if let Some((_, name, most)) = STORED.iter().find(|(case, ..)| *case == row.case) {
        let stored = mib(row.count(name)?);
        // The bar is for a guest of 1 GiB.
        let most = most * mib(row.count("mem_bytes")?) / 1024.0;
        let mut text = format!("stored {stored:.1} MiB, ≤ {most:.0}");
        // How hard the corpus is to compress, which is made of what a host has.
        for (case, rival, _) in PEERS {
            let theirs = row.count(&format!("{rival}_{name}"));
            if let Some(theirs) = theirs.filter(|_| case == row.case) {
                text = format!("{text}; {rival} {:.1}", mib(theirs));
            }
        }
        return Some(Bar {
            text,
            is_met: stored <= most,
        });
    }
    if row.case == "full-60pct-zero" {
        let (stored, nonzero) = (row.count("bytes_stored")?, row.count("bytes_nonzero")?);
        let metadata = row.count("bytes_metadata")?;
        let (over, meta) = (percent(stored, nonzero) - 100.0, percent(metadata, nonzero));
        return Some(Bar {
            text: format!("stored {over:+.2} % of non-zero, ≤ +1; metadata {meta:.2} %, ≤ 1.5"),
            is_met: over <= 1.0 && meta <= 1.5,
        });
    }
    None
}

/// What is asked of `row` against its rival.
pub(crate) fn of_rival(row: &Row) -> Option<Bar> {
    let rival = row.against()?;
    let asked = ratio(&row.case, rival.name, rival.is_limit)?;
    let (sign, is_met) = if rival.is_limit {
        ("≤", rival.pairs.median <= asked)
    } else {
        ("≥", rival.pairs.median >= asked)
    };
    Some(Bar {
        text: format!("{sign} {asked}"),
        is_met,
    })
}

const MIB: f64 = 1_048_576.0;

#[expect(clippy::cast_precision_loss, reason = "shown with two digits")]
fn percent(part: u64, whole: u64) -> f64 {
    part as f64 * 100.0 / whole as f64
}

#[expect(clippy::cast_precision_loss, reason = "shown with one digit")]
fn mib(bytes: u64) -> f64 {
    bytes as f64 / MIB
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn row(fields: &serde_json::Value) -> Row {
        let mut row = json!({
            "suite": "memory", "case": "diff-1pct", "policy": "", "ours_ms": 1.5,
            "ours_p25_ms": 1.0, "ours_p75_ms": 2.0, "runs": 11,
        });
        for (name, value) in fields.as_object().unwrap() {
            row[name] = value.clone();
        }
        serde_json::from_value(row).unwrap()
    }

    #[test]
    fn a_peer_has_to_be_slower_and_a_limit_may_not_be_much_faster() {
        let pairs = json!({
            "peer": "squib-4k", "peer_ms": 7.4, "ratio": 4.9,
            "pair_p25": 4.8, "pair_p75": 5.1, "unstable": false,
        });
        let bar = of_rival(&row(&pairs)).unwrap();
        assert_eq!((bar.text.as_str(), bar.is_met), ("≥ 5", false));
        let pairs = json!({
            "limit": "contiguous", "limit_ms": 1.0, "limit_ratio": 1.5,
            "pair_p25": 1.4, "pair_p75": 1.6, "unstable": false,
        });
        assert!(of_rival(&row(&pairs)).unwrap().is_met);
        assert_eq!(ratio("diff-1pct", "squib-16k", false), None);
    }

    #[test]
    fn clones_and_pauses_are_judged_by_their_figures() {
        let clone = |case: &str, ms: f64, bytes: f64| {
            let figures = json!({
                "suite": "restore", "case": case, "per_clone_ms": ms,
                "rss_beyond_written_bytes": bytes,
            });
            of_case(&row(&figures)).unwrap().is_met
        };
        assert!(clone("clone-100", 0.9, 4096.0));
        assert!(!clone("clone-100", 1.1, 4096.0));
        assert!(!clone("clone-100-on-fault", 0.9, 600_000.0));
        assert!(!clone("clone-100-in-process", 0.9, 4096.0));
        let pause = |case: &str, p99: f64| {
            let figures = json!({
                "suite": "live", "case": case, "p99_ms": p99, "mem_bytes": 4_u64 << 30, "runs": 200,
            });
            of_case(&row(&figures)).unwrap()
        };
        assert!(pause("pause-4g", 0.5).is_met && !pause("pause-4g", 0.51).is_met);
        let scan = pause("pause-4g-wp-async", 3.0);
        assert_eq!(scan.text, "p99 of 200 pauses 3.00 ms, ≤ 3.10");
        assert!(scan.is_met && !pause("pause-4g-wp-async", 3.2).is_met);
    }

    #[test]
    fn cases_have_bars_of_their_own() {
        let time = row(&json!({"case": "encode-64vcpu"}));
        assert!(!of_case(&time).unwrap().is_met);
        let zero = json!({
            "case": "full-60pct-zero", "bytes_stored": 1009, "bytes_nonzero": 1000,
            "bytes_metadata": 14,
        });
        assert!(of_case(&row(&zero)).unwrap().is_met);
        let stored = json!({
            "case": "v1-ingest", "bytes_stored": 300_u64 << 20, "borg_bytes_stored": 350_u64 << 20,
            "mem_bytes": 1_u64 << 30,
        });
        let bar = of_case(&row(&stored)).unwrap();
        assert_eq!(bar.text, "stored 300.0 MiB, ≤ 280; borg 350.0");
        assert!(!bar.is_met);
        let rss = json!({"case": "rss", "rss_bytes": 2 << 20, "rss_allowed_bytes": 1 << 20});
        let bar = of_case(&row(&rss)).unwrap();
        assert_eq!(bar.text, "2.0 MiB beyond the guest, ≤ 1.0");
        assert!(!bar.is_met);
        assert_eq!(of_case(&row(&json!({}))), None);
    }
}
