//! A KVM guest that writes memory at a steady rate.

// UNSAFETY: guest memory and descriptors are handed to KVM; a signal interrupts the vCPU.
#![expect(
    unsafe_code,
    reason = "the kernel is told of memory that it may write, and threads are signalled"
)]

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::thread::JoinHandleExt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use hypervisor_bridge::{Paused, Rendezvous, StepError, VcpuStop};
use hypervisor_kvm::{
    DirtyLogMode, DirtyRings, EnterVcpu, Entered, Handles, KernelDevices, KvmDirtyLog, KvmMachine,
    KvmOptions, MemorySlot, VcpuRings, complete_pending_exit,
};
use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::{Kvm, VcpuExit, VcpuFd, VmFd};
use snapshot_format::PAGE_BYTES;
use snapshot_memory::{DirtySource, GuestMemorySource, MappedMemory, WpAsyncSource};

use super::program::{self, BATCH_PAGES, PORT, PROGRAM, START};
use crate::error::BenchError;

/// How long the vCPU may take to stop.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);

/// Entries of a dirty ring: two seconds of the writer.
const RING_ENTRIES: u32 = 1 << 16;

/// A schedule that is so far behind starts anew: a guest that stood still does not hurry after.
const LATE: Duration = Duration::from_millis(50);

/// Who tells which pages were written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Tracking {
    /// KVM's dirty log.
    Log,
    /// KVM's dirty rings.
    Ring,
    /// Asynchronous write protection of userfaultfd.
    WpAsync,
}

/// The machine without its vCPU.
///
/// Descriptors come before the memory: they are closed first.
pub(super) struct Machine {
    kvm: Kvm,
    vm: VmFd,
    vcpus: Vec<OwnedFd>,
    slot: MemorySlot,
    rings: Option<VcpuRings>,
    memory: Arc<MappedMemory>,
}

/// The vCPU and its thread.
pub(super) struct Writer {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    meeting: Rendezvous,
    is_ending: AtomicBool,
    has_failed: AtomicBool,
    batches: AtomicU64,
    /// Nanoseconds from the last request to stop to the entry after it.
    gap_ns: AtomicU64,
    /// When that request was.
    asked: Mutex<Option<Instant>>,
}

/// What the vCPU's thread owns.
struct Runner {
    vcpu: VcpuFd,
    rings: Option<VcpuRings>,
    shared: Arc<Shared>,
    /// When the next batch is due, and how long one may take.
    due: Instant,
    period: Duration,
}

impl Machine {
    /// A machine over `memory`, a power of two up to 4 GiB, and its vCPU at the start of the
    /// program. It has no interrupt controller, which would lie in the middle of its memory.
    pub(super) fn new(
        memory: Arc<MappedMemory>,
        tracking: Tracking,
    ) -> Result<(Self, VcpuFd), BenchError> {
        let outside = |_| BenchError::Outside { offset: START };
        memory.write(START, &PROGRAM).map_err(outside)?;
        let kvm = Kvm::new().map_err(failed("open /dev/kvm"))?;
        let vm = kvm.create_vm().map_err(failed("KVM_CREATE_VM"))?;
        let rings = match tracking {
            Tracking::Ring => {
                // SAFETY: it is a KVM machine, without a vCPU or a slot.
                let rings = unsafe { DirtyRings::enable(duplicate(&vm)?, RING_ENTRIES) };
                Some(rings.map_err(adapter)?)
            }
            Tracking::Log | Tracking::WpAsync => None,
        };
        let slot = MemorySlot {
            slot: 0,
            flags: 0,
            guest_address: 0,
            len_bytes: memory.layout().len_bytes(),
            host_address: memory.base().as_ptr().expose_provenance() as u64,
        };
        let region = kvm_userspace_memory_region {
            slot: slot.slot,
            flags: slot.flags,
            guest_phys_addr: slot.guest_address,
            memory_size: slot.len_bytes,
            userspace_addr: slot.host_address,
        };
        // SAFETY: the mapping is that long, and outlives every run of the vCPU: its thread is
        // joined before the memory is dropped.
        unsafe { vm.set_user_memory_region(region) }
            .map_err(failed("KVM_SET_USER_MEMORY_REGION"))?;
        let vcpu = vm.create_vcpu(0).map_err(failed("KVM_CREATE_VCPU"))?;
        let mut sregs = vcpu.get_sregs().map_err(failed("KVM_GET_SREGS"))?;
        program::protect(&mut sregs);
        vcpu.set_sregs(&sregs).map_err(failed("KVM_SET_SREGS"))?;
        let regs = program::registers(slot.len_bytes);
        vcpu.set_regs(&regs).map_err(failed("KVM_SET_REGS"))?;
        let layout = memory.layout().clone();
        let rings = match rings {
            // SAFETY: this is the only vCPU, and the slot was registered with these values.
            Some(rings) => Some(
                unsafe { rings.map(std::slice::from_ref(&vcpu), layout, &[slot]) }
                    .map_err(adapter)?,
            ),
            None => None,
        };
        let machine = Self {
            vcpus: vec![duplicate(&vcpu)?],
            kvm,
            vm,
            slot,
            rings,
            memory,
        };
        Ok((machine, vcpu))
    }

