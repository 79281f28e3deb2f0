//! The command line of `kill`.

use clap::{Parser, Subcommand};

use super::campaign;
use super::task::Task;
use crate::campaign::{Campaign, CampaignOptions, Tally};
use crate::stored_guest::Failure;

/// Ends processes that use a store at random instants, and looks at what the store holds then.
#[derive(Parser, Clone, Debug)]
#[command(name = "kill")]
pub struct Options {
    /// How many processes to end
    #[arg(long, value_name = "N", default_value_t = 20)]
    pub(super) count: u64,

    #[command(flatten)]
    pub(super) common: CampaignOptions,

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

impl Campaign for Options {
    fn common(&self) -> &CampaignOptions {
        &self.common
    }

    fn work(&self) -> Option<Result<(), Failure>> {
        let Work::Victim(task) = self.work.as_ref()?;
        Some(task.run())
    }

    fn run(&self) -> Result<Tally, Failure> {
        campaign::run(self)
    }
}
