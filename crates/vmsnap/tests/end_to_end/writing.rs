//! How memory is written: layouts, engines, and leaving something to others.

use std::fs;
use std::process::Stdio;

use snapshot_memory::skip::skip;

use crate::disk::Disk;
use crate::sandbox::{Run, Sandbox, bitmap, id, page, pattern};

const PAGES: usize = 600;

// spec: CLI-20
#[test]
fn every_layout_and_engine_gives_back_every_byte_and_says_what_it_was() {
    let sandbox = Sandbox::new();
    let memory = pattern(PAGES, 1);
    for layout in ["auto", "sparse", "packed"] {
        for engine in ["auto", "buffered"] {
            let more = ["--layout", layout, "--engine", engine, "--verify"];
            let imported = sandbox.import("vm", &memory, &more);
            if layout != "auto" {
                assert_eq!(imported["layout"], layout, "{imported}");
            }
            if engine != "auto" {
                assert_eq!(imported["engine"], engine, "{imported}");
            }
            assert_eq!(imported["pages"]["present"], 480);
            assert_eq!(imported["pages"]["zero"], 120);
            assert!(sandbox.restored(&id(&imported)) == memory, "{imported}");
        }
    }
    let more = ["--layout", "sparse", "--engine", "vectored"];
    let imported = sandbox.import("vm", &memory, &more);
    // A file is not mapped memory: it goes through buffers, and that is said.
    assert_eq!(imported["engine"], "buffered");
    assert!(sandbox.restored(&id(&imported)) == memory);
}

// spec: CLI-15
// spec: CLI-20
#[test]
fn a_chain_of_both_layouts_gives_back_every_byte() {
    let sandbox = Sandbox::new();
    let mut memory = pattern(PAGES, 2);
    let mut parent = id(&sandbox.import("vm", &memory, &["--layout", "packed"]));
    for (round, layout) in (1..).zip(["packed", "sparse", "packed", "sparse"]) {
        let dirty = [0, 5, 6, 7, 100 + usize::from(round), PAGES - 1];
        for &at in &dirty {
            page(&mut memory, at).fill(round);
        }
        page(&mut memory, 6).fill(0);
        sandbox.write("dirty", &bitmap(PAGES, &dirty));
        let more = ["--dirty", "dirty", "--parent", &parent, "--layout", layout];
        let diff = sandbox.import("vm", &memory, &more);
        assert_eq!(diff["layout"], layout);
        assert_eq!(diff["pages"]["present"], 5);
        assert_eq!(diff["pages"]["zero"], 1);
        parent = id(&diff);
        assert!(sandbox.restored(&parent) == memory, "{diff}");
    }
    assert_eq!(sandbox.json(&["verify"])["ok"], true);
}

// spec: CLI-20
#[test]
fn an_engine_that_cannot_write_here_is_refused() {
    let around = Sandbox::new();
    around.write("memory", &pattern(PAGES, 4));
    let line = ["import", "vm", "--memory", "memory"];
    let vectored = ["--layout", "packed", "--engine", "vectored"];
    around.json(&line);
    around.refused(&[&line[..], &vectored].concat(), 2);
    // A file system in memory without direct writes, which does not say what is free either.
    let at = around.path("disk");
    let Some(disk) = Disk::mount(at, &["-t", "ramfs", "ramfs"]) else {
        return skip("unprivileged", "no file system can be mounted here");
    };
    let sandbox = Sandbox::within(disk.path());
    let memory = pattern(PAGES, 5);
    let imported = sandbox.import("vm", &memory, &[]);
    assert_eq!(imported["engine"], "buffered");
    assert!(sandbox.restored(&id(&imported)) == memory);
    let refused = sandbox.refused(&[&line[..], &["--engine", "direct"]].concat(), 2);
    let message = refused["error"]["message"].as_str().unwrap();
    assert!(message.contains("direct"), "{message}");
}

// spec: CLI-31
#[test]
fn a_rate_changes_no_byte() {
    let sandbox = Sandbox::new();
    let memory = pattern(PAGES, 3);
    let rate = ["--io-limit", "1G"];
    let one = id(&sandbox.import("vm", &memory, &rate));
    sandbox.json(&[&["restore", &one, "--memory", "out"], &rate[..]].concat());
    assert!(sandbox.read("out") == memory);
    let verified = sandbox.json(&[&["verify"], &rate[..]].concat());
    assert_eq!(verified["ok"], true);
}

/// How nice a process is.
fn nice(process: u32) -> Option<i32> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    // The second field is a name, which may hold anything; nice is the 19th.
    let (_, fields) = stat.rsplit_once(')')?;
    fields.split_whitespace().nth(16)?.parse().ok()
}

// spec: CLI-32
#[test]
fn work_in_the_background_gives_way() {
    let sandbox = Sandbox::new();
    // Large and sparse: long enough to be looked at, without a large file.
    let file = fs::File::create(sandbox.path("memory")).unwrap();
    file.set_len(32 << 30).unwrap();
    let mut child = sandbox
        .command(&["import", "vm", "--memory", "memory", "--background"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let wanted = nice(std::process::id()).map(|own| (own + 10).min(19));
    let mut seen = None;
    while seen != wanted && child.try_wait().unwrap().is_none() {
        seen = nice(child.id());
    }
    child.kill().unwrap();
    let run = Run::of(&child.wait_with_output().unwrap());
    assert_eq!(seen, wanted, "{run:?}");
}
