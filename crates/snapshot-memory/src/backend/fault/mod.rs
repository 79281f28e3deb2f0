//! A backend that counts what is changed, cuts the power, fails calls and runs out of space.

use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::mem::MemBackend;
use super::mem::Nodes;
use super::mem::disk::{Disk, Inode};
use super::mem::op::Op;
use super::{
    Backend, Entry, FileAccess, FileSystem, Lock, LockMode, Metadata, ReadFile, RelPath, WriteFile,
};

mod crash;
mod site;

pub use crash::CrashState;

/// Every call after the power was cut fails with this inside an [`io::Error`] of kind `Other`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the power is cut")]
pub struct PowerLost;

impl PowerLost {
    /// Whether `error` comes from the cut.
    #[must_use]
    pub fn is(error: &io::Error) -> bool {
        error
            .get_ref()
            .is_some_and(<dyn std::error::Error + Send + Sync>::is::<Self>)
    }
}

/// What is done to one call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Fault {
    /// The call does nothing and fails with an error of this kind.
    Error(io::ErrorKind),
    /// The call does nothing and fails with this `errno`.
    Errno(i32),
    /// A write does that many of its bytes and fails with this `errno`; any other call is as for
    /// [`Errno`](Self::Errno).
    Partial {
        /// How many bytes are written.
        bytes: usize,
        /// With what the call fails.
        errno: i32,
    },
}

/// A changing call that was made.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Call {
    /// `create`, `create-dir`, `write`, `set-len`, `chmod`, `sync`, `rename`, `remove`,
    /// `remove-dir` or `sync-dir`. Making a lock file is a `create`.
    pub operation: &'static str,
    /// Where in the source it was made; empty unless [`FaultBackend::trace_call_sites`] was asked.
    /// Calls of one code path have one pair of operation and site.
    pub site: String,
    /// What it was made on, below the root; for a rename `from -> to`.
    pub path: String,
}

/// A tree in memory whose changing calls are numbered from 1, logged, and made to fail on demand.
///
/// Clones share the tree and the plan. A call that the tree itself refuses (a name that is taken,
/// say) changes nothing and is not counted.
///
/// To try every point of a piece of work: run it once and read [`call_count`](Self::call_count),
/// then for each number start from the same image, cut there, run it again, and look at each of
/// the [`crash_states`](Self::crash_states).
#[derive(Clone, Debug)]
pub struct FaultBackend {
    tree: MemBackend,
    gate: Arc<Gate>,
}

/// What stands between a caller and a tree.
#[derive(Debug)]
pub(super) struct Gate {
    /// The tree before the first call.
    start: Disk,
    state: Mutex<GateState>,
}

#[derive(Debug, Default)]
struct GateState {
    /// What was done, in order; after a cut also the call that was cut.
    log: Vec<Logged>,
    calls: Vec<Call>,
    trace: bool,
    cut_at: Option<usize>,
    faults: Vec<(usize, Fault)>,
    bytes_left: Option<u64>,
    power_lost: bool,
}

/// A call that left a trace.
#[derive(Clone, Debug)]
struct Logged {
    /// The number of the call.
    number: usize,
    operation: &'static str,
    path: String,
    event: Event,
}

#[derive(Clone, Debug)]
enum Event {
    Done(Op),
    /// A sync that failed: what was not durable before never will be.
    FailedSync(Inode),
}

impl Logged {
    /// The change that was made; `None` for syncs, done and failed.
    fn change(&self) -> Option<&Op> {
        match &self.event {
            Event::Done(Op::Sync { .. }) | Event::FailedSync(_) => None,
            Event::Done(op) => Some(op),
        }
    }
}

impl fmt::Display for Logged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "call {} ({} {})", self.number, self.operation, self.path)
    }
}

impl FaultBackend {
    /// A tree that starts as a copy of `image`.
    #[must_use]
    pub fn new(image: &MemBackend) -> Self {
        let gate = Arc::new(Gate {
            start: image.image(),
            state: Mutex::default(),
        });
        Self {
            tree: MemBackend::of(image.image(), Some(Arc::clone(&gate))),
            gate,
        }
    }

    /// Cuts the power at call `number`, counted from 1: it and every later call fail with
    /// [`PowerLost`], and so does every read from then on.
    pub fn cut_at(&self, number: usize) {
        self.gate.lock().cut_at = Some(number);
    }

    /// Lets call `number` fail, and the others pass.
    pub fn fail_at(&self, number: usize, fault: Fault) {
        self.gate.lock().faults.push((number, fault));
    }

    /// Lets `bytes` more be written: the write that goes beyond is done up to there and fails
    /// with `StorageFull`, as does every later one. Nothing gives bytes back.
    pub fn limit_bytes(&self, bytes: u64) {
        self.gate.lock().bytes_left = Some(bytes);
    }

    /// Records from where each call is made. Slow: for one run of many.
    pub fn trace_call_sites(&self) {
        self.gate.lock().trace = true;
    }

    /// How many changing calls were made, syncs included.
    #[must_use]
    pub fn call_count(&self) -> usize {
        self.gate.lock().calls.len()
    }

    /// The changing calls that were made; call number 1 is the first.
    #[must_use]
    pub fn calls(&self) -> Vec<Call> {
        self.gate.lock().calls.clone()
    }

    /// The tree as it is for a process that lives on.
    #[must_use]
    pub fn live(&self) -> MemBackend {
        self.tree.snapshot()
    }

    /// The tree by the numbers of its nodes, for who speaks for a kernel. What is done there is counted
    /// and made to fail as it is here.
    #[must_use]
    pub fn nodes(&self) -> Nodes {
        Nodes::new(self.tree.clone())
    }

