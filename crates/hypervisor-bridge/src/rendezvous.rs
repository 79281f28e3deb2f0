//! Where the threads of the vCPUs wait while their machine is paused.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How often a vCPU that has not come is kicked again: a kick may fall between its last look at
/// the flag and its entry to the guest.
const KICK_AGAIN: Duration = Duration::from_millis(1);

/// Brings every vCPU thread of a machine to a stop, and lets them go on.
///
/// A vCPU thread looks at [`is_requested`](Self::is_requested) after every exit; if it is set, the
/// thread completes its pending exit and then calls [`wait`](Self::wait).
#[derive(Debug)]
pub struct Rendezvous {
    requested: AtomicBool,
    waiting: Mutex<Vec<bool>>,
    changed: Condvar,
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
            waiting: Mutex::new(vec![false; vcpu_count]),
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
        let mut waiting = self.lock();
        loop {
            let missing: Vec<usize> = waiting
                .iter()
                .enumerate()
                .filter_map(|(vcpu, waits)| (!waits).then_some(vcpu))
                .collect();
            if missing.is_empty() {
                return Ok(());
            }
            if Instant::now() >= deadline {
                let waited_ms = timeout.as_millis();
                return Err(NotGathered { missing, waited_ms });
            }
            missing.into_iter().for_each(&mut *kick);
            let woken = self.changed.wait_timeout(waiting, KICK_AGAIN);
            waiting = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Asks every vCPU thread to come, and waits for none: a machine that is not to run yet.
    pub fn request(&self) {
        self.requested.store(true, Ordering::SeqCst);
    }

    /// Lets all go on.
    pub fn release(&self) {
        let _waiting = self.lock();
        self.requested.store(false, Ordering::SeqCst);
        self.changed.notify_all();
    }

    /// Whether the vCPU threads are asked to come.
    #[must_use]
    pub fn is_requested(&self) -> bool {
        self.requested.load(Ordering::SeqCst)
    }

    /// Called on the thread of `vcpu`, outside the guest, with no exit pending: waits until all
    /// are let go.
    pub fn wait(&self, vcpu: usize) {
        let mut waiting = self.lock();
        while self.is_requested() {
            if let Some(waits) = waiting.get_mut(vcpu) {
                *waits = true;
            }
            self.changed.notify_all();
            let woken = self.changed.wait(waiting);
            waiting = woken.unwrap_or_else(PoisonError::into_inner);
        }
        if let Some(waits) = waiting.get_mut(vcpu) {
            *waits = false;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<bool>> {
        // The flags are valid after any panic: each is written whole.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
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
}
