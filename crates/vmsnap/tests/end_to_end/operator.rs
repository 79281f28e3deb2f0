//! Branches, labels, the index, the audit log and what explains a store.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use serde_json::Value;

use crate::sandbox::{Sandbox, id, page, pattern};

/// The ids in a list of snapshots, or of entries of a tree.
fn ids(document: &Value, key: &str) -> Vec<String> {
    let all = document[key].as_array().unwrap().iter();
    all.map(|one| one["id"].as_str().unwrap().to_owned())
        .collect()
}

// spec: OPC-01
// spec: OPC-02
// spec: OPC-03
// spec: OPC-04
#[test]
fn a_branch_is_made_switched_to_merged_and_left() {
    let sandbox = Sandbox::new();
    let mut memory = pattern(30, 1);
    let base = id(&sandbox.import("vm", &memory, &["--name", "base"]));
    let on_base = ["--parent", "vm/base"];
    page(&mut memory, 3).fill(3);
    let on_main = memory.clone();
    let main = id(&sandbox.import("vm", &memory, &on_base));
    let branch = sandbox.json(&["branch", "vm", "fix", "--from", "vm/base"]);
    assert_eq!(branch["branch"]["head"], base.as_str());
    sandbox.refused(&["branch", "vm", "FIX"], 12);
    let switched = sandbox.json(&["switch", "vm", "fix"]);
    assert_eq!(switched["branch"]["is_current"], true);

    // Taken on the current branch, and named once its number is known.
    page(&mut memory, 3).fill(9);
    let template = ["--name-template", "{branch}-{seq}"];
    let taken = sandbox.import("vm", &memory, &[on_base, template].concat());
    assert_eq!(taken["name"], "fix-0003");
    let fix = id(&taken);
    assert_eq!(sandbox.json(&["show", &fix])["branch"], "fix");
    let elsewhere = ["--branch", "other", "--parent", "vm/base"];
    let other = id(&sandbox.import("vm", &memory, &elsewhere));
    assert_eq!(sandbox.json(&["show", &other])["branch"], "other");
    sandbox.refused(&["delete", &fix], 13);

    sandbox.refused(
        &["merge", "vm", "fix", "--onto", "main", "--memory", "pages"],
        13,
    );
    let merged = sandbox.json(&["merge", "vm", "fix", "--onto", "main", "--name", "both"]);
    assert_eq!(
        (&merged["giver"], &merged["merged"]),
        (&fix.as_str().into(), &main.as_str().into())
    );
    assert_eq!(merged["common_ancestor"], base.as_str());
    assert!(sandbox.restored("vm/both") == memory);
    sandbox.refused(&["merge", "vm", "fix", "--onto", "main"], 12);
    let line = [
        "merge", "vm", &other, "--onto", "main", "--memory", "target",
    ];
    let kept = id(&sandbox.json(&line));
    assert!(sandbox.restored(&kept) == memory);
    sandbox.refused(&["merge", "vm", "nowhere", "--onto", "main"], 3);

    // In the place of one that went wrong: the memory of its parent.
    let again = sandbox.json(&["recreate", &main, "--from-parent"]);
    assert_eq!(again["parent"], base.as_str());
    assert!(sandbox.restored(&id(&again)) == pattern(30, 1));
    assert_eq!(ids(&sandbox.json(&["trash"]), "snapshots"), [main.as_str()]);
    sandbox.json(&["undelete", &main]);
    assert!(sandbox.restored(&main) == on_main);

    sandbox.refused(&["branch", "vm", "fix", "--remove"], 13);
    sandbox.json(&["switch", "vm", "--none"]);
    sandbox.json(&["delete", &fix]);
    assert_eq!(
        sandbox.json(&["branch", "vm", "fix", "--remove"])["removed"],
        true
    );
    let left = sandbox.json(&["branches", "vm"]);
    let names: Vec<_> = left["branches"]
        .as_array()
        .unwrap()
        .iter()
        .map(|b| &b["name"])
        .collect();
    assert_eq!(names, ["main", "other"]);
    assert_eq!(sandbox.json(&["verify"])["ok"], true);
}

