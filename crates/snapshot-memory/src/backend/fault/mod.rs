//! A backend that counts what is changed, cuts the power, fails calls and runs out of space.

use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::mem::MemBackend;
use super::mem::disk::{Disk, Op};
use super::{Backend, Entry, Lock, LockMode, Metadata, ReadFile, RelPath, WriteFile};

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
}

/// A mutating call that was made.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Call {
    /// `write`, `set-len`, `chmod`, `create`, `rename`, `remove` or `sync`.
    pub operation: &'static str,
    /// Where in the source it was made; empty unless [`FaultBackend::trace_call_sites`] was asked.
    pub site: String,
}

/// A tree in memory whose changing calls are numbered from 1, logged, and made to fail on demand.
///
/// Clones share the tree and the plan.
#[derive(Clone, Debug)]
pub struct FaultBackend {
    tree: MemBackend,
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

#[derive(Clone, Debug)]
enum Logged {
    Done(Op),
    /// A sync that failed: what was not durable before never will be.
    FailedSync(u64),
}

impl FaultBackend {
    /// A tree that starts as a copy of `image`.
    #[must_use]
    pub fn new(image: &MemBackend) -> Self {
        let gate = Gate {
            start: image.image(),
            state: Mutex::default(),
        };
        Self {
            tree: MemBackend::of(image.image(), Some(gate)),
        }
    }

    /// Cuts the power at call `number`, counted from 1: it and every later call fail with
    /// [`PowerLost`].
    pub fn cut_at(&self, number: usize) {
        self.state(|state| state.cut_at = Some(number));
    }

    /// Lets call `number` fail, and the others pass.
    pub fn fail_at(&self, number: usize, fault: Fault) {
        self.state(|state| state.faults.push((number, fault)));
    }

    /// Lets `bytes` more be written: the write that goes beyond is done up to there and fails
    /// with `StorageFull`, as does every later one.
    pub fn limit_bytes(&self, bytes: u64) {
        self.state(|state| state.bytes_left = Some(bytes));
    }

    /// Records from where each call is made. Slow: for one run of many.
    pub fn trace_call_sites(&self) {
        self.state(|state| state.trace = true);
    }

    /// How many changing calls were made, syncs included.
    #[must_use]
    pub fn call_count(&self) -> usize {
        self.state(|state| state.calls.len())
    }

    /// The changing calls that were made.
    #[must_use]
    pub fn calls(&self) -> Vec<Call> {
        self.state(|state| state.calls.clone())
    }

    /// The tree as it is for a process that lives on.
    #[must_use]
    pub fn live(&self) -> MemBackend {
        self.tree.snapshot()
    }

    /// The trees that a machine may find after losing power now.
    ///
    /// What was synced is there. Of the rest: all, nothing, names without bytes, bytes without
    /// names, each operation alone lost or alone kept, the last write torn.
    pub fn crash_states(&self) -> impl Iterator<Item = CrashState> + use<> {
        let (start, log) = match self.tree.gate() {
            Some(gate) => (gate.start.image(), gate.lock().log.clone()),
            None => (self.tree.image(), Vec::new()),
        };
        crash::states(start, log, self.tree.image())
    }

    fn state<T>(&self, look: impl FnOnce(&mut GateState) -> T) -> T {
        match self.tree.gate() {
            Some(gate) => look(&mut gate.lock()),
            None => look(&mut GateState::default()),
        }
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
        let operation = op.label();
        state.calls.push(Call { operation, site });
        let number = state.calls.len();
        if state.cut_at.is_some_and(|cut| number >= cut) {
            state.power_lost = true;
            // Its effect may have reached the disk, but a sync that did not return promises nothing.
            if !matches!(op, Op::Sync { .. }) {
                state.log.push(Logged::Done(op));
            }
            return Err(io::Error::other(PowerLost));
        }
        let fault = state.faults.iter().find(|(at, _)| *at == number);
        if let Some(&(_, fault)) = fault {
            if let Op::Sync { inode } = op {
                state.log.push(Logged::FailedSync(inode));
            }
            return Err(match fault {
                Fault::Error(kind) => kind.into(),
                Fault::Errno(errno) => io::Error::from_raw_os_error(errno),
            });
        }
        let (op, result) = state.spend(op);
        disk.apply(&op);
        state.log.push(Logged::Done(op));
        result
    }

    fn lock(&self) -> MutexGuard<'_, GateState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl GateState {
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
        (
            crash::torn(&op, fits),
            Err(io::ErrorKind::StorageFull.into()),
        )
    }
}

impl Backend for FaultBackend {
    fn open(&self, path: &RelPath) -> io::Result<Box<dyn ReadFile>> {
        self.tree.open(path)
    }

    fn create(&self, path: &RelPath) -> io::Result<Box<dyn WriteFile>> {
        self.tree.create(path)
    }

    fn create_dir(&self, path: &RelPath) -> io::Result<()> {
        self.tree.create_dir(path)
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
}

#[cfg(test)]
mod tests;
