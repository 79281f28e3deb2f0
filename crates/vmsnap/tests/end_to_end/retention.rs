//! Policies, pruning and the collection of garbage.

use std::fs;

use serde_json::Value;

use crate::sandbox::{Sandbox, id, page, pattern};
use crate::schemas::check;

/// A chain of so many snapshots of `vm`, each with what it restores to.
fn chain(sandbox: &Sandbox, len: usize) -> Vec<(String, Vec<u8>)> {
    let mut memory = pattern(16, 1);
    let mut all: Vec<(String, Vec<u8>)> = Vec::new();
    for number in 0..len {
        page(&mut memory, 3).fill(u8::try_from(number).unwrap() + 1);
        let line: &[&str] = if number == 0 {
            &[]
        } else {
            &["--parent", "vm@latest"]
        };
        let taken = id(&sandbox.import("vm", &memory, line));
        all.push((taken, memory.clone()));
    }
    all
}

fn ids(list: &Value) -> Vec<&str> {
    let all = list.as_array().unwrap().iter();
    all.map(|one| one.as_str().unwrap_or_else(|| one["id"].as_str().unwrap()))
        .collect()
}

// spec: CLI-73
// spec: CLI-74
// spec: CLI-76
#[test]
fn what_is_pruned_can_come_back_until_it_is_collected() {
    let sandbox = Sandbox::new();
    let all = chain(&sandbox, 4);
    let line = ["prune", "vm", "--keep-last", "1"];
    let before = sandbox.listing();
    let planned = sandbox.json(&[&line[..], &["--dry-run"]].concat());
    check("vmsnap.prune.v1", &planned);
    assert_eq!(sandbox.listing(), before);
    let done = sandbox.json(&line);
    assert_eq!(done["removed"], planned["removed"]);
    assert_eq!(ids(&done["removed"]), [&all[2].0, &all[1].0, &all[0].0]);
    let decisions = done["machines"][0]["decisions"].as_array().unwrap();
    let actions: Vec<_> = decisions.iter().map(|one| one["action"].as_str()).collect();
    assert_eq!(
        actions.iter().filter(|one| **one == Some("remove")).count(),
        3
    );
    assert_eq!(ids(&decisions[0]["hidden_base_of"]), [&all[3].0]);
    assert!(sandbox.restored("vm@latest") == all[3].1);
    // What the last one needs stays; nothing else is there to be collected.
    let kept = sandbox.json(&["gc"]);
    assert_eq!(kept["collected"].as_array().unwrap().len(), 0);
    assert_eq!(kept["kept"].as_array().unwrap().len(), 3);
    for (deleted, memory) in &all[..3] {
        sandbox.json(&["undelete", deleted]);
        assert!(sandbox.restored(deleted) == *memory);
    }
    for (taken, _) in &all {
        sandbox.json(&["delete", taken]);
    }
    let planned = sandbox.json(&["gc", "--dry-run"]);
    check_gc(&planned);
    let done = sandbox.json(&["gc"]);
    assert_eq!(done["collected"].as_array().unwrap().len(), 4);
    assert!(done["freed_bytes"].as_u64().unwrap() > 0);
    sandbox.refused(&["undelete", &all[0].0], 3);
    assert_eq!(sandbox.json(&["df"])["trash_bytes"], 0);
    assert_eq!(
        fs::read_dir(sandbox.path("store/trash")).unwrap().count(),
        0
    );
}

/// A plan of a collection with something in every list but `trimmed`.
fn check_gc(document: &Value) {
    assert_eq!(document["schema"], "vmsnap.gc.v1");
    assert_eq!(document["dry_run"], true);
    assert_eq!(document["collected"].as_array().unwrap().len(), 1);
    assert_eq!(document["kept"].as_array().unwrap().len(), 3);
    assert_eq!(document["kept"][0]["reason"]["is"], "needed");
}

// spec: CLI-75
// spec: CLI-77
#[test]
fn what_stands_in_the_way_is_told_by_the_code() {
    let sandbox = Sandbox::new();
    let memory = pattern(16, 1);
    for _ in 0..3 {
        sandbox.import("vm", &memory, &[]);
    }
    let run = sandbox.run(&["prune", "vm", "--max-bytes", "1", "--json"]);
    assert_eq!(run.code, 1, "{run:?}");
    let done = run.document();
    assert_eq!(done["removed"].as_array().unwrap().len(), 2);
    let unmet = &done["machines"][0]["unmet"][0];
    assert_eq!(unmet["cap"], "max_bytes");
    assert_eq!(unmet["limit"], 1);
    let standing = &unmet["standing"][0];
    assert!(
        standing["holds"]
            .as_array()
            .unwrap()
            .iter()
            .any(|hold| hold["is"] == "head")
    );
    let plain = sandbox.run(&["prune", "vm", "--max-bytes", "1"]);
    assert!(plain.stdout.contains("not met"), "{plain:?}");
    // One that cannot be read may need anything.
    let listed = sandbox.json(&["list"]);
    let left = listed["snapshots"][0]["id"].as_str().unwrap();
    fs::remove_file(sandbox.path(&format!("store/snapshots/{left}/place.1.vms"))).unwrap();
    let run = sandbox.run(&["gc", "--json"]);
    assert_eq!(run.code, 11, "{run:?}");
    let done = run.document();
    assert_eq!(done["collected"].as_array().unwrap().len(), 0);
    assert_eq!(done["problems"][0]["id"], left);
}

