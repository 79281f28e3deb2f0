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
    let count = |key: &str| built[key].as_u64().unwrap();
    let data = memory
        .chunks(4096)
        .filter(|page| page.iter().any(|byte| *byte != 0));
    let data_bytes = data.count() as u64 * 4096;
    assert_eq!(count("shared_bytes") + count("copied_bytes"), data_bytes);
    let df = sandbox.json(&["df"]);
    assert_eq!(df["cached"][0]["id"], diff);
    assert_eq!(df["cached"][0]["file"], built["file"]);
    assert_eq!(df["cached"][0]["allocated_bytes"], built["allocated_bytes"]);
    assert_eq!(df["cache_bytes"], built["allocated_bytes"]);
    let told = sandbox.run(&["df"]).stdout;
    let row = told.lines().find(|line| line.contains("cached"));
    assert!(
        row.is_some_and(|row| diff.ends_with(row.split_whitespace().next().unwrap())),
        "{told}"
    );
    assert_eq!(sandbox.json(&["warm", &diff])["built"], false);
    assert_eq!(sandbox.json(&["verify"])["ok"], true);
    for there in [true, false] {
        assert_eq!(sandbox.json(&["warm", &diff, "--drop"])["dropped"], there);
    }
    assert!(!file.exists());
    assert_eq!(sandbox.json(&["df"])["cache_bytes"], 0);
    sandbox.json(&["warm", &diff]);
    assert!(file.exists());
    sandbox.json(&["delete", &diff]);
    assert!(!file.exists());
}

// spec: CLI-63
// spec: CAC-02
#[test]
fn a_plan_passes_over_a_damaged_image_and_verify_tells_of_it() {
    let sandbox = Sandbox::new();
    let full = id(&sandbox.import("vm", &pattern(100, 1), &["--name", "base"]));
    let plan = || sandbox.json(&["map", "vm/base", "--plan", "--verify", "trusted"]);
    let without = plan();
    let built = sandbox.json(&["warm", "vm/base"]);
    let file = sandbox.path("store").join(built["file"].as_str().unwrap());
    fs::remove_file(&file).unwrap();
    fs::write(&file, b"cut").unwrap();
    assert_eq!(plan()["plan"], without["plan"]);
    let told = sandbox.run(&["--json", "verify"]).document();
    assert_eq!(
        (&told["ok"], &told["errors"][0]["snapshot"]),
        (&false.into(), &full.into())
    );
    sandbox.refused(&["warm", "vm/base"], 4);
    sandbox.json(&["warm", "vm/base", "--drop"]);
    assert_eq!(sandbox.json(&["warm", "vm/base"])["built"], true);
    assert_eq!(sandbox.json(&["verify"])["ok"], true);
}
