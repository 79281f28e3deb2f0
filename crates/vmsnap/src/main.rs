//! `vmsnap`: freeze a virtual machine to disk and bring it back, from a terminal.
//!
//! Each command is a file below `command`; what it does is a few calls of the library crates. Names,
//! options, JSON schemas and exit codes are specified in `specs/09-cli.md`.

#![forbid(unsafe_code)]

mod answer;
mod audited;
mod chain_rules;
mod cli;
mod command;
mod context;
mod exit;
mod failure;
mod gate;
mod host_file;
mod index_place;
mod input;
mod interrupt;
mod output_file;
mod paced_file;
mod pacing;
mod phases;
mod picture;
mod progress;
mod quantity;
mod regions;
mod retention_rules;
mod retention_view;
#[cfg(feature = "sabotage")]
mod sabotage;
mod table;
mod upkeep;
mod vault;
mod view;
mod watched;

use std::process::ExitCode;

fn main() -> ExitCode {
    ExitCode::from(cli::run().code())
}
