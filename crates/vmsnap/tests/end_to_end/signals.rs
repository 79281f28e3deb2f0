//! Interrupts and closed pipes.

use std::fs;
use std::io::Read;
use std::process::Stdio;
use std::thread;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::sandbox::{PAGE, Run, Sandbox, id, pattern};

// spec: CLI-08
#[test]
fn a_closed_pipe_ends_quietly() {
    let sandbox = Sandbox::new();
    sandbox.import("vm", &pattern(2, 1), &[]);
    for arguments in [
        &["list"][..],
        &["list", "--json"],
        &["show", "vm/nobody", "--json"],
    ] {
        let mut child = sandbox
            .command(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        drop(child.stdout.take());
        let mut complaint = String::new();
        child
            .stderr
            .take()
            .unwrap()
            .read_to_string(&mut complaint)
            .unwrap();
        let code = child.wait().unwrap().code();
        assert_eq!(complaint, "", "{arguments:?}");
        assert_eq!(code, Some(if arguments[0] == "list" { 0 } else { 3 }));
    }
}

// spec: CLI-09
#[test]
fn an_interrupt_cleans_up_and_ends_with_130() {
    let sandbox = Sandbox::new();
    let one = id(&sandbox.import("vm", &pattern(4, 1), &[]));
    // Large and sparse: long enough to be interrupted, without a large file.
    let file = fs::File::create(sandbox.path("large")).unwrap();
    file.set_len(64 << 30).unwrap();
    let before = sandbox.listing();
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let child = sandbox
            .command(&[
                "import",
                "vm",
                "--memory",
                "large",
                "--progress",
                "json",
                "--json",
            ])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        thread::sleep(Duration::from_millis(300));
        kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), signal).unwrap();
        let run = Run::of(&child.wait_with_output().unwrap());
        assert_eq!(run.code, 130, "{run:?}");
        assert_eq!(run.document()["error"]["kind"], "interrupted");
        assert_eq!(sandbox.listing(), before);
    }
    assert!(sandbox.restored(&one).len() == 4 * PAGE);
}

// spec: CLI-09
// spec: CLI-31
#[test]
fn work_at_a_byte_a_second_is_still_there_to_be_interrupted() {
    let sandbox = Sandbox::new();
    let one = id(&sandbox.import("vm", &pattern(4, 1), &[]));
    sandbox.write("memory", &pattern(4, 2));
    let before = sandbox.listing();
    for line in [
        &["import", "vm", "--memory", "memory"][..],
        &["import", "vm", "--memory", "memory", "--parent", &one],
        &["restore", &one, "--memory", "out"],
        &["verify"],
    ] {
        let child = sandbox
            .command(&[line, &["--io-limit", "1", "--json"]].concat())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        thread::sleep(Duration::from_millis(300));
        let process = Pid::from_raw(i32::try_from(child.id()).unwrap());
        kill(process, Signal::SIGINT).unwrap();
        let run = Run::of(&child.wait_with_output().unwrap());
        assert_eq!(run.code, 130, "{line:?}: {run:?}");
        assert_eq!(run.document()["error"]["kind"], "interrupted");
        assert_eq!(sandbox.listing(), before, "{line:?}");
        assert!(!sandbox.path("out").exists(), "{line:?}");
    }
}

// spec: CLI-11
#[test]
fn progress_is_told_one_document_a_line() {
    let sandbox = Sandbox::new();
    sandbox.write("memory", &pattern(100, 1));
    let run = sandbox.run(&["import", "vm", "--memory", "memory", "--progress", "json"]);
    assert_eq!(run.code, 0);
    let last: serde_json::Value = run
        .stderr
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .next_back()
        .unwrap();
    assert_eq!(last["schema"], "vmsnap.progress.v1");
    assert_eq!(last["done_bytes"], 100 * PAGE);
    assert_eq!(last["total_bytes"], 100 * PAGE);
}
