//! Damage mended from copies, and told where there is none.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use serde_json::Value;

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
            let number = |value: &Value| usize::try_from(value.as_u64().unwrap()).unwrap() / PAGE;
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

// spec: RPR-12
// spec: RPR-14
#[test]
fn repair_takes_from_the_vault_what_the_store_has_no_copy_of() {
    let sandbox = Sandbox::new();
    let mut memory = pattern(40, 1);
    let base = id(&sandbox.import("web", &memory, &["--name", "base", "--layout", "sparse"]));
    page(&mut memory, 6).fill(3);
    let diff = id(&sandbox.import("web", &memory, &["--parent", "web/base", "--name", "diff"]));
    // The archive of the child has what it inherits.
    sandbox.json(&["archive", "web/diff", "--vault", "cold"]);
    let data = format!("snapshots/{base}/memory.img");
    spoil(&sandbox, &data, 7 * PAGE + 100);
    let without = sandbox.run(&["repair", "web/diff", "--json"]);
    let document = without.document();
    check("vmsnap.repair.v1", &document);
    assert_eq!((without.code, &document["vault"]), (4, &Value::Null));
    assert!(document["hint"].as_str().unwrap().contains("--vault"));
    sandbox.refused(&["repair", "web/diff", "--vault", "nowhere"], 3);
    let done = sandbox.json(&["repair", "web/diff", "--vault", "cold"]);
    assert_eq!(
        (&done["outcome"], &done["hint"]),
        (&"mended".into(), &Value::Null)
    );
    assert_eq!(done["files"][0]["from"][0], "archives of cold");
    assert_eq!(sandbox.json(&["verify"])["ok"], true);
    assert!(sandbox.restored(&diff) == memory);
    // A page that the child replaced is in no archive but that of the snapshot itself.
    spoil(&sandbox, &data, 6 * PAGE);
    let lost = sandbox.run(&["repair", "web/base", "--vault", "cold"]);
    assert_eq!(lost.code, 4);
    assert!(lost.stdout.contains("another --vault"), "{lost:?}");
}

// spec: RPR-11
// spec: RPR-14
#[test]
fn manifest_state_and_map_come_back_from_the_vault_in_the_store() {
    let sandbox = Sandbox::new();
    let memory = pattern(40, 1);
    sandbox.write("state", b"registers");
    let base = id(&sandbox.import("web", &memory, &["--name", "base", "--state", "state"]));
    let other = id(&sandbox.import("db", &pattern(8, 2), &[]));
    sandbox.json(&["archive", "web/base"]);
    let folder = sandbox.path("store/snapshots").join(&base);
    let whole = ["manifest.vms", "state.vms", "memory.map"].map(|name| {
        let whole = fs::read(folder.join(name)).unwrap();
        spoil(&sandbox, &format!("snapshots/{base}/{name}"), 130);
        (name, whole)
    });
    // The one that cannot be read hides nobody.
    let listed = sandbox.json(&["list"]);
    assert_eq!(listed["snapshots"][0]["id"], other.as_str());
    assert_eq!(sandbox.run(&["verify"]).code, 4);
    let done = sandbox.json(&["repair", &base]);
    assert_eq!(done["outcome"], "mended");
    assert_eq!(done["files"].as_array().unwrap().len(), 3, "{done}");
    for (name, whole) in whole {
        assert!(fs::read(folder.join(name)).unwrap() == whole, "{name}");
        let mode = fs::metadata(folder.join(name))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o400, "{name}");
    }
    assert_eq!(sandbox.json(&["verify"])["ok"], true);
    assert!(sandbox.restored(&base) == memory);
    assert_eq!(sandbox.json(&["show", "web/base"])["name"], "base");
    // A sealed scope in the store's folder is none without its key, unless it is named.
    sandbox.write("pass", b"correct horse");
    let sealed = ["--scope", "secret", "--passphrase-file", "pass"];
    sandbox.json(&[&["archive", "web/base"], &sealed[..]].concat());
    let line = ["repair", "web/base", "--scope", "secret"];
    assert_eq!(sandbox.json(&line)["vault"], Value::Null);
    sandbox.refused(&[&line[..], &["--vault", "store/vault"]].concat(), 10);
}

// spec: PAR-10
#[test]
fn parity_brings_back_what_no_copy_has() {
    let sandbox = Sandbox::new();
    let memory = pattern(40, 1);
    let base = id(&sandbox.import("web", &memory, &["--name", "base", "--layout", "sparse"]));
    let before = sandbox.json(&["df"]);
    let made = sandbox.json(&["parity", "add", "web/base", "--percent", "30"]);
    check("vmsnap.parity.v1", &made);
    assert!(sandbox.json(&["df"])["live_bytes"].as_u64() > before["live_bytes"].as_u64());
    spoil(
        &sandbox,
        &format!("snapshots/{base}/memory.img"),
        7 * PAGE + 100,
    );
    spoil(&sandbox, &format!("snapshots/{base}/memory.map"), 200);
    let done = sandbox.json(&["repair", "web/base"]);
    assert_eq!(done["outcome"], "mended", "{done}");
    for file in done["files"].as_array().unwrap() {
        assert_eq!(file["from"][0], format!("snapshots/{base}/parity"));
    }
    assert_eq!(sandbox.json(&["verify"])["ok"], true);
    assert!(sandbox.restored(&base) == memory);
    let removed = sandbox.json(&["parity", "remove", "web/base"]);
    check("vmsnap.parity-remove.v1", &removed);
    assert_eq!(
        sandbox.json(&["parity", "remove", "web/base"])["removed"],
        false
    );
    sandbox.refused(&["parity", "add", "web/base", "--percent", "0"], 2);
    sandbox.refused(&["parity", "add", "web/nobody"], 3);
}

// spec: TRE-18
#[test]
fn a_lost_manifest_keeps_its_place_in_the_tree() {
    let sandbox = Sandbox::new();
    let mut memory = pattern(8, 1);
    let base = id(&sandbox.import("web", &memory, &["--name", "base"]));
    page(&mut memory, 2).fill(2);
    let lost = id(&sandbox.import("web", &memory, &["--parent", "web/base", "--name", "lost"]));
    page(&mut memory, 3).fill(3);
    let new = sandbox.import("web", &memory, &["--parent", "web/lost", "--name", "top"]);
    let top = id(&new);
    spoil(&sandbox, &format!("snapshots/{lost}/manifest.vms"), 64);
    let tree = sandbox.json(&["tree", "web"]);
    check("vmsnap.tree.v1", &tree);
    let told = &tree["lost"][0];
    assert_eq!(
        (&told["id"], &told["parent"]),
        (&lost.as_str().into(), &base.as_str().into())
    );
    assert_eq!(told["children"], serde_json::json!([top]));
    let problem = told["problem"].as_str().unwrap();
    // What is wrong, and not only where.
    assert!(
        problem.contains("manifest.vms") && problem.contains("checksum"),
        "{problem}"
    );
    assert_eq!(tree["entries"].as_array().unwrap().len(), 2);
    let drawn = sandbox.run(&["tree", "web"]).stdout;
    let lines: Vec<&str> = drawn.lines().collect();
    assert_eq!(lines.len(), 3, "{drawn}");
    assert!(lines[0].starts_with("web/base"), "{drawn}");
    assert!(lines[1].starts_with("└─ ?  "), "{drawn}");
    assert!(lines[2].starts_with("   └─ web/top"), "{drawn}");
    assert!(!drawn.contains("not here"), "{drawn}");
}
