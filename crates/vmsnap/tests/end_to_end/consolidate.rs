//! Chains that become short.

use crate::sandbox::{Sandbox, id, page, pattern};
use crate::schemas::check;

// spec: CLI-79
// spec: CLI-80
#[test]
fn a_chain_is_flattened_and_its_bases_are_collected() {
    let sandbox = Sandbox::new();
    let mut memory = pattern(64, 1);
    let mut all = vec![(id(&sandbox.import("vm", &memory, &[])), memory.clone())];
    for number in 1..6 {
        page(&mut memory, 7 * number).fill(1);
        page(&mut memory, 3 * number).fill(0);
        let taken = sandbox.import("vm", &memory, &["--parent", "vm@latest"]);
        all.push((id(&taken), memory.clone()));
    }
    let last = &all[5].0;
    let within = sandbox.json(&["consolidate", last, "--max-files", "6"]);
    assert_eq!(within["snapshots"][0]["changed"], false);
    let line = [
        "consolidate",
        last,
        "--max-files",
        "4",
        "--layout",
        "packed",
    ];
    let merged = sandbox.json(&line);
    check("vmsnap.consolidate.v1", &merged);
    assert_eq!(merged["snapshots"][0]["files_after"], 2);
    let whole = sandbox.json(&["consolidate", last, "--chain"]);
    let reports = whole["snapshots"].as_array().unwrap();
    assert_eq!(reports.len(), 6);
    assert!(reports.iter().all(|one| one["files_after"] == 1));
    // The base stood alone before.
    assert_eq!(reports[0]["changed"], false);
    for (taken, memory) in &all {
        assert!(sandbox.restored(taken) == *memory);
    }
    assert_eq!(sandbox.json(&["verify"])["ok"], true);
    for (taken, _) in &all[..5] {
        sandbox.json(&["delete", taken]);
    }
    let collected = sandbox.json(&["gc"]);
    assert_eq!(collected["collected"].as_array().unwrap().len(), 5);
    check("vmsnap.gc.v1", &without_empty(collected));
    assert!(sandbox.restored("vm@latest") == all[5].1);
    let log = sandbox.json(&["audit", "--last", "100"]);
    let logged = log["last"].as_array().unwrap().iter();
    let logged = logged.filter(|entry| entry["command"] == "consolidate");
    assert_eq!(logged.count(), 3);
    sandbox.refused(&["consolidate", &all[0].0], 3);
    sandbox.refused(&["consolidate", "vm@latest", "--max-wasted", "5"], 2);
    sandbox.refused(&["consolidate", "vm@latest", "--max-files", "0"], 2);
}

/// What stays is nothing here, and has no keys to compare.
fn without_empty(mut document: serde_json::Value) -> serde_json::Value {
    assert_eq!(document["kept"].as_array().unwrap().len(), 0);
    document["kept"] = serde_json::json!([{ "id": null, "reason": null }]);
    document
}