// spec: CLI-70
// spec: CLI-71
// spec: CLI-73
// spec: CLI-78
#[test]
fn a_policy_is_kept_shown_applied_and_taken_away() {
    let sandbox = Sandbox::new();
    chain(&sandbox, 3);
    sandbox.import("other", &pattern(4, 2), &[]);
    sandbox.refused(&["policy", "set", "vm"], 2);
    sandbox.refused(&["policy", "set", "vm", "--keep-daily", "0"], 2);
    sandbox.refused(
        &["policy", "set", "vm", "--keep-last", "1", "--zone", "Here"],
        2,
    );
    sandbox.refused(&["prune", "vm"], 2);
    sandbox.refused(&["prune", "nobody", "--keep-last", "1"], 3);
    let line = [
        "policy",
        "set",
        "vm",
        "--keep-last",
        "2",
        "--keep-weekly",
        "6mo",
    ];
    let more = [
        "--keep-label",
        "team=core",
        "--zone",
        "Europe/Berlin",
        "--max-age",
        "2y",
    ];
    let set = sandbox.json(&[&line[..], &more].concat());
    check("vmsnap.policy.v1", &set);
    assert_eq!(sandbox.json(&["policy", "show", "vm"]), set);
    // What people are shown is what sets it.
    let shown = sandbox.run(&["policy", "show", "vm"]).stdout;
    let words = shown.strip_prefix("vm: ").unwrap().split(';').next();
    let words: Vec<String> = words
        .unwrap()
        .split(' ')
        .map(|word| word.replace('\'', ""))
        .collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    sandbox.json(&["policy", "clear", "vm"]);
    let again = [&["policy", "set", "vm"], &words[..]].concat();
    assert_eq!(sandbox.json(&again), set, "{shown}");
    // Only a machine that has a policy is pruned.
    let pruned = sandbox.json(&["prune"]);
    assert_eq!(pruned["machines"].as_array().unwrap().len(), 1);
    assert_eq!(pruned["removed"].as_array().unwrap().len(), 1);
    assert_eq!(pruned["machines"][0]["zone"], "Europe/Berlin");

    sandbox.json(&["policy", "set", "other", "--quota", "1M"]);
    sandbox.write("memory", &pattern(4, 2));
    let refused = sandbox.refused(&["import", "other", "--memory", "memory"], 7);
    let message = refused["error"]["message"].as_str().unwrap();
    assert!(message.contains("1048576"), "{message}");
    sandbox.json(&["policy", "clear", "other"]);
    sandbox.import("other", &pattern(4, 2), &[]);

    let file = sandbox.path("store/vms/vm.policy");
    let mut bytes = fs::read(&file).unwrap();
    bytes[100] ^= 1;
    fs::write(&file, bytes).unwrap();
    sandbox.refused(&["prune"], 4);
    sandbox.refused(&["policy", "show", "vm"], 4);
    sandbox.json(&["policy", "clear", "vm"]);
    assert_eq!(
        sandbox.json(&["policy", "show", "vm"])["policy"]["retention"],
        Value::Null
    );
}

// spec: CLI-72
#[test]
fn a_policy_is_tried_over_a_calendar_without_a_store() {
    let sandbox = Sandbox::new();
    let line = [
        "policy",
        "simulate",
        "--keep-daily",
        "7",
        "--keep-monthly",
        "12",
        "--every",
        "6h",
    ];
    let span = ["--from", "2026-01-01", "--to", "2026-07-01T00:00"];
    let found = sandbox.json(&[&line[..], &span].concat());
    check("vmsnap.policy-simulate.v1", &found);
    assert_eq!(found["taken"], 181 * 4);
    assert_eq!(found["kept"].as_array().unwrap().len(), 12);
    let drawn = sandbox.run(&[&line[..], &span].concat()).stdout;
    assert_eq!(
        drawn
            .lines()
            .filter(|line| line.starts_with("2026-"))
            .count(),
        6
    );
    let backwards = ["--from", "2026-01-01", "--to", "yesterday"];
    sandbox.refused(&[&line[..], &backwards].concat(), 2);
}
