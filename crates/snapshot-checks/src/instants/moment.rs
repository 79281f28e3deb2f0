//! Random instants in the run of a guest.

use std::thread;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tinyvm::{Guest, GuestError};

/// A generator of numbers: SplitMix64.
#[derive(Clone, Debug)]
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    /// A number below `limit`, which is not zero.
    pub(super) fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit.max(1)
    }
}

/// How a guest is brought to the instant of a snapshot.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Moment {
    /// It has not run yet.
    Unstarted,
    /// After so many steps, and some time.
    Steps {
        /// Steps since it was last looked at.
        steps: u64,
        /// Microseconds then.
        wait_us: u64,
    },
    /// After so many exits; the vCPU that left stands still with its exit pending, while others
    /// run on for some time.
    Exit {
        /// Exits since it was last looked at.
        exits: u64,
        /// Microseconds then.
        wait_us: u64,
    },
}

impl Moment {
    /// One of the instants in `steps` steps.
    pub(super) fn choose(random: &mut Random, steps: u64) -> Self {
        match random.below(16) {
            0 => Self::Unstarted,
            1..9 => Self::Steps {
                steps: random.below(steps),
                wait_us: random.below(4_000),
            },
            _ => Self::Exit {
                exits: 1 + random.below(steps * 2),
                wait_us: random.below(1_000),
            },
        }
    }

    /// Runs the guest up to it. Whether an exit is pending.
    pub(super) fn reach(self, guest: &mut dyn Guest) -> Result<bool, GuestError> {
        let (is_pending, wait_us) = match self {
            Self::Unstarted => (false, 0),
            Self::Steps { steps, wait_us } => {
                guest.run(steps)?;
                (false, wait_us)
            }
            Self::Exit { exits, wait_us } => (guest.run_to_exit(exits)?, wait_us),
        };
        thread::sleep(Duration::from_micros(wait_us));
        Ok(is_pending)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_names_its_instants_and_all_kinds_come() {
        let choose = |seed| {
            let mut random = Random::new(seed);
            (0..64).map(|_| Moment::choose(&mut random, 40)).collect()
        };
        let one: Vec<Moment> = choose(1);
        assert_eq!(one, choose(1));
        assert_ne!(one, choose(2));
        assert!(one.contains(&Moment::Unstarted));
        let exits = one.iter().filter(|m| matches!(m, Moment::Exit { .. }));
        assert!((16..48).contains(&exits.count()));
    }
}
