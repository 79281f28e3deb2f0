use std::fs;
use std::os::unix::fs::symlink;

use nix::sys::stat::fstat;
use tempfile::TempDir;

use super::*;
use crate::backend::fs::system;

fn path(name: &str) -> RelPath {
    let parts = name.split('/').filter(|part| !part.is_empty());
    parts.fold(RelPath::root(), |path, part| path.join(part).unwrap())
}

/// A tree with files, directories, and links of every kind.
fn tree() -> (TempDir, OwnedFd) {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    fs::create_dir_all(at("a/b/c")).unwrap();
    fs::write(at("a/b/c/file"), b"x").unwrap();
    fs::write(at("file"), b"x").unwrap();
    symlink("a", at("to-dir")).unwrap();
    symlink("file", at("to-file")).unwrap();
    symlink("/", at("to-root")).unwrap();
    symlink("..", at("a/b/up")).unwrap();
    symlink("nowhere", at("a/dangling")).unwrap();
    symlink("self", at("self")).unwrap();
    let root = fs::File::open(dir.path()).unwrap().into();
    (dir, root)
}

/// What became of an open, in words that both ways of opening share.
fn outcome(result: io::Result<OwnedFd>) -> Result<u64, String> {
    match result {
        Ok(fd) => Ok(fstat(fd).unwrap().st_ino),
        Err(error) => {
            Err(Refusal::of(&error)
                .map_or_else(|| format!("{:?}", error.kind()), |it| it.to_string()))
        }
    }
}

#[test]
fn every_name_is_resolved_as_the_kernel_does_in_one_call() {
    let (_dir, root) = tree();
    let names = [
        "",
        "a",
        "a/b/c",
        "a/b/c/file",
        "file",
        "file/below",
        "missing",
        "a/missing/file",
        "to-dir",
        "to-dir/b",
        "to-file",
        "to-root",
        "to-root/etc",
        "a/b/up",
        "a/b/up/b",
        "a/dangling",
        "self",
        "self/file",
    ];
    for name in names {
        for flags in [OFlag::O_RDONLY, OFlag::O_DIRECTORY] {
            let ours = outcome(open_at(&root, &path(name), flags, Mode::empty()));
            let kernel = outcome(system::open_at(&root, &path(name), flags, Mode::empty()));
            assert_eq!(ours, kernel, "{name:?} with {flags:?}");
        }
    }
}

#[test]
fn nothing_is_made_through_a_link() {
    let (dir, root) = tree();
    let flags = OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_EXCL;
    for (name, expected) in [
        ("to-dir/new", Err(Refusal::SymbolicLink.to_string())),
        ("a/b/up/new", Err(Refusal::SymbolicLink.to_string())),
        ("a/dangling", Err("AlreadyExists".to_owned())),
        ("file/new", Err("NotADirectory".to_owned())),
    ] {
        assert_eq!(
            outcome(open_at(&root, &path(name), flags, Mode::S_IRWXU)),
            expected,
            "{name}"
        );
    }
    assert!(!dir.path().join("a/new").exists() && !dir.path().join("a/nowhere").exists());
    open_at(&root, &path("a/b/c/new"), flags, Mode::S_IRWXU).unwrap();
    assert!(dir.path().join("a/b/c/new").exists());
}

#[test]
fn a_directory_that_was_swapped_for_a_link_is_not_followed() {
    let (dir, root) = tree();
    fs::rename(dir.path().join("a"), dir.path().join("old")).unwrap();
    symlink("old", dir.path().join("a")).unwrap();
    let error = open_at(&root, &path("a/b/c/file"), OFlag::O_RDONLY, Mode::empty()).unwrap_err();
    assert_eq!(Refusal::of(&error), Some(Refusal::SymbolicLink));
}
