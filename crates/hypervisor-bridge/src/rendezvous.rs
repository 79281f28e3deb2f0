//! Where the threads of the vCPUs wait while their machine is paused.

use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::{Duration, Instant};

/// How often a vCPU that has not come is kicked again: a kick may fall between its last look at
/// the flag and its entry to the guest.
const KICK_AGAIN: Duration = Duration::from_millis(1);

/// How often, and how long each time, who asked looks for them before it sleeps: they come within
/// that, and to be woken takes as long. Where there is one CPU it is all lost.
const LOOKS: u32 = 4;
const LOOK: Duration = Duration::from_micros(60);

/// Brings every vCPU thread of a machine to a stop, and lets them go on.
///
/// A vCPU thread looks at [`is_requested`](Self::is_requested) after every exit; if it is set, the
/// thread completes its pending exit and then calls [`wait`](Self::wait). There it also does what
/// it is given by [`run_on`](Self::run_on): some hypervisors let a vCPU be touched by the thread
/// that made it, and by no other.
#[derive(Debug)]
pub struct Rendezvous {
    requested: AtomicBool,
    /// Seats whose threads wait: a hint for who has no lock.
    waiting: AtomicUsize,
    seats: Mutex<Vec<Seat>>,
    changed: Condvar,
}

/// The place of one vCPU's thread.
#[derive(Default)]
struct Seat {
    waits: bool,
    jobs: VecDeque<Box<dyn FnOnce() + Send>>,
}

/// A job that a vCPU's thread did not do.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NoAnswer {
    /// The thread is not at the rendezvous.
    #[error("the thread of vCPU {vcpu} does not wait; gather it first")]
    NotWaiting {
        /// Whose thread.
        vcpu: usize,
    },
    /// The job panicked on the thread, or the thread went away with it.
    #[error("the thread of vCPU {vcpu} went away with its job")]
    Lost {
        /// Whose thread.
        vcpu: usize,
    },
}

/// vCPUs that did not come in time.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("vCPUs {missing:?} did not stop within {waited_ms} ms")]
pub struct NotGathered {
    /// Which.
    pub missing: Vec<usize>,
    /// How long they had.
    pub waited_ms: u128,
}

impl Rendezvous {
    /// A meeting of `vcpu_count` threads.
    #[must_use]
    pub fn new(vcpu_count: usize) -> Self {
        Self {
            requested: AtomicBool::new(false),
            waiting: AtomicUsize::new(0),
            seats: Mutex::new((0..vcpu_count).map(|_| Seat::default()).collect()),
            changed: Condvar::new(),
        }
    }

