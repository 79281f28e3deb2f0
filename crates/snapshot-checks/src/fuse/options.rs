//! The command line of `fuse`.

use std::path::PathBuf;

use clap::Parser;

use super::campaign;
use crate::campaign::{Campaign, CampaignOptions, Tally};
use crate::stored_guest::Failure;

/// Cuts and fails the real command on a file system that loses what was not synced.
#[derive(Parser, Clone, Debug)]
#[command(name = "fuse")]
pub struct Options {
    /// Every n-th change of each command is cut, and made to fail
    #[arg(long, value_name = "N", default_value_t = 2)]
    pub(super) every: usize,

    /// Only this many commands of the script
    #[arg(long, value_name = "N")]
    pub(super) commands: Option<usize>,

    /// A sync makes nothing durable: proves that this check can fail
    #[arg(long)]
    pub(super) lose_synced: bool,

    /// The command to cut [default: vmsnap beside this program]
    #[arg(long, value_name = "PATH")]
    vmsnap: Option<PathBuf>,

    #[command(flatten)]
    pub(super) common: CampaignOptions,
}

impl Options {
    /// The command to cut.
    pub(super) fn vmsnap(&self) -> PathBuf {
        self.vmsnap.clone().unwrap_or_else(|| {
            let here = std::env::current_exe().unwrap_or_default();
            here.with_file_name("vmsnap")
        })
    }
}

impl Campaign for Options {
    fn common(&self) -> &CampaignOptions {
        &self.common
    }

    fn run(&self) -> Result<Tally, Failure> {
        campaign::run(self)
    }
}