    /// What tells which pages were written.
    pub(super) fn source(&self, tracking: Tracking) -> Result<Box<dyn DirtySource>, BenchError> {
        let layout = self.memory.layout().clone();
        Ok(match (tracking, &self.rings) {
            (Tracking::Ring, Some(rings)) => Box::new(rings.source()),
            (Tracking::WpAsync, _) => Box::new(WpAsyncSource::new(self.memory.clone())?),
            _ => {
                let (vm, mode) = (duplicate(&self.vm)?, DirtyLogMode::ManualProtect);
                // SAFETY: the slot was registered with exactly these values.
                let log = unsafe { KvmDirtyLog::new(vm, layout, &[self.slot], mode) };
                Box::new(log.map_err(adapter)?)
            }
        })
    }

    /// What KVM keeps of the machine.
    pub(super) fn state(&self) -> Result<KvmMachine<'_>, BenchError> {
        let vcpus = self.vcpus.iter().map(AsFd::as_fd).collect();
        // SAFETY: the descriptors are what they are passed as; they are used while the vCPU waits
        // outside the guest.
        let handles = unsafe { Handles::new(borrow(&self.kvm), borrow(&self.vm), vcpus) };
        KvmMachine::new(handles, KvmOptions::new(KernelDevices::NONE)).map_err(adapter)
    }

    /// The guest's memory.
    pub(super) fn memory(&self) -> &MappedMemory {
        &self.memory
    }

    /// Starts the vCPU: it dirties so many bytes of pages a second, or as many as it can.
    pub(super) fn start(&self, vcpu: VcpuFd, bytes_per_second: u64) -> Result<Writer, BenchError> {
        install_signal().map_err(|source| BenchError::Kvm {
            call: "sigaction",
            source,
        })?;
        let shared = Arc::new(Shared {
            meeting: Rendezvous::new(1),
            is_ending: AtomicBool::new(false),
            has_failed: AtomicBool::new(false),
            batches: AtomicU64::new(0),
            gap_ns: AtomicU64::new(0),
            asked: Mutex::default(),
        });
        let batch_bytes = u64::from(BATCH_PAGES) * PAGE_BYTES;
        let mut runner = Runner {
            vcpu,
            rings: self.rings.clone(),
            shared: shared.clone(),
            due: Instant::now(),
            period: Duration::from_nanos(batch_bytes * 1_000_000_000 / bytes_per_second),
        };
        Ok(Writer {
            shared,
            thread: Some(thread::spawn(move || runner.run())),
        })
    }
}

impl Writer {
    /// Bytes of pages that the guest has written, each time that it did.
    pub(super) fn written_bytes(&self) -> u64 {
        let batches = self.shared.batches.load(Ordering::Relaxed);
        batches * u64::from(BATCH_PAGES) * PAGE_BYTES
    }

    /// From the last request to stop until the vCPU's thread was about to enter the guest again.
    pub(super) fn gap(&self) -> Duration {
        Duration::from_nanos(self.shared.gap_ns.load(Ordering::Relaxed))
    }

    fn kick(thread: &JoinHandle<()>) {
        thread.thread().unpark();
        // SAFETY: the handle was not joined, so the thread's id is valid, also after its end.
        let _ = unsafe { libc::pthread_kill(thread.as_pthread_t(), libc::SIGRTMIN()) };
    }
}

impl VcpuStop for Writer {
    fn stop(&mut self) -> Result<Paused, StepError> {
        *self.shared.asked() = Some(Instant::now());
        let thread = self.thread.as_ref();
        let mut kick = |_| {
            if let Some(thread) = thread {
                Self::kick(thread);
            }
        };
        self.shared.meeting.gather(STOP_TIMEOUT, &mut kick)?;
        if self.shared.has_failed.load(Ordering::SeqCst) {
            return Err("the vCPU's thread has failed".into());
        }
        // SAFETY: the only thread that runs the vCPU waits in the meeting, and only `resume` lets
        // it go on.
        Ok(unsafe { Paused::promise() })
    }

