//! The threads that vCPUs run on.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use hypervisor_bridge::{Paused, Rendezvous, StepError, VcpuStop};
use hypervisor_kvm::{EnterVcpu, Entered, complete_pending_exit};
use kvm_ioctls::VcpuFd;

use super::board::Board;
use super::kick;
use crate::error::GuestError;
use crate::memory::GuestMemory;

/// How long a vCPU may take to stop: far longer than any instruction does.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);

/// How often a thread with nothing to do looks for something.
const IDLE: Duration = Duration::from_millis(1);

/// What the threads and their owner share.
pub(super) struct Shared {
    meeting: Rendezvous,
    state: Mutex<Progress>,
    changed: Condvar,
    ending: AtomicBool,
}

/// How far the guest is.
struct Progress {
    board: Board,
    /// Why a thread gave up its vCPU.
    failed: Option<String>,
    /// From so many exits on, a vCPU holds still with its exit pending.
    hold_at: Option<u64>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Progress> {
        // Every field is written whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks at the devices.
    pub(super) fn board(&self) -> Board {
        self.lock().board.clone()
    }

    /// Changes the devices.
    pub(super) fn with_board<T>(&self, change: impl FnOnce(&mut Board) -> T) -> T {
        change(&mut self.lock().board)
    }
}

/// All vCPUs of a machine, each with its thread.
pub(super) struct VcpuThreads {
    pub(super) shared: Arc<Shared>,
    handles: Vec<JoinHandle<()>>,
    memory: GuestMemory,
    started: bool,
}

impl VcpuThreads {
    /// Starts the threads. The vCPUs wait until [`start`](Self::start).
    pub(super) fn new(
        vcpus: Vec<VcpuFd>,
        board: Board,
        memory: GuestMemory,
    ) -> Result<Self, GuestError> {
        let system = |call| move |source| GuestError::System { call, source };
        kick::install().map_err(system("sigaction"))?;
        let shared = Arc::new(Shared {
            meeting: Rendezvous::new(vcpus.len()),
            state: Mutex::new(Progress {
                board,
                failed: None,
                hold_at: None,
            }),
            changed: Condvar::new(),
            ending: AtomicBool::new(false),
        });
        // Called before there is a thread: nothing runs before it is asked for.
        shared.meeting.request();
        let mut threads = Self {
            shared,
            handles: Vec::with_capacity(vcpus.len()),
            memory,
            started: false,
        };
        for (index, vcpu) in vcpus.into_iter().enumerate() {
            let mut runner = Runner {
                index,
                vcpu,
                shared: threads.shared.clone(),
                pending: false,
                held_at: None,
            };
            let thread = std::thread::Builder::new()
                .name(format!("vcpu{index}"))
                .spawn(move || runner.run())
                .map_err(system("start a vCPU's thread"))?;
            threads.handles.push(thread);
        }
        Ok(threads)
    }

    /// Lets the vCPUs run, if they never did.
    pub(super) fn start(&mut self) {
        self.started = true;
        self.shared.meeting.release();
    }

    /// Waits until `reached` says so, or a thread has failed.
    pub(super) fn wait_until(&self, reached: impl Fn(&Board) -> bool) -> Result<Board, GuestError> {
        loop {
            self.check_memory()?;
            let progress = self.shared.lock();
            if let Some(reason) = &progress.failed {
                let reason = reason.clone();
                return Err(GuestError::ThreadEnded { reason });
            }
            if reached(&progress.board) {
                return Ok(progress.board.clone());
            }
            drop(self.shared.changed.wait_timeout(progress, IDLE));
        }
    }

    /// From `exits` in all on, lets each vCPU hold still with its next exit pending; `None` lets
    /// those that do go on.
    pub(super) fn hold_at(&self, exits: Option<u64>) {
        self.shared.lock().hold_at = exits;
    }

