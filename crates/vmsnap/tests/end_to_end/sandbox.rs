//! A directory of its own for each test, and the real binary run in it.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use snapshot_format::Digest;
use tempfile::TempDir;

pub(crate) const PAGE: usize = 4096;

/// A temporary directory that holds a store and the files around it.
pub(crate) struct Sandbox {
    directory: TempDir,
}

/// What a run of the binary left behind.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// What a file or directory is: `directory`, `link`, or mode, length and digest.
pub(crate) type Listing = BTreeMap<PathBuf, String>;

impl Sandbox {
    pub(crate) fn new() -> Self {
        Self {
            directory: tempfile::tempdir().unwrap(),
        }
    }

    /// A sandbox in an existing directory.
    pub(crate) fn within(parent: &Path) -> Self {
        Self {
            directory: tempfile::tempdir_in(parent).unwrap(),
        }
    }

    pub(crate) fn root(&self) -> &Path {
        self.directory.path()
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.root().join(name)
    }

    pub(crate) fn store(&self) -> PathBuf {
        self.path("store")
    }

    pub(crate) fn write(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, bytes).unwrap();
        path
    }

    pub(crate) fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.path(name)).unwrap()
    }

    /// The binary, in the sandbox, with its store; nothing of the environment chooses another.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_vmsnap"));
        command
            .current_dir(self.root())
            .env_remove("VMSNAP_STORE")
            .env_remove("VMSNAP_VAULT")
            .env("XDG_CACHE_HOME", self.path("caches"))
            .args(["--store", "store"])
            .args(arguments)
            .stdin(Stdio::null());
        command
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Run {
        Run::of(&self.command(arguments).output().unwrap())
    }

    /// Runs with `--json` and takes the document of a run that must succeed.
    pub(crate) fn json(&self, arguments: &[&str]) -> Value {
        let run = self.run(&[arguments, &["--json"]].concat());
        assert_eq!(run.code, 0, "{arguments:?}: {run:?}");
        run.document()
    }

    /// Imports `memory` as a file `memory` of VM `vm` and gives the document.
    pub(crate) fn import(&self, vm: &str, memory: &[u8], more: &[&str]) -> Value {
        self.write("memory", memory);
        self.json(&[&["import", vm, "--memory", "memory"], more].concat())
    }

    /// Restores a snapshot and gives the bytes of its memory.
    pub(crate) fn restored(&self, reference: &str) -> Vec<u8> {
        let _ = fs::remove_file(self.path("restored"));
        self.json(&["restore", reference, "--memory", "restored"]);
        self.read("restored")
    }

    /// Everything in the store that matters: lock files, the index, the audit log and when snapshots
    /// were checked are no part of what it holds.
    pub(crate) fn listing(&self) -> Listing {
        let mut listing = list(&self.store());
        listing.retain(|path, _| is_held(path));
        listing
    }

    /// Asserts that a run fails with `code`, says why, and changes nothing.
    pub(crate) fn refused(&self, arguments: &[&str], code: i32) -> Value {
        let before = list(self.root());
        let run = self.run(&[arguments, &["--json"]].concat());
        assert_eq!(run.code, code, "{arguments:?}: {run:?}");
        let document = run.document();
        assert_eq!(document["schema"], "vmsnap.error.v1", "{arguments:?}");
        assert_eq!(document["error"]["exit_code"], code);
        let plain = self.run(arguments);
        assert_eq!(plain.code, code, "{arguments:?}: {plain:?}");
        assert_eq!(plain.stdout, "", "{arguments:?}");
        assert_eq!(plain.stderr.lines().count(), 1, "{arguments:?}: {plain:?}");
        let mut after = list(self.root());
        let mut before = before;
        for listing in [&mut before, &mut after] {
            listing.retain(|path, _| path.strip_prefix("store").map_or(true, is_held));
        }
        assert_eq!(before, after, "{arguments:?} changed something");
        document
    }
}

impl Run {
    pub(crate) fn of(output: &Output) -> Self {
        Self {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8(output.stdout.clone()).unwrap(),
            stderr: String::from_utf8(output.stderr.clone()).unwrap(),
        }
    }

    /// The one document on standard output.
    pub(crate) fn document(&self) -> Value {
        assert_eq!(self.stdout.lines().count(), 1, "{self:?}");
        serde_json::from_str(&self.stdout).unwrap()
    }
}

/// Whether a path below a store is part of what it holds.
fn is_held(path: &Path) -> bool {
    let name = path.to_string_lossy();
    !["locks", "verified"]
        .iter()
        .any(|dir| path.starts_with(dir))
        && !name.starts_with("index.")
        && name != "audit.jsonl"
}

/// Every entry below `root`, which need not exist.
pub(crate) fn list(root: &Path) -> Listing {
    let mut listing = Listing::new();
    let mut open = vec![root.to_owned()];
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(&directory).into_iter().flatten() {
            let path = entry.unwrap().path();
            let found = path.symlink_metadata().unwrap();
            let what = if found.is_dir() {
                open.push(path.clone());
                "directory".to_owned()
            } else if found.is_file() {
                let digest = Digest::of(&fs::read(&path).unwrap());
                let mode = found.permissions().mode() & 0o7777;
                format!("{mode:o} {} {digest}", found.len())
            } else {
                "special".to_owned()
            };
            listing.insert(path.strip_prefix(root).unwrap().to_owned(), what);
        }
    }
    listing
}

/// `pages` pages of a fixed pattern; those at multiples of 5 are zero.
pub(crate) fn pattern(pages: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = vec![0; pages * PAGE];
    for (page, chunk) in bytes.chunks_exact_mut(PAGE).enumerate() {
        for word in chunk.as_chunks_mut::<8>().0 {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            if page % 5 != 0 {
                *word = state.to_le_bytes();
            }
        }
    }
    bytes
}

/// A bitmap of `pages` bits in which `dirty` are set.
pub(crate) fn bitmap(pages: usize, dirty: &[usize]) -> Vec<u8> {
    let mut bits = vec![0; pages.div_ceil(8)];
    for page in dirty {
        bits[page / 8] |= 1 << (page % 8);
    }
    bits
}

/// The bytes of page `page`.
pub(crate) fn page(memory: &mut [u8], page: usize) -> &mut [u8] {
    &mut memory[page * PAGE..][..PAGE]
}

/// The id in a document.
pub(crate) fn id(document: &Value) -> String {
    document["id"].as_str().unwrap().to_owned()
}
