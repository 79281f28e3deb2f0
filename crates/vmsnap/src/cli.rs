//! The command line: what it accepts, and the way from it to an exit code.

use std::ffi::OsString;
use std::io::{self, Write};
use std::path::PathBuf;

use clap::error::ErrorKind;
use clap::{Parser, ValueEnum};

use crate::answer::Answer;
use crate::command::Command;
use crate::context::Context;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::interrupt::Interrupt;
use crate::progress::ProgressMode;

/// Freeze a virtual machine to disk and bring it back.
#[derive(Parser, Debug)]
#[command(name = "vmsnap", version, arg_required_else_help = true)]
pub(crate) struct Cli {
    #[command(flatten)]
    options: Options,

    #[command(subcommand)]
    command: Command,
}

/// What every command understands, before its name or after.
#[derive(clap::Args, Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a flag of the command line"
)]
struct Options {
    /// The directory of the store
    #[arg(long, global = true, value_name = "PATH", env = "VMSNAP_STORE")]
    store: Option<PathBuf>,

    /// Use a store on a network file system: no other host uses it at the same time. A store that is
    /// made so remembers it
    #[arg(long, global = true)]
    single_host: bool,

    /// Print one JSON document on standard output
    #[arg(long, global = true)]
    json: bool,

    /// Print no progress and no notes
    #[arg(long, short, global = true)]
    quiet: bool,

    /// Print what the engine does, phase by phase, on standard error
    #[arg(long, short, global = true)]
    verbose: bool,

    /// Print progress as JSON lines on standard error
    #[arg(long, global = true, value_name = "FORMAT")]
    progress: Option<ProgressFormat>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum ProgressFormat {
    Json,
}

/// Reads a command with its own options; those of every command were given already.
pub(crate) fn parse(words: &[OsString]) -> Result<Command, Failure> {
    let program = OsString::from("vmsnap");
    let words = std::iter::once(&program).chain(words);
    Cli::try_parse_from(words)
        .map(|cli| cli.command)
        .map_err(|error| usage(&error))
}

/// Runs the command line of this process.
pub(crate) fn run() -> Exit {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    let asked_for_json = asks_for_json(&arguments);
    let cli = match Cli::try_parse_from(&arguments) {
        Ok(cli) => cli,
        Err(error) => return refuse(&error, asked_for_json),
    };
    let result = cli
        .options
        .check()
        .and_then(|()| Interrupt::watch().map_err(|error| Failure::because(Exit::Failed, &error)))
        .and_then(|interrupt| {
            let context = context(&cli.options, interrupt);
            if cli.options.verbose {
                trace();
            }
            cli.command.run(&context)
        });
    match result {
        Ok(answer) => finish(&answer),
        Err(failure) => fail(&failure, asked_for_json),
    }
}

impl Options {
    /// The parser sees only conflicts among options on the same side of the command.
    fn check(&self) -> Result<(), Failure> {
        if self.quiet && self.verbose {
            return Err(Failure::usage("--quiet and --verbose exclude each other"));
        }
        #[cfg(feature = "sabotage")]
        crate::sabotage::enable()?;
        Ok(())
    }
}

fn context(options: &Options, interrupt: Interrupt) -> Context {
    let progress = match options.progress {
        Some(ProgressFormat::Json) => ProgressMode::Json,
        None if options.quiet => ProgressMode::Silent,
        None => ProgressMode::for_people(),
    };
    Context {
        store: options.store.clone(),
        single_host: options.single_host,
        json: options.json,
        quiet: options.quiet,
        progress,
        interrupt,
    }
}

/// Whether `--json` is among the options, also where the rest cannot be understood.
fn asks_for_json(arguments: &[OsString]) -> bool {
    let options = arguments.iter().skip(1).take_while(|text| *text != "--");
    options.into_iter().any(|text| text == "--json")
}

/// Help and version are answers; anything else that was not understood is a usage error.
fn refuse(error: &clap::Error, json: bool) -> Exit {
    match error.kind() {
        ErrorKind::DisplayHelp
        | ErrorKind::DisplayVersion
        | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            let shown = error.print();
            let asked = error.exit_code() == 0;
            match shown {
                Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Exit::Failed,
                _ if asked => Exit::Done,
                _ => Exit::Usage,
            }
        }
        _ => fail(&usage(error), json),
    }
}

/// The first paragraph of what the parser says, on one line.
fn usage(error: &clap::Error) -> Failure {
    let text = error.render().to_string();
    let lines = text.lines().take_while(|line| !line.trim().is_empty());
    let line = lines.map(str::trim).collect::<Vec<_>>().join(" ");
    let message = line.strip_prefix("error: ").unwrap_or(&line);
    Failure::usage(message).hint("see `vmsnap --help`")
}

fn finish(answer: &Answer) -> Exit {
    match print(&answer.text) {
        Ok(()) => answer.exit,
        Err(error) => {
            complain(&Failure::new(
                Exit::Failed,
                format!("write to standard output: {error}"),
            ));
            Exit::Failed
        }
    }
}

fn fail(failure: &Failure, json: bool) -> Exit {
    if json {
        // There is no one left to tell if this fails.
        let _ = print(&format!("{}\n", failure.to_json()));
    } else {
        complain(failure);
    }
    failure.exit
}

fn complain(failure: &Failure) {
    let _ = writeln!(io::stderr(), "vmsnap: {failure}");
}

/// Writes to standard output. A reader that has gone away wanted no more: that is no error.
fn print(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result,
    }
}

fn trace() {
    use tracing_subscriber::fmt::format::FmtSpan;
    // Only an earlier subscriber could refuse, and there is none.
    let _ = tracing_subscriber::fmt()
        .with_writer(io::stderr)
        .with_max_level(tracing_subscriber::filter::LevelFilter::DEBUG)
        .with_span_events(FmtSpan::CLOSE)
        .try_init();
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    // spec: CLI-01
    #[test]
    fn options_stand_before_or_after_the_command() {
        for line in [
            "vmsnap --store s --json list",
            "vmsnap list --store s --json",
        ] {
            let cli = Cli::try_parse_from(line.split(' ')).unwrap();
            assert!(cli.options.json, "{line}");
            assert_eq!(cli.options.store, Some(PathBuf::from("s")), "{line}");
        }
        let cli = Cli::try_parse_from(["vmsnap", "--quiet", "list", "--verbose"]).unwrap();
        assert_eq!(cli.options.check().unwrap_err().exit, Exit::Usage);
    }

    #[test]
    fn json_is_asked_for_by_an_option_and_not_by_a_name() {
        let arguments = |line: &str| line.split(' ').map(OsString::from).collect::<Vec<_>>();
        assert!(asks_for_json(&arguments("vmsnap nonsense --json")));
        assert!(!asks_for_json(&arguments("vmsnap list -- --json")));
    }
}
