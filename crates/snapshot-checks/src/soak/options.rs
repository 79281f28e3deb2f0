//! The command line of `soak`.

use clap::Parser;

use super::campaign;
use crate::campaign::{Campaign, CampaignOptions, Tally};
use crate::stored_guest::Failure;

/// Restores, runs and snapshots guests, one generation after the other, and compares every byte.
#[derive(Parser, Clone, Debug)]
#[command(name = "soak")]
pub struct Options {
    /// How many generations
    #[arg(long, value_name = "N", default_value_t = 20)]
    pub(super) generations: u64,

    #[command(flatten)]
    pub(super) common: CampaignOptions,
}

impl Campaign for Options {
    fn common(&self) -> &CampaignOptions {
        &self.common
    }

    fn run(&self) -> Result<Tally, Failure> {
        campaign::run(self)
    }
}
