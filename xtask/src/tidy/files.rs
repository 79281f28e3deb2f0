//! Files are reached through the backend, so that every call can be counted, cut and failed.

use syn::spanned::Spanned;
use syn::visit::{self, Visit};

use super::Violation;
use crate::source_tree::SourceFile;

/// Finds file calls outside the backend in the crates that are bound to it.
pub(super) fn check(file: &SourceFile) -> Vec<Violation> {
    let is_bound = BOUND_CRATES
        .iter()
        .any(|folder| file.path.starts_with(folder));
    let is_allowed = ALLOWED.iter().any(|(path, _)| file.path.starts_with(path));
    let Some(syntax) = file.syntax() else {
        return Vec::new();
    };
    if !is_bound || is_allowed || file.is_test() {
        return Vec::new();
    }
    let mut finder = FileCalls::default();
    finder.visit_file(syntax);
    let broken = |(line, path): (usize, String)| {
        let message = format!("{path}: files are reached through snapshot_memory::backend");
        Violation::new(&file.path, line, "file-call", message)
    };
    finder.found.into_iter().map(broken).collect()
}

/// Finds exemptions that no longer exempt anything.
pub(super) fn check_list(files: &[SourceFile]) -> Vec<Violation> {
    let is_stale = |path: &str| !files.iter().any(|file| file.path.starts_with(path));
    let stale = ALLOWED.iter().filter(|(path, _)| is_stale(path));
    let broken = |(path, _): &(&str, &str)| {
        Violation::new(
            OWN_PATH,
            1,
            "file-call",
            format!("the exemption {path} names no file"),
        )
    };
    stale.map(broken).collect()
}

#[derive(Default)]
struct FileCalls {
    found: Vec<(usize, String)>,
}

impl FileCalls {
    fn note(&mut self, line: usize, path: &str) {
        if PATHS.iter().any(|banned| is_below(path, banned)) {
            self.found.push((line, path.to_owned()));
        }
    }

    fn note_use(&mut self, tree: &syn::UseTree, before: &str) {
        let join = |name: &syn::Ident| {
            if before.is_empty() {
                name.to_string()
            } else {
                format!("{before}::{name}")
            }
        };
        let line = tree.span().start().line;
        match tree {
            syn::UseTree::Path(path) => self.note_use(&path.tree, &join(&path.ident)),
            syn::UseTree::Group(group) => {
                group
                    .items
                    .iter()
                    .for_each(|tree| self.note_use(tree, before));
            }
            syn::UseTree::Name(name) if name.ident == "self" => self.note(line, before),
            syn::UseTree::Name(name) => self.note(line, &join(&name.ident)),
            syn::UseTree::Rename(rename) => self.note(line, &join(&rename.ident)),
            syn::UseTree::Glob(_) => self.note(line, before),
        }
    }
}

impl<'ast> Visit<'ast> for FileCalls {
    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        if !is_test_only(&item.attrs) {
            self.note_use(&item.tree, "");
        }
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let segments: Vec<String> = path.segments.iter().map(|s| s.ident.to_string()).collect();
        self.note(path.span().start().line, &segments.join("::"));
        visit::visit_path(self, path);
    }

    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        if !is_test_only(&item.attrs) {
            visit::visit_item_mod(self, item);
        }
    }
}

/// Whether `path` is `banned` or lies in it; a trailing `*` stands for any ending of a name.
fn is_below(path: &str, banned: &str) -> bool {
    if let Some(stem) = banned.strip_suffix('*') {
        return path.starts_with(stem);
    }
    path.strip_prefix(banned)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

fn is_test_only(attributes: &[syn::Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        attribute.path().is_ident("cfg")
            && attribute
                .parse_args::<syn::Path>()
                .is_ok_and(|path| path.is_ident("test"))
    })
}

const OWN_PATH: &str = "xtask/src/tidy/files.rs";

/// Crates whose durable data goes through the backend.
const BOUND_CRATES: [&str; 8] = [
    "crates/snapshot-format/src/",
    "crates/snapshot-memory/src/",
    "crates/snapshot-store/src/",
    "crates/snapshot-vault/src/",
    "crates/hypervisor-bridge/src/",
    "crates/hypervisor-kvm/src/",
    "crates/tinyvm/src/",
    "crates/vmsnap/src/",
];

