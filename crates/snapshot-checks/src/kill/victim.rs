//! Starting a victim, listening to it, ending it.

use std::io::{self, BufRead, BufReader, Read};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::task::{Role, Said, Task};
use crate::random::Random;

/// The most words that are waited for before the end.
const MOST_WORDS: u64 = 6;

/// When a victim is ended: so long after it said so many words.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Moment {
    words: u64,
    wait: Duration,
}

impl Moment {
    /// At once.
    pub(super) fn now() -> Self {
        Self {
            words: 0,
            wait: Duration::ZERO,
        }
    }

    /// So many words later.
    pub(super) fn after(self, words: u64) -> Self {
        Self {
            words: self.words + words,
            ..self
        }
    }

    pub(super) fn choose(random: &mut Random) -> Self {
        let words = random.below(MOST_WORDS);
        // Before the first word there is all of opening, restoring and a first snapshot; between two
        // words some milliseconds.
        let longest = if words == 0 { 100_000 } else { 20_000 };
        Self {
            words,
            wait: Duration::from_micros(random.below(longest)),
        }
    }
}

/// A process that uses the store.
#[derive(Debug)]
pub(super) struct Victim {
    process: Child,
    words: Receiver<Said>,
    heard: Vec<Said>,
    listener: JoinHandle<()>,
    errors: JoinHandle<String>,
}

/// What is known of one that has ended.
#[derive(Debug)]
pub(super) struct Ended {
    /// All that it said.
    pub(super) heard: Vec<Said>,
    pub(super) status: ExitStatus,
    /// What it said on standard error.
    pub(super) errors: String,
}

impl Ended {
    /// A problem, with what is known of it.
    pub(super) fn tell(&self, problem: &str) -> String {
        format!("{problem}: {}: {}", self.status, self.errors.trim())
    }
}

impl Victim {
    pub(super) fn start(task: &Task, sabotage: Option<&str>) -> io::Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["victim", "--role", role(task.role), "--store"]);
        command.arg(&task.store);
        command.args(["--seed", &task.seed.to_string()]);
        if task.kvm {
            command.arg("--kvm");
        }
        if let (Some(socket), Some(snapshot)) = (&task.socket, task.snapshot) {
            command.arg("--socket").arg(socket);
            command.args(["--snapshot", &snapshot.to_string()]);
        }
        if task.once {
            command.arg("--once");
        }
        if let Some(name) = sabotage {
            command.args(["--sabotage", name]);
        }
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut process = command.spawn()?;
        let (say, words) = mpsc::channel();
        let (out, error) = (process.stdout.take(), process.stderr.take());
        let listener = thread::spawn(move || {
            let lines = out.map(BufReader::new).into_iter().flat_map(BufRead::lines);
            for said in lines.map_while(Result::ok) {
                if let Some(said) = Said::hear(&said)
                    && say.send(said).is_err()
                {
                    return;
                }
            }
        });
        let errors = thread::spawn(move || {
            let mut text = String::new();
            // What could be read is all that there is to tell.
            let _ = error.map(|mut error| error.read_to_string(&mut text));
            text
        });
        Ok(Self {
            process,
            words,
            heard: Vec::new(),
            listener,
            errors,
        })
    }

    /// Ends it at `moment`, or finds that it has ended by itself. The error says that it stood
    /// still; it is ended then, too.
    pub(super) fn end_at(
        mut self,
        moment: Moment,
        timeout: Duration,
    ) -> io::Result<(Ended, Option<&'static str>)> {
        let mut problem = self.listen(moment.words, timeout);
        thread::sleep(moment.wait);
        if self.process.try_wait()?.is_some() && problem.is_none() {
            problem = Some("it ended by itself");
        }
        // Of no effect on one that has ended, and is not waited for yet.
        self.process.kill()?;
        Ok((self.ended()?, problem))
    }

    /// Waits until it ends by itself. The error says that it did not, or that it failed; it has
    /// ended then, too.
    pub(super) fn until_end(
        mut self,
        timeout: Duration,
    ) -> io::Result<(Ended, Option<&'static str>)> {
        let mut problem = self.listen(u64::MAX, timeout);
        if problem.is_some() {
            self.process.kill()?;
        }
        let ended = self.ended()?;
        if problem.is_none() && !ended.status.success() {
            problem = Some("it failed");
        }
        Ok((ended, problem))
    }

    /// Hears so many words in all, or all that it says until its end. What comes back says that it
    /// stood still.
    pub(super) fn listen(&mut self, words: u64, timeout: Duration) -> Option<&'static str> {
        let deadline = Instant::now() + timeout;
        while (self.heard.len() as u64) < words {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.words.recv_timeout(left) {
                Ok(said) => self.heard.push(said),
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => return Some("it stood still"),
            }
        }
        None
    }

    fn ended(mut self) -> io::Result<Ended> {
        let status = self.process.wait()?;
        // Neither fails: a panic would have been told on standard error.
        let _ = self.listener.join();
        self.heard.extend(self.words.try_iter());
        Ok(Ended {
            heard: self.heard,
            status,
            errors: self.errors.join().unwrap_or_default(),
        })
    }
}

fn role(role: Role) -> &'static str {
    match role {
        Role::Vmm => "vmm",
        Role::Writer => "writer",
        Role::Handler => "handler",
        Role::Client => "client",
    }
}
