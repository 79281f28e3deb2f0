//! Fresh processes: this program starts itself again for each sample, so that none finds what
//! another left in its memory.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitCode, Stdio};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::clones::CloneJob;
use crate::error::BenchError;
use crate::restore::direct::DirectJob;
use crate::restore::touch::TouchJob;

/// The first argument of a process that does a job; the second is the job.
const WORD: &str = "child";

/// The program itself, whatever its file is called by now.
const OWN_PROGRAM: &str = "/proc/self/exe";

/// What a fresh process is started for.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(crate) enum Job {
    /// Bring memory back and read of it.
    Touch(TouchJob),
    /// Read a file at once.
    Direct(DirectJob),
    /// Be a clone until standard input ends.
    Clone(CloneJob),
}

/// A process that does a job.
#[derive(Debug)]
pub(crate) struct Running {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
}

/// Does the job that the arguments name; `None` if they name none.
pub(crate) fn serve() -> Option<ExitCode> {
    let mut arguments = std::env::args().skip(1);
    if arguments.next()? != WORD {
        return None;
    }
    let done = arguments
        .next()
        .ok_or(BenchError::NoJob)
        .and_then(|text| serde_json::from_str(&text).map_err(BenchError::Json))
        .and_then(|job| match job {
            Job::Touch(job) => answer(&job.run()?),
            Job::Direct(job) => answer(&job.run()?),
            Job::Clone(job) => job.run(),
        });
    Some(crate::exit_code(done))
}

/// Says what came out of a job.
pub(crate) fn answer<A: Serialize>(answer: &A) -> Result<(), BenchError> {
    let text = serde_json::to_string(answer).map_err(BenchError::Json)?;
    let mut out = std::io::stdout().lock();
    writeln!(out, "{text}")
        .and_then(|()| out.flush())
        .map_err(BenchError::at("answer on", Path::new("standard output")))
}

/// Lets a fresh process do `job`; what it answered.
pub(crate) fn ask<A: DeserializeOwned>(job: &Job) -> Result<A, BenchError> {
    let mut running = Running::start(job)?;
    let answer = running.answer();
    running.end()?;
    answer
}

impl Running {
    /// Starts a process.
    pub(crate) fn start(job: &Job) -> Result<Self, BenchError> {
        let text = serde_json::to_string(job).map_err(BenchError::Json)?;
        let started = BenchError::at("start", Path::new(OWN_PROGRAM));
        let mut child = Command::new(OWN_PROGRAM)
            .args([WORD, &text])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(started)?;
        let stdin = child.stdin.take();
        let stdout = child.stdout.take().ok_or(BenchError::NoAnswer)?;
        Ok(Self {
            child,
            stdin,
            stdout: BufReader::new(stdout),
        })
    }

    /// Waits for the next line that it says.
    pub(crate) fn answer<A: DeserializeOwned>(&mut self) -> Result<A, BenchError> {
        let mut line = String::new();
        let read = self.stdout.read_line(&mut line);
        read.map_err(BenchError::at("hear", Path::new(OWN_PROGRAM)))?;
        if line.is_empty() {
            return Err(BenchError::NoAnswer);
        }
        serde_json::from_str(&line).map_err(BenchError::Json)
    }

    /// Lets it go.
    pub(crate) fn let_go(&mut self) {
        drop(self.stdin.take());
    }

    /// Lets it go, and waits for its end.
    pub(crate) fn end(mut self) -> Result<(), BenchError> {
        self.let_go();
        let status = self.child.wait();
        let status = status.map_err(BenchError::at("wait for", Path::new(OWN_PROGRAM)))?;
        if status.success() {
            Ok(())
        } else {
            Err(BenchError::Child { status })
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.let_go();
        // Both fail for a process that has been waited for, and there is nobody to tell.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