    fn resume(&mut self) -> Result<(), StepError> {
        self.shared.meeting.release();
        Ok(())
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.shared.is_ending.store(true, Ordering::SeqCst);
        self.shared.meeting.release();
        if let Some(thread) = self.thread.take() {
            while !thread.is_finished() {
                Self::kick(&thread);
                thread::sleep(Duration::from_millis(1));
            }
            // It ends by itself, and a panic has said why.
            let _ = thread.join();
        }
    }
}

impl Runner {
    fn run(&mut self) {
        let shared = self.shared.clone();
        while !shared.is_ending.load(Ordering::SeqCst) {
            let is_broken = shared.has_failed.load(Ordering::SeqCst);
            let done = if shared.meeting.is_requested() {
                let completed = if is_broken {
                    Ok(())
                } else {
                    complete_pending_exit(0, self).map_err(io::Error::other)
                };
                shared.meeting.wait(0);
                shared.note_gap();
                completed
            } else if is_broken {
                thread::park();
                Ok(())
            } else if self.is_due() {
                self.enter().map(drop)
            } else {
                Ok(())
            };
            if let Err(error) = done {
                eprintln!("the vCPU of the bench: {error}");
                shared.has_failed.store(true, Ordering::SeqCst);
            }
        }
    }

    /// Whether the next batch is due. Waits for it, unless somebody wants the thread first.
    fn is_due(&mut self) -> bool {
        let now = Instant::now();
        if let Some(early) = self.due.checked_duration_since(now) {
            thread::park_timeout(early);
            return false;
        }
        if now - self.due > LATE {
            self.due = now;
        }
        true
    }
}

impl Shared {
    fn asked(&self) -> MutexGuard<'_, Option<Instant>> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note_gap(&self) {
        if let Some(asked) = self.asked().take() {
            let ns = u64::try_from(asked.elapsed().as_nanos()).unwrap_or(u64::MAX);
            self.gap_ns.store(ns, Ordering::Relaxed);
        }
    }
}

impl EnterVcpu for Runner {
    fn set_immediate_exit(&mut self, on: bool) {
        self.vcpu.set_kvm_immediate_exit(on.into());
    }

    fn enter(&mut self) -> io::Result<Entered> {
        match self.vcpu.run() {
            Ok(VcpuExit::IoOut(PORT, _)) => {
                self.shared.batches.fetch_add(1, Ordering::Relaxed);
                self.due += self.period;
                Ok(Entered::Exit)
            }
            Ok(VcpuExit::Unsupported(kvm_bindings::KVM_EXIT_DIRTY_RING_FULL)) => {
                if let Some(rings) = &self.rings {
                    rings.on_full().map_err(io::Error::other)?;
                }
                Ok(Entered::Interrupted)
            }
            Ok(exit) => Err(io::Error::other(format!("{exit:?}"))),
            Err(error) if matches!(error.errno(), libc::EINTR | libc::EAGAIN) => {
                Ok(Entered::Interrupted)
            }
            Err(error) => Err(io::Error::from_raw_os_error(error.errno())),
        }
    }
}

extern "C" fn ignore(_: libc::c_int) {}

/// Installs a handler that does nothing: the default action would end the process.
fn install_signal() -> io::Result<()> {
    // SAFETY: all zeroes is a value of this C structure.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = ignore as *const () as libc::sighandler_t;
    // SAFETY: the handler does nothing, so it is safe in any context; `action` outlives the call.
    let done =
        unsafe { libc::sigaction(libc::SIGRTMIN(), &raw const action, std::ptr::null_mut()) };
    nix::errno::Errno::result(done)
        .map(drop)
        .map_err(Into::into)
}

/// A descriptor that its owner only shows by number.
fn borrow<T: AsRawFd>(owner: &T) -> BorrowedFd<'_> {
    // SAFETY: the owner is borrowed for as long, and keeps its descriptor open.
    unsafe { BorrowedFd::borrow_raw(owner.as_raw_fd()) }
}

fn duplicate<T: AsRawFd>(owner: &T) -> Result<OwnedFd, BenchError> {
    let duplicate = borrow(owner).try_clone_to_owned();
    duplicate.map_err(|source| BenchError::Kvm {
        call: "duplicate a descriptor",
        source,
    })
}

fn failed(call: &'static str) -> impl Fn(kvm_ioctls::Error) -> BenchError {
    move |error| BenchError::Kvm {
        call,
        source: io::Error::from_raw_os_error(error.errno()),
    }
}

fn adapter(error: hypervisor_kvm::KvmError) -> BenchError {
    BenchError::Step(error.into())
}
