//! File systems to measure on: the one of `--dir`, and ones that are made for the run.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use clap::ValueEnum;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use snapshot_memory::backend::{Backend, FileSystem, FsBackend};

use crate::error::BenchError;
use crate::limit::HugeBuffer;
use crate::peer::Sync;
use crate::scratch::Scratch;

/// Which file system.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum PlaceKind {
    /// The one of `--dir`, whatever it is
    Host,
    /// ext4 with a journal, in a preallocated file below `--dir`
    Ext4,
    /// XFS in a preallocated file below `--dir`
    Xfs,
    /// Memory: no disk hides what the CPU costs
    Tmpfs,
}

/// A directory on a file system. What was made for it goes away with it.
#[derive(Debug)]
pub(crate) struct Place {
    kind: PlaceKind,
    file_system: FileSystem,
    // Dropped in this order: files, mount, and what the mount lies in.
    scratch: Scratch,
    _mount: Option<Mount>,
    _image: Option<Scratch>,
}

/// A file system that is mounted. It is private to this process, and ends with it at the latest.
#[derive(Debug)]
struct Mount(PathBuf);

/// Bytes of a file system that is made, for each byte of guest memory: a parent, what is being
/// written, and what was written and is kept for a while.
const ROOM: u64 = 8;

/// The smallest XFS there may be is 300 MiB.
const MIN_ROOM_BYTES: u64 = 512 << 20;

impl PlaceKind {
    fn name(self) -> &'static str {
        match self {
            Self::Host => "host",
            Self::Ext4 => "ext4",
            Self::Xfs => "xfs",
            Self::Tmpfs => "tmpfs",
        }
    }

    /// What the names of its cases end with.
    pub(crate) fn suffix(self) -> &'static str {
        match self {
            Self::Host => "",
            Self::Ext4 => "-ext4",
            Self::Xfs => "-xfs",
            Self::Tmpfs => "-tmpfs",
        }
    }
}

impl Place {
    /// Makes the place, below `dir`, with room for guests of `mem_bytes`. `None` where the host
    /// can't, which is said on standard error.
    pub(crate) fn new(
        kind: PlaceKind,
        dir: &Path,
        mem_bytes: u64,
    ) -> Result<Option<Self>, BenchError> {
        if kind == PlaceKind::Host {
            return Self::at(kind, Scratch::below(dir)?, None, None).map(Some);
        }
        let image = Scratch::below(dir)?;
        match Mount::new(kind, &image, (mem_bytes * ROOM).max(MIN_ROOM_BYTES)) {
            Ok(mount) => {
                let scratch = Scratch::below(&mount.0)?;
                Self::at(kind, scratch, Some(mount), Some(image)).map(Some)
            }
            Err(reason) => {
                eprintln!("SKIP {}: {reason}", kind.name());
                Ok(None)
            }
        }
    }

    fn at(
        kind: PlaceKind,
        scratch: Scratch,
        mount: Option<Mount>,
        image: Option<Scratch>,
    ) -> Result<Self, BenchError> {
        let at = || BenchError::at("look at", scratch.path());
        let backend = FsBackend::open(scratch.path()).map_err(at())?;
        let file_system = backend.file_system().map_err(at())?;
        Ok(Self {
            kind,
            file_system,
            scratch,
            _mount: mount,
            _image: image,
        })
    }

    /// Where files go.
    pub(crate) fn scratch(&self) -> &Scratch {
        &self.scratch
    }

    /// The file system that is there.
    pub(crate) fn file_system(&self) -> &FileSystem {
        &self.file_system
    }

    /// Whether it is the one of `--dir`.
    pub(crate) fn is_host(&self) -> bool {
        self.kind == PlaceKind::Host
    }

    /// What the case `name` is called here.
    pub(crate) fn case(&self, name: &str) -> String {
        format!("{name}{}", self.kind.suffix())
    }
}

impl Mount {
    /// Makes a file system of `len_bytes` bytes and mounts it in `image`; the reason if the host
    /// can't.
    fn new(kind: PlaceKind, image: &Scratch, len_bytes: u64) -> Result<Self, String> {
        leave_shared_mounts()?;
        let at = image.path().join("mount");
        fs::create_dir(&at).map_err(|error| error.to_string())?;
        if kind == PlaceKind::Tmpfs {
            let options = format!("size={len_bytes}");
            return Self::of("tmpfs", Path::new("tmpfs"), at, Some(&options));
        }
        let file = image.path().join("image");
        preallocate(&file, len_bytes).map_err(|error| error.to_string())?;
        let (program, force) = match kind {
            PlaceKind::Ext4 => ("mkfs.ext4", "-F"),
            _ => ("mkfs.xfs", "-f"),
        };
        let file = file.to_string_lossy();
        tool(program, &["-q", force, &file])?;
        let device = tool("losetup", &["--find", "--show", "--direct-io=on", &file])?;
        let mounted = Self::of(kind.name(), Path::new(&device), at, None);
        // In use, it is only marked: it is detached when the mount ends.
        tool("losetup", &["--detach", &device])?;
        mounted
    }

    fn of(kind: &str, device: &Path, at: PathBuf, options: Option<&str>) -> Result<Self, String> {
        mount(Some(device), &at, Some(kind), MsFlags::MS_NOATIME, options)
            .map_err(|errno| format!("mount {}: {errno}", device.display()))?;
        Ok(Self(at))
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // There is nobody to tell of a failure, and the mount ends with the process.
        let _ = umount2(&self.0, MntFlags::MNT_DETACH);
    }
}

/// Gives this process mounts of its own, which end with it however it ends.
fn leave_shared_mounts() -> Result<(), String> {
    unshare(CloneFlags::CLONE_NEWNS).map_err(|errno| format!("own mounts: {errno}"))?;
    let flags = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    let none = None::<&str>;
    mount(none, "/", none, flags, none).map_err(|errno| format!("private mounts: {errno}"))
}

/// A file whose blocks were all written once: what is measured is the file system in it, not the
/// allocation of the one below.
fn preallocate(path: &Path, len_bytes: u64) -> Result<(), BenchError> {
    let noise = HugeBuffer::noise(64 << 20, 0xf11e)?;
    noise.write_direct(path, len_bytes, Sync::All)?;
    Ok(())
}

/// Runs a program of the administrator to its end; what it printed.
fn tool(program: &str, arguments: &[&str]) -> Result<String, String> {
    let path = ["/usr/sbin", "/sbin", "/usr/local/sbin"]
        .map(|dir| Path::new(dir).join(program))
        .into_iter()
        .find(|path| path.is_file())
        .ok_or_else(|| format!("no {program}"))?;
    let output = Command::new(path)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("start {program}: {error}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned());
    }
    let why = String::from_utf8_lossy(&output.stderr);
    Err(format!("{program}: {}", why.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_place_of_a_directory_names_its_file_system_and_keeps_case_names() {
        let place = Place::new(PlaceKind::Host, &std::env::temp_dir(), 1 << 20);
        let place = place.unwrap().unwrap();
        assert!(!place.file_system().name.is_empty());
        assert_eq!(place.case("diff-1pct"), "diff-1pct");
        assert!(place.scratch().path().is_dir());
    }

    #[test]
    fn a_program_that_fails_or_is_not_there_is_a_reason() {
        assert_eq!(
            tool("no-such-program", &[]).unwrap_err(),
            "no no-such-program"
        );
    }
}
