//! Ends processes that use a store at random instants. The last line is `kills: N, losses: L`.

use std::process::ExitCode;

use clap::Parser;
use snapshot_checks::kill::{Options, Work, run};
use snapshot_checks::switch_on;

fn main() -> ExitCode {
    let options = Options::parse();
    if let Some(name) = &options.sabotage
        && let Err(message) = switch_on(name)
    {
        eprintln!("kill: {message}");
        return ExitCode::from(2);
    }
    if let Some(Work::Victim(task)) = &options.work {
        return match task.run() {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("{error}");
                ExitCode::FAILURE
            }
        };
    }
    match run(&options) {
        Ok(tally) => {
            println!("{tally}");
            if tally.is_clean() {
                ExitCode::SUCCESS
            } else {
                ExitCode::FAILURE
            }
        }
        Err(error) => {
            eprintln!("kill: {error}");
            ExitCode::from(2)
        }
    }
}
