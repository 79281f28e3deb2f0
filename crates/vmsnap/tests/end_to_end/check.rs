//! Whether a host can run a snapshot, without looking at more than its manifest.

use std::fs;

use serde_json::{Value, json};
use snapshot_format::state::{Capability, CpuidEntry, Fingerprint};
use snapshot_format::{Arch, Digest, SectionPayload, SnapshotId, StateFile, StatePayload};
use snapshot_memory::skip::skip;

use crate::sandbox::{Sandbox, id, pattern};
use crate::schemas::check;

fn fingerprint() -> Fingerprint {
    Fingerprint {
        arch: Arch::X86_64.number(),
        vendor: "AuthenticAMD".into(),
        family: 26,
        model: 2,
        stepping: 1,
        page_bytes: 4096,
        tsc_khz: 2_600_000,
        cpuid: vec![CpuidEntry {
            function: 1,
            edx: 1 << 25,
            ..CpuidEntry::default()
        }],
        msrs: vec![0x10, 0x277],
        capabilities: vec![Capability {
            number: 208,
            value: 2696,
        }],
        kernel: "6.18".into(),
        ..Fingerprint::default()
    }
}

/// A snapshot that needs such a host, whose memory and state are gone since.
fn snapshot(sandbox: &Sandbox) -> String {
    let state = StateFile {
        id: SnapshotId([1; 16]),
        parent: None,
        arch: Arch::X86_64,
        sections: vec![SectionPayload::of(0, &fingerprint())],
    };
    sandbox.write("state", &state.encode());
    let config = tinyvm::GuestConfig {
        memory_bytes: 2 << 20,
        ..tinyvm::GuestConfig::default()
    };
    sandbox.write("config", &config.to_bytes());
    let more = ["--state", "state", "--config", "config"];
    let id = id(&sandbox.import("vm", &pattern(512, 1), &more));
    for file in ["memory.img", "memory.map", "state.vms"] {
        fs::remove_file(sandbox.path(&format!("store/snapshots/{id}/{file}"))).unwrap();
    }
    id
}

/// Writes a host file.
fn host(sandbox: &Sandbox, fingerprint: &Fingerprint) {
    let bytes = fingerprint.encode();
    let hex: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let document = json!({
        "schema": "vmsnap.host.v1",
        "payload": {
            "version": Fingerprint::VERSION,
            "digest": Digest::of(&bytes).to_string(),
            "bytes": hex.concat(),
        },
    });
    sandbox.write("host", document.to_string().as_bytes());
}

fn kinds(document: &Value) -> Vec<&str> {
    let reasons = document["reasons"].as_array().unwrap();
    let kinds = reasons
        .iter()
        .map(|reason| reason["kind"].as_str().unwrap());
    kinds.collect()
}

// spec: CLI-37
// spec: RES-13
// spec: RES-14
#[test]
fn each_field_of_a_host_gives_its_reason_alone_with_neither_memory_nor_state_there() {
    type Change = fn(&mut Fingerprint);
    let changes: [(Change, &str); 9] = [
        (|f| f.arch = 2, "architecture"),
        (|f| f.vendor = "GenuineIntel".into(), "vendor"),
        (|f| f.family = 25, "model"),
        (|f| f.model = 1, "model"),
        (|f| f.page_bytes = 65536, "page_size"),
        (|f| f.tsc_khz = 2_000_000, "tsc_frequency"),
        (|f| f.cpuid.clear(), "cpuid"),
        (|f| f.msrs.truncate(1), "msr"),
        (|f| f.capabilities.clear(), "capability"),
    ];
    let sandbox = Sandbox::new();
    let id = snapshot(&sandbox);
    let line = ["check", &id, "--host", "host", "--json"];
    host(&sandbox, &fingerprint());
    let same = sandbox.run(&line);
    assert_eq!(same.code, 0, "{same:?}");
    assert_eq!(same.document()["reasons"], json!([]));
    assert_eq!(same.document()["compatible"], true);
    for (change, kind) in changes {
        let mut other = fingerprint();
        change(&mut other);
        host(&sandbox, &other);
        let run = sandbox.run(&line);
        assert_eq!(run.code, 5, "{run:?}");
        let document = run.document();
        check("vmsnap.check.v1", &document);
        assert_eq!(kinds(&document), [kind]);
        assert_eq!(document["compatible"], false);
        let named = document["override_with"].as_str();
        assert_eq!(named, (kind != "architecture").then_some(kind));
        // People are told the same.
        let told = sandbox.run(&["check", &id, "--host", "host"]);
        assert_eq!(told.code, 5);
        let message = document["reasons"][0]["message"].as_str().unwrap();
        assert!(told.stdout.contains(message), "{told:?}");
    }
}

