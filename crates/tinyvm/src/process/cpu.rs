//! The thread that plays the CPU.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::thread::JoinHandle;
use std::time::Duration;

use hypervisor_bridge::{Paused, Rendezvous, StepError, VcpuStop};

use super::paused;
use crate::device::PortDevice;
use crate::error::GuestError;
use crate::memory::GuestMemory;
use crate::model::{Model, ModelMemory};
use crate::program::REPORT_STEPS;

/// How long the thread may take to stop: far longer than any step takes.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);

/// A pause after each report: the guest then takes about as long as on an emulated CPU, and can be
/// caught on its way.
const PACE: Duration = Duration::from_millis(1);

/// About as long as a step takes that waits for a page.
const STEP: Duration = Duration::from_micros(100);

/// The CPU and what belongs to it.
#[derive(Clone, Debug)]
pub(super) struct Cpu {
    pub(super) model: Model,
    pub(super) device: PortDevice,
    failed: Option<String>,
}

pub(super) struct Shared {
    meeting: Rendezvous,
    cpu: Mutex<Cpu>,
    ending: AtomicBool,
    /// Whether pages of its memory are lost: it never takes another step.
    lost: AtomicBool,
}

impl Shared {
    pub(super) fn lock(&self) -> MutexGuard<'_, Cpu> {
        // A panic between two fields ends the thread, and nothing is captured any more.
        self.cpu.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The CPU with its thread.
pub(super) struct CpuThread {
    pub(super) shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
    memory: GuestMemory,
    started: bool,
}

impl CpuThread {
    /// Starts the thread. The CPU waits until [`start`](Self::start).
    pub(super) fn new(
        model: Model,
        device: PortDevice,
        memory: ModelMemory,
    ) -> Result<Self, GuestError> {
        let cpu = Cpu {
            model,
            device,
            failed: None,
        };
        let shared = Arc::new(Shared {
            meeting: Rendezvous::new(1),
            cpu: Mutex::new(cpu),
            ending: AtomicBool::new(false),
            lost: AtomicBool::new(false),
        });
        shared.meeting.request();
        let runner = shared.clone();
        let written = memory.memory.clone();
        let thread = std::thread::Builder::new()
            .name("cpu0".to_owned())
            .spawn(move || run(&runner, &memory))
            .map_err(|source| GuestError::System {
                call: "start the guest's thread",
                source,
            })?;
        Ok(Self {
            shared,
            thread: Some(thread),
            memory: written,
            started: false,
        })
    }

    /// Lets the CPU run, if it never did.
    pub(super) fn start(&mut self) {
        self.started = true;
        self.shared.meeting.release();
    }

    /// The CPU between two steps.
    ///
    /// A step that waits for a page does not end before the page comes, or is known to be lost.
    pub(super) fn cpu(&self) -> Result<Cpu, GuestError> {
        loop {
            self.check_memory()?;
            match self.shared.cpu.try_lock() {
                Ok(cpu) => return Ok(cpu.clone()),
                Err(TryLockError::Poisoned(cpu)) => return Ok(cpu.into_inner().clone()),
                Err(TryLockError::WouldBlock) => std::thread::sleep(STEP),
            }
        }
    }

    /// Ends the guest for good if pages of it are lost.
    fn check_memory(&self) -> Result<(), GuestError> {
        let Some(failure) = self.memory.take_failure() else {
            if self.shared.lost.load(Ordering::SeqCst) {
                let reason = "pages of its memory are lost".to_owned();
                return Err(GuestError::ThreadEnded { reason });
            }
            return Ok(());
        };
        self.shared.lost.store(true, Ordering::SeqCst);
        self.memory.abandon();
        let source = Box::new(failure);
        Err(GuestError::MemoryLost { source })
    }

    /// Waits until `reached` says so, or the thread has failed.
    pub(super) fn wait_until(&self, reached: impl Fn(&Cpu) -> bool) -> Result<Cpu, GuestError> {
        loop {
            let cpu = self.cpu()?;
            if let Some(reason) = cpu.failed {
                return Err(GuestError::ThreadEnded { reason });
            }
            if reached(&cpu) {
                return Ok(cpu);
            }
            std::thread::sleep(PACE);
        }
    }
}

impl VcpuStop for CpuThread {
    fn stop(&mut self) -> Result<Paused, StepError> {
        // It looks at the request after every step: no kick is needed.
        let mut lost = Ok(());
        let gathered = self.shared.meeting.gather(STOP_TIMEOUT, &mut |_| {
            if lost.is_ok() {
                lost = self.check_memory();
            }
        });
        lost?;
        gathered?;
        Ok(paused::gathered(self))
    }

    fn resume(&mut self) -> Result<(), StepError> {
        if self.started {
            self.shared.meeting.release();
        }
        Ok(())
    }
}

impl Drop for CpuThread {
    fn drop(&mut self) {
        self.shared.ending.store(true, Ordering::SeqCst);
        self.shared.meeting.release();
        // It never runs again: nothing needs to be brought any more.
        self.memory.abandon();
        let panicked = self.thread.take().is_some_and(|t| t.join().is_err());
        if panicked {
            tracing::error!("the guest's thread panicked");
        }
    }
}

fn run(shared: &Shared, memory: &ModelMemory) {
    while !shared.ending.load(Ordering::SeqCst) {
        if shared.meeting.is_requested() {
            shared.meeting.wait(0);
            continue;
        }
        let mut cpu = shared.lock();
        let Cpu {
            model,
            device,
            failed,
        } = &mut *cpu;
        let is_lost = shared.lost.load(Ordering::SeqCst);
        let rests = model.is_done() || failed.is_some() || is_lost;
        if !rests && let Err(error) = model.step(memory, device) {
            *failed = Some(error.to_string());
        }
        let reported = model.registers.rcx.is_multiple_of(REPORT_STEPS);
        drop(cpu);
        if rests || reported {
            std::thread::sleep(PACE);
        }
    }
}
