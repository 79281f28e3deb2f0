//! The command line of `store-soak`.

use clap::Parser;

use super::campaign;
use crate::campaign::{Campaign, CampaignOptions, Tally};
use crate::stored_guest::Failure;

/// Does operations on stores at random, and compares every byte with a model after each.
#[derive(Parser, Clone, Debug)]
#[command(name = "store-soak")]
pub struct Options {
    /// How many steps
    #[arg(long, value_name = "N", default_value_t = 2000)]
    pub(super) steps: u64,

    /// Steps that a store lives for before a new one is begun
    #[arg(long, value_name = "N", default_value_t = 250)]
    pub(super) life: u64,

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
