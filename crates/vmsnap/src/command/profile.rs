//! `vmsnap profile -- COMMAND…`.

use std::ffi::OsString;
use std::io::{self, Write};
use std::time::Instant;

use clap::Args;
use serde::Serialize;

use crate::answer::Answer;
use crate::cli;
use crate::command::Command;
use crate::context::Context;
use crate::failure::{Failure, printable};
use crate::phases::{Phase, Phases};
use crate::table::{draw, table};

/// Runs another command, and shows how long each phase of it took.
#[derive(Args, Debug)]
pub(crate) struct Profile {
    /// The command, without `vmsnap`; its answer goes to standard error
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

#[derive(Serialize)]
struct Profiled {
    command: String,
    exit_code: u8,
    total_ms: f64,
    phases: Vec<Phase>,
}

impl Profile {
    pub(crate) fn run(&self, context: &Context) -> Result<Answer, Failure> {
        let command = cli::parse(&self.command)?;
        if matches!(command, Command::Profile(_)) {
            return Err(Failure::usage("a profile of a profile says nothing"));
        }
        let inner = Context {
            json: false,
            ..context.clone()
        };
        let phases = Phases::default();
        let since = Instant::now();
        let ended = phases.watch(|| command.run(&inner));
        let total_ms = since.elapsed().as_secs_f64() * 1e3;
        let (exit, told) = match &ended {
            Ok(answer) => (answer.exit, answer.text.clone()),
            Err(failure) => (failure.exit, format!("vmsnap: {failure}\n")),
        };
        // There is no one left to tell if this fails.
        let _ = io::stderr().write_all(told.as_bytes());
        let words = self
            .command
            .iter()
            .map(|word| word.to_string_lossy().into_owned());
        let profiled = Profiled {
            command: words.collect::<Vec<_>>().join(" "),
            exit_code: exit.code(),
            total_ms,
            phases: phases.all(),
        };
        let answer = context.answer("vmsnap.profile.v1", &profiled, tell)?;
        Ok(answer.ending(exit))
    }
}

fn tell(profiled: &Profiled) -> String {
    let mut rows = table(&["PHASE", ">TIMES", ">MS", ">OF THAT ITS OWN"]);
    for phase in &profiled.phases {
        rows.add_row([
            printable(phase.name),
            phase.count.to_string(),
            format!("{:.3}", phase.total_ms),
            format!("{:.3}", phase.own_ms),
        ]);
    }
    format!("{}{:.3} ms in all\n", draw(&rows), profiled.total_ms)
}
