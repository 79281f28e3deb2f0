//! Input that cannot be used: a clear error with its code, and nothing changed.

use std::fs;
use std::os::unix::fs::symlink;
use std::process::Stdio;

use crate::sandbox::{PAGE, Run, Sandbox, bitmap, id, pattern};

fn sandbox_with_a_snapshot() -> (Sandbox, String) {
    let sandbox = Sandbox::new();
    let imported = sandbox.import("vm", &pattern(20, 1), &["--name", "base"]);
    (sandbox, id(&imported))
}

// spec: CLI-13
// spec: CLI-17
#[test]
fn memory_files_that_are_none_are_refused() {
    let (sandbox, _) = sandbox_with_a_snapshot();
    sandbox.write("odd", &[1; PAGE + 1]);
    sandbox.write("empty", &[]);
    fs::create_dir(sandbox.path("directory")).unwrap();
    nix::unistd::mkfifo(&sandbox.path("pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    symlink("nowhere", sandbox.path("dangling")).unwrap();
    for (file, code) in [
        ("odd", 2),
        ("empty", 2),
        ("directory", 2),
        ("pipe", 2),
        ("/dev/zero", 2),
        ("missing", 3),
        ("dangling", 3),
        ("odd/below", 1),
    ] {
        sandbox.refused(&["import", "vm", "--memory", file], code);
    }
}

// spec: CLI-02
#[test]
fn bad_input_does_not_make_a_store() {
    let sandbox = Sandbox::new();
    sandbox.write("odd", &[1; 5]);
    sandbox.refused(&["import", "vm", "--memory", "odd"], 2);
    sandbox.refused(&["list"], 3);
    sandbox.refused(&["verify"], 3);
    sandbox.refused(&["restore", "vm@latest", "--memory", "out"], 3);
    assert!(!sandbox.store().exists());
}

// spec: CLI-14
#[test]
fn bitmaps_of_the_wrong_length_are_refused() {
    let (sandbox, parent) = sandbox_with_a_snapshot();
    sandbox.write("short", &bitmap(16, &[1]));
    sandbox.write("long", &bitmap(32, &[1]));
    sandbox.write("tail", &bitmap(24, &[20]));
    let mut padded = bitmap(20, &[1]);
    padded.resize(8, 0);
    padded[7] = 1;
    sandbox.write("padded", &padded);
    let line = [
        "import", "vm", "--memory", "memory", "--parent", &parent, "--dirty",
    ];
    for file in ["short", "long", "tail", "padded", "store"] {
        sandbox.refused(&[&line[..], &[file]].concat(), 2);
    }
    sandbox.refused(&[&line[..], &["missing"]].concat(), 3);
    sandbox.refused(
        &["import", "vm", "--memory", "memory", "--dirty", "short"],
        2,
    );
}

// spec: CLI-16
#[test]
fn a_wrong_parent_is_refused() {
    let (sandbox, parent) = sandbox_with_a_snapshot();
    sandbox.write("larger", &pattern(21, 1));
    sandbox.refused(
        &["import", "vm", "--memory", "larger", "--parent", &parent],
        5,
    );
    let moved = ["--regions", "1M:80K@0", "--parent", &parent];
    let line = ["import", "vm", "--memory", "memory"];
    sandbox.refused(&[&line[..], &moved].concat(), 5);
    let nobody = "00000000-0000-7000-8000-000000000001";
    sandbox.refused(&[&line[..], &["--parent", nobody]].concat(), 3);
    sandbox.refused(&[&line[..], &["--parent", "vm/nobody"]].concat(), 3);
}

// spec: CLI-04
// spec: CLI-10
#[test]
fn names_that_are_none_are_refused() {
    let (sandbox, _) = sandbox_with_a_snapshot();
    let long = "x".repeat(300);
    for name in ["a/b", "..", ".", "", "-x", "a b", "ä", "a\nb", &long] {
        let vm = ["import", "--memory", "memory", "--", name];
        if name.is_empty() || !name.starts_with('-') {
            sandbox.refused(&["import", name, "--memory", "memory"], 2);
        }
        assert_eq!(sandbox.run(&vm).code, 2, "{name:?}");
        let option = format!("--name={name}");
        sandbox.refused(&["import", "vm", "--memory", "memory", &option], 2);
        let tag = format!("--tag={name}");
        sandbox.refused(&["import", "vm", "--memory", "memory", &tag], 2);
        sandbox.refused(&["show", &format!("vm/{name}")], 2);
    }
    sandbox.refused(&["import", "vm", "--memory", "memory", "--label", "=v"], 2);
    sandbox.refused(
        &["import", "vm", "--memory", "memory", "--label", "novalue"],
        2,
    );
}

// spec: CLI-31
#[test]
fn a_rate_of_nothing_and_unknown_choices_are_refused() {
    let (sandbox, _) = sandbox_with_a_snapshot();
    let line = ["import", "vm", "--memory", "memory"];
    for more in [
        &["--io-limit", "0"][..],
        &["--io-limit", "fast"],
        &["--layout", "dense"],
        &["--engine", "magic"],
    ] {
        sandbox.refused(&[&line[..], more].concat(), 2);
    }
}

// spec: CLI-12
#[test]
fn regions_beyond_the_file_are_refused() {
    let (sandbox, _) = sandbox_with_a_snapshot();
    for regions in [
        "0:84K@0",
        "0:4K@80K",
        "0:4K@1",
        "0:0@0",
        "0:4K",
        "x",
        "0:8K@0,4K:4K@0",
    ] {
        let line = ["import", "vm", "--memory", "memory", "--regions", regions];
        sandbox.refused(&line, 2);
    }
}

// spec: CLI-01
#[test]
fn a_store_must_be_named_and_a_command_known() {
    let sandbox = Sandbox::new();
    let mut command = sandbox.command(&[]);
    let run = |arguments: &[&str]| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_vmsnap"));
        command
            .env_remove("VMSNAP_STORE")
            .args(arguments)
            .stdin(Stdio::null());
        Run::of(&command.output().unwrap())
    };
    assert_eq!(Run::of(&command.output().unwrap()).code, 2);
    for arguments in [
        &["list"][..],
        &["frobnicate"],
        &["list", "--nonsense"],
        &["--quiet", "list", "-v"],
    ] {
        assert_eq!(run(arguments).code, 2, "{arguments:?}");
        let json = run(&[arguments, &["--json"]].concat());
        assert_eq!(json.document()["error"]["kind"], "usage", "{arguments:?}");
    }
    let help = run(&["--help"]);
    assert_eq!(help.code, 0);
    assert!(help.stdout.contains("import"));
    let version = run(&["--version"]);
    assert_eq!(
        (version.code, version.stdout.starts_with("vmsnap ")),
        (0, true)
    );
}

// spec: CLI-07
// spec: CLI-29
#[test]
fn a_store_of_a_future_version_is_not_touched() {
    let (sandbox, _) = sandbox_with_a_snapshot();
    let path = sandbox.path("store/store.vms");
    let future = from_the_future(&fs::read(&path).unwrap());
    fs::remove_file(&path).unwrap();
    fs::write(&path, &future).unwrap();
    sandbox.refused(&["list"], 9);
    sandbox.refused(&["import", "vm", "--memory", "memory"], 9);
    let run = sandbox.run(&["inspect", "store/store.vms", "--json"]);
    assert_eq!(run.code, 9, "{run:?}");
    assert_eq!(run.document()["header"]["sound"], true);

    // A flipped bit is damage, whatever it makes of the version.
    let mut flipped = future;
    flipped[14] ^= 0x80;
    fs::write(&path, &flipped).unwrap();
    sandbox.refused(&["list"], 4);
    assert_eq!(sandbox.run(&["inspect", "store/store.vms"]).code, 4);
}

/// The same file, saying that a reader of a later version is needed, with a right checksum.
fn from_the_future(bytes: &[u8]) -> Vec<u8> {
    let mut header = snapshot_format::Header::parse(bytes, bytes.len() as u64).unwrap();
    header.version.minor += 1;
    header.reader_minor = header.version.minor;
    [&header.encode()[..], &bytes[128..]].concat()
}
