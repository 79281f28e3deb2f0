//! Snapshots guests at random instants and restores each in a new process. The last line is
//! `instants: N, differences: D`.

use std::process::ExitCode;

use clap::Parser;
use snapshot_checks::instants::{Options, Task, Work, run};
use snapshot_checks::switch_on;

fn main() -> ExitCode {
    let options = Options::parse();
    if let Some(name) = &options.sabotage
        && let Err(message) = switch_on(name)
    {
        eprintln!("instants: {message}");
        return ExitCode::from(2);
    }
    if let Some(Work::Guest(task)) = &options.work {
        return guest(task);
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
            eprintln!("instants: {error}");
            ExitCode::from(2)
        }
    }
}

/// Runs one guest in this process.
fn guest(task: &Task) -> ExitCode {
    let report = task
        .run()
        .and_then(|report| Ok(serde_json::to_string(&report)?));
    match report {
        Ok(report) => {
            println!("{report}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            let mut text = error.to_string();
            let mut source = error.source();
            while let Some(error) = source {
                text = format!("{text}: {error}");
                source = error.source();
            }
            eprintln!("{text}");
            ExitCode::FAILURE
        }
    }
}
