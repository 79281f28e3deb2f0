//! The command line of `soak`.

use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;

use crate::random::seed_of_now;

/// Restores, runs and snapshots guests, one generation after the other, and compares every byte.
#[derive(Parser, Clone, Debug)]
#[command(name = "soak")]
pub struct Options {
    /// How many generations
    #[arg(long, value_name = "N", default_value_t = 20)]
    pub(super) generations: u64,

    /// Where the randomness begins [default: the time]
    #[arg(long, value_name = "N")]
    seed: Option<u64>,

    /// Where the store goes [default: where temporary files go]
    #[arg(long, value_name = "PATH")]
    pub(super) dir: Option<PathBuf>,

    /// Seconds that a generation may take
    #[arg(long, value_name = "S", default_value_t = 60)]
    timeout: u64,

    /// Ends with the first difference
    #[arg(long)]
    pub(super) fail_fast: bool,

    /// Switches a deliberate defect on; needs a build with the feature `sabotage`
    #[arg(long, value_name = "NAME")]
    pub sabotage: Option<String>,
}

impl Options {
    /// Where the randomness begins.
    pub(super) fn seed(&self) -> u64 {
        self.seed.unwrap_or_else(seed_of_now)
    }

    /// How long a generation may take.
    pub(super) fn timeout(&self) -> Duration {
        Duration::from_secs(self.timeout)
    }
}