    /// The trees that a machine may find after losing power now, each different choice once.
    ///
    /// What a sync of its file or directory covers is there. Of the rest: all; nothing; names
    /// without bytes; bytes without names; zeros for bytes; what was changed in one file or
    /// directory lost alone or kept alone; each operation lost alone or kept alone; the last
    /// writes torn. The call that was cut is one of the rest.
    pub fn crash_states(&self) -> impl Iterator<Item = CrashState> + use<> {
        let log = self.gate.lock().log.clone();
        crash::states(self.gate.start.image(), log, self.tree.image())
    }
}

impl Gate {
    /// Fails once the power is cut.
    pub(super) fn check_power(&self) -> io::Result<()> {
        if self.lock().power_lost {
            return Err(io::Error::other(PowerLost));
        }
        Ok(())
    }

    /// How many more bytes may be written, where that is limited.
    pub(super) fn bytes_left(&self) -> Option<u64> {
        self.lock().bytes_left
    }

    /// Counts `op`, does it as far as the plan lets it, and logs it.
    pub(super) fn pass(&self, disk: &mut Disk, op: Op) -> io::Result<()> {
        let mut state = self.lock();
        let site = if state.trace {
            site::caller()
        } else {
            String::new()
        };
        let (operation, path) = disk.describe(&op);
        state.calls.push(Call {
            operation,
            site,
            path: path.clone(),
        });
        let number = state.calls.len();
        let logged = |event| Logged {
            number,
            operation,
            path,
            event,
        };
        if state.cut_at.is_some_and(|cut| number >= cut) {
            state.power_lost = true;
            // Its effect may have reached the disk, but a sync that did not return promises nothing.
            if !matches!(op, Op::Sync { .. }) {
                state.log.push(logged(Event::Done(op)));
            }
            return Err(io::Error::other(PowerLost));
        }
        let (event, result) = if let Some(fault) = state.fault(number) {
            (fault.event(&op), Err(fault.error()))
        } else {
            let (op, result) = state.spend(op);
            (Some(Event::Done(op)), result)
        };
        if let Some(Event::Done(op)) = &event {
            disk.apply(op);
        }
        state.log.extend(event.map(logged));
        result
    }

    fn lock(&self) -> MutexGuard<'_, GateState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Fault {
    /// What `op` leaves behind when it fails this way.
    fn event(self, op: &Op) -> Option<Event> {
        match (self, op) {
            (_, Op::Sync { inode }) => Some(Event::FailedSync(*inode)),
            (Self::Partial { bytes, .. }, Op::Write { bytes: all, .. }) => {
                Some(Event::Done(op.part(0..bytes.min(all.len()))))
            }
            _ => None,
        }
    }

    fn error(self) -> io::Error {
        match self {
            Self::Error(kind) => kind.into(),
            Self::Errno(errno) | Self::Partial { errno, .. } => io::Error::from_raw_os_error(errno),
        }
    }
}

impl GateState {
    fn fault(&self, number: usize) -> Option<Fault> {
        let found = self.faults.iter().find(|(at, _)| *at == number);
        found.map(|(_, fault)| *fault)
    }

    /// Takes the bytes of `op` from what is left; what can be done of it, and the outcome.
    fn spend(&mut self, op: Op) -> (Op, io::Result<()>) {
        let (Some(left), Op::Write { bytes, .. }) = (&mut self.bytes_left, &op) else {
            return (op, Ok(()));
        };
        let wanted = bytes.len() as u64;
        if wanted <= *left {
            *left -= wanted;
            return (op, Ok(()));
        }
        let fits = usize::try_from(std::mem::take(left)).unwrap_or(usize::MAX);
        (op.part(0..fits), Err(io::ErrorKind::StorageFull.into()))
    }
}

impl Backend for FaultBackend {
    fn open(&self, path: &RelPath) -> io::Result<Box<dyn ReadFile>> {
        self.tree.open(path)
    }

    fn create(&self, path: &RelPath) -> io::Result<Box<dyn WriteFile>> {
        self.tree.create(path)
    }

    fn append(&self, path: &RelPath, bytes: &[u8]) -> io::Result<()> {
        self.tree.append(path, bytes)
    }

    fn create_dir(&self, path: &RelPath) -> io::Result<()> {
        self.tree.create_dir(path)
    }

    fn set_access(&self, path: &RelPath, access: FileAccess) -> io::Result<()> {
        self.tree.set_access(path, access)
    }

    fn rename_noreplace(&self, from: &RelPath, to: &RelPath) -> io::Result<()> {
        self.tree.rename_noreplace(from, to)
    }

    fn rename_replace(&self, from: &RelPath, to: &RelPath) -> io::Result<()> {
        self.tree.rename_replace(from, to)
    }

    fn remove_file(&self, path: &RelPath) -> io::Result<()> {
        self.tree.remove_file(path)
    }

    fn remove_dir(&self, path: &RelPath) -> io::Result<()> {
        self.tree.remove_dir(path)
    }

    fn sync_dir(&self, path: &RelPath) -> io::Result<()> {
        self.tree.sync_dir(path)
    }

    fn list(&self, path: &RelPath) -> io::Result<Vec<Entry>> {
        self.tree.list(path)
    }

    fn metadata(&self, path: &RelPath) -> io::Result<Metadata> {
        self.tree.metadata(path)
    }

    fn lock(&self, path: &RelPath, mode: LockMode, wait: Duration) -> io::Result<Box<dyn Lock>> {
        self.tree.lock(path, mode, wait)
    }

    fn free_bytes(&self) -> io::Result<u64> {
        self.tree.free_bytes()
    }

    fn file_system(&self) -> io::Result<FileSystem> {
        self.tree.file_system()
    }
}

#[cfg(test)]
mod tests;
