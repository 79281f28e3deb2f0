//! Pages laid out anew, before and after everything else that is done with a snapshot.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use crate::sandbox::{Sandbox, id, page, pattern};

// spec: CLI-33
// spec: CLI-34
// spec: CLI-35
#[test]
fn every_layout_restores_to_the_same_bytes_and_serves_children() {
    let sandbox = Sandbox::new();
    let mut memory = pattern(200, 1);
    // What compresses.
    (100..164).for_each(|at| page(&mut memory, at).fill(7));
    let base = memory.clone();
    let full = id(&sandbox.import("vm", &memory, &["--name", "base"]));
    page(&mut memory, 3).fill(1);
    page(&mut memory, 120).fill(0);
    let diff = id(&sandbox.import("vm", &memory, &["--parent", "vm/base"]));

    let before = sandbox.json(&["show", &full]);
    let rounds: [(&[&str], &str); 4] = [
        (&["--layout", "packed"], "packed"),
        (&["--layout", "packed", "--compress", "zstd:3"], "frames"),
        (&["--layout", "packed", "--compress", "lz4"], "frames"),
        (&["--layout", "sparse", "--background"], "sparse"),
    ];
    for (round, (options, layout)) in rounds.into_iter().enumerate() {
        let line = [&["relayout", "vm/base"], options].concat();
        let laid = sandbox.json(&line);
        assert_eq!(laid["changed"], true, "{laid}");
        assert_eq!(laid["layout"], layout);
        assert_eq!(laid["generation"], round as u64 + 2);
        // Sparse was how it lay at first: that file counts again.
        assert_eq!(laid["written"], layout != "sparse", "{laid}");
        assert!(sandbox.restored("vm/base") == base, "{layout}");
        assert!(sandbox.restored(&diff) == memory, "{layout}");
        assert_eq!(sandbox.json(&["verify"])["ok"], true, "{layout}");
        let listing = sandbox.listing();
        let again = sandbox.json(&line);
        assert_eq!(
            (again["changed"].as_bool(), &again["generation"]),
            (Some(false), &laid["generation"])
        );
        assert_eq!(sandbox.listing(), listing);
        let child = sandbox.import("vm", &memory, &["--parent", "vm/base"]);
        assert!(sandbox.restored(&id(&child)) == memory, "{layout}");
    }
    let shown = sandbox.json(&["show", &full]);
    assert_eq!(shown["digest"], before["digest"]);
    assert_eq!(shown["generation"], 5);

    let folder = sandbox.path(&format!("store/snapshots/{full}"));
    let blocks = |name: &str| fs::metadata(folder.join(name)).unwrap().blocks();
    // 136 pages of noise, 64 that are all alike.
    assert!(blocks("memory.2.img") < blocks("memory.1.img") * 3 / 4);
    for entry in fs::read_dir(&folder).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        let mode = entry.metadata().unwrap().permissions().mode() & 0o777;
        if name != "snapshot.json" {
            assert_eq!(mode, 0o400, "{name}");
        }
        let inspected = format!("store/snapshots/{full}/{name}");
        if name.ends_with(".map") {
            let found = sandbox.json(&["inspect", &inspected]);
            assert_eq!(found["error"], serde_json::Value::Null, "{name}");
        }
    }
    sandbox.json(&["delete", &full]);
    assert!(sandbox.restored(&diff) == memory);
    sandbox.refused(&["relayout", &full, "--layout", "packed"], 3);
    sandbox.json(&["undelete", &full]);
    assert!(sandbox.restored(&full) == base);
}

// spec: CLI-33
#[test]
fn what_makes_no_sense_is_refused_and_changes_nothing() {
    let sandbox = Sandbox::new();
    let one = id(&sandbox.import("vm", &pattern(4, 1), &[]));
    for options in [
        &["--layout", "sparse", "--compress", "lz4"][..],
        &["--layout", "packed", "--compress", "zstd:23"],
        &["--layout", "auto"],
        &[],
    ] {
        sandbox.refused(&[&["relayout", &one], options].concat(), 2);
    }
    sandbox.refused(&["relayout", "vm/nobody", "--layout", "packed"], 3);
    let data = sandbox.path(&format!("store/snapshots/{one}/memory.img"));
    let mut bytes = fs::read(&data).unwrap();
    bytes[5000] ^= 1;
    fs::set_permissions(&data, fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(&data, bytes).unwrap();
    let refused = sandbox.refused(&["relayout", &one, "--layout", "packed"], 4);
    let path = refused["error"]["path"].as_str().unwrap_or_default();
    assert!(path.ends_with("memory.img"), "{refused}");
}

// spec: CLI-31
#[test]
fn a_rate_is_kept() {
    let sandbox = Sandbox::new();
    let one = id(&sandbox.import("vm", &vec![7; 1 << 20], &[]));
    let started = std::time::Instant::now();
    let line = ["relayout", &one, "--layout", "packed", "--io-limit", "2M"];
    assert_eq!(sandbox.json(&line)["written"], true);
    let elapsed = started.elapsed().as_millis();
    assert!(elapsed >= 490, "1 MiB in {elapsed} ms");
}
