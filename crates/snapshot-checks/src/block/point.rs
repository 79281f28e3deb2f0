//! The places at which the power is cut.

use std::fmt;

/// A system call that makes something durable or changes a name.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) struct Call {
    /// Its name.
    pub(crate) name: &'static str,
    /// What it was called on, below the store, with random names left out.
    pub(crate) target: String,
}

/// Which side of a call.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) enum Side {
    /// The call has not begun.
    Before,
    /// The call has ended.
    After,
}

/// What reaches the disk before the cut.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) enum WriteBack {
    /// What the command asked for by its syncs.
    Asked,
    /// The log of the file system too, as its timer would have it, but no data of files.
    Log,
    /// All that was written until then.
    All,
}

/// A place at which the power is cut.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) enum Point {
    /// Beside a call.
    Call(Side, Call),
    /// When the command has ended.
    End,
}

/// How a system call that is watched reaches its target.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Watched {
    /// Makes the file durable that is its first argument, a descriptor.
    Sync,
    /// Makes everything durable.
    SyncAll,
    /// Changes the names that are these arguments.
    Names(&'static [usize]),
}

/// What is watched of `number`; `None` if it is nothing.
pub(crate) fn watched(number: i64) -> Option<(&'static str, Watched)> {
    Some(match number {
        libc::SYS_fsync => ("fsync", Watched::Sync),
        libc::SYS_fdatasync => ("fdatasync", Watched::Sync),
        libc::SYS_syncfs => ("syncfs", Watched::Sync),
        libc::SYS_sync_file_range => ("sync_file_range", Watched::Sync),
        libc::SYS_sync => ("sync", Watched::SyncAll),
        libc::SYS_rename => ("rename", Watched::Names(&[0, 1])),
        libc::SYS_renameat => ("renameat", Watched::Names(&[1, 3])),
        libc::SYS_renameat2 => ("renameat2", Watched::Names(&[1, 3])),
        libc::SYS_link => ("link", Watched::Names(&[0, 1])),
        libc::SYS_linkat => ("linkat", Watched::Names(&[1, 3])),
        libc::SYS_mkdir => ("mkdir", Watched::Names(&[0])),
        libc::SYS_mkdirat => ("mkdirat", Watched::Names(&[1])),
        libc::SYS_rmdir => ("rmdir", Watched::Names(&[0])),
        libc::SYS_unlink => ("unlink", Watched::Names(&[0])),
        libc::SYS_unlinkat => ("unlinkat", Watched::Names(&[1])),
        _ => return None,
    })
}

impl WriteBack {
    /// All of them, the poorest first.
    pub(crate) const ALL: [Self; 3] = [Self::Asked, Self::Log, Self::All];
}

/// A path without what differs from run to run: the part up to the store, and names that are
/// random.
pub(crate) fn place(path: &str, store: &str) -> String {
    let below = path.strip_prefix(store).unwrap_or(path);
    let parts = below.split('/').filter(|part| !part.is_empty());
    let place = parts.map(stable).collect::<Vec<_>>().join("/");
    if place.is_empty() {
        ".".to_owned()
    } else {
        place
    }
}

/// A name with every long run of hexadecimal digits replaced.
fn stable(name: &str) -> String {
    let mut out = String::new();
    let mut run = String::new();
    for character in name.chars().chain(['\0']) {
        if character.is_ascii_hexdigit() || (character == '-' && !run.is_empty()) {
            run.push(character);
            continue;
        }
        if run.len() >= 12 {
            out.push_str("<id>");
        } else {
            out.push_str(&run);
        }
        run.clear();
        if character != '\0' {
            out.push(character);
        }
    }
    out
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.name, self.target)
    }
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Call(Side::Before, call) => write!(f, "before {call}"),
            Self::Call(Side::After, call) => write!(f, "after {call}"),
            Self::End => f.write_str("after the command"),
        }
    }
}

impl fmt::Display for WriteBack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Asked => "only syncs written back",
            Self::Log => "the log committed",
            Self::All => "everything written back",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_names_are_left_out_of_a_place() {
        let of = |path: &str| place(path, "/m/store");
        let id = "0192f3a1-7c4e-7d2b-9a10-3f5e6d7c8b9a";
        assert_eq!(
            of(&format!("/m/store/snapshots/{id}/memory.img")),
            "snapshots/<id>/memory.img"
        );
        assert_eq!(of(&format!("snapshots/.{id}.new")), "snapshots/.<id>.new");
        assert_eq!(of("/m/store/vms/vm.json"), "vms/vm.json");
        assert_eq!(of("/m/store"), ".");
        assert_eq!(of("/elsewhere/decade"), "elsewhere/decade");
    }

    #[test]
    fn syncs_and_changes_of_names_are_watched_and_writes_are_not() {
        assert_eq!(watched(libc::SYS_fsync), Some(("fsync", Watched::Sync)));
        assert_eq!(
            watched(libc::SYS_renameat2),
            Some(("renameat2", Watched::Names(&[1, 3])))
        );
        assert_eq!(watched(libc::SYS_pwritev), None);
    }
}
