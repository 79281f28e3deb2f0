//! Enumerates the crash points of a store in memory.

use std::process::{Command, ExitCode};

use clap::Parser;
use snapshot_checks::crash::{Effort, Report, enumerate};
use snapshot_checks::switch_on;
use snapshot_format::sabotage::Sabotage;

/// Cuts and fails every call of a store's operations, and checks what is left.
#[derive(Parser, Debug)]
struct Options {
    /// Breaks the code on purpose; needs the feature `sabotage`.
    #[arg(long, value_name = "NAME")]
    sabotage: Option<String>,
    /// Runs every defect that this check must catch, each in a process of its own.
    #[arg(long, conflicts_with = "sabotage")]
    all_sabotage: bool,
    /// Prints one JSON document.
    #[arg(long)]
    json: bool,
}

/// The defects that this check must catch.
const CAUGHT_HERE: [Sabotage; 4] = [
    Sabotage::NoDirFsync,
    Sabotage::IgnoredFsyncError,
    Sabotage::RenameFirst,
    Sabotage::EarlyEpochCommit,
];

fn main() -> ExitCode {
    let options = Options::parse();
    let outcome = if options.all_sabotage {
        run_all_sabotage()
    } else {
        run(&options)
    };
    outcome.unwrap_or_else(|problem| {
        eprintln!("crash: {problem}");
        ExitCode::from(2)
    })
}

fn run(options: &Options) -> Result<ExitCode, String> {
    if let Some(name) = &options.sabotage {
        switch_on(name)?;
    }
    let report = enumerate(Effort::Full)?;
    if options.json {
        println!("{}", to_json(&report));
    } else {
        for example in &report.examples {
            println!("violation: {example}");
        }
        println!("operations and call sites: {}", report.sites.len());
        let (points, violations) = (report.points, report.violations);
        println!("crash points: {points}, violations: {violations}");
    }
    Ok(exit_code(report.violations == 0))
}

/// Each defect must be caught.
fn run_all_sabotage() -> Result<ExitCode, String> {
    let own = std::env::current_exe().map_err(|error| error.to_string())?;
    let mut missed = 0;
    for defect in CAUGHT_HERE {
        let name = defect.name();
        let output = Command::new(&own)
            .args(["--sabotage", name])
            .output()
            .map_err(|error| error.to_string())?;
        let text = String::from_utf8_lossy(&output.stdout);
        let last = text.lines().last().unwrap_or_default();
        // 1 says that violations were found; 2, that the check could not run.
        let caught = output.status.code() == Some(1);
        missed += usize::from(!caught);
        let verdict = if caught { "caught" } else { "MISSED" };
        println!("{name}: {verdict}: {last}");
    }
    println!("defects: {}, missed: {missed}", CAUGHT_HERE.len());
    Ok(exit_code(missed == 0))
}

fn exit_code(is_right: bool) -> ExitCode {
    if is_right {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn to_json(report: &Report) -> serde_json::Value {
    serde_json::json!({
        "schema": "vmsnap.crash/1",
        "points": report.points,
        "sites": report.sites.len(),
        "violations": report.violations,
        "examples": report.examples,
    })
}
