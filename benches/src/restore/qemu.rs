//! QEMU's own snapshots of memory: the mapped-ram format, saved and loaded whole.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::SUITE;
use super::lab::Lab;
use super::ours::Recipe;
use super::subject::Subject;
use super::touch::{Reading, TouchJob, Touched, Way};
use crate::child::{self, Job};
use crate::engine::{Engine, Way as Capture};
use crate::error::BenchError;
use crate::guest::{Content, Guest, HostPages};
use crate::ledger::Ledger;
use crate::row::{Case, Rival, Row};
use crate::sample::{Contestant, alternate};

const SAVE: &str = "save-1g";
const LOAD: &str = "load-1g";

/// The cases of this module.
pub(crate) const NAMES: &[&str] = &[SAVE, LOAD];

const PEER: &str = "qemu-mapped-ram";

const PROGRAM: &str = "qemu-system-x86_64";

const MEM_BYTES: u64 = 1 << 30;

/// Runs the cases that are wanted, if QEMU is there.
pub(super) fn run(lab: &Lab<'_>, ledger: &mut Ledger) -> Result<(), BenchError> {
    let wanted = |name| lab.options().wants(name, true);
    if !wanted(SAVE) && !wanted(LOAD) {
        return Ok(());
    }
    if let Err(reason) = available() {
        eprintln!("SKIP qemu: {reason}");
        return Ok(());
    }
    let subject = lab.subject(MEM_BYTES, 1)?;
    lab.warm(&subject)?;
    if wanted(SAVE) {
        ledger.add(save(lab, &subject)?)?;
    }
    if wanted(LOAD) {
        ledger.add(load(lab, &subject)?)?;
    }
    Ok(())
}

