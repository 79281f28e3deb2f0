//! Leases: what is used by a command is not destroyed.

use std::fs;
use std::io::Read;
use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::sandbox::{Sandbox, id, pattern};

/// A base and a diff of it.
fn chain(sandbox: &Sandbox) -> (String, String) {
    let mut memory = pattern(8, 1);
    let base = id(&sandbox.import("vm", &memory, &["--name", "base"]));
    memory[0] ^= 1;
    let diff = id(&sandbox.import("vm", &memory, &["--parent", "vm/base"]));
    (base, diff)
}

// spec: CLI-64
#[test]
fn what_a_command_uses_is_not_deleted_before_the_command_and_all_that_it_ran_have_ended() {
    let sandbox = Sandbox::new();
    let (base, diff) = chain(&sandbox);
    let ready = sandbox.path("ready");
    // The command leaves a child behind, which holds the lease until its standard input ends.
    let script = format!("exec 3<&0; cat <&3 & touch {}", ready.display());
    let mut leasing = sandbox.command(&["lease", &diff, "--", "sh", "-c", &script]);
    let mut leasing = leasing
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let input = leasing.stdin.take().unwrap();
    let until = Instant::now() + Duration::from_mins(1);
    while !fs::exists(&ready).unwrap() {
        assert!(Instant::now() < until, "the command does not start");
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(leasing.wait().unwrap().success());
    for used in [&diff, &base] {
        sandbox.refused(&["delete", used], 13);
    }
    drop(input);
    let mut told = String::new();
    let mut output = leasing.stdout.take().unwrap();
    // Ends when the child has ended, which had it as well.
    output.read_to_string(&mut told).unwrap();
    sandbox.json(&["delete", &diff]);
    sandbox.json(&["delete", &base]);
}

// spec: CLI-64
#[test]
fn the_answer_says_how_the_command_ended_and_stands_alone_on_standard_output() {
    let sandbox = Sandbox::new();
    let (_, diff) = chain(&sandbox);
    let output = sandbox
        .command(&[
            "--json",
            "lease",
            &diff,
            "--",
            "sh",
            "-c",
            "echo hello; exit 3",
        ])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let answer: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        (&answer["id"], &answer["exit_code"]),
        (&diff.into(), &3.into())
    );
    assert!(String::from_utf8_lossy(&output.stderr).contains("hello"));
    let code = |line: &[&str]| sandbox.run(line).code;
    assert_eq!(code(&["lease", "vm/none", "--", "true"]), 3);
    assert_eq!(code(&["lease", "vm/base", "--", "/no/such/command"]), 3);
    assert_eq!(code(&["lease", "vm/base"]), 2);
}
