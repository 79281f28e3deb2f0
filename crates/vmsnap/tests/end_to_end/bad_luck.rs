//! What goes wrong outside of the command: files that somebody changed, copies made in the middle,
//! and two of it at once.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::sandbox::{Run, Sandbox, id, pattern};

/// Two snapshots of one machine, without a parent.
fn two(sandbox: &Sandbox) -> [String; 2] {
    ["a", "b"].map(|name| {
        let memory = pattern(8, u64::from(name.as_bytes()[0]));
        id(&sandbox.import("vm", &memory, &["--name", name]))
    })
}

fn listed(sandbox: &Sandbox) -> usize {
    let list = sandbox.json(&["list"]);
    list["snapshots"].as_array().unwrap().len()
}

#[test]
fn nonsense_in_a_snapshot_json_costs_its_labels_and_nothing_else() {
    let sandbox = Sandbox::new();
    let [first, _] = two(&sandbox);
    let path = sandbox
        .store()
        .join(format!("snapshots/{first}/snapshot.json"));
    let whole = fs::read(&path).unwrap();
    let half = &whole[..whole.len() / 2];
    let deep = [b'['].repeat(100_000);
    let nonsense: [&[u8]; 12] = [
        b"",
        b"null",
        b"[]",
        b"{}",
        b"\"text\"",
        b"17",
        b"{\"version\":99}",
        b"{\"version\":1,\"id\":\"0\"}",
        b"\0\0\0\0",
        b"\xff\xfe",
        half,
        &deep,
    ];
    fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
    for text in nonsense {
        fs::write(&path, text).unwrap();
        assert_eq!(listed(&sandbox), 2, "{text:?}");
        assert_eq!(sandbox.restored(&first), pattern(8, u64::from(b'a')));
        assert_eq!(sandbox.restored("vm/b"), pattern(8, u64::from(b'b')));
        let verified = sandbox.run(&["verify"]);
        assert_eq!(verified.code, 4, "{text:?}: {verified:?}");
        // It may be protected: nobody can tell.
        sandbox.refused(&["delete", &first], 13);
    }
    fs::write(&path, &whole).unwrap();
    assert_eq!(sandbox.run(&["verify"]).code, 0);
}

#[test]
fn a_directory_of_which_a_part_is_gone_hides_no_other() {
    let sandbox = Sandbox::new();
    let [first, second] = two(&sandbox);
    let directory = sandbox.store().join("snapshots").join(&first);
    let mut files: Vec<PathBuf> = fs::read_dir(&directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    for path in files {
        fs::remove_file(&path).unwrap();
        let list = sandbox.json(&["list"]);
        let snapshots = list["snapshots"].as_array().unwrap();
        assert!(snapshots.iter().any(|found| found["id"] == second));
        assert_eq!(sandbox.restored("vm/b"), pattern(8, u64::from(b'b')));
        assert_eq!(sandbox.run(&["verify", &second]).code, 0);
        assert_eq!(sandbox.run(&["verify"]).code, 4, "without {path:?}");
    }
    // And the store goes on.
    sandbox.import("vm", &pattern(8, 9), &["--name", "c"]);
    assert_eq!(sandbox.restored("vm/c"), pattern(8, 9));
}

#[test]
fn an_index_that_is_damaged_changes_no_answer() {
    let sandbox = Sandbox::new();
    two(&sandbox);
    let right = sandbox.json(&["list"]);
    let index = sandbox.store().join("index.sqlite");
    let whole = fs::read(&index).unwrap();
    let mut header = whole.clone();
    header[..200].fill(0xa5);
    let mut middle = whole.clone();
    let half = middle.len() / 2;
    middle[half..half + 500].fill(0x5a);
    for bytes in [
        &header,
        &middle,
        &whole[..whole.len() / 3].to_vec(),
        &vec![],
    ] {
        fs::write(&index, bytes).unwrap();
        assert_eq!(sandbox.json(&["list"]), right);
    }
    sandbox.json(&["reindex"]);
    assert_eq!(sandbox.json(&["list"]), right);
}

/// Ends the writer, however the test ends.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn a_copy_made_while_the_store_is_written_holds_what_was_there_before() {
    let sandbox = Sandbox::new();
    two(&sandbox);
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut number = 0;
            while !is_over.load(Ordering::Relaxed) {
                number += 1;
                let name = format!("more-{number}");
                sandbox.import("vm", &pattern(8, number), &["--name", &name]);
            }
        });
        let _ends = Over(&is_over);
        for round in 0..3 {
            let copy = sandbox.path(&format!("copy-{round}"));
            let mut cp = Command::new("cp");
            // What goes while it is copied is no error of the copy.
            cp.arg("-a")
                .arg(sandbox.store())
                .arg(&copy)
                .output()
                .unwrap();
            let of_copy = |arguments: &[&str]| {
                let mut command = Command::new(env!("CARGO_BIN_EXE_vmsnap"));
                command.arg("--store").arg(&copy).args(arguments);
                Run::of(&command.output().unwrap())
            };
            for name in ["a", "b"] {
                let out = sandbox.path(&format!("out-{round}-{name}"));
                let reference = format!("vm/{name}");
                let run = of_copy(&["restore", &reference, "--memory", &out.to_string_lossy()]);
                assert_eq!(run.code, 0, "{run:?}");
                let expected = pattern(8, u64::from(name.as_bytes()[0]));
                assert_eq!(fs::read(&out).unwrap(), expected);
            }
            let list = of_copy(&["list"]);
            assert_eq!(list.code, 0, "{list:?}");
        }
    });
}

#[test]
fn two_collections_at_once_remove_what_one_would() {
    let sandbox = Sandbox::new();
    two(&sandbox);
    for number in 0..4 {
        let name = format!("gone-{number}");
        sandbox.import("vm", &pattern(8, 50 + number), &["--name", &name]);
        sandbox.json(&["delete", &format!("vm/{name}")]);
    }
    let spawn = || {
        let mut command = sandbox.command(&["gc", "--json"]);
        command.stdout(std::process::Stdio::piped());
        command.spawn().unwrap()
    };
    let both = [spawn(), spawn()];
    let runs = both.map(|child| Run::of(&child.wait_with_output().unwrap()));
    // One that comes while the other is at it is told so.
    assert!(runs.iter().all(|run| matches!(run.code, 0 | 6)), "{runs:?}");
    assert!(runs.iter().any(|run| run.code == 0), "{runs:?}");
    let trash = sandbox.json(&["trash"]);
    assert_eq!(
        trash["snapshots"].as_array().map(Vec::len),
        Some(0),
        "{trash}"
    );
    assert_eq!(sandbox.run(&["verify"]).code, 0);
    assert_eq!(listed(&sandbox), 2);
}
