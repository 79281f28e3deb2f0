//! What a user without privileges can do to somebody else's store: look, and nothing more.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;

use snapshot_memory::skip::skip;

use crate::sandbox::{Run, Sandbox, id, list, pattern};

const NOBODY: u32 = 65534;

/// Lets everybody read and nobody write.
fn open_to_read(root: &Path) {
    let mut directories = vec![root.to_owned()];
    while let Some(directory) = directories.pop() {
        fs::set_permissions(&directory, fs::Permissions::from_mode(0o755)).unwrap();
        for entry in fs::read_dir(&directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                directories.push(path);
            } else {
                fs::set_permissions(&path, fs::Permissions::from_mode(0o444)).unwrap();
            }
        }
    }
}

// spec: CLI-26
// spec: CLI-17
#[test]
fn a_store_that_can_only_be_read_is_read_and_not_written() {
    if !nix::unistd::geteuid().is_root() {
        return skip("unprivileged", "only root can become another user");
    }
    let sandbox = Sandbox::new();
    let memory = pattern(30, 1);
    let one = id(&sandbox.import("vm", &memory, &["--name", "base"]));
    let binary = sandbox.path("vmsnap");
    fs::copy(env!("CARGO_BIN_EXE_vmsnap"), &binary).unwrap();
    open_to_read(&sandbox.store());
    let out = sandbox.path("out");
    fs::create_dir(&out).unwrap();
    fs::set_permissions(&out, fs::Permissions::from_mode(0o777)).unwrap();
    fs::set_permissions(sandbox.root(), fs::Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(sandbox.path("memory"), fs::Permissions::from_mode(0o644)).unwrap();
    fs::set_permissions(&binary, fs::Permissions::from_mode(0o755)).unwrap();
    let run = |arguments: &[&str]| {
        let mut command = std::process::Command::new(&binary);
        command
            .current_dir(sandbox.root())
            .env_remove("VMSNAP_STORE")
            .args(["--store", "store", "--json"])
            .args(arguments)
            .uid(NOBODY)
            .gid(NOBODY);
        Run::of(&command.output().unwrap())
    };
    let before = list(&sandbox.store());
    for arguments in [
        &["list"][..],
        &["show", "vm/base"],
        &["tree", "vm"],
        &["trash"],
        &["df"],
        &["verify"],
        &["inspect", "store/store.vms"],
        &["delete", &one, "--dry-run"],
        &["restore", &one, "--memory", "out/image"],
    ] {
        let run = run(arguments);
        assert_eq!(run.code, 0, "{arguments:?}: {run:?}");
    }
    assert!(sandbox.read("out/image") == memory);
    for arguments in [
        &["import", "vm", "--memory", "memory"][..],
        &["delete", &one],
        &["restore", &one, "--memory", "not-here"],
    ] {
        let run = run(arguments);
        assert_eq!(run.code, 1, "{arguments:?}: {run:?}");
        assert_eq!(run.document()["schema"], "vmsnap.error.v1");
    }
    assert_eq!(list(&sandbox.store()), before);
}
