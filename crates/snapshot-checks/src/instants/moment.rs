//! Random instants in the run of a guest.

use std::thread;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tinyvm::{Guest, GuestError};

use crate::random::Random;

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
