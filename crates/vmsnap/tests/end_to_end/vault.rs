//! Snapshots archived and brought back, through the real binary.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::sandbox::{Sandbox, id, list, page, pattern};
use crate::schemas::check;

/// The files of the packs in a vault.
fn packs(vault: &Path) -> Vec<PathBuf> {
    let mut packs = Vec::new();
    for domain in fs::read_dir(vault.join("domains")).unwrap() {
        let folder = domain.unwrap().path().join("packs");
        let found = fs::read_dir(folder).into_iter().flatten();
        packs.extend(found.map(|entry| entry.unwrap().path()));
    }
    packs
}

fn restored(sandbox: &Sandbox, arguments: &[&str], name: &str) -> Vec<u8> {
    sandbox.json(&[&["restore", "--memory", name], arguments].concat());
    let bytes = sandbox.read(name);
    fs::remove_file(sandbox.path(name)).unwrap();
    bytes
}

fn text(value: &Value) -> String {
    value.as_str().unwrap().to_owned()
}

// spec: VCM-01, VCM-04, VCM-05, VCM-07, VCM-08, VCM-09, VCM-11
#[test]
fn a_chain_is_archived_deleted_and_thawed_as_it_was() {
    let sandbox = Sandbox::new();
    let mut memory = pattern(64, 1);
    sandbox.write("state", b"registers");
    let more = [
        "--name",
        "base",
        "--state",
        "state",
        "--label",
        "team=store",
    ];
    let base = id(&sandbox.import("web", &memory, &more));
    let first = memory.clone();
    page(&mut memory, 3).fill(7);
    let diff = id(&sandbox.import(
        "web",
        &memory,
        &["--parent", &base, "--name", "diff", "--state", "state"],
    ));

    let archived = sandbox.json(&["archive", "web/base"]);
    check("vmsnap.archive.v1", &archived);
    assert_eq!(
        (archived["id"].as_str(), &archived["stored"]),
        (Some(&*base), &Value::Bool(true))
    );
    let line = ["archive", "web@latest", "--delete"];
    let archived = sandbox.json(&line);
    assert_eq!(
        (&archived["delta_chunks"], &archived["deleted"]),
        (&1.into(), &true.into())
    );
    assert!(
        archived["bytes_added"].as_u64().unwrap() < 20_000,
        "{archived}"
    );
    let again = sandbox.json(&["archive", "web/base"]);
    assert_eq!(
        (&again["stored"], &again["bytes_added"]),
        (&false.into(), &0.into())
    );
    sandbox.json(&["delete", &base]);

    let straight = restored(&sandbox, &[&diff, "--archived", "--state", "s"], "m");
    assert!(straight == memory);
    sandbox.refused(
        &["restore", &diff, "--archived", "--memory", "store/vault/m"],
        13,
    );
    let thawed = sandbox.json(&["thaw", &diff, "--new-id"]);
    check_pages(&thawed);
    assert_eq!(
        (&thawed["archived"], &thawed["base"]),
        (&Value::from(diff), &Value::Null)
    );
    assert!(restored(&sandbox, &["web/diff"], "m") == memory);
    let line = ["thaw", "web/base", "--new-id", "--parent", "web/diff"];
    let thawed = sandbox.json(&line);
    assert_eq!(
        (&thawed["pages"]["inherited"], &thawed["name"]),
        (&63.into(), &"base".into())
    );
    assert!(restored(&sandbox, &["web/base"], "m") == first);
    let shown = sandbox.json(&["show", "web/base"]);
    assert_eq!(shown["labels"]["team"], "store");
    sandbox.json(&[
        "restore",
        "web/base",
        "--memory",
        "m",
        "--state",
        "registers",
    ]);
    assert_eq!(sandbox.read("registers"), b"registers");
    assert_eq!(sandbox.json(&["verify"])["ok"], true);
}

