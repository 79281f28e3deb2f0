//! Guests restored, run and snapshotted through many generations, every byte compared. The last line
//! is `generations: N, differences: D`.

use std::process::ExitCode;

use clap::Parser;
use snapshot_checks::soak::{Options, run};
use snapshot_checks::switch_on;

fn main() -> ExitCode {
    let options = Options::parse();
    if let Some(name) = &options.sabotage
        && let Err(message) = switch_on(name)
    {
        eprintln!("soak: {message}");
        return ExitCode::from(2);
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
            eprintln!("soak: {error}");
            ExitCode::from(2)
        }
    }
}
