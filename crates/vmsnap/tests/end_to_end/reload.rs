//! Restoring without running, and capturing again.

use serde_json::Value;
use snapshot_memory::skip::skip;

use crate::sandbox::{Sandbox, id, pattern};
use crate::schemas::check;

fn reload(backend: &str) -> Value {
    let sandbox = Sandbox::new();
    sandbox.json(&["demo", "--backend", backend, "--mem", "2M", "--rounds", "1"]);
    let document = sandbox.json(&["verify", "demo@latest", "--reload"]);
    check("vmsnap.verify-reload.v1", &document);
    assert_eq!(document["ok"], true);
    let found = &document["reload"];
    assert_eq!(found["backend"], backend);
    assert_eq!(found["pages"], 512);
    assert_eq!(found["differences"].as_array().unwrap().len(), 0);
    let told = sandbox.run(&["verify", "demo@latest", "--reload"]);
    assert_eq!(told.code, 0, "{told:?}");
    assert!(told.stdout.contains("is what was saved"), "{told:?}");
    document
}

// spec: CLI-41
#[test]
fn a_guest_hosted_by_a_process_reloads_without_a_difference() {
    let document = reload("process");
    assert_eq!(document["reload"]["allowed"].as_array().unwrap().len(), 0);
}

// spec: CLI-41
// spec: RES-19
#[test]
fn a_kvm_guest_reloads_with_nothing_but_clocks_that_went_on() {
    if let Err(error) = tinyvm::kvm_available() {
        return skip("kvm", &error.to_string());
    }
    let document = reload("kvm");
    let allowed = document["reload"]["allowed"].as_array().unwrap();
    assert!(!allowed.is_empty(), "no clock went on");
    for one in allowed {
        assert!(!one["reason"].as_str().unwrap().is_empty(), "{one}");
        assert_ne!(one["saved"], one["again"], "{one}");
    }
}

// spec: CLI-41
#[test]
fn what_cannot_be_reloaded_is_refused_with_the_reason() {
    let sandbox = Sandbox::new();
    let foreign = id(&sandbox.import("vm", &pattern(4, 1), &[]));
    let refused = sandbox.refused(&["verify", &foreign, "--reload"], 5);
    let hint = refused["error"]["hint"].as_str().unwrap();
    assert!(hint.contains("demo"), "{refused}");
    sandbox.refused(&["verify", "--reload"], 2);
    sandbox.refused(&["verify", "--all", "--reload"], 2);
    sandbox.refused(&["verify", &foreign, "--override", "vendor"], 2);
    // Damage is found first, and nothing is restored.
    let map = sandbox.path(&format!("store/snapshots/{foreign}/memory.map"));
    std::fs::remove_file(map).unwrap();
    let run = sandbox.run(&["verify", &foreign, "--reload", "--json"]);
    assert_eq!(run.code, 4, "{run:?}");
    assert_eq!(run.document()["reload"], Value::Null);
}
