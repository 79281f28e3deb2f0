//! Every document has exactly the keys that the specification lists.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use serde_json::Value;

use crate::sandbox::{Sandbox, id, page, pattern};

const SPECS: [&str; 6] = [
    include_str!(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../specs/36-parity.md"
    )),
    include_str!(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../specs/09-cli.md"
    )),
    include_str!(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../specs/28-retention-commands.md"
    )),
    include_str!(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../specs/29-repair.md"
    )),
    include_str!(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../specs/34-operator-commands.md"
    )),
    include_str!(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../specs/43-vault-commands.md"
    )),
];

/// The rows of the specifications' tables of documents and groups: name and keys.
fn rows() -> BTreeMap<&'static str, Vec<&'static str>> {
    let cells = SPECS
        .iter()
        .flat_map(|spec| spec.lines())
        .filter_map(|line| {
            let (name, keys) = line.strip_prefix("| `")?.split_once("` | ")?;
            Some((name, keys.strip_suffix(" |")?.split(' ').collect()))
        });
    cells.collect()
}

/// The keys of a document, with its groups put in.
fn row(schema: &str) -> BTreeSet<String> {
    let rows = rows();
    let keys = rows
        .get(schema)
        .unwrap_or_else(|| panic!("{schema} is not specified"));
    let mut expanded = BTreeSet::new();
    for key in keys {
        match key.split_once(':') {
            None => drop(expanded.insert((*key).to_owned())),
            Some((prefix, group)) => {
                let dot = if prefix.is_empty() { "" } else { "." };
                let keys = rows[group].iter();
                expanded.extend(keys.map(|key| format!("{prefix}{dot}{key}")));
            }
        }
    }
    expanded
}

/// The keys of `value`, and those of the objects in it that the row looks into.
fn keys(value: &Value, row: &BTreeSet<String>) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut open = vec![(String::new(), value)];
    while let Some((prefix, value)) = open.pop() {
        for (key, below) in value.as_object().into_iter().flatten() {
            let name = format!("{prefix}{key}");
            let inner = [format!("{name}."), format!("{name}[].")];
            let looks_into =
                |prefix: &String| row.iter().any(|key| key.starts_with(prefix.as_str()));
            match below {
                Value::Object(_) if looks_into(&inner[0]) => open.push((inner[0].clone(), below)),
                Value::Array(all) if looks_into(&inner[1]) => {
                    assert!(!all.is_empty(), "{name} is empty: nothing to compare");
                    open.extend(all.iter().map(|one| (inner[1].clone(), one)));
                }
                _ => {}
            }
            found.insert(name);
        }
    }
    found
}

/// Asserts that `document` is of `schema` and has its keys.
pub(crate) fn check(schema: &str, document: &Value) {
    assert_eq!(document["schema"], schema);
    let row = row(schema);
    assert_eq!(keys(document, &row), row, "{schema}");
}

// spec: CLI-05
// spec: CLI-06
#[test]
fn every_document_has_the_keys_that_are_specified() {
    let sandbox = Sandbox::new();
    let mut memory = pattern(20, 1);
    sandbox.write("state", b"state");
    let more = [
        "--name", "base", "--label", "k=v", "--tag", "t", "--state", "state",
    ];
    let imported = sandbox.import("vm", &memory, &more);
    check("vmsnap.import.v1", &imported);
    let full = id(&imported);
    page(&mut memory, 1).fill(1);
    let diff = id(&sandbox.import("vm", &memory, &["--parent", &full, "--verify"]));
    let restore = ["restore", &full, "--memory", "m", "--state", "s"];
    check("vmsnap.restore.v1", &sandbox.json(&restore));
    let line = ["relayout", &full, "--layout", "packed"];
    check("vmsnap.relayout.v1", &sandbox.json(&line));
    check("vmsnap.warm.v1", &sandbox.json(&["warm", &full]));
    check(
        "vmsnap.warm-drop.v1",
        &sandbox.json(&["warm", &full, "--drop"]),
    );
    let line = ["--json", "lease", &full, "--", "true"];
    check("vmsnap.lease.v1", &sandbox.run(&line).document());
    check("vmsnap.list.v1", &sandbox.json(&["list"]));
    check("vmsnap.map.v1", &sandbox.json(&["map", &diff]));
    let plan = ["map", &diff, "--plan"];
    check("vmsnap.map-plan.v1", &sandbox.json(&plan));
    check("vmsnap.show.v1", &sandbox.json(&["show", &diff]));
    let path = sandbox.path(&format!("store/snapshots/{diff}/manifest.vms"));
    let manifest = fs::read(&path).unwrap();
    fs::remove_file(&path).unwrap();
    let run = sandbox.run(&["verify", "--json"]);
    assert_eq!(run.code, 4, "{run:?}");
    check("vmsnap.verify.v1", &run.document());
    let listed = sandbox.json(&["list"]);
    assert_eq!(listed["damaged"][0]["id"], diff.as_str());
    fs::write(&path, manifest).unwrap();
    sandbox.json(&["warm", &full]);
    check("vmsnap.df.v1", &sandbox.json(&["df"]));
    let file = format!("store/snapshots/{full}/manifest.vms");
    check("vmsnap.inspect.v1", &sandbox.json(&["inspect", &file]));
    let pages = sandbox.write("pages", b"1-3\n");
    let pages = pages.to_str().unwrap();
    let line = ["working-set", "record", &full, "--pages", pages];
    check("vmsnap.working-set-record.v1", &sandbox.json(&line));
    let line = ["working-set", "show", &full, "--runs"];
    check("vmsnap.working-set.v1", &sandbox.json(&line));
    let line = ["working-set", "drop", &full];
    check("vmsnap.working-set-drop.v1", &sandbox.json(&line));
    check("vmsnap.delete.v1", &sandbox.json(&["delete", &full]));
    check("vmsnap.trash.v1", &sandbox.json(&["trash"]));
    check("vmsnap.undelete.v1", &sandbox.json(&["undelete", &full]));
    check("vmsnap.policy.v1", &sandbox.json(&["policy", "show", "vm"]));
    check(
        "vmsnap.error.v1",
        &sandbox.refused(&["show", "vm/nobody"], 3),
    );
    let run = sandbox.run(&["verify", "--progress", "json", "--quiet"]);
    let line = run.stderr.lines().next().unwrap();
    check("vmsnap.progress.v1", &serde_json::from_str(line).unwrap());
}

