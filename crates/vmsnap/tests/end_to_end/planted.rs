//! Links where files of the store belong, and outputs where they do not.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use crate::sandbox::{Sandbox, id, list, pattern};

/// What becomes of a name in the store.
#[derive(Clone, Copy, Debug)]
enum Plant {
    /// A symbolic link to the thing itself, moved out of the store.
    Symlink,
    /// A second hard link to the file, outside the store.
    HardLink,
}

// spec: CLI-07
// spec: CLI-24
#[test]
fn a_link_planted_at_any_name_is_never_followed() {
    let sandbox = Sandbox::new();
    let memory = pattern(40, 1);
    let one = id(&sandbox.import("vm", &memory, &["--name", "base"]));
    let names: Vec<_> = list(&sandbox.store()).into_keys().collect();
    assert!(names.iter().any(|name| name.ends_with("memory.img")));
    let mut refused = 0;
    for name in &names {
        for plant in [Plant::Symlink, Plant::HardLink] {
            let path = sandbox.store().join(name);
            let outside = sandbox.path("outside");
            if matches!(plant, Plant::HardLink) && path.is_dir() {
                continue;
            }
            match plant {
                Plant::Symlink => {
                    fs::rename(&path, &outside).unwrap();
                    symlink(&outside, &path).unwrap();
                }
                Plant::HardLink => fs::hard_link(&path, &outside).unwrap(),
            }
            let run = sandbox.run(&["restore", &one, "--memory", "out", "--json"]);
            if run.code == 0 {
                // A lock, a cache or a derived file: the snapshot does not depend on it.
                assert!(
                    !must_be_read(name, &one),
                    "{plant:?} at {name:?} was followed"
                );
                assert!(sandbox.read("out") == memory);
                fs::remove_file(sandbox.path("out")).unwrap();
            } else {
                refused += 1;
                assert!(
                    [1, 3, 4, 13].contains(&run.code),
                    "{plant:?} at {name:?}: {run:?}"
                );
                assert_eq!(run.document()["schema"], "vmsnap.error.v1");
                assert!(!sandbox.path("out").exists());
            }
            match plant {
                Plant::Symlink => {
                    fs::remove_file(&path).unwrap();
                    fs::rename(&outside, &path).unwrap();
                }
                Plant::HardLink => fs::remove_file(&outside).unwrap(),
            }
        }
    }
    assert!(refused >= 10, "only {refused} plants were refused");
    assert!(sandbox.restored(&one) == memory);
}

/// Whether restoring `id` has to read the file or directory `name`.
fn must_be_read(name: &Path, id: &str) -> bool {
    let own = Path::new("snapshots").join(id);
    let file = name.file_name().and_then(|name| name.to_str()).unwrap();
    name == Path::new("store.vms")
        || name == Path::new("snapshots")
        || name == own
        || name.starts_with(&own) && (file.ends_with(".vms") || file.starts_with("memory."))
}

// spec: CLI-02
// spec: CLI-17
#[test]
fn an_import_writes_through_no_link() {
    let sandbox = Sandbox::new();
    sandbox.import("vm", &pattern(4, 1), &[]);
    for directory in ["snapshots", "vms", "locks"] {
        let path = sandbox.store().join(directory);
        let outside = sandbox.path("outside");
        fs::rename(&path, &outside).unwrap();
        symlink(&outside, &path).unwrap();
        let before = list(&outside);
        let run = sandbox.run(&["import", "vm", "--memory", "memory", "--json"]);
        if directory != "vms" {
            assert_ne!(run.code, 0, "{directory}: {run:?}");
        }
        assert_eq!(
            list(&outside),
            before,
            "{directory} was written through a link"
        );
        fs::remove_file(&path).unwrap();
        fs::rename(&outside, &path).unwrap();
    }
}

// spec: CLI-23
#[test]
fn an_output_in_the_store_is_refused() {
    let sandbox = Sandbox::new();
    let one = id(&sandbox.import("vm", &pattern(4, 1), &[]));
    symlink(sandbox.path("store/cache"), sandbox.path("link")).unwrap();
    for output in [
        "store/out",
        "store/cache/out",
        "link/out",
        "store/../store/out",
    ] {
        sandbox.refused(&["restore", &one, "--memory", output], 13);
        sandbox.refused(&["restore", &one, "--memory", "m", "--state", output], 3);
    }
    sandbox.refused(&["restore", &one, "--memory", "no/such/directory"], 3);
}
