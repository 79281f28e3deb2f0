//! Damage mended from copies, and told where there is none.

use std::fs;

use crate::sandbox::{PAGE, Sandbox, id, page, pattern};
use crate::schemas::check;

/// Overwrites a part of a published file.
fn spoil(sandbox: &Sandbox, file: &str, at: usize) {
    let path = sandbox.path("store").join(file);
    let mut bytes = fs::read(&path).unwrap();
    bytes[at..at + 64].fill(0xa5);
    fs::remove_file(&path).unwrap();
    fs::write(&path, bytes).unwrap();
}

// spec: RPR-10
#[test]
fn repair_mends_from_another_machine_and_says_what_is_lost_otherwise() {
    let sandbox = Sandbox::new();
    let mut memory = pattern(40, 1);
    let base = id(&sandbox.import("web", &memory, &["--name", "base", "--layout", "sparse"]));
    page(&mut memory, 6).fill(3);
    let diff = id(&sandbox.import("web", &memory, &["--parent", "web/base"]));
    let sound = sandbox.json(&["repair", "web/base"]);
    assert_eq!(
        (&sound["outcome"], &sound["files"]),
        (&"sound".into(), &serde_json::json!([]))
    );
    let data = format!("snapshots/{base}/memory.img");
    for at in [6, 7] {
        spoil(&sandbox, &data, at * PAGE + 100);
    }
    // Nobody has it: 4, and every snapshot that loses memory is named with its addresses.
    let before = sandbox.listing();
    for arguments in [
        &["repair", "web@latest", "--dry-run"][..],
        &["repair", "web@latest"],
    ] {
        let run = sandbox.run(&[arguments, &["--json"]].concat());
        let lost = run.document();
        assert_eq!((run.code, &lost["outcome"]), (4, &"lost".into()), "{lost}");
        check("vmsnap.repair.v1", &lost);
        let hurt = lost["hurt"].as_array().unwrap();
        // A digest may cover more pages than those that were changed.
        let loses = |id: &str, page: usize| {
            let hurt = hurt.iter().find(|hurt| hurt["id"] == id).unwrap();
            let ranges = hurt["lost"].as_array().unwrap().iter();
            let number = |value: &serde_json::Value| {
                usize::try_from(value.as_u64().unwrap()).unwrap() / PAGE
            };
            let mut ranges = ranges.map(|r| (number(&r["start"]), number(&r["len_bytes"])));
            ranges.any(|(start, count)| (start..start + count).contains(&page))
        };
        assert!(loses(&base, 6) && loses(&base, 7));
        assert!(!loses(&diff, 6) && loses(&diff, 7));
        assert_eq!(sandbox.listing(), before);
    }
    let told = sandbox.run(&["repair", "web/base"]);
    assert!(told.stdout.contains("0x6000-"), "{told:?}");
    // Another machine with the same memory.
    sandbox.import("db", &pattern(40, 1), &["--layout", "sparse"]);
    let plan = sandbox.json(&["repair", "web@latest", "--dry-run"]);
    assert_eq!(plan["outcome"], "mended");
    assert_eq!(sandbox.run(&["verify"]).code, 4);
    let done = sandbox.json(&["repair", "web@latest"]);
    assert_eq!(
        done["files"][0]["mended_units"],
        done["files"][0]["damaged_units"]
    );
    let aside = done["files"][0]["quarantined"].as_str().unwrap();
    assert!(sandbox.path("store").join(aside).exists());
    assert_eq!(sandbox.json(&["verify"])["ok"], true);
    assert!(sandbox.restored(&diff) == memory);
    sandbox.refused(&["repair", "web/nobody"], 3);
}
