//! What vmsnap costs, against peers and the limits of the machine, measured alternately in one run.
//!
//! `README.md` beside this package says how, and what a worse figure means.

use std::error::Error;
use std::process::ExitCode;

use clap::Parser;

use crate::error::BenchError;
use crate::machine::Machine;
use crate::options::{Options, Suite};
use crate::row::Report;
use crate::scratch::Scratch;

mod bitmap;
mod engine;
mod error;
mod guest;
mod limit;
mod machine;
mod memory;
mod options;
mod row;
mod sample;
mod scratch;
mod squib;
mod state;

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprint!("benches: {error}");
            let mut source = error.source();
            while let Some(error) = source {
                eprint!(": {error}");
                source = error.source();
            }
            eprintln!();
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<(), BenchError> {
    let dir = options.dir.clone().unwrap_or_else(std::env::temp_dir);
    let scratch = Scratch::below(&dir)?;
    let machine = Machine::look(scratch.path());
    let mut rows = Vec::new();
    for suite in &options.suite {
        rows.extend(match suite {
            Suite::Memory => memory::run(options, &scratch, |case| options.wants(case))?,
            Suite::Bitmap => bitmap::run(options.rounds())?,
            Suite::State => state::run(options.rounds())?,
        });
    }
    let report = Report { machine, rows };
    println!("{}\n{}", report.table(), report.machine);
    if let Some(path) = &options.json {
        let json = serde_json::to_vec_pretty(&report).map_err(BenchError::Json)?;
        std::fs::write(path, json).map_err(BenchError::at("write", path))?;
    }
    Ok(())
}