/// Whether there is a QEMU with mapped-ram, which is in 9.0 and later; the reason if not.
fn available() -> Result<(), String> {
    let output = Command::new(PROGRAM).arg("--version").output();
    let output = output.map_err(|error| format!("start {PROGRAM}: {error}"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let major = text
        .split("version ")
        .nth(1)
        .and_then(|rest| rest.split('.').next())
        .and_then(|major| major.parse::<u32>().ok());
    match major {
        Some(major) if major >= 9 => Ok(()),
        _ => Err(format!("mapped-ram needs QEMU 9: {}", text.trim())),
    }
}

fn save(lab: &Lab<'_>, subject: &Subject) -> Result<Vec<Row>, BenchError> {
    eprintln!("measuring {SUITE}/{SAVE}");
    let scratch = lab.place().scratch();
    let guest = Guest::new(subject.mem_bytes, Content::Random, HostPages::Small, 0x9e)?;
    let engine = Engine::with_parent(scratch, None)?;
    let contestants = vec![
        Contestant::new("ours", || engine.take(&guest, None, &Capture::default())),
        Contestant::new(PEER, || {
            scratch.fresh(|path| {
                let mut qemu = Qemu::over(&subject.raw, subject.mem_bytes)?;
                qemu.migrate("migrate", path)
            })
        }),
    ];
    let samples = alternate(contestants, lab.options().rounds(), || Ok(()))?;
    scratch.remove_kept()?;
    let policy = "all memory, durable, digests, published; QEMU syncs nothing and has no digests";
    Ok(rows(lab, subject, SAVE, policy.to_owned(), &samples))
}

fn load(lab: &Lab<'_>, subject: &Subject) -> Result<Vec<Row>, BenchError> {
    eprintln!("measuring {SUITE}/{LOAD}");
    let saved = lab.place().scratch().path().join("qemu-mapped-ram");
    Qemu::over(&subject.raw, subject.mem_bytes)?.migrate("migrate", &saved)?;
    let round = Cell::new(0);
    let contestants = vec![
        Contestant::new("ours", || {
            let choice = round.replace(round.get() + 1);
            let reading = Reading {
                pages: 1,
                choice,
                order: 0,
            };
            let way = Way::Ours(Recipe::Eager);
            let touched: Touched = child::ask(&Job::Touch(TouchJob::new(subject, way, reading)))?;
            Ok(Duration::from_secs_f64(touched.first_ms / 1e3))
        }),
        Contestant::new(PEER, || {
            Qemu::empty(subject.mem_bytes)?.migrate("migrate-incoming", &saved)
        }),
    ];
    let samples = alternate(contestants, lab.options().rounds(), || Ok(()))?;
    lab.place().scratch().keep(saved)?;
    lab.place().scratch().remove_kept()?;
    let policy = format!(
        "{}: all memory; warm cache; QEMU checks nothing",
        Recipe::Eager.verification()
    );
    Ok(rows(lab, subject, LOAD, policy, &samples))
}

fn rows(
    lab: &Lab<'_>,
    subject: &Subject,
    name: &str,
    policy: String,
    samples: &[crate::sample::Samples],
) -> Vec<Row> {
    let case = Case {
        suite: SUITE,
        name: name.to_owned(),
        policy,
        file_system: Some(lab.file_system()),
        counts: BTreeMap::from([("mem_bytes".to_owned(), subject.mem_bytes)]),
        figures: BTreeMap::new(),
    };
    let [ours, peer] = samples else {
        return Vec::new();
    };
    case.compare(ours, &[Rival::Peer(peer.clone())])
}

/// A QEMU that runs no guest, and is told what to do by its machine protocol.
#[derive(Debug)]
struct Qemu {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

impl Qemu {
    /// One whose memory is like the raw image `raw`.
    fn over(raw: &Path, mem_bytes: u64) -> Result<Self, BenchError> {
        let memory = format!(
            "memory-backend-file,id=ram,size={mem_bytes},mem-path={},share=off,readonly=on,rom=off",
            raw.display()
        );
        Self::start(&memory, mem_bytes, &[])
    }

    /// One that waits to be given its memory.
    fn empty(mem_bytes: u64) -> Result<Self, BenchError> {
        let memory = format!("memory-backend-ram,id=ram,size={mem_bytes}");
        Self::start(&memory, mem_bytes, &["-incoming", "defer"])
    }

    fn start(memory: &str, mem_bytes: u64, more: &[&str]) -> Result<Self, BenchError> {
        let started = || BenchError::at("start", Path::new(PROGRAM));
        let size = format!("{}M", mem_bytes >> 20);
        let mut child = Command::new(PROGRAM)
            .args(["-nodefaults", "-display", "none", "-accel", "tcg", "-S"])
            .args(["-object", memory, "-machine", "pc,memory-backend=ram"])
            .args(["-m", &size, "-qmp", "stdio"])
            .args(more)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(started())?;
        let (Some(stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(BenchError::NoAnswer);
        };
        let mut qemu = Self {
            child,
            stdin,
            stdout: BufReader::new(stdout),
        };
        qemu.command(&json!({"execute": "qmp_capabilities"}))?;
        let on = ["mapped-ram", "events"].map(|name| json!({"capability": name, "state": true}));
        qemu.command(&json!({
            "execute": "migrate-set-capabilities",
            "arguments": {"capabilities": on},
        }))?;
        // As fast as it can: the default is made for a network.
        qemu.command(&json!({
            "execute": "migrate-set-parameters",
            "arguments": {"max-bandwidth": u32::MAX},
        }))?;
        Ok(qemu)
    }

    /// Saves memory to `path`, or loads it from there; how long that took.
    fn migrate(&mut self, command: &str, path: &Path) -> Result<Duration, BenchError> {
        let uri = format!("file:{}", path.display());
        let start = Instant::now();
        self.command(&json!({"execute": command, "arguments": {"uri": uri}}))?;
        loop {
            let said = self.hear()?;
            match said["data"]["status"].as_str() {
                Some("completed") => return Ok(start.elapsed()),
                Some("failed" | "cancelled") => return Err(refused(&said)),
                _ => {}
            }
        }
    }

    /// Gives a command and waits until it is taken.
    fn command(&mut self, command: &Value) -> Result<(), BenchError> {
        writeln!(self.stdin, "{command}").map_err(BenchError::at("tell", Path::new(PROGRAM)))?;
        loop {
            let said = self.hear()?;
            if said.get("return").is_some() {
                return Ok(());
            }
            if said.get("error").is_some() {
                return Err(refused(&said));
            }
        }
    }

    fn hear(&mut self) -> Result<Value, BenchError> {
        let mut line = String::new();
        let read = self.stdout.read_line(&mut line);
        read.map_err(BenchError::at("hear", Path::new(PROGRAM)))?;
        if line.is_empty() {
            return Err(BenchError::NoAnswer);
        }
        serde_json::from_str(&line).map_err(BenchError::Json)
    }
}

fn refused(said: &Value) -> BenchError {
    BenchError::at("have memory moved by", &PathBuf::from(PROGRAM))(std::io::Error::other(
        said.to_string(),
    ))
}

impl Drop for Qemu {
    fn drop(&mut self) {
        // It has nothing to lose.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
