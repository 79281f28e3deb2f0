//! What the threads of one machine's vCPUs share, with each other and with whoever stops them.

use std::fmt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hypervisor_bridge::Rendezvous;
use snapshot_format::state::PowerState;

use crate::error::HvfError;
use crate::hv::{Hv, VcpuHandle};
use crate::refusal::HvRefusal;

/// The vCPUs of a machine: where their threads meet, whether each is on, and its lines.
///
/// Hypervisor.framework keeps none of it: PSCI is the VMM's, a thread whose vCPU is off or waits
/// for an interrupt is in no call that `hv_vcpus_exit` could end, and an asserted line is dropped
/// at the end of every run.
pub struct Crew {
    hv: Arc<dyn Hv>,
    meeting: Rendezvous,
    places: Mutex<Places>,
    changed: Condvar,
}

struct Places {
    vcpus: Vec<Place>,
    ended: bool,
}

/// What is known of one vCPU outside the framework.
#[derive(Clone, Copy, Debug, Default)]
struct Place {
    handle: Option<VcpuHandle>,
    power: PowerState,
    lines: Lines,
}

/// The interrupt lines of a vCPU, as a model of an interrupt controller in the VMM asserts them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Lines {
    /// IRQ.
    pub irq: bool,
    /// FIQ.
    pub fiq: bool,
}

/// What `CPU_ON` of PSCI answers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CpuOn {
    /// The vCPU starts.
    Success,
    /// There is no such vCPU.
    InvalidParameters,
    /// It is on.
    AlreadyOn,
    /// It was told to start, and has not yet.
    OnPending,
}

/// What the thread of a vCPU has to do next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Next {
    /// Come to the rendezvous.
    Meet,
    /// Return: the machine ends.
    End,
    /// Take over the registers of a start, and then [`Crew::started`].
    Start { entry: u64, context: u64 },
    /// Run with these lines asserted.
    Run(Lines),
}

impl Crew {
    /// A machine whose first vCPU is on and whose others wait for `CPU_ON`.
    #[must_use]
    pub fn new(hv: Arc<dyn Hv>, vcpu_count: usize) -> Arc<Self> {
        let vcpus = (0..vcpu_count).map(|vcpu| Place {
            power: if vcpu == 0 {
                PowerState::On
            } else {
                PowerState::Off
            },
            ..Place::default()
        });
        Arc::new(Self {
            hv,
            meeting: Rendezvous::new(vcpu_count),
            places: Mutex::new(Places {
                vcpus: vcpus.collect(),
                ended: false,
            }),
            changed: Condvar::new(),
        })
    }

    /// How many vCPUs there are.
    #[must_use]
    pub fn vcpu_count(&self) -> usize {
        self.lock().vcpus.len()
    }

    /// Where the threads meet. A machine that is not to run yet is asked to come before its threads
    /// start.
    #[must_use]
    pub fn meeting(&self) -> &Rendezvous {
        &self.meeting
    }

    /// Whether a vCPU is on; `None` for one that there is not.
    #[must_use]
    pub fn power(&self, vcpu: usize) -> Option<PowerState> {
        self.lock().vcpus.get(vcpu).map(|place| place.power)
    }

    /// Sets the power state of a vCPU, whatever it was.
    pub fn set_power(&self, vcpu: usize, power: PowerState) {
        self.change(vcpu, |place| place.power = power);
    }

    /// `CPU_ON` of PSCI, called by another vCPU.
    pub fn turn_on(&self, vcpu: usize, entry: u64, context: u64) -> CpuOn {
        let mut answer = CpuOn::InvalidParameters;
        self.change(vcpu, |place| {
            answer = match place.power {
                PowerState::Off => {
                    place.power = PowerState::OnPending { entry, context };
                    CpuOn::Success
                }
                PowerState::OnPending { .. } => CpuOn::OnPending,
                _ => CpuOn::AlreadyOn,
            };
        });
        answer
    }

    /// Asserts the lines of a vCPU, or drops them. A vCPU that waits for an interrupt goes on.
    pub fn set_lines(&self, vcpu: usize, lines: Lines) -> Result<(), HvRefusal> {
        self.change(vcpu, |place| place.lines = lines);
        if lines == Lines::default() {
            return Ok(());
        }
        self.kick(vcpu)
    }

    /// The lines of a vCPU.
    #[must_use]
    pub fn lines(&self, vcpu: usize) -> Lines {
        let places = self.lock();
        places
            .vcpus
            .get(vcpu)
            .map_or_else(Lines::default, |p| p.lines)
    }