    /// Ends the guest for good if pages of it are lost: no vCPU enters it again, and one that waits
    /// for such a page comes out.
    fn check_memory(&self) -> Result<(), GuestError> {
        let Some(failure) = self.memory.take_failure() else {
            return Ok(());
        };
        let reason = failure.to_string();
        self.shared.lock().failed.get_or_insert(reason);
        // A vCPU that is asked to leave does so before it runs on what is not its memory.
        self.handles.iter().for_each(kick::kick);
        self.memory.abandon();
        let source = Box::new(failure);
        Err(GuestError::MemoryLost { source })
    }

    fn gather(&self) -> Result<(), GuestError> {
        let mut lost = Ok(());
        let mut kick = |vcpu: usize| {
            if lost.is_ok() {
                lost = self.check_memory();
            }
            if let Some(thread) = self.handles.get(vcpu) {
                kick::kick(thread);
            }
        };
        let gathered = self.shared.meeting.gather(STOP_TIMEOUT, &mut kick);
        lost?;
        gathered?;
        match &self.shared.lock().failed {
            None => Ok(()),
            Some(reason) => Err(GuestError::ThreadEnded {
                reason: reason.clone(),
            }),
        }
    }
}

impl VcpuStop for VcpuThreads {
    fn stop(&mut self) -> Result<Paused, StepError> {
        self.gather()?;
        Ok(super::paused::gathered(self))
    }

    fn resume(&mut self) -> Result<(), StepError> {
        if self.started {
            self.shared.meeting.release();
        }
        Ok(())
    }
}

impl Drop for VcpuThreads {
    fn drop(&mut self) {
        self.shared.ending.store(true, Ordering::SeqCst);
        self.shared.meeting.release();
        // It never runs again: nothing needs to be brought any more.
        self.memory.abandon();
        for thread in self.handles.drain(..) {
            while !thread.is_finished() {
                kick::kick(&thread);
                std::thread::sleep(IDLE);
            }
            if thread.join().is_err() {
                tracing::error!("a vCPU's thread panicked");
            }
        }
    }
}

/// What one thread owns.
struct Runner {
    index: usize,
    vcpu: VcpuFd,
    shared: Arc<Shared>,
    /// Whether an exit was handled that the vCPU has not been entered after.
    pending: bool,
    /// The `hold_at` that it holds still for, if it does.
    held_at: Option<u64>,
}

impl Runner {
    fn run(&mut self) {
        let shared = self.shared.clone();
        while !shared.ending.load(Ordering::SeqCst) {
            if shared.meeting.is_requested() {
                if self.pending
                    && let Err(error) = complete_pending_exit(self.index, self)
                {
                    self.fail(&error.to_string());
                }
                shared.meeting.wait(self.index);
            } else if self.is_idle() {
                std::thread::sleep(IDLE);
            } else if let Err(error) = self.enter() {
                self.fail(&error.to_string());
            }
        }
    }

    /// Whether the vCPU is to be let alone: it is done, or held, or something is wrong.
    fn is_idle(&self) -> bool {
        let progress = self.shared.lock();
        let held = self.held_at.is_some() && self.held_at == progress.hold_at;
        progress.board.is_done(self.index) || progress.failed.is_some() || held
    }

    fn fail(&self, reason: &str) {
        let reason = format!("vCPU {}: {reason}", self.index);
        self.shared.lock().failed.get_or_insert(reason);
        self.shared.changed.notify_all();
    }
}

impl EnterVcpu for Runner {
    fn set_immediate_exit(&mut self, on: bool) {
        self.vcpu.set_kvm_immediate_exit(on.into());
    }

    fn enter(&mut self) -> io::Result<Entered> {
        let exit = match self.vcpu.run() {
            Ok(exit) => exit,
            // EAGAIN: it was waiting to be started, and is to be entered again.
            Err(error) if matches!(error.errno(), libc::EINTR | libc::EAGAIN) => {
                self.pending = false;
                return Ok(Entered::Interrupted);
            }
            Err(error) => return Err(io::Error::from_raw_os_error(error.errno())),
        };
        self.pending = true;
        let mut progress = self.shared.lock();
        progress.board.handle(self.index, exit)?;
        self.held_at = progress
            .hold_at
            .filter(|exits| progress.board.exits >= *exits);
        drop(progress);
        self.shared.changed.notify_all();
        Ok(Entered::Exit)
    }
}
