//! vCPUs on threads of their own, and a port that they talk to.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use hypervisor_bridge::Rendezvous;
use hypervisor_kvm::{EnterVcpu, Entered, KvmOptions, complete_pending_exit};
use kvm_ioctls::{VcpuExit, VcpuFd};
use snapshot_memory::MappedMemory;

use super::machine::{Descriptors, Machine, Saved, kick, save, this_thread};

/// Longer than any of these programs takes.
const TIMEOUT: Duration = Duration::from_secs(20);

/// Where a guest asks a question, and where it says that it is done.
pub(super) const ASK: u8 = 0x10;
pub(super) const DONE: u8 = 0x11;

/// The port: its answers depend on how many it has given, so that one that is lost or given twice
/// shows.
#[derive(Default)]
pub(super) struct Port {
    pub(super) asked: AtomicU64,
    done: AtomicBool,
}

impl Port {
    pub(super) fn at(asked: u64) -> Self {
        Self {
            asked: AtomicU64::new(asked),
            done: AtomicBool::new(false),
        }
    }

    fn answer(&self) -> u8 {
        let number = self.asked.fetch_add(1, Ordering::SeqCst);
        number.wrapping_mul(7).wrapping_add(3).to_le_bytes()[0]
    }

    pub(super) fn wait_until_asked(&self, questions: u64) {
        wait("questions", || {
            self.asked.load(Ordering::SeqCst) >= questions
        });
    }

    pub(super) fn wait_until_done(&self) {
        wait("the end", || self.done.load(Ordering::SeqCst));
    }
}

fn wait(what: &str, reached: impl Fn() -> bool) {
    let deadline = Instant::now() + TIMEOUT;
    while !reached() {
        assert!(Instant::now() < deadline, "the guest never came to {what}");
        thread::sleep(Duration::from_micros(50));
    }
}

/// One vCPU on its thread.
struct Entry<'m> {
    vcpu: &'m mut VcpuFd,
    port: &'m Port,
}

impl EnterVcpu for Entry<'_> {
    fn set_immediate_exit(&mut self, on: bool) {
        self.vcpu.set_kvm_immediate_exit(on.into());
    }

    fn enter(&mut self) -> io::Result<Entered> {
        match self.vcpu.run() {
            Ok(VcpuExit::IoIn(port, data)) if port == u16::from(ASK) => {
                data.fill_with(|| self.port.answer());
            }
            Ok(VcpuExit::IoOut(port, _)) if port == u16::from(DONE) => {
                self.port.done.store(true, Ordering::SeqCst);
            }
            Ok(exit) => return Err(io::Error::other(format!("{exit:?}"))),
            Err(error) if error.errno() == libc::EINTR => return Ok(Entered::Interrupted),
            Err(error) => return Err(io::Error::from_raw_os_error(error.errno())),
        }
        Ok(Entered::Exit)
    }
}

/// What the threads of a machine share with their owner.
pub(super) struct Running<'m> {
    meeting: Rendezvous,
    ended: AtomicBool,
    threads: Vec<AtomicU64>,
    descriptors: &'m Descriptors,
    memory: &'m MappedMemory,
    port: &'m Port,
}

impl Running<'_> {
    fn run(&self, index: usize, entry: &mut Entry<'_>) {
        self.threads[index].store(this_thread(), Ordering::SeqCst);
        while !self.ended.load(Ordering::SeqCst) {
            if self.meeting.is_requested() {
                complete_pending_exit(index, entry).unwrap();
                self.meeting.wait(index);
            }
            match entry.enter() {
                Ok(_) => {}
                // A start-up interrupt came: there is something to run now.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => panic!("vCPU {index}: {error}"),
            }
        }
    }

    fn kick(&self, index: usize) {
        match self.threads[index].load(Ordering::SeqCst) {
            0 => {}
            thread => kick(thread),
        }
    }

    /// Stops every vCPU where it is, saves the machine, and lets it go on. The number is how many
    /// questions the port had answered.
    pub(super) fn save(&self, options: &KvmOptions) -> (Saved, u64) {
        let mut kick = |vcpu: usize| self.kick(vcpu);
        self.meeting.gather(TIMEOUT, &mut kick).unwrap();
        let saved = save(self.descriptors, options, self.memory);
        let asked = self.port.asked.load(Ordering::SeqCst);
        self.meeting.release();
        (saved, asked)
    }
}

/// Runs every vCPU of a machine on its own thread while `work` looks on.
pub(super) fn run<T>(
    machine: &mut Machine,
    port: &Port,
    work: impl FnOnce(&Running<'_>) -> T,
) -> T {
    let descriptors = machine.descriptors();
    let vcpus = &mut machine.vcpus;
    let running = Running {
        meeting: Rendezvous::new(vcpus.len()),
        ended: AtomicBool::new(false),
        threads: vcpus.iter().map(|_| AtomicU64::new(0)).collect(),
        descriptors: &descriptors,
        memory: &machine.memory,
        port,
    };
    let running = &running;
    thread::scope(|scope| {
        let threads: Vec<_> = vcpus
            .iter_mut()
            .enumerate()
            .map(|(index, vcpu)| scope.spawn(move || running.run(index, &mut Entry { vcpu, port })))
            .collect();
        let worked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| work(running)));
        running.ended.store(true, Ordering::SeqCst);
        running.meeting.release();
        while threads.iter().any(|thread| !thread.is_finished()) {
            let left = threads.iter().enumerate();
            let left = left.filter(|(_, thread)| !thread.is_finished());
            left.for_each(|(index, _)| running.kick(index));
            thread::sleep(Duration::from_millis(1));
        }
        worked.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}
