//! Where there is no room, and where two want the same at once.

use std::ffi::OsStr;
use std::fs;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use snapshot_memory::skip::skip;

use crate::disk::Disk;
use crate::sandbox::{PAGE, Run, Sandbox, id, pattern};

// spec: CLI-07
// spec: CLI-17
// spec: CLI-24
// spec: CLI-36
#[test]
fn a_full_disk_is_said_to_be_full_and_nothing_is_left() {
    let around = Sandbox::new();
    let Some(disk) = Disk::mount(
        around.path("disk"),
        &["-t", "tmpfs", "-o", "size=3m", "tmpfs"],
    ) else {
        return skip("unprivileged", "no file system can be mounted here");
    };
    let sandbox = Sandbox::within(disk.path());
    let small = pattern(100, 1);
    let first = id(&sandbox.import("vm", &small, &[]));
    fs::remove_file(sandbox.path("memory")).unwrap();
    let large = around.write("large", &pattern(2000, 2));
    let large = large.to_str().unwrap();
    let before = sandbox.listing();
    let refused = sandbox.refused(&["import", "vm", "--memory", large], 7);
    // It is known before anything is written: 1600 pages are not zero, their map, and 1 MiB.
    let needed = 1600 * (PAGE + 36) + (1 << 20);
    let message = refused["error"]["message"].as_str().unwrap();
    assert!(message.contains(&format!("{needed} bytes")), "{message}");
    assert_eq!(sandbox.listing(), before);
    assert!(sandbox.restored(&first) == small);

    // Nor is a guest stopped for a snapshot that there is no room for.
    let refused = sandbox.run(&["demo", "--backend", "process", "--mem", "8M", "--json"]);
    assert_eq!(refused.code, 7, "{refused:?}");
    let message = refused.document()["error"]["message"].to_string();
    assert!(message.contains("prepare the sink"), "{message}");
    assert_eq!(sandbox.listing(), before);

    // Blocks that hold only zeros need no room.
    let zeros = around.write("zeros", &vec![0; 2000 * PAGE]);
    let zeros = id(&sandbox.json(&["import", "vm", "--memory", zeros.to_str().unwrap()]));
    sandbox.json(&["verify", &zeros]);

    // A store elsewhere, an output on the full disk.
    let elsewhere = around.path("other-store");
    let elsewhere = elsewhere.to_str().unwrap();
    let line = ["import", "vm", "--memory", large, "--store", elsewhere];
    let large_id = id(&sandbox.json(&line));
    let line = [
        "restore", &large_id, "--memory", "big", "--store", elsewhere,
    ];
    sandbox.refused(&line, 7);
}

// spec: CLI-02
// spec: CLI-17
#[test]
fn two_imports_at_once_both_succeed_also_while_making_the_store() {
    let sandbox = Sandbox::new();
    let images = [pattern(500, 1), pattern(500, 2)];
    let children: Vec<_> = images
        .iter()
        .enumerate()
        .map(|(at, image)| {
            let file = format!("memory{at}");
            sandbox.write(&file, image);
            let name = format!("n{at}");
            sandbox
                .command(&["import", "vm", "--memory", &file, "--name", &name, "--json"])
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap()
        })
        .collect();
    for child in children {
        let run = Run::of(&child.wait_with_output().unwrap());
        assert_eq!(run.code, 0, "{run:?}");
    }
    let listed = sandbox.json(&["list"]);
    let snapshots = listed["snapshots"].as_array().unwrap();
    let seqs: Vec<_> = snapshots.iter().map(|one| one["seq"].as_u64()).collect();
    assert_eq!(seqs, [Some(1), Some(2)]);
    for (at, image) in images.iter().enumerate() {
        assert!(sandbox.restored(&format!("vm/n{at}")) == *image);
    }
}

// spec: CLI-04
#[test]
fn of_two_imports_with_one_name_one_wins() {
    let sandbox = Sandbox::new();
    sandbox.import("vm", &pattern(4, 1), &[]);
    let children: Vec<_> = (0..4)
        .map(|_| {
            sandbox
                .command(&["import", "vm", "--memory", "memory", "--name", "only"])
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .unwrap()
        })
        .collect();
    let mut codes: Vec<_> = children
        .into_iter()
        .map(|mut child| child.wait().unwrap().code().unwrap())
        .collect();
    codes.sort_unstable();
    assert_eq!(codes, [0, 12, 12, 12]);
    assert_eq!(
        sandbox.json(&["list"])["snapshots"]
            .as_array()
            .unwrap()
            .len(),
        2
    );
}

// spec: CLI-18
#[test]
fn a_memory_file_that_shrinks_while_it_is_read_fails_the_import() {
    let sandbox = Sandbox::new();
    sandbox.import("vm", &pattern(4, 1), &[]);
    let path = sandbox.path("memory");
    // Long enough to be read for seconds, and without blocks.
    let file = fs::File::create(&path).unwrap();
    file.set_len(32 << 30).unwrap();
    let before = sandbox.listing();
    let stop = AtomicBool::new(false);
    let run = thread::scope(|scope| {
        let child = sandbox
            .command(&["import", "vm", "--memory", "memory", "--json"])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        scope.spawn(|| {
            // Cut as soon as a staged directory shows that the file was opened.
            let snapshots = sandbox.path("store/snapshots");
            let staged = |name: &OsStr| name.as_encoded_bytes().starts_with(b".stage-");
            let begun = || {
                let mut entries = fs::read_dir(&snapshots).unwrap();
                entries.any(|entry| staged(&entry.unwrap().file_name()))
            };
            while !stop.load(Ordering::Relaxed) && !begun() {
                thread::yield_now();
            }
            file.set_len(PAGE as u64).unwrap();
        });
        let run = Run::of(&child.wait_with_output().unwrap());
        stop.store(true, Ordering::Relaxed);
        run
    });
    assert_eq!(run.code, 1, "{run:?}");
    let message = run.document()["error"]["message"].to_string();
    assert!(message.contains("became shorter"), "{message}");
    assert_eq!(sandbox.listing(), before);
}