    /// Asks every vCPU thread to come, and waits until all are there.
    ///
    /// `kick` makes a vCPU leave the guest; it is called for each that is missing, again and
    /// again. After an error some may be waiting: [`release`](Self::release) lets them go on.
    pub fn gather(
        &self,
        timeout: Duration,
        kick: &mut dyn FnMut(usize),
    ) -> Result<(), NotGathered> {
        self.request();
        let deadline = Instant::now() + timeout;
        let mut looks = LOOKS;
        let mut seats = self.lock();
        loop {
            let missing: Vec<usize> = seats
                .iter()
                .enumerate()
                .filter_map(|(vcpu, seat)| (!seat.waits).then_some(vcpu))
                .collect();
            if missing.is_empty() {
                return Ok(());
            }
            if Instant::now() >= deadline {
                let waited_ms = timeout.as_millis();
                return Err(NotGathered { missing, waited_ms });
            }
            if looks > 0 {
                looks -= 1;
                let count = seats.len();
                // They need it to take their seats.
                drop(seats);
                missing.into_iter().for_each(&mut *kick);
                self.look_for(count);
                seats = self.lock();
                continue;
            }
            missing.into_iter().for_each(&mut *kick);
            let woken = self.changed.wait_timeout(seats, KICK_AGAIN);
            seats = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Waits for a while, awake, until `count` threads wait.
    fn look_for(&self, count: usize) {
        let until = Instant::now() + LOOK;
        while self.waiting.load(Ordering::SeqCst) < count && Instant::now() < until {
            std::hint::spin_loop();
        }
    }

    /// Asks every vCPU thread to come, and waits for none: a machine that is not to run yet.
    pub fn request(&self) {
        self.requested.store(true, Ordering::SeqCst);
    }

    /// Lets all go on.
    pub fn release(&self) {
        let _seats = self.lock();
        self.requested.store(false, Ordering::SeqCst);
        self.changed.notify_all();
    }

    /// Whether the vCPU threads are asked to come.
    #[must_use]
    pub fn is_requested(&self) -> bool {
        self.requested.load(Ordering::SeqCst)
    }

    /// Called on the thread of `vcpu`, outside the guest, with no exit pending: waits until all
    /// are let go, and does its jobs meanwhile.
    pub fn wait(&self, vcpu: usize) {
        let mut seats = self.lock();
        loop {
            let seat = seats.get_mut(vcpu);
            let came = seat.is_some_and(|seat| !std::mem::replace(&mut seat.waits, true));
            if came {
                self.waiting.fetch_add(1, Ordering::SeqCst);
                self.changed.notify_all();
            }
            let seat = seats.get_mut(vcpu);
            if let Some(job) = seat.and_then(|seat| seat.jobs.pop_front()) {
                drop(seats);
                let leaves = Leaves { from: self, vcpu };
                job();
                std::mem::forget(leaves);
                seats = self.lock();
            } else if self.is_requested() {
                let woken = self.changed.wait(seats);
                seats = woken.unwrap_or_else(PoisonError::into_inner);
            } else {
                break;
            }
        }
        if let Some(seat) = seats.get_mut(vcpu) {
            seat.waits = false;
            self.waiting.fetch_sub(1, Ordering::SeqCst);
        }
    }

    /// Has the thread of `vcpu` do `job` where it [`wait`](Self::wait)s, and gives its answer.
    pub fn run_on<T: Send + 'static>(
        &self,
        vcpu: usize,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, NoAnswer> {
        let (answer, answered) = mpsc::sync_channel(1);
        let job = move || drop(answer.send(job()));
        match self.lock().get_mut(vcpu).filter(|seat| seat.waits) {
            Some(seat) => seat.jobs.push_back(Box::new(job)),
            None => return Err(NoAnswer::NotWaiting { vcpu }),
        }
        self.changed.notify_all();
        answered.recv().map_err(|_| NoAnswer::Lost { vcpu })
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Seat>> {
        // The seats are valid after any panic: each is written whole.
        self.seats.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Empties the seat of a thread whose job panics: nobody is to wait for it.
struct Leaves<'a> {
    from: &'a Rendezvous,
    vcpu: usize,
}

impl Drop for Leaves<'_> {
    fn drop(&mut self) {
        if let Some(seat) = self.from.lock().get_mut(self.vcpu) {
            *seat = Seat::default();
            self.from.waiting.fetch_sub(1, Ordering::SeqCst);
        }
    }
}

impl fmt::Debug for Seat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Seat")
            .field("waits", &self.waits)
            .field("jobs", &self.jobs.len())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU64;

    use super::*;

    #[test]
    fn all_stand_still_between_gather_and_release() {
        let meeting = Rendezvous::new(3);
        let steps = AtomicU64::new(0);
        let ended = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for vcpu in 0..3 {
                let (meeting, steps, ended) = (&meeting, &steps, &ended);
                scope.spawn(move || {
                    while !ended.load(Ordering::SeqCst) {
                        steps.fetch_add(1, Ordering::SeqCst);
                        if meeting.is_requested() {
                            meeting.wait(vcpu);
                        }
                    }
                });
            }
            for _ in 0..50 {
                meeting
                    .gather(Duration::from_secs(10), &mut |_| {})
                    .unwrap();
                let before = steps.load(Ordering::SeqCst);
                std::thread::yield_now();
                assert_eq!(steps.load(Ordering::SeqCst), before);
                // What is looked at without the lock says the same.
                assert_eq!(meeting.waiting.load(Ordering::SeqCst), 3);
                meeting.release();
            }
            ended.store(true, Ordering::SeqCst);
        });
    }

    #[test]
    fn a_vcpu_that_does_not_come_is_kicked_and_named() {
        let meeting = Rendezvous::new(2);
        let mut kicks = 0;
        let late = meeting.gather(Duration::from_millis(200), &mut |_| kicks += 1);
        assert_eq!(late.unwrap_err().missing, [0, 1]);
        assert!(kicks >= 4, "kicked {kicks} times");
        meeting.release();
        assert!(!meeting.is_requested());
    }

    #[test]
    fn a_job_runs_on_the_thread_that_waits_and_on_no_other() {
        let meeting = Rendezvous::new(2);
        meeting.request();
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..2)
                .map(|vcpu| {
                    let meeting = &meeting;
                    scope.spawn(move || meeting.wait(vcpu)).thread().id()
                })
                .collect();
            meeting
                .gather(Duration::from_secs(10), &mut |_| {})
                .unwrap();
            for _ in 0..20 {
                for (vcpu, thread) in threads.iter().enumerate() {
                    let ran_on = meeting.run_on(vcpu, || std::thread::current().id());
                    assert_eq!(ran_on, Ok(*thread));
                }
            }
            meeting.release();
        });
        let nobody = NoAnswer::NotWaiting { vcpu: 1 };
        assert_eq!(meeting.run_on(1, || ()), Err(nobody));
        let unknown = NoAnswer::NotWaiting { vcpu: 2 };
        assert_eq!(meeting.run_on(2, || ()), Err(unknown));
    }

    #[test]
    fn a_job_that_panics_is_lost_and_its_thread_counts_as_gone() {
        let meeting = Rendezvous::new(1);
        meeting.request();
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| meeting.wait(0));
            meeting
                .gather(Duration::from_secs(10), &mut |_| {})
                .unwrap();
            let lost = meeting.run_on(0, || std::panic::resume_unwind(Box::new("lost")));
            assert_eq!(lost, Err::<(), _>(NoAnswer::Lost { vcpu: 0 }));
            thread.join().unwrap_err();
        });
        let gone = meeting.gather(Duration::ZERO, &mut |_| {}).unwrap_err();
        assert_eq!(gone.missing, [0]);
        assert_eq!(meeting.waiting.load(Ordering::SeqCst), 0);
    }
}