// spec: OPC-05
// spec: OPC-06
#[test]
fn what_is_attached_is_found_again() {
    let sandbox = Sandbox::new();
    let memory = pattern(10, 1);
    let one = id(&sandbox.import("web", &memory, &["--name", "nightly-1"]));
    let two = id(&sandbox.import("web", &memory, &["--name", "weekly-1", "--tag", "old"]));
    sandbox.json(&["tag", &one, "keep", "keep", "--remove", "nothing"]);
    sandbox.json(&["label", &one, "category=backup", "team=storage"]);
    sandbox.json(&["describe", &one, "--description", "before the Update"]);
    let told = sandbox.json(&["label", &one, "--remove", "team"]);
    assert_eq!(told["labels"], serde_json::json!({"category": "backup"}));
    assert_eq!(told["tags"], serde_json::json!(["keep"]));
    assert_eq!(
        (&told["name"], &told["protected"]),
        (&"nightly-1".into(), &false.into())
    );
    assert_eq!(
        sandbox.json(&["tag", &two, "--remove", "old"])["tags"],
        serde_json::json!([])
    );

    let found =
        |arguments: &[&str]| ids(&sandbox.json(&[&["list"], arguments].concat()), "snapshots");
    for arguments in [
        ["--name", "NIGHT*"],
        ["--search", "update"],
        ["--category", "backup"],
        ["--label", "category"],
        ["--tag", "keep"],
        ["--search", &one],
    ] {
        assert_eq!(found(&arguments), [one.as_str()], "{arguments:?}");
    }
    assert_eq!(found(&["--name", "*ly-?"]).len(), 2);
    assert_eq!(found(&["--branch", "main"]).len(), 2);
    assert_eq!(found(&["--branch", "fix"]).len(), 0);
    sandbox.refused(&["list", "--name", "a/b"], 2);
    let sized = sandbox.json(&["list", "--size"]);
    let of = |id: &str| sized["sizes"]["snapshots"][id].as_u64().unwrap();
    assert_eq!(sized["sizes"]["total_bytes"], of(&one) + of(&two));
    assert_eq!(
        of(&one),
        sandbox.json(&["show", &one])["bytes_stored"]
            .as_u64()
            .unwrap()
    );
    assert!(sandbox.json(&["list"])["sizes"].is_null());

    sandbox.json(&["describe", &two, "--no-name"]);
    sandbox.refused(&["show", "web/weekly-1"], 3);
    sandbox.refused(&["describe", &two, "--name", "nightly-1"], 12);
    sandbox.json(&["protect", &two]);
    sandbox.refused(&["delete", &two], 13);
    sandbox.json(&["protect", &two, "--off"]);
    sandbox.json(&["delete", &two]);
}

// spec: OPC-07
#[test]
fn relatives_are_shown_across_machines() {
    let sandbox = Sandbox::new();
    let memory = pattern(10, 1);
    let take = |vm: &str, parent: &str| id(&sandbox.import(vm, &memory, &["--parent", parent]));
    let a = id(&sandbox.import("web", &memory, &[]));
    let b = take("web", &a);
    let c = take("clone", &b);
    let d = take("web", &a);
    let lone = id(&sandbox.import("db", &memory, &[]));
    let shown = |arguments: &[&str]| {
        let tree = sandbox.json(&[&["tree"], arguments].concat());
        let depths = tree["entries"].as_array().unwrap().iter();
        let depths: Vec<u64> = depths
            .map(|entry| entry["depth"].as_u64().unwrap())
            .collect();
        (ids(&tree, "entries"), depths)
    };
    let path = (vec![a.clone(), b.clone(), c.clone()], vec![0, 1, 2]);
    assert_eq!(shown(&["--path", &c]), path);
    assert_eq!(
        shown(&["--below", &b]),
        (vec![b.clone(), c.clone()], vec![0, 1])
    );
    assert_eq!(shown(&["--common", &c, &d]), (vec![a.clone()], vec![0]));
    assert_eq!(shown(&["--common", &c, &b]), (vec![b], vec![0]));
    assert_eq!(shown(&["web"]).0.len(), 3);
    sandbox.refused(&["tree", "--common", &a, &lone], 3);
    sandbox.refused(&["tree"], 2);
}

// spec: OPC-08
#[test]
fn lists_are_the_same_with_the_index_and_without() {
    let sandbox = Sandbox::new();
    let memory = pattern(10, 1);
    for name in ["a", "b", "c"] {
        sandbox.import("vm", &memory, &["--name", name]);
    }
    let first = sandbox.json(&["list"]);
    let index = sandbox.store().join("index.sqlite");
    assert!(index.exists());
    assert_eq!(sandbox.json(&["list"]), first);
    let made = sandbox.json(&["reindex"]);
    assert_eq!(
        (&made["index"], &made["snapshots"]),
        (&"made".into(), &3.into())
    );
    fs::write(&index, "nonsense").unwrap();
    assert_eq!(sandbox.json(&["list"]), first);
    assert_eq!(sandbox.json(&["verify"])["ok"], true);
    // Nonsense in a file that people edit shows at once, and hides nothing.
    let one = first["snapshots"][0]["id"].as_str().unwrap().to_owned();
    let file = sandbox.path(&format!("store/snapshots/{one}/snapshot.json"));
    fs::write(&file, "{}").unwrap();
    let listed = sandbox.json(&["list"]);
    assert_eq!(listed["snapshots"].as_array().unwrap().len(), 3);
    assert!(listed["snapshots"][0]["metadata_problem"].is_string());
}

