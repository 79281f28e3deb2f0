//! The demo, on the guest that runs everywhere and on the one that needs KVM.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use serde_json::Value;
use snapshot_memory::skip::skip;

use crate::sandbox::{Run, Sandbox};
use crate::schemas::check;

/// Runs a small demo in a store, and looks at what it says and at what it leaves.
fn demonstrate(backend: &str) {
    let sandbox = Sandbox::new();
    let line = ["demo", "--backend", backend, "--mem", "8M", "--rounds", "2"];
    let document = sandbox.json(&[&line[..], &["--clones", "3"]].concat());
    check("vmsnap.demo.v1", &document);
    assert_eq!(document["backend"], backend);
    assert_eq!(document["verified"], true);
    assert_eq!(document["rounds"], 2);
    let snapshots = document["snapshots"].as_array().unwrap();
    assert_eq!(snapshots.len(), 4, "a full one, two diffs, a branch");
    let branches: Vec<_> = snapshots.iter().map(|one| &one["branch"]).collect();
    assert_eq!(branches, ["main", "main", "main", "second"]);
    assert_eq!(snapshots[3]["parent"], snapshots[1]["id"]);
    for one in snapshots {
        assert_eq!(one["same_end"], true, "{one}");
        let metrics = &one["metrics"];
        let pause = metrics["snapshot"]["pause"]["write_ns"].as_u64();
        let restore = metrics["restore"]["restore"]["memory_ns"].as_u64();
        assert!(pause.is_some() && restore.is_some(), "{one}");
        let sources = metrics["snapshot"]["tracking"]["sources"].as_array();
        assert!(sources.is_some_and(|sources| !sources.is_empty()), "{one}");
        let parts = one["pause"].as_object().unwrap().values();
        let parts: f64 = parts.map(|part| part.as_f64().unwrap()).sum();
        let pause = one["pause_ms"].as_f64().unwrap();
        // Each of nine parts is rounded up to a microsecond.
        assert!((0.0..0.010).contains(&(parts - pause + 0.001)), "{one}");
        let sync = one["sync_ms"].as_f64().unwrap();
        let after = ["seal_ms", "publish_ms"].map(|key| one[key].as_f64().unwrap());
        assert!((after[0] + after[1] - sync).abs() < 0.002, "{one}");
        let pages = ["present", "zero", "inherited"].map(|key| one["pages"][key].as_u64().unwrap());
        assert_eq!(pages.iter().sum::<u64>(), 2048, "{one}");
    }
    let clones = document["clones"].as_array().unwrap();
    assert_eq!(clones.len(), 3);
    assert!(clones.iter().all(|clone| clone["same_end"] == true));
    let all = snapshots.iter().chain(clones);
    let identities: BTreeSet<_> = all.map(|one| one["generation"].as_str().unwrap()).collect();
    assert_eq!(identities.len(), 7, "{identities:?}");
    // Anyone can check them afterwards.
    assert_eq!(sandbox.json(&["verify"])["snapshots"], 4);
    assert_eq!(sandbox.restored("demo@latest").len(), 8 << 20);
    let tree = sandbox.json(&["tree", "demo"]);
    let depths: Vec<_> = tree["entries"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| entry["depth"].as_u64().unwrap())
        .collect();
    assert_eq!(depths, [0, 1, 2, 2]);
}

// spec: CLI-30
#[test]
fn a_guest_hosted_by_a_process_is_frozen_and_brought_back() {
    demonstrate("process");
}

// spec: CLI-30
#[test]
fn a_kvm_guest_is_frozen_and_brought_back() {
    if let Err(error) = tinyvm::kvm_available() {
        return skip("kvm", &error.to_string());
    }
    demonstrate("kvm");
}

// spec: CLI-30
#[test]
fn without_a_store_nothing_stays() {
    let sandbox = Sandbox::new();
    let run = Command::new(env!("CARGO_BIN_EXE_vmsnap"))
        .args([
            "demo",
            "--backend",
            "process",
            "--mem",
            "4M",
            "--rounds",
            "1",
        ])
        .env_remove("VMSNAP_STORE")
        .env("TMPDIR", sandbox.root())
        .output()
        .unwrap();
    let run = Run::of(&run);
    assert_eq!(run.code, 0, "{run:?}");
    assert!(run.stdout.contains("verified"), "{run:?}");
    for part in [
        "stop", "notify", "quiesce", "vCPUs", "devices", "harvest", "publish",
    ] {
        let mut lines = run.stdout.lines();
        assert!(lines.any(|line| line.starts_with(part)), "{part}: {run:?}");
    }
    assert_eq!(fs::read_dir(sandbox.root()).unwrap().count(), 0);

    let odd = sandbox.run(&["demo", "--mem", "5M", "--json"]);
    assert_eq!(odd.code, 2);
    let document: Value = odd.document();
    assert_eq!(document["error"]["kind"], "usage");
    assert!(!sandbox.store().exists());
}
