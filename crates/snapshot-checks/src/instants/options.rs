//! The command line of `instants`.

use clap::{Parser, Subcommand};
use tinyvm::Program;

use super::campaign;
use super::task::Task;
use crate::campaign::{Campaign, CampaignOptions, Tally};
use crate::stored_guest::Failure;

/// Snapshots guests at random instants, restores each in a new process, and compares the ends.
#[derive(Parser, Clone, Debug)]
#[command(name = "instants")]
pub struct Options {
    /// How many snapshots to restore
    #[arg(long, value_name = "N", default_value_t = 20)]
    pub(super) count: u64,

    /// Programs to run, separated by commas [default: all]
    #[arg(long, value_name = "NAMES", value_delimiter = ',', value_parser = program)]
    programs: Vec<Program>,

    #[command(flatten)]
    pub(super) common: CampaignOptions,

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
    /// Which programs to run.
    pub(super) fn programs(&self) -> Vec<Program> {
        if self.programs.is_empty() {
            Program::ALL.to_vec()
        } else {
            self.programs.clone()
        }
    }
}

impl Campaign for Options {
    fn common(&self) -> &CampaignOptions {
        &self.common
    }

    fn work(&self) -> Option<Result<(), Failure>> {
        let Work::Guest(task) = self.work.as_ref()?;
        Some(task.tell())
    }

    fn run(&self) -> Result<Tally, Failure> {
        campaign::run(self)
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
