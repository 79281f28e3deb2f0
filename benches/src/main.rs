//! What vmsnap costs, against peers and the limits of the machine, measured alternately in one run.
//!
//! `README.md` beside this package says how, and what a worse figure means.

use std::error::Error;
use std::process::ExitCode;

use clap::Parser;

use crate::error::BenchError;
use crate::ledger::Ledger;
use crate::machine::Machine;
use crate::options::{Options, Suite};
use crate::place::Place;
use crate::report::Report;

mod bar;
mod bitmap;
mod chart;
mod child;
mod clones;
mod cost;
mod engine;
mod error;
mod guest;
mod kvm;
mod ledger;
mod limit;
mod live;
mod machine;
mod machine_code;
mod markdown;
mod memory;
mod options;
mod page_set;
mod peer;
mod place;
mod plan;
mod report;
mod restore;
mod row;
mod rss;
mod sample;
mod scratch;
mod squib;
mod state;
mod statistics;
mod store;

fn main() -> ExitCode {
    child::serve().unwrap_or_else(|| exit_code(run(&Options::parse())))
}

/// Says why something failed, if it did.
fn exit_code(done: Result<(), BenchError>) -> ExitCode {
    match done {
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
    let report = match &options.from {
        Some(path) => Report::read(path)?,
        None => measure(options)?,
    };
    println!("{}\n{}", report.table(), report.machine);
    let charts = match &options.charts {
        Some(dir) => chart::draw(&report, dir)?,
        None => Vec::new(),
    };
    if let Some(path) = &options.markdown {
        markdown::write(&report, &charts, path)?;
    }
    Ok(())
}

fn measure(options: &Options) -> Result<Report, BenchError> {
    let dir = options.dir();
    let mut ledger = Ledger::new(Machine::look(&dir), options.json.clone());
    let needs_files = |suite: &Suite| {
        matches!(
            suite,
            Suite::Memory | Suite::Cost | Suite::Restore | Suite::Live | Suite::Store
        )
    };
    for &kind in &options.fs {
        if !options.suite.iter().any(needs_files) {
            break;
        }
        let Some(place) = Place::new(kind, &dir, options.mem_bytes())? else {
            continue;
        };
        for suite in &options.suite {
            match suite {
                Suite::Memory => memory::run(options, &place, &mut ledger)?,
                Suite::Cost => ledger.add(cost::run(options, &place)?)?,
                Suite::Restore if place.is_host() => restore::run(options, &place, &mut ledger)?,
                Suite::Live if place.is_host() => live::run(options, &place, &mut ledger)?,
                Suite::Store if place.is_host() => store::run(options, &place, &mut ledger)?,
                Suite::Restore | Suite::Live | Suite::Store | Suite::Bitmap | Suite::State => {}
            }
        }
    }
    for suite in &options.suite {
        match suite {
            Suite::Bitmap => ledger.add(bitmap::run(options.rounds())?)?,
            Suite::State => ledger.add(state::run(options.rounds())?)?,
            Suite::Memory | Suite::Cost | Suite::Restore | Suite::Live | Suite::Store => {}
        }
    }
    Ok(ledger.into_report())
}
