//! What the process of a victim does, and what it says of it.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::{Args, ValueEnum};
use snapshot_format::{SnapshotId, VmName};
use snapshot_memory::backend::FsBackend;
use snapshot_store::{OpenOptions, Store};
use tinyvm::Backend;

use super::{client, handler, vmm, writer};
use crate::stored_guest::Failure;

/// The machine whose snapshots lie in the store: the seed of its guest.
pub(super) const SEED: u64 = 0x5eed;

/// What a victim is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, ValueEnum)]
pub enum Role {
    /// Runs a guest and snapshots it.
    Vmm,
    /// Takes images as snapshots, lays snapshots out anew, deletes them and brings them back.
    Writer,
    /// Serves the memory of a snapshot to the VMMs of other processes.
    Handler,
    /// A VMM that gets its memory from a handler, over and over.
    Client,
}

/// The work of a victim.
#[derive(Args, Clone, Debug)]
pub struct Task {
    /// What it is
    #[arg(long, value_enum)]
    pub(super) role: Role,

    /// The directory of the store
    #[arg(long)]
    pub(super) store: PathBuf,

    /// Whether its guest is a KVM machine
    #[arg(long)]
    pub(super) kvm: bool,

    /// Where its choices come from
    #[arg(long)]
    pub(super) seed: u64,

    /// Where a handler listens
    #[arg(long, requires = "snapshot")]
    pub(super) socket: Option<PathBuf>,

    /// What a handler serves
    #[arg(long, requires = "socket")]
    pub(super) snapshot: Option<SnapshotId>,

    /// Whether a client ends when it has seen every page
    #[arg(long)]
    pub(super) once: bool,
}

/// What a victim says, each in one line, after it is done and durable.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Said {
    /// A snapshot was published.
    Published(SnapshotId),
    /// Something else was done: it is alive.
    Done,
    /// The handler of a client has ended, and the client noticed as it should.
    Gone,
    /// There is no handler for a client.
    Unserved,
}

impl Task {
    /// Does it until somebody ends the process.
    pub fn run(&self) -> Result<(), Failure> {
        let store = open(&self.store)?;
        match self.role {
            Role::Vmm => vmm::run(self, &store),
            Role::Writer => writer::run(self, &store),
            Role::Handler => handler::run(self, &store),
            Role::Client => client::run(self, &store),
        }
    }

    /// Where a handler listens, and what it serves.
    pub(super) fn served(&self) -> Result<(&Path, SnapshotId), Failure> {
        match (&self.socket, self.snapshot) {
            (Some(socket), Some(snapshot)) => Ok((socket, snapshot)),
            _ => Err("a handler and its clients need --socket and --snapshot".into()),
        }
    }

    pub(super) fn backend(&self) -> Backend {
        backend(self.kvm)
    }
}

/// Who runs the guests.
pub(super) fn backend(kvm: bool) -> Backend {
    if kvm { Backend::Kvm } else { Backend::Process }
}

/// The machine whose guest `backend` runs.
pub(super) fn vm_of(backend: Backend) -> Result<VmName, Failure> {
    Ok(VmName::new(match backend {
        Backend::Kvm => "kvm",
        _ => "process",
    })?)
}

/// The machine that images are imported for.
pub(super) fn vm_of_imports() -> Result<VmName, Failure> {
    Ok(VmName::new("import")?)
}

/// Opens the store that the campaign made.
pub(super) fn open(directory: &Path) -> Result<Store, Failure> {
    let files = FsBackend::open(directory)?;
    Ok(Store::open(Arc::new(files), &OpenOptions::default())?)
}

impl Said {
    /// Says it.
    pub(super) fn say(self) -> Result<(), Failure> {
        let mut out = std::io::stdout().lock();
        match self {
            Self::Published(id) => writeln!(out, "published {id}")?,
            Self::Done => writeln!(out, "done")?,
            Self::Gone => writeln!(out, "gone")?,
            Self::Unserved => writeln!(out, "unserved")?,
        }
        Ok(out.flush()?)
    }

    /// Reads a line; a line that was cut by the end of the process says nothing.
    pub(super) fn hear(line: &str) -> Option<Self> {
        if let Some(("published", id)) = line.split_once(' ') {
            return id.parse().ok().map(Self::Published);
        }
        match line {
            "done" => Some(Self::Done),
            "gone" => Some(Self::Gone),
            "unserved" => Some(Self::Unserved),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_lines_are_heard() {
        let id = SnapshotId([7; 16]);
        let line = format!("published {id}");
        assert_eq!(Said::hear(&line), Some(Said::Published(id)));
        assert_eq!(Said::hear("done"), Some(Said::Done));
        for cut in ["", "published", "published ", "don", &line[..20]] {
            assert_eq!(Said::hear(cut), None, "{cut:?}");
        }
    }
}