// spec: CLI-06
#[test]
fn every_document_for_operators_has_the_keys_that_are_specified() {
    let sandbox = Sandbox::new();
    let mut memory = pattern(20, 1);
    sandbox.import("vm", &memory, &["--name", "base", "--label", "k=v"]);
    page(&mut memory, 1).fill(1);
    sandbox.import("vm", &memory, &["--parent", "vm/base"]);
    for (schema, line) in [
        ("vmsnap.branch.v1", "branch vm fix"),
        ("vmsnap.branches.v1", "branches vm"),
        ("vmsnap.switch.v1", "switch vm fix"),
        ("vmsnap.switch.v1", "switch vm main"),
        ("vmsnap.metadata.v1", "tag vm@latest t2"),
        ("vmsnap.diff.v1", "diff vm/base vm@latest"),
        ("vmsnap.analyze.v1", "analyze"),
        ("vmsnap.chain-info.v1", "chain-info vm@latest"),
        ("vmsnap.diagnose.v1", "diagnose"),
        ("vmsnap.profile.v1", "profile -- verify"),
        ("vmsnap.reindex.v1", "reindex"),
        ("vmsnap.access.v1", "access"),
        ("vmsnap.audit.v1", "audit"),
    ] {
        // Before the words of the command that is profiled.
        let words: Vec<&str> = std::iter::once("--json").chain(line.split(' ')).collect();
        let run = sandbox.run(&words);
        assert_eq!(run.code, 0, "{line}: {run:?}");
        check(schema, &run.document());
    }
    page(&mut memory, 2).fill(7);
    let more = ["--parent", "vm/base", "--branch", "fix"];
    sandbox.import("vm", &memory, &more);
    let line = ["merge", "vm", "fix", "--onto", "main"];
    check("vmsnap.merge.v1", &sandbox.json(&line));
    let line = ["recreate", "vm@latest", "--from-parent"];
    check("vmsnap.recreate.v1", &sandbox.json(&line));
}

// spec: CLI-03
#[test]
fn lists_select_by_vm_tag_label_and_type() {
    let sandbox = Sandbox::new();
    let memory = pattern(4, 1);
    sandbox.import("a", &memory, &["--tag", "x", "--label", "k=1"]);
    sandbox.import(
        "a",
        &memory,
        &["--parent", "a@latest", "--tag", "x", "--tag", "y"],
    );
    sandbox.import("b", &memory, &["--label", "k=2"]);
    let count = |arguments: &[&str]| {
        let listed = sandbox.json(&[&["list"], arguments].concat());
        listed["snapshots"].as_array().unwrap().len()
    };
    assert_eq!(count(&[]), 3);
    assert_eq!(count(&["A"]), 2);
    assert_eq!(count(&["--tag", "x"]), 2);
    assert_eq!(count(&["--tag", "x", "--tag", "y"]), 1);
    assert_eq!(count(&["--label", "k"]), 2);
    assert_eq!(count(&["--label", "k=2"]), 1);
    assert_eq!(count(&["--type", "full"]), 2);
    assert_eq!(count(&["--type", "diff"]), 1);
    assert_eq!(count(&["--state", "trash"]), 0);
    let tree = sandbox.run(&["tree", "a"]).stdout;
    assert_eq!(tree.lines().count(), 2);
    assert!(
        tree.lines().nth(1).unwrap().starts_with("└─ a #2"),
        "{tree}"
    );
    assert!(
        sandbox.run(&["list"]).stdout.starts_with("ID"),
        "the table has a head"
    );
}
