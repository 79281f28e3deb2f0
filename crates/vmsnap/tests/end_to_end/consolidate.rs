//! Chains that become short.

use serde_json::Value;

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

// spec: CLI-81
// spec: CON-15
#[test]
fn a_policy_keeps_chains_short_after_each_import_and_when_pruning() {
    let sandbox = Sandbox::new();
    let mut memory = pattern(64, 1);
    let mut all = vec![(id(&sandbox.import("vm", &memory, &[])), memory.clone())];
    let set = sandbox.json(&["policy", "set", "vm", "--max-files", "4"]);
    check("vmsnap.policy.v1", &set);
    assert_eq!(set["policy"]["consolidation"]["max_files"], 4);
    let mut cut = Vec::new();
    for number in 1..8 {
        page(&mut memory, 7 * number).fill(1);
        let taken = sandbox.import("vm", &memory, &["--parent", "vm@latest"]);
        assert_eq!(taken["consolidation_problem"], Value::Null);
        if !taken["consolidation"].is_null() {
            assert_eq!(taken["consolidation"]["files_after"], 2);
            cut.push(number);
        }
        all.push((id(&taken), memory.clone()));
    }
    assert_eq!(cut, [4, 7]);
    for (taken, memory) in &all {
        assert!(sandbox.restored(taken) == *memory);
    }
    // Pruning: what is kept of hidden bases is merged, and then they can go.
    let line = ["prune", "vm", "--keep-last", "1", "--max-wasted", "0"];
    let before = sandbox.listing();
    let planned = sandbox.json(&[&line[..], &["--dry-run"]].concat());
    assert_eq!(sandbox.listing(), before);
    let decision = &planned["chains"][0]["decisions"][0];
    assert_eq!(decision["id"], *all[7].0);
    assert_eq!(decision["action"], "consolidate");
    assert_eq!(decision["reasons"][0]["is"], "too_wasteful");
    let done = sandbox.json(&line);
    check("vmsnap.prune.v1", &done);
    assert_eq!(done["chains"], planned["chains"]);
    assert_eq!(done["consolidated"][0]["files_after"], 1);
    assert_eq!(done["failed"], Value::Array(Vec::new()));
    let collected = sandbox.json(&["gc"]);
    assert_eq!(collected["collected"].as_array().unwrap().len(), 7);
    assert!(sandbox.restored("vm@latest") == all[7].1);
    assert_eq!(sandbox.json(&["verify"])["ok"], true);
    // The stored policy says nothing of what is kept: nothing is deleted by it.
    let by_policy = sandbox.json(&["prune"]);
    assert_eq!(by_policy["machines"], Value::Array(Vec::new()));
    assert_eq!(by_policy["chains"][0]["decisions"][0]["action"], "leave");
    let told = sandbox.run(&["prune"]);
    assert!(told.stdout.contains("within the policy"), "{told:?}");
    let told = sandbox.run(&["policy", "show", "vm"]);
    assert!(told.stdout.contains("--max-files 4"), "{told:?}");
    sandbox.refused(&["policy", "set", "vm", "--max-runs", "5"], 2);
    sandbox.refused(&["policy", "set", "vm", "--max-files", "0"], 2);
    let schedule = [
        "--every",
        "1d",
        "--from",
        "2026-01-01",
        "--to",
        "2026-01-10",
    ];
    let rules = ["--keep-last", "3", "--max-files", "4"];
    let line = [&["policy", "simulate"], &rules[..], &schedule[..]].concat();
    let simulated = sandbox.json(&line);
    assert_eq!(simulated["chains"]["longest"], 4);
    assert_eq!(simulated["chains"]["cut"], 2);
}

/// What stays is nothing here, and has no keys to compare.
fn without_empty(mut document: Value) -> Value {
    assert_eq!(document["kept"].as_array().unwrap().len(), 0);
    document["kept"] = serde_json::json!([{ "id": null, "reason": null }]);
    document
}