// spec: OPC-09
// spec: AUD-01
#[test]
fn every_change_is_in_the_log_and_a_change_of_the_log_shows() {
    let sandbox = Sandbox::new();
    let memory = pattern(10, 1);
    let one = id(&sandbox.import("vm", &memory, &["--name", "a"]));
    sandbox.json(&["tag", &one, "keep"]);
    sandbox.refused(&["delete", "vm/nobody"], 3);
    sandbox.json(&["list"]);
    sandbox.json(&["delete", &one, "--dry-run"]);
    let told = sandbox.json(&["audit"]);
    let last = told["last"].as_array().unwrap();
    let words = |entry: &Value| {
        let word = match entry["event"].as_str() {
            Some("intent") => &entry["command"],
            _ => &entry["result"],
        };
        word.as_str().unwrap().to_owned()
    };
    let words: Vec<String> = last.iter().map(words).collect();
    // What is refused is run with `--json` and without.
    let refused = ["delete", "not_found"].repeat(2);
    assert_eq!(
        words,
        [&["import", "done", "tag", "done"][..], &refused].concat()
    );
    assert_eq!(
        (&told["ok"], &told["unfinished_count"]),
        (&true.into(), &0.into())
    );
    let head = told["head"].as_str().unwrap();
    sandbox.json(&["tag", &one, "more"]);
    assert_eq!(
        sandbox.json(&["audit", "--verify", "--head", head])["head_found"],
        true
    );
    assert_eq!(
        sandbox.json(&["audit", "--last", "1"])["last"]
            .as_array()
            .unwrap()
            .len(),
        1
    );

    let log = sandbox.store().join("audit.jsonl");
    let bytes = fs::read(&log).unwrap();
    let ends = |bytes: &[u8], arguments: &[&str]| {
        fs::write(&log, bytes).unwrap();
        let run = sandbox.run(&[&["audit", "--json"], arguments].concat());
        assert_eq!(run.document()["schema"], "vmsnap.audit.v1");
        run.code
    };
    // Cut within its last line: that is what a crash leaves, and a head tells of it.
    let cut = &bytes[..bytes.len() - 9];
    let new_head = sandbox.json(&["audit"])["head"]
        .as_str()
        .unwrap()
        .to_owned();
    assert_eq!(ends(cut, &[]), 0);
    assert_eq!(ends(cut, &["--head", &new_head]), 4);
    let mut changed = bytes.clone();
    let at = changed.windows(4).position(|word| word == b"keep").unwrap();
    changed[at] = b'x';
    assert_eq!(ends(&changed, &["--verify"]), 4);
    assert_eq!(ends(&bytes, &["--verify", "--head", &new_head]), 0);
    let zero = "0".repeat(64);
    assert_eq!(
        ends(&bytes, &["--head", &zero]),
        0,
        "the beginning of every log"
    );
}

// spec: AUD-02
#[test]
fn what_cannot_be_written_down_is_not_done() {
    let sandbox = Sandbox::new();
    let one = id(&sandbox.import("vm", &pattern(10, 1), &[]));
    let log = sandbox.store().join("audit.jsonl");
    let aside = sandbox.path("aside");
    fs::rename(&log, &aside).unwrap();
    fs::create_dir(&log).unwrap();
    sandbox.refused(&["tag", &one, "keep"], 4);
    sandbox.refused(&["delete", &one], 4);
    assert_eq!(ids(&sandbox.json(&["list"]), "snapshots"), [one.as_str()]);
    fs::remove_dir(&log).unwrap();
    fs::rename(&aside, &log).unwrap();
    sandbox.json(&["tag", &one, "keep"]);
    assert_eq!(sandbox.json(&["audit"])["ok"], true);
}

