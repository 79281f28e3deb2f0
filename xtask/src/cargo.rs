//! Running cargo, and reading what it prints while it is shown.

use std::ffi::OsStr;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::thread;

use crate::failure::Failure;
use crate::source_tree;

/// What a command that was shown printed, and how it ended.
#[derive(Debug)]
pub(crate) struct Shown {
    /// How it ended.
    pub(crate) status: ExitStatus,
    /// The lines of standard output.
    pub(crate) stdout: Vec<String>,
    /// The lines of standard error.
    pub(crate) stderr: Vec<String>,
}

/// The cargo that runs this task, in the top folder of the project.
pub(crate) fn command<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>) -> Command {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command
        .args(args)
        .current_dir(source_tree::root())
        .stdin(Stdio::null());
    command
}

/// Where the program `name` is when it was built without a profile, wherever builds go.
pub(crate) fn built(name: &str) -> Result<PathBuf, Failure> {
    let lost = || Failure::failed("this program is in no folder of builds");
    let own = std::env::current_exe().map_err(|_| lost())?;
    let builds = own.parent().and_then(Path::parent).ok_or_else(lost)?;
    Ok(builds.join("debug").join(name))
}

/// The cargo of the nightly toolchain, which fuzzing needs.
pub(crate) fn nightly<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>) -> Command {
    let mut command = Command::new("rustup");
    command.args(["run", "nightly", "cargo"]).args(args);
    for variable in ["CARGO", "RUSTC", "RUSTDOC", "RUSTUP_TOOLCHAIN"] {
        command.env_remove(variable);
    }
    command
        .current_dir(source_tree::root())
        .stdin(Stdio::null());
    command
}

/// Runs a command with its output shown; any ending but success is a failure.
pub(crate) fn run(mut command: Command) -> Result<(), Failure> {
    let status = command
        .status()
        .map_err(|error| cannot_start(&command, &error))?;
    if status.success() {
        Ok(())
    } else {
        Err(Failure::failed(format!(
            "{} ended with {status}",
            text(&command)
        )))
    }
}

/// Runs a command with its output shown line by line, and keeps the lines.
pub(crate) fn run_shown(mut command: Command) -> Result<Shown, Failure> {
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command
        .spawn()
        .map_err(|error| cannot_start(&command, &error))?;
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let (stdout, stderr) = thread::scope(|scope| {
        let errors = scope.spawn(|| show(stderr, io::stderr()));
        (
            show(stdout, io::stdout()),
            errors.join().unwrap_or_default(),
        )
    });
    let status = child
        .wait()
        .map_err(|error| cannot_start(&command, &error))?;
    Ok(Shown {
        status,
        stdout,
        stderr,
    })
}

/// Whether a command can be started and ends well; its output is not shown.
pub(crate) fn answers(mut command: Command) -> bool {
    command
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

fn show(from: Option<impl Read>, mut to: impl Write) -> Vec<String> {
    let mut lines = Vec::new();
    let Some(from) = from else { return lines };
    let mut from = BufReader::new(from);
    let mut line = Vec::new();
    while from
        .read_until(b'\n', &mut line)
        .is_ok_and(|length| length > 0)
    {
        // A closed terminal must not stop the command: its lines are still kept.
        let _ = to.write_all(&line).and_then(|()| to.flush());
        lines.push(String::from_utf8_lossy(&line).trim_end().to_owned());
        line.clear();
    }
    lines
}

fn cannot_start(command: &Command, error: &io::Error) -> Failure {
    Failure::failed(format!("cannot run {}: {error}", text(command)))
}

fn text(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words
        .map(OsStr::to_string_lossy)
        .collect::<Vec<_>>()
        .join(" ")
}
