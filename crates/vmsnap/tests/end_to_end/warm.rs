//! Materialised images: built, checked, dropped.

use std::fs;

use crate::sandbox::{Sandbox, id, page, pattern};

// spec: CLI-63
#[test]
fn the_file_that_clones_map_is_the_memory_of_the_snapshot() {
    let sandbox = Sandbox::new();
    let mut memory = pattern(100, 1);
    sandbox.import("vm", &memory, &["--name", "base"]);
    page(&mut memory, 3).fill(1);
    page(&mut memory, 50).fill(0);
    let diff = id(&sandbox.import("vm", &memory, &["--parent", "vm/base"]));
    let built = sandbox.json(&["warm", &diff]);
    assert_eq!(
        (&built["built"], &built["len_bytes"]),
        (&true.into(), &memory.len().into())
    );
    let file = sandbox.path("store").join(built["file"].as_str().unwrap());
    assert!(fs::read(&file).unwrap() == memory);
    assert_eq!(sandbox.json(&["warm", &diff])["built"], false);
    assert_eq!(sandbox.json(&["verify"])["ok"], true);
    for there in [true, false] {
        assert_eq!(sandbox.json(&["warm", &diff, "--drop"])["dropped"], there);
    }
    assert!(!file.exists());
}