// spec: OPC-10
// spec: OPC-11
// spec: OPC-12
#[test]
fn what_differs_what_lies_where_and_what_takes_space_is_told() {
    let sandbox = Sandbox::new();
    let mut memory = pattern(200, 1);
    let base = id(&sandbox.import("vm", &memory, &["--name", "base"]));
    page(&mut memory, 1).fill(1);
    page(&mut memory, 2).fill(0);
    page(&mut memory, 0).fill(5);
    let diff = id(&sandbox.import("vm", &memory, &["--parent", &base]));
    let found = sandbox.json(&["diff", &base, &diff]);
    let memory = &found["memory"];
    for (key, count) in [
        ("same", 197),
        ("changed", 1),
        ("became_zero", 1),
        ("became_data", 1),
    ] {
        assert_eq!(memory[key], count, "{key}");
        assert_eq!(memory["regions"][0][key], count, "{key}");
    }
    assert_eq!(memory["compared_pages"], 3);
    let told = sandbox.run(&["diff", &base, &diff]);
    assert!(
        told.code == 0 && told.stdout.contains("name: base -> -"),
        "{told:?}"
    );

    let svg = sandbox.path("memory.svg");
    let map = sandbox.run(&["map", &diff, "--svg", "memory.svg"]);
    // Page 0 and 1 are its own, page 2 is zero, the next ones are the base's.
    assert!(map.stdout.contains("##.11.1111"), "{map:?}");
    let drawn = fs::read_to_string(&svg).unwrap();
    assert!(drawn.starts_with("<svg ") && drawn.ends_with("</svg>\n"));
    sandbox.refused(&["map", &diff, "--svg", "memory.svg"], 12);
    sandbox.refused(&["map", &diff, "--svg", "store/memory.svg"], 13);

    let chain = sandbox.json(&["chain-info", &diff]);
    assert_eq!(
        (&chain["own_pages"], &chain["waste_pages"]),
        (&2.into(), &2.into())
    );
    assert_eq!(chain["layers"][1]["snapshot"], base.as_str());
    sandbox.json(&["delete", &base]);
    for _ in 0..2 {
        let space = sandbox.json(&["analyze", "--open-metrics", "metrics"]);
        let df = sandbox.json(&["df"]);
        assert_eq!(space["live_bytes"], df["live_bytes"]);
        assert_eq!(space["trash_bytes"], df["trash_bytes"]);
        let metrics = String::from_utf8(sandbox.read("metrics")).unwrap();
        assert!(
            metrics.contains("vmsnap_snapshots{vm=\"vm\"} 1\n"),
            "{metrics}"
        );
        assert!(metrics.ends_with("# EOF\n"));
    }
    let nothing = sandbox.json(&["diagnose", "--disk"]);
    assert_eq!(nothing["snapshots"], 1);
    fs::remove_file(sandbox.path(&format!("store/snapshots/{diff}/manifest.vms"))).unwrap();
    let damaged = sandbox.json(&["diagnose"]);
    assert_eq!(damaged["findings"][0]["kind"], "damaged");
}

// spec: OPC-13
#[test]
fn a_profile_is_of_the_command_and_ends_like_it() {
    let sandbox = Sandbox::new();
    let one = id(&sandbox.import("vm", &pattern(10, 1), &[]));
    let run = sandbox.run(&[
        "--json", "profile", "--", "restore", &one, "--memory", "out",
    ]);
    assert_eq!(run.code, 0, "{run:?}");
    let told = run.document();
    let phases = told["phases"].as_array().unwrap();
    assert!(
        phases.iter().any(|phase| phase["name"] == "restore"),
        "{told}"
    );
    assert!(sandbox.read("out") == pattern(10, 1));
    let run = sandbox.run(&["--json", "profile", "--", "show", "vm/nobody"]);
    assert_eq!(
        (run.code, run.document()["exit_code"].as_u64()),
        (3, Some(3))
    );
    let run = sandbox.run(&["profile", "--", "profile", "--", "list"]);
    assert_eq!(run.code, 2, "{run:?}");
    let run = sandbox.run(&["profile", "--", "nonsense"]);
    assert_eq!(run.code, 2, "{run:?}");
}

// spec: OPC-14
#[test]
fn access_is_set_for_what_comes_and_on_request_for_what_is_there() {
    let sandbox = Sandbox::new();
    let one = id(&sandbox.import("vm", &pattern(10, 1), &[]));
    let mode = |id: &str| {
        let path = sandbox.path(&format!("store/snapshots/{id}/manifest.vms"));
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    };
    assert_eq!(sandbox.json(&["access"])["mode"], "0400");
    for wrong in ["0640", "0040", "rw", "0999"] {
        sandbox.refused(&["access", "--mode", wrong], 2);
    }
    sandbox.refused(&["access", "--group", "no such group"], 2);
    let told = sandbox.json(&["access", "--mode", "0440"]);
    assert_eq!(
        (&told["mode"], &told["group"]),
        (&"0440".into(), &Value::Null)
    );
    let two = id(&sandbox.import("vm", &pattern(10, 2), &[]));
    assert_eq!((mode(&one), mode(&two)), (0o400, 0o440));
    sandbox.json(&["access", "--apply"]);
    assert_eq!((mode(&one), mode(&two)), (0o440, 0o440));
    assert_eq!(sandbox.json(&["verify"])["ok"], true);
}