fn check_pages(thawed: &Value) {
    check("vmsnap.thaw.v1", thawed);
    let pages = &thawed["pages"];
    let count = |key: &str| pages[key].as_u64().unwrap();
    assert_eq!(
        count("present") + count("zero") + count("inherited"),
        count("total")
    );
}

// spec: VCM-08, VCM-17
#[test]
fn what_is_gone_comes_back_under_its_id_and_its_child_is_its_child() {
    let sandbox = Sandbox::new();
    sandbox.write("state", b"registers");
    let mut memory = pattern(64, 1);
    let more = [
        "--name",
        "base",
        "--state",
        "state",
        "--label",
        "team=store",
    ];
    let base = id(&sandbox.import("web", &memory, &more));
    page(&mut memory, 3).fill(7);
    let line = ["--parent", "web/base", "--name", "diff", "--state", "state"];
    let diff = id(&sandbox.import("web", &memory, &line));
    let shown = sandbox.json(&["show", "web/diff"]);
    let expected = memory.clone();
    page(&mut memory, 4).fill(8);
    let child = id(&sandbox.import("web", &memory, &["--parent", "web/diff", "--name", "child"]));
    for archived in ["web/base", "web/diff"] {
        sandbox.json(&["archive", archived]);
    }
    let listed = sandbox.refused(&["thaw", &diff], 12);
    assert!(
        text(&listed["error"]["message"]).contains("new id"),
        "{listed}"
    );
    sandbox.json(&["consolidate", "web/child"]);
    for deleted in [&diff, &base] {
        sandbox.json(&["delete", deleted]);
    }
    // What is in the trash comes back from there, or a copy of it, and what is in use is copied only.
    let thawed = sandbox.json(&["thaw", &diff]);
    assert_eq!(
        (&thawed["id"], &thawed["pages"], &thawed["name"]),
        (&diff.as_str().into(), &Value::Null, &"diff".into())
    );
    assert!(restored(&sandbox, &["web/diff"], "undeleted") == expected);
    let copy = sandbox.json(&["thaw", &diff, "--name", "copy"]);
    assert_eq!(
        (&copy["archived"], &copy["name"]),
        (&thawed["id"], &"copy".into())
    );
    assert_ne!(copy["id"], copy["archived"]);
    for deleted in [&id(&copy), &diff] {
        sandbox.json(&["delete", deleted]);
    }
    sandbox.json(&["gc"]);
    sandbox.refused(&["show", &diff], 3);
    sandbox.refused(&["thaw", &diff, "--full"], 2);

    let thawed = sandbox.json(&["thaw", &diff]);
    check_pages(&thawed);
    assert_eq!(
        (&thawed["id"], &thawed["archived"], &thawed["base"]),
        (&diff.as_str().into(), &diff.as_str().into(), &Value::Null)
    );
    assert_eq!(thawed["seq"], shown["seq"]);
    let again = sandbox.json(&["show", "web/diff"]);
    for key in ["id", "digest", "seq", "parent", "created_unix_ms", "labels"] {
        assert_eq!(again[key], shown[key], "{key}");
    }
    let line = [
        "restore",
        "web/diff",
        "--memory",
        "own",
        "--state",
        "registers",
    ];
    sandbox.json(&line);
    assert!(sandbox.read("own") == expected);
    assert_eq!(sandbox.read("registers"), b"registers");
    assert_eq!(sandbox.json(&["verify"])["ok"], true);
    assert_eq!(id(&sandbox.json(&["thaw", &base, "--no-name"])), base);
    let verified = sandbox.json(&["verify"]);
    assert_eq!(
        (&verified["ok"], &verified["unbound_pages"]),
        (&true.into(), &0.into())
    );
    assert_eq!(sandbox.json(&["show", &child])["parent"], diff.as_str());
    assert!(restored(&sandbox, &["web/child"], "m") == memory);
    sandbox.refused(&["thaw", &diff], 12);
}

