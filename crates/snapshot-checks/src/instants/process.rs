//! A process for each guest: it shares nothing with the one that was snapshotted, and it can be
//! ended where its guest sleeps for ever.

use std::io::Read;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use super::task::{Report, Task};

/// How often its end is looked for.
const POLL: Duration = Duration::from_millis(2);

/// Why there is no report: the guest's own failure, unless the text says otherwise.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub(super) enum NoReport {
    /// It did not end.
    #[error("the guest had not ended after {seconds} s")]
    TimedOut {
        /// How long it had.
        seconds: u64,
    },
    /// It failed.
    #[error("{said}")]
    Failed {
        /// What it said.
        said: String,
    },
}

/// Runs `task` in a new process.
pub(super) fn run(
    task: &Task,
    sabotage: Option<&str>,
    timeout: Duration,
) -> Result<Report, NoReport> {
    let failed = |said: &dyn ToString| NoReport::Failed {
        said: said.to_string(),
    };
    let program = std::env::current_exe().map_err(|error| failed(&error))?;
    let mut command = Command::new(program);
    command.arg("guest").arg("--dir").arg(&task.dir);
    command.args(["--program", task.program.name()]);
    command.args(["--snapshots", &task.snapshots.to_string()]);
    command.args(["--seed", &task.seed.to_string()]);
    if let Some(from) = task.from {
        command.args(["--from", &from.to_string()]);
    }
    if let Some(name) = sabotage {
        command.args(["--sabotage", name]);
    }
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| failed(&error))?;
    let ended = wait(&mut child, timeout);
    let said = |from: Option<&mut dyn Read>| {
        let mut text = String::new();
        let read = from.map(|from| from.read_to_string(&mut text));
        read.map_or(Ok(0), |read| read).map(|_| text)
    };
    if !ended.map_err(|error| failed(&error))? {
        return Err(NoReport::TimedOut {
            seconds: timeout.as_secs(),
        });
    }
    let answer = said(child.stdout.as_mut().map(|out| out as &mut dyn Read));
    let answer = answer.map_err(|error| failed(&error))?;
    serde_json::from_str(&answer).map_err(|_| {
        let errors = said(child.stderr.as_mut().map(|out| out as &mut dyn Read));
        failed(&errors.unwrap_or_default().trim())
    })
}

/// Waits for the end, and makes it come in time. Whether it came by itself.
fn wait(child: &mut Child, timeout: Duration) -> std::io::Result<bool> {
    let deadline = Instant::now() + timeout;
    // What it says is shorter than a pipe holds: it does not wait for a reader.
    while child.try_wait()?.is_none() {
        if Instant::now() >= deadline {
            child.kill()?;
            child.wait()?;
            return Ok(false);
        }
        thread::sleep(POLL);
    }
    Ok(true)
}