    /// Makes the thread of a vCPU look around: out of the guest, and out of its wait.
    pub fn kick(&self, vcpu: usize) -> Result<(), HvRefusal> {
        let handle = self.handle(vcpu);
        self.changed.notify_all();
        let Some(handle) = handle else {
            return Ok(());
        };
        match self.hv.exit_vcpus(&[handle]) {
            // It went away meanwhile.
            Err(_) if self.handle(vcpu).is_none() => Ok(()),
            kicked => kicked,
        }
    }

    /// Ends the machine: every vCPU's run returns [`Exit::Ended`](crate::Exit::Ended).
    pub fn end(&self) -> Result<(), HvRefusal> {
        self.lock().ended = true;
        let mut kicks = (0..self.vcpu_count()).map(|vcpu| self.kick(vcpu));
        let kicked = kicks.find(Result::is_err);
        self.meeting.release();
        kicked.unwrap_or(Ok(()))
    }

    pub(crate) fn hv(&self) -> &Arc<dyn Hv> {
        &self.hv
    }

    pub(crate) fn handle(&self, vcpu: usize) -> Option<VcpuHandle> {
        self.lock().vcpus.get(vcpu)?.handle
    }

    /// Says that this thread has the vCPU.
    pub(crate) fn attach(&self, vcpu: usize, handle: VcpuHandle) -> Result<(), HvfError> {
        let mut places = self.lock();
        let count = places.vcpus.len();
        let place = places.vcpus.get_mut(vcpu);
        match place.filter(|place| place.handle.is_none()) {
            Some(place) => {
                place.handle = Some(handle);
                Ok(())
            }
            None => Err(HvfError::NoSuchVcpu { vcpu, count }),
        }
    }

    pub(crate) fn detach(&self, vcpu: usize) {
        self.change(vcpu, |place| place.handle = None);
    }

    /// The vCPU waits for an interrupt, unless one is there.
    pub(crate) fn park(&self, vcpu: usize) {
        self.change(vcpu, |place| {
            if place.lines == Lines::default() {
                place.power = PowerState::WaitingForInterrupt;
            }
        });
    }

    /// The vCPU has taken over the registers of its start.
    pub(crate) fn started(&self, vcpu: usize) {
        self.set_power(vcpu, PowerState::On);
    }

    /// Waits until there is something to do for the thread of a vCPU. One that waits for an
    /// interrupt goes on after `wake_after`.
    pub(crate) fn next(&self, vcpu: usize, wake_after: Option<Duration>) -> Next {
        let deadline = wake_after.map(|after| Instant::now() + after);
        let mut places = self.lock();
        loop {
            if places.ended {
                return Next::End;
            }
            if self.meeting.is_requested() {
                return Next::Meet;
            }
            let Some(place) = places.vcpus.get_mut(vcpu) else {
                return Next::End;
            };
            let is_due = deadline.is_some_and(|deadline| deadline <= Instant::now());
            let is_parked = place.power == PowerState::WaitingForInterrupt;
            if is_parked && (is_due || place.lines != Lines::default()) {
                place.power = PowerState::On;
            }
            match place.power {
                PowerState::On => return Next::Run(place.lines),
                PowerState::OnPending { entry, context } => return Next::Start { entry, context },
                _ => {}
            }
            let left = deadline.filter(|_| is_parked);
            let left = left.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            // Whoever changes anything notifies, and a request comes with kicks.
            places = if let Some(left) = left {
                let woken = self.changed.wait_timeout(places, left);
                woken.unwrap_or_else(PoisonError::into_inner).0
            } else {
                let woken = self.changed.wait(places);
                woken.unwrap_or_else(PoisonError::into_inner)
            };
        }
    }

    fn change(&self, vcpu: usize, change: impl FnOnce(&mut Place)) {
        if let Some(place) = self.lock().vcpus.get_mut(vcpu) {
            change(place);
        }
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, Places> {
        // Each change is one assignment.
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl CpuOn {
    /// What the guest finds in X0.
    #[must_use]
    pub const fn code(self) -> i64 {
        match self {
            Self::Success => 0,
            Self::InvalidParameters => -2,
            Self::AlreadyOn => -4,
            Self::OnPending => -5,
        }
    }
}

impl fmt::Debug for Crew {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Crew")
            .field("vcpus", &self.lock().vcpus)
            .finish_non_exhaustive()
    }
}