// spec: VCM-01, VCM-08, VCM-10
#[test]
fn what_cannot_be_thawed_leaves_the_store_as_it_was() {
    let sandbox = Sandbox::new();
    sandbox.import("web", &pattern(40, 1), &["--name", "base"]);
    sandbox.refused(&["thaw", "web/base"], 3);
    sandbox.json(&["archive", "web/base", "--vault", "cold"]);
    assert!(!sandbox.path("store/vault").exists());
    let before = list(&sandbox.path("store/snapshots"));
    sandbox.refused(&["thaw", "web/base", "--vault", "cold"], 12);
    sandbox.refused(&["thaw", "web/nobody", "--vault", "cold"], 3);
    sandbox.refused(
        &["thaw", "web/base", "--vault", "cold", "--scope", "other"],
        3,
    );
    sandbox.import("small", &pattern(8, 1), &[]);
    sandbox.refused(
        &[
            "thaw",
            "web/base",
            "--new-id",
            "--vault",
            "cold",
            "--no-name",
            "--parent",
            "small@latest",
        ],
        5,
    );
    for pack in packs(&sandbox.path("cold")) {
        let mut bytes = fs::read(&pack).unwrap();
        bytes[500] ^= 1;
        fs::set_permissions(&pack, fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(&pack, bytes).unwrap();
    }
    let copy = [
        "thaw",
        "web/base",
        "--vault",
        "cold",
        "--new-id",
        "--no-name",
    ];
    sandbox.refused(&copy, 4);
    sandbox.refused(
        &[
            "restore",
            "web/base",
            "--vault",
            "cold",
            "--archived",
            "--memory",
            "m",
        ],
        4,
    );
    assert!(!sandbox.path("m").exists());
    sandbox.json(&["delete", "small@latest"]);
    assert_eq!(list(&sandbox.path("store/snapshots")), before);
    let run = sandbox.run(&["vault", "verify", "--vault", "cold", "--json"]);
    assert_eq!(run.code, 4, "{run:?}");
    let verified = run.document();
    check("vmsnap.vault-verify.v1", &verified);
    assert_eq!(verified["ok"], false);
    assert_eq!(verified["errors"][0]["kind"], "corrupt");
}

// spec: VCM-01
#[test]
fn a_vault_that_is_not_there_is_told_in_one_way() {
    let sandbox = Sandbox::new();
    fs::create_dir(sandbox.path("empty")).unwrap();
    let told = |path: &str| {
        let refused = sandbox.refused(&["vault", "list", "--vault", path], 3);
        text(&refused["error"]["message"]).replace(path, "")
    };
    assert_eq!(told("empty"), told("absent"));
}

// spec: VCM-01, CLI-70
#[test]
fn the_policy_of_a_machine_names_the_vault_of_its_archives() {
    let sandbox = Sandbox::new();
    sandbox.import("web", &pattern(40, 1), &["--name", "one"]);
    let set = ["policy", "set", "web", "--archive", "far/vault"];
    sandbox.refused(&["policy", "set", "web", "--archive-scope", "tenant"], 2);
    let shown = sandbox.json(&[&set[..], &["--archive-scope", "tenant"]].concat());
    check("vmsnap.policy.v1", &shown);
    let far = sandbox.path("far/vault").display().to_string();
    assert_eq!(shown["policy"]["archive"]["vault"], far.as_str());
    fs::create_dir(sandbox.path("far")).unwrap();
    let archived = sandbox.json(&["archive", "web/one"]);
    assert_eq!(archived["scope"], "tenant");
    assert!(!sandbox.path("store/vault").exists());
    let thawed = sandbox.json(&["thaw", "web/one", "--new-id", "--no-name"]);
    assert_eq!(thawed["archived"], archived["id"]);
    // What is named counts.
    sandbox.refused(&["thaw", "web/one", "--scope", "other"], 3);
    sandbox.refused(&["thaw", "web/one", "--vault", "absent"], 3);
    // A REF that names no machine: the vault of the store.
    sandbox.refused(&["thaw", &text(&archived["id"])], 3);
}

// spec: VCM-12, VCM-13, VCM-14
#[test]
fn what_is_deleted_comes_back_until_it_is_expired_and_then_its_packs_go() {
    let sandbox = Sandbox::new();
    sandbox.import("web", &pattern(40, 1), &["--name", "one"]);
    let kept = pattern(40, 2);
    sandbox.import("web", &kept, &["--name", "two"]);
    let one = text(&sandbox.json(&["archive", "web/one", "--delete"])["archive"]);
    sandbox.json(&["archive", "web/two", "--delete"]);
    let planned = sandbox.json(&["vault", "delete", "web/one", "--dry-run"]);
    assert_eq!(planned["archive"], one.as_str());
    check(
        "vmsnap.vault-delete.v1",
        &sandbox.json(&["vault", "delete", "web/one"]),
    );
    sandbox.refused(&["thaw", "web/one"], 3);
    let listed = sandbox.json(&["vault", "list"]);
    check("vmsnap.vault-list.v1", &listed);
    let states: Vec<_> = listed["archives"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| text(&one["state"]))
        .collect();
    assert_eq!(states, ["trash", "live"]);
    let again = sandbox.json(&["vault", "undelete", &one]);
    check("vmsnap.vault-undelete.v1", &again);
    sandbox.refused(
        &["vault", "undelete", "00000000000000000000000000000000"],
        3,
    );
    sandbox.json(&["vault", "delete", "web/one"]);
    // A lease that cannot be read hides nothing, and keeps what is in the trash.
    let domain = text(&listed["archives"][0]["domain"]);
    let leases = format!("store/vault/domains/{domain}/leases");
    fs::create_dir_all(sandbox.path(&leases)).unwrap();
    let lease = format!("{leases}/{}", "9".repeat(32));
    sandbox.write(&lease, b"no lease");
    let listed = sandbox.json(&["vault", "list"]);
    check("vmsnap.vault-list.v1", &listed);
    assert_eq!(listed["archives"].as_array().unwrap().len(), 3);
    assert_eq!(listed["damaged"][0]["lease"], "9".repeat(32));
    sandbox.refused(&["vault", "gc", "--expire"], 4);
    fs::remove_file(sandbox.path(&lease)).unwrap();
    let before = packs(&sandbox.path("store/vault")).len();
    let planned = sandbox.json(&["vault", "gc", "--dry-run"]);
    check("vmsnap.vault-gc.v1", &planned);
    assert_eq!(
        (&planned["packs"], &planned["bytes_freed"]),
        (&0.into(), &0.into())
    );
    let done = sandbox.json(&["vault", "gc", "--expire"]);
    assert_eq!(done["archives_expired"], 2);
    assert!(packs(&sandbox.path("store/vault")).len() < before);
    sandbox.refused(&["vault", "undelete", &one], 3);
    assert_eq!(sandbox.json(&["vault", "verify"])["ok"], true);
    sandbox.json(&["thaw", "web/two", "--new-id"]);
    assert!(restored(&sandbox, &["web/two"], "m") == kept);
}

// spec: VCM-02, VCM-03, VCM-06, VCM-15, VCM-16
#[test]
fn a_sealed_scope_is_read_with_its_key_alone_until_its_keys_are_destroyed() {
    let sandbox = Sandbox::new();
    let memory = pattern(40, 1);
    sandbox.import("web", &memory, &["--name", "base"]);
    sandbox.write("first", b"correct horse\n");
    sandbox.write("second", b"battery staple");
    let tenant = ["--scope", "Tenant"];
    let with = |file: &'static str| [tenant.as_slice(), &["--passphrase-file", file]].concat();
    let run = |command: &[&'static str], more: &[&'static str]| [command, more].concat();
    let archived = sandbox.json(&run(&["archive", "web/base"], &with("first")));
    assert_eq!(
        (&archived["sealed"], &archived["scope"]),
        (&true.into(), &"tenant".into())
    );
    for pack in packs(&sandbox.path("store/vault")) {
        let bytes = fs::read(pack).unwrap();
        let secret = &memory[4096..4096 + 32];
        assert!(!bytes.windows(32).any(|found| found == secret));
    }
    sandbox.refused(&run(&["thaw", "web/base", "--no-name"], &tenant), 10);
    sandbox.refused(
        &run(
            &["thaw", "web/base", "--new-id", "--no-name"],
            &with("second"),
        ),
        10,
    );
    sandbox.refused(&["vault", "list"], 3);
    let recipient = "age1zvkyg2lqzraa2lnjvqej32nkuu0ues2s82hzrye869xeexvn73equnujwj";
    let line = [
        "archive",
        "web/base",
        "--scope",
        "tenant",
        "--passphrase-file",
        "first",
        "--recipient",
        recipient,
    ];
    sandbox.refused(&line, 2);
    let scopes = sandbox.json(&["vault", "scopes"]);
    check("vmsnap.vault-scopes.v1", &scopes);
    assert_eq!(scopes["scopes"][0]["sealed"], true);

    let old = sandbox.json(&run(&["vault", "key", "list"], &tenant));
    check("vmsnap.vault-key-list.v1", &old);
    let old = text(&old["keys"][0]["key"]);
    sandbox.refused(&["vault", "key", "remove", &old, "--scope", "tenant"], 13);
    let line = ["vault", "key", "add", "--new-passphrase-file", "second"];
    check(
        "vmsnap.vault-key-add.v1",
        &sandbox.json(&run(&line, &with("first"))),
    );
    let line = [
        "vault",
        "key",
        "add",
        "--scope",
        "tenant",
        "--passphrase-file",
        "first",
        "--recipient",
        recipient,
    ];
    sandbox.json(&line);
    let removed = sandbox.json(&["vault", "key", "remove", &old, "--scope", "tenant"]);
    check("vmsnap.vault-key-remove.v1", &removed);
    sandbox.refused(&run(&["thaw", "web/base", "--no-name"], &with("first")), 10);
    sandbox.json(&run(
        &["thaw", "web/base", "--new-id", "--no-name"],
        &with("second"),
    ));
    assert!(restored(&sandbox, &["web@latest"], "m") == memory);

    let planned = sandbox.json(&run(&["vault", "destroy", "--dry-run"], &tenant));
    assert_eq!(planned["keys"].as_array().unwrap().len(), 2);
    check(
        "vmsnap.vault-destroy.v1",
        &sandbox.json(&run(&["vault", "destroy"], &tenant)),
    );
    sandbox.refused(
        &run(
            &["thaw", "web/base", "--new-id", "--no-name"],
            &with("second"),
        ),
        10,
    );
    sandbox.json(&["archive", "web/base"]);
    sandbox.refused(&["vault", "key", "list"], 2);
}

// spec: VCM-11
#[test]
fn a_store_that_is_gone_does_not_matter_to_its_archives() {
    let sandbox = Sandbox::new();
    let memory = pattern(40, 1);
    let id = id(&sandbox.import("web", &memory, &["--state", "memory"]));
    sandbox.json(&["archive", &id, "--vault", "cold", "--codec", "lz4"]);
    fs::rename(sandbox.path("store"), sandbox.path("gone")).unwrap();
    let arguments = [
        "web@latest",
        "--archived",
        "--vault",
        "cold",
        "--state",
        "s",
    ];
    assert!(restored(&sandbox, &arguments, "m") == memory);
    assert!(sandbox.read("s") == memory);
    sandbox.import("other", &pattern(8, 1), &[]);
    let thawed = sandbox.json(&["thaw", &id, "--vault", "cold"]);
    assert_eq!((&thawed["vm"], &thawed["seq"]), (&"web".into(), &1.into()));
    assert!(restored(&sandbox, &["web@latest"], "m") == memory);
}