// spec: CLI-38
// spec: RES-15
#[test]
fn what_is_overridden_is_said_and_no_reason_any_more() {
    let sandbox = Sandbox::new();
    let id = snapshot(&sandbox);
    let mut other = fingerprint();
    other.vendor = "GenuineIntel".into();
    other.msrs.clear();
    host(&sandbox, &other);
    let run = |kinds: &str| {
        let line = [
            "check",
            &id,
            "--host",
            "host",
            "--override",
            kinds,
            "--json",
        ];
        sandbox.run(&line)
    };
    let half = run("vendor");
    assert_eq!(half.code, 5, "{half:?}");
    let document = half.document();
    let marks = |document: &Value| -> Vec<bool> {
        let reasons = document["reasons"].as_array().unwrap();
        let marks = reasons.iter().map(|reason| reason["overridden"] == true);
        marks.collect()
    };
    assert_eq!(kinds(&document), ["vendor", "msr", "msr"]);
    assert_eq!(marks(&document), [true, false, false]);
    assert_eq!(document["override_with"], "msr");
    let whole = run("vendor,msr");
    assert_eq!(whole.code, 0, "{whole:?}");
    assert_eq!(marks(&whole.document()), [true; 3]);

    for kind in ["colour", "architecture", "machine", "vendor,colour"] {
        let line = ["check", &id, "--host", "host", "--override", kind];
        sandbox.refused(&line, 2);
        sandbox.refused(&["demo", "--override", kind], 2);
    }
}

// spec: CLI-39
#[test]
fn what_cannot_be_decided_is_no_verdict() {
    let sandbox = Sandbox::new();
    let plain = id(&sandbox.import("vm", &pattern(4, 1), &[]));
    let unsupported = sandbox.refused(&["check", &plain], 1);
    assert_eq!(unsupported["error"]["kind"], "unsupported");
    sandbox.refused(&["check", "vm/nobody"], 3);
    sandbox.refused(&["check"], 2);
    sandbox.refused(&["check", &plain, "--print-host"], 2);
    let id = snapshot(&sandbox);
    sandbox.refused(&["check", &id, "--host", "nowhere"], 3);
    sandbox.write("host", b"{}");
    sandbox.refused(&["check", &id, "--host", "host"], 2);
    if tinyvm::kvm_available().is_err() {
        for line in [&["check", &id][..], &["check", "--print-host"]] {
            let unsupported = sandbox.refused(line, 1);
            assert_eq!(unsupported["error"]["kind"], "unsupported");
        }
    }
}

// spec: RES-13
#[test]
fn a_guest_that_the_host_cannot_run_is_refused_before_its_state_is_looked_for() {
    let sandbox = Sandbox::new();
    let id = snapshot(&sandbox);
    let refused = sandbox.refused(&["demo-restore", &id, "--backend", "process"], 5);
    let message = refused["error"]["message"].as_str().unwrap();
    assert!(message.contains("architecture"), "{message}");
}

// spec: CLI-37
#[test]
fn a_guest_hosted_by_a_process_runs_wherever_the_program_does() {
    let sandbox = Sandbox::new();
    let line = [
        "demo",
        "--backend",
        "process",
        "--mem",
        "2M",
        "--rounds",
        "1",
    ];
    sandbox.json(&line);
    let checked = sandbox.json(&["check", "demo@latest"]);
    assert_eq!(checked["compatible"], true);
    assert_eq!(checked["host"], Value::Null);
}

// spec: CLI-40
#[test]
fn a_host_that_describes_itself_runs_its_own_snapshots_here_and_by_its_file() {
    if let Err(error) = tinyvm::kvm_available() {
        return skip("kvm", &error.to_string());
    }
    let sandbox = Sandbox::new();
    sandbox.json(&["demo", "--backend", "kvm", "--mem", "2M", "--rounds", "1"]);
    assert_eq!(sandbox.json(&["check", "demo@latest"])["compatible"], true);
    let printed = sandbox.run(&["check", "--print-host"]);
    assert_eq!(printed.code, 0, "{printed:?}");
    check("vmsnap.host.v1", &printed.document());
    sandbox.write("here", printed.stdout.as_bytes());
    let by_file = sandbox.json(&["check", "demo@latest", "--host", "here"]);
    assert_eq!(by_file["compatible"], true);
    assert_eq!(by_file["host"], "here");
}