/// What reaches or changes a file.
const PATHS: [&str; 22] = [
    "std::fs",
    "std::os::unix::fs",
    "nix::dir",
    "nix::fcntl",
    "nix::sys::stat",
    "nix::sys::uio",
    "nix::unistd::fdatasync",
    "nix::unistd::fsync",
    "nix::unistd::ftruncate",
    "nix::unistd::link*",
    "nix::unistd::lseek*",
    "nix::unistd::mkdir",
    "nix::unistd::symlink*",
    "nix::unistd::sync*",
    "nix::unistd::truncate",
    "nix::unistd::unlink*",
    "nix::unistd::write",
    "libc::open*",
    "libc::pwrite*",
    "libc::rename*",
    "libc::unlink*",
    "tempfile",
];

/// What goes around the backend, and why that is no harm to a snapshot.
const ALLOWED: &[(&str, &str)] = &[
    ("crates/snapshot-memory/src/backend/", "this is the backend"),
    (
        "crates/snapshot-memory/src/direct/description.rs",
        "turns direct writes on and off for the backend's file",
    ),
    (
        "crates/snapshot-memory/src/guest_io.rs",
        "moves guest memory for the backend, by pwritev",
    ),
    (
        "crates/snapshot-memory/src/handler/listener.rs",
        "a socket has a path, which is nothing that is stored",
    ),
    (
        "crates/snapshot-memory/src/mapping.rs",
        "sizes memfds, which have no name and do not last",
    ),
    (
        "crates/snapshot-memory/src/plan/sealed.rs",
        "fills memfds, which have no name and do not last",
    ),
    (
        "crates/snapshot-memory/src/serve/shared.rs",
        "fills and seals a memfd, which has no name and does not last",
    ),
    (
        "crates/snapshot-memory/src/uffd/",
        "asks the kernel through its own files; stores nothing",
    ),
    (
        "crates/snapshot-store/src/index/place.rs",
        "finds the real path of the index, which SQLite opens by itself and nothing relies on",
    ),
    (
        "crates/vmsnap/src/index_place.rs",
        "asks whose the store's directory is",
    ),
    (
        "crates/vmsnap/src/input.rs",
        "reads what the user names, outside every store",
    ),
    (
        "crates/vmsnap/src/output_file.rs",
        "names what the user asked for; its bytes go through the backend",
    ),
    (
        "crates/vmsnap/src/command/lease.rs",
        "lets the commands that it runs inherit a lock",
    ),
    (
        "crates/vmsnap/src/command/demo/home.rs",
        "makes the directory around a temporary store",
    ),
];

#[cfg(test)]
mod tests {
    use super::*;

    const BOUND: &str = "crates/snapshot-store/src/store.rs";

    fn lines(path: &str, text: &str) -> Vec<usize> {
        let file = SourceFile::new(path, text);
        check(&file)
            .into_iter()
            .map(|violation| violation.line)
            .collect()
    }

    #[test]
    fn file_calls_in_bound_crates_are_found() {
        assert_eq!(lines(BOUND, "use std::fs;"), [1]);
        assert_eq!(lines(BOUND, "use std::{io,\n fs::{self, File}};"), [2, 2]);
        assert_eq!(lines(BOUND, "fn f() {\n std::fs::rename(a, b);\n}"), [2]);
        assert_eq!(lines(BOUND, "use nix::unistd::{getpid, unlinkat};"), [1]);
        assert_eq!(lines(BOUND, "fn f() { libc::renameat2(a, b) }"), [1]);
    }

    #[test]
    fn tests_outsiders_and_the_backend_are_free() {
        for path in [
            "crates/snapshot-store/src/store/tests.rs",
            "crates/snapshot-checks/src/crash.rs",
            "crates/snapshot-memory/src/backend/fs/mod.rs",
        ] {
            assert!(lines(path, "use std::fs;").is_empty(), "{path}");
        }
        assert!(lines(BOUND, "#[cfg(test)]\nmod tests { use std::fs; }").is_empty());
        assert!(lines(BOUND, "use std::fmt;\nuse nix::unistd::getpid;").is_empty());
    }
}
