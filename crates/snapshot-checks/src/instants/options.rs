//! The command line of `instants`.

use std::time::Duration;

use clap::{Parser, Subcommand};
use tinyvm::Program;

use super::task::Task;
use crate::random::seed_of_now;

/// Snapshots guests at random instants, restores each in a new process, and compares the ends.
#[derive(Parser, Clone, Debug)]
#[command(name = "instants")]
pub struct Options {
    /// How many snapshots to restore
    #[arg(long, value_name = "N", default_value_t = 20)]
    pub(super) count: u64,

    /// Where the randomness begins [default: the time]
    #[arg(long, value_name = "N")]
    seed: Option<u64>,

    /// Programs to run, separated by commas [default: all]
    #[arg(long, value_name = "NAMES", value_delimiter = ',', value_parser = program)]
    programs: Vec<Program>,

    /// Seconds that a guest may take: one that lost an interrupt sleeps for ever
    #[arg(long, value_name = "S", default_value_t = 60)]
    timeout: u64,

    /// Ends with the first difference
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
    /// Runs one guest, and says how it ended
    #[command(hide = true)]
    Guest(Task),
}

impl Options {
    /// Where the randomness begins.
    pub(super) fn seed(&self) -> u64 {
        self.seed.unwrap_or_else(seed_of_now)
    }

    /// How long a guest may take.
    pub(super) fn timeout(&self) -> Duration {
        Duration::from_secs(self.timeout)
    }

    /// Which programs to run.
    pub(super) fn programs(&self) -> Vec<Program> {
        if self.programs.is_empty() {
            Program::ALL.to_vec()
        } else {
            self.programs.clone()
        }
    }
}

/// The program of a name.
pub(super) fn program(name: &str) -> Result<Program, String> {
    let mut all = Program::ALL.into_iter();
    all.find(|program| program.name() == name).ok_or_else(|| {
        let names = Program::ALL.map(Program::name).join(", ");
        format!("there are {names}")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_programs_run_unless_some_are_named() {
        let options = Options::try_parse_from(["instants"]).unwrap();
        assert_eq!(
            (options.count, options.programs().len()),
            (20, Program::ALL.len())
        );
        let some = ["instants", "--programs", "token,clock", "--count", "7"];
        let options = Options::try_parse_from(some).unwrap();
        assert_eq!(options.programs(), [Program::Token, Program::Clock]);
        assert_eq!(options.count, 7);
        Options::try_parse_from(["instants", "--programs", "none"]).unwrap_err();
    }
}
