//! The command line of `kill`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, Subcommand};

use super::task::Task;
use crate::random::seed_of_now;

/// Ends processes that use a store at random instants, and looks at what the store holds then.
#[derive(Parser, Clone, Debug)]
#[command(name = "kill")]
pub struct Options {
    /// How many processes to end
    #[arg(long, value_name = "N", default_value_t = 20)]
    pub(super) count: u64,

    /// Where the randomness begins [default: the time]
    #[arg(long, value_name = "N")]
    seed: Option<u64>,

    /// Where the store goes [default: where temporary files go]
    #[arg(long, value_name = "PATH")]
    pub(super) dir: Option<PathBuf>,

    /// Seconds that a process may stand still
    #[arg(long, value_name = "S", default_value_t = 60)]
    timeout: u64,

    /// Ends with the first loss
    #[arg(long)]
    pub(super) fail_fast: bool,

    /// Switches a deliberate defect on; needs a build with the feature `sabotage`
    #[arg(long, value_name = "NAME", global = true)]
    pub sabotage: Option<String>,

    /// What to do instead
    #[command(subcommand)]
    pub work: Option<Work>,
}

/// What the program does for itself in a process of its own.
#[derive(Subcommand, Clone, Debug)]
pub enum Work {
    /// Does the work of a victim until it is ended
    #[command(hide = true)]
    Victim(Task),
}

impl Options {
    /// Where the randomness begins.
    pub(super) fn seed(&self) -> u64 {
        self.seed.unwrap_or_else(seed_of_now)
    }

    /// How long a process may stand still.
    pub(super) fn timeout(&self) -> Duration {
        Duration::from_secs(self.timeout)
    }
}
