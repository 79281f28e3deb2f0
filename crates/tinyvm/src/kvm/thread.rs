//! The thread that a vCPU runs on.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use hypervisor_bridge::{Paused, Rendezvous, StepError, VcpuStop};
use hypervisor_kvm::{EnterVcpu, Entered, complete_pending_exit};
use kvm_ioctls::{VcpuExit, VcpuFd};

use super::kick;
use crate::device::PortDevice;
use crate::error::GuestError;
use crate::program::{PORT_ANSWER, PORT_DONE, PORT_PROGRESS};

/// How long a vCPU may take to stop: far longer than any instruction does.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);

/// How often a thread with nothing to do looks for something.
const IDLE: Duration = Duration::from_millis(1);

/// What the thread and its owner share.
pub(super) struct Shared {
    pub(super) meeting: Rendezvous,
    state: Mutex<Progress>,
    changed: Condvar,
    ending: AtomicBool,
}

/// How far the guest is.
pub(super) struct Progress {
    pub(super) device: PortDevice,
    /// Why the thread ended before its time.
    failed: Option<String>,
    /// Hold still, with the exit pending, once so many questions were answered.
    hold_after: Option<u64>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Progress> {
        // Every field is written whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn device(&self) -> PortDevice {
        self.lock().device
    }

    pub(super) fn set_device(&self, device: PortDevice) {
        self.lock().device = device;
    }
}

/// A vCPU with its thread.
pub(super) struct VcpuThread {
    pub(super) shared: Arc<Shared>,
    handle: Option<JoinHandle<()>>,
    started: bool,
}

impl VcpuThread {
    /// Starts the thread. The vCPU waits until [`start`](Self::start).
    pub(super) fn new(vcpu: VcpuFd, device: PortDevice) -> Result<Self, GuestError> {
        let system = |call| move |source| GuestError::System { call, source };
        kick::install().map_err(system("sigaction"))?;
        let shared = Arc::new(Shared {
            meeting: Rendezvous::new(1),
            state: Mutex::new(Progress {
                device,
                failed: None,
                hold_after: None,
            }),
            changed: Condvar::new(),
            ending: AtomicBool::new(false),
        });
        shared.meeting.request();
        let mut runner = Runner {
            vcpu,
            shared: shared.clone(),
            pending: false,
        };
        let mut started = Self {
            shared,
            handle: None,
            started: false,
        };
        let thread = std::thread::Builder::new()
            .name("vcpu0".to_owned())
            .spawn(move || runner.run())
            .map_err(system("start the vCPU's thread"))?;
        started.handle = Some(thread);
        Ok(started)
    }

    /// Lets the vCPU run, if it never did.
    pub(super) fn start(&mut self) {
        self.started = true;
        self.shared.meeting.release();
    }

    /// Waits until `reached` says so, or the thread has failed.
    pub(super) fn wait_until(
        &self,
        reached: impl Fn(&PortDevice) -> bool,
    ) -> Result<PortDevice, GuestError> {
        let mut progress = self.shared.lock();
        loop {
            if let Some(reason) = &progress.failed {
                let reason = reason.clone();
                return Err(GuestError::ThreadEnded { reason });
            }
            if reached(&progress.device) {
                return Ok(progress.device);
            }
            let woken = self.shared.changed.wait_timeout(progress, IDLE);
            progress = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Lets the vCPU stand still with the exit pending once it has asked `questions` in all.
    pub(super) fn hold_after(&self, questions: Option<u64>) {
        self.shared.lock().hold_after = questions;
    }

    fn gather(&self) -> Result<(), GuestError> {
        let mut kick = |_: usize| {
            if let Some(thread) = &self.handle {
                kick::kick(thread);
            }
        };
        self.shared.meeting.gather(STOP_TIMEOUT, &mut kick)?;
        match &self.shared.lock().failed {
            None => Ok(()),
            Some(reason) => Err(GuestError::ThreadEnded {
                reason: reason.clone(),
            }),
        }
    }
}

impl VcpuStop for VcpuThread {
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

impl Drop for VcpuThread {
    fn drop(&mut self) {
        self.shared.ending.store(true, Ordering::SeqCst);
        self.shared.meeting.release();
        if let Some(thread) = self.handle.take() {
            while !thread.is_finished() {
                kick::kick(&thread);
                std::thread::sleep(IDLE);
            }
            if thread.join().is_err() {
                tracing::error!("the vCPU's thread panicked");
            }
        }
    }
}

/// What the thread owns.
struct Runner {
    vcpu: VcpuFd,
    shared: Arc<Shared>,
    /// Whether an exit was handled that the vCPU has not been entered after.
    pending: bool,
}

impl Runner {
    fn run(&mut self) {
        // The meeting is called already: nothing runs before it is asked for.
        let shared = self.shared.clone();
        while !shared.ending.load(Ordering::SeqCst) {
            if shared.meeting.is_requested() {
                if self.pending
                    && let Err(error) = complete_pending_exit(0, self)
                {
                    self.fail(&error.to_string());
                }
                shared.meeting.wait(0);
            } else if self.is_idle() {
                std::thread::sleep(IDLE);
            } else if let Err(error) = self.enter() {
                self.fail(&error.to_string());
            }
        }
    }

    /// Whether the guest is to be let alone: it has ended, or something is wrong with it.
    fn is_idle(&self) -> bool {
        let progress = self.shared.lock();
        let device = &progress.device;
        let held = progress.hold_after.is_some_and(|n| device.asked >= n);
        device.checksum.is_some() || progress.failed.is_some() || held
    }

    fn fail(&self, reason: &str) {
        self.shared.lock().failed = Some(reason.to_owned());
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
            Err(error) if error.errno() == libc::EINTR => {
                self.pending = false;
                return Ok(Entered::Interrupted);
            }
            Err(error) => return Err(io::Error::from_raw_os_error(error.errno())),
        };
        self.pending = true;
        let mut progress = self.shared.lock();
        let device = &mut progress.device;
        match exit {
            VcpuExit::IoOut(PORT_PROGRESS, &[a, b, c, d]) => {
                device.steps = u32::from_le_bytes([a, b, c, d]).into();
            }
            VcpuExit::IoIn(PORT_ANSWER, data) if data.len() == 4 => {
                data.copy_from_slice(&device.answer().to_le_bytes());
            }
            VcpuExit::IoOut(PORT_DONE, &[a, b, c, d]) => {
                device.checksum = Some(u32::from_le_bytes([a, b, c, d]));
            }
            other => return Err(io::Error::other(format!("unexpected exit {other:?}"))),
        }
        drop(progress);
        self.shared.changed.notify_all();
        Ok(Entered::Exit)
    }
}
