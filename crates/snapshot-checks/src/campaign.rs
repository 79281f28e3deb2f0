//! What the campaigns with guests have in common: options, a tally, and how each of them ends.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser};
use tempfile::TempDir;

use crate::defect::switch_on;
use crate::random::{Random, seed_of_now};
use crate::stored_guest::{Failure, tell};
use crate::watchdog::Watchdog;

/// What every campaign may be told.
#[derive(Args, Clone, Debug)]
pub struct CampaignOptions {
    /// Where the randomness begins [default: the time]
    #[arg(long, value_name = "N")]
    seed: Option<u64>,

    /// Where its files go [default: where temporary files go]
    #[arg(long, value_name = "PATH")]
    dir: Option<PathBuf>,

    /// Seconds that a guest, a process or a generation may take: what stands still is wrong
    #[arg(long, value_name = "S", default_value_t = 60)]
    timeout: u64,

    /// Ends with the first that goes wrong
    #[arg(long)]
    fail_fast: bool,

    /// Switches a deliberate defect on; needs a build with the feature `sabotage`
    #[arg(long, value_name = "NAME", global = true)]
    sabotage: Option<String>,
}

impl CampaignOptions {
    /// The numbers that everything is chosen by; says where they begin.
    pub(crate) fn random(&self) -> Random {
        let seed = self.seed.unwrap_or_else(seed_of_now);
        println!("seed: {seed}");
        Random::new(seed)
    }

    /// A directory for its files, which goes with the value.
    pub(crate) fn place(&self) -> io::Result<TempDir> {
        match &self.dir {
            Some(dir) => tempfile::tempdir_in(dir),
            None => tempfile::tempdir(),
        }
    }

    /// How long one of the things that are tried may take.
    pub(crate) fn timeout(&self) -> Duration {
        Duration::from_secs(self.timeout)
    }

    /// Whether what went wrong is enough.
    pub(crate) fn is_enough(&self, tally: &Tally) -> bool {
        self.fail_fast && !tally.is_clean()
    }

    /// The defect that processes of this campaign switch on as well.
    pub(crate) fn sabotage(&self) -> Option<&str> {
        self.sabotage.as_deref()
    }
}

/// What came of a campaign: the last line that it prints.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Tally {
    tried: (&'static str, u64),
    wrong: (&'static str, u64),
}

impl Tally {
    /// Nothing was tried yet; what is tried and what goes wrong is called so.
    pub(crate) fn new(tried: &'static str, wrong: &'static str) -> Self {
        Self {
            tried: (tried, 0),
            wrong: (wrong, 0),
        }
    }

    /// Whether nothing went wrong.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.wrong.1 == 0
    }

    /// How many were tried.
    pub(crate) fn tried(&self) -> u64 {
        self.tried.1
    }

    /// Counts one more.
    pub(crate) fn tries(&mut self) {
        self.tried.1 += 1;
    }

    /// Counts one that went wrong, and says how.
    pub(crate) fn differs(&mut self, problem: &str) {
        self.wrong.1 += 1;
        println!("{problem}");
    }

    /// Ends the process, with a tally that says so, where nothing is begun for `limit`.
    pub(crate) fn watch(&self, limit: Duration) -> io::Result<Watchdog> {
        let mut last = Self::new(self.tried.0, self.wrong.0);
        Watchdog::start(limit, move |begun| {
            last.tries();
            last.differs(&format!("{begun} stands still"));
            println!("{last}");
        })
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ((tried, count), (wrong, wrong_count)) = (self.tried, self.wrong);
        write!(f, "{tried}: {count}, {wrong}: {wrong_count}")
    }
}

/// A campaign, as its command line says.
pub trait Campaign: Parser {
    /// What every campaign may be told.
    fn common(&self) -> &CampaignOptions;

    /// Does what this process is for, where the campaign started it for a task of its own.
    fn work(&self) -> Option<Result<(), Failure>> {
        None
    }

    /// Runs all of it; prints each thing that goes wrong.
    ///
    /// The error is one of this process: nothing is known of what it tried then.
    fn run(&self) -> Result<Tally, Failure>;
}

/// The life of a campaign's process: 0 where all went well, 1 where something did not, 2 where it
/// could not be told.
#[must_use]
pub fn run_campaign<C: Campaign>() -> ExitCode {
    let campaign = C::parse();
    let defect = campaign.common().sabotage().map_or(Ok(()), switch_on);
    if let Err(message) = defect {
        return cannot_tell::<C>(&message);
    }
    if let Some(done) = campaign.work() {
        let told = done.map_err(|error| eprintln!("{}", tell(&*error)));
        return ExitCode::from(u8::from(told.is_err()));
    }
    match campaign.run() {
        Ok(tally) => {
            println!("{tally}");
            ExitCode::from(u8::from(!tally.is_clean()))
        }
        Err(error) => cannot_tell::<C>(&tell(&*error)),
    }
}

fn cannot_tell<C: Campaign>(why: &str) -> ExitCode {
    eprintln!("{}: {why}", C::command().get_name());
    ExitCode::from(2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_counts_what_was_tried_and_what_went_wrong() {
        let mut tally = Tally::new("kills", "losses");
        tally.tries();
        tally.tries();
        assert_eq!(
            (tally.to_string().as_str(), tally.is_clean()),
            ("kills: 2, losses: 0", true)
        );
        tally.differs("one");
        assert_eq!(
            (tally.to_string().as_str(), tally.is_clean()),
            ("kills: 2, losses: 1", false)
        );
    }
}
