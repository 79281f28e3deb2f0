//! The clock of the machine jumps by thirty days, in both directions, between two commands and
//! between two that run at once. Order and safety rest on no clock, so nothing is lost by it.
//!
//! The real command runs unmodified: a library that is preloaded moves what the C library tells it
//! of the time of day, and files are dated anew, as the clock that jumped would have dated them.

use std::fs::{File, FileTimes};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::Value;
use snapshot_memory::skip::skip;

use crate::sandbox::{Run, Sandbox, id, list, page, pattern};

const DAY: i64 = 24 * 60 * 60;

/// What the clock is moved by, in days.
const JUMPS: [i64; 3] = [-30, 0, 30];

/// A store, and a clock that jumps.
struct Jumping {
    sandbox: Sandbox,
    library: PathBuf,
}

impl Jumping {
    /// `None` where nothing can be preloaded.
    fn new() -> Option<Self> {
        let sandbox = Sandbox::new();
        let library = sandbox.path("jump.so");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/end_to_end/clock/jump.c");
        let mut compiler = Command::new("cc");
        compiler.args(["-shared", "-fPIC", "-Wall", "-Werror", "-o"]);
        let made = compiler.arg(&library).arg(source).status();
        let is_made = made.is_ok_and(|status| status.success());
        if !is_made || !cfg!(all(target_os = "linux", target_env = "gnu")) {
            skip("clock", "no library can be made that the command preloads");
            return None;
        }
        Some(Self { sandbox, library })
    }

    fn command(&self, days: i64, arguments: &[&str]) -> Command {
        let mut command = self.sandbox.command(arguments);
        command
            .arg("--json")
            .env("LD_PRELOAD", &self.library)
            .env("CLOCK_JUMP", (days * DAY).to_string());
        command
    }

    fn run(&self, days: i64, arguments: &[&str]) -> Run {
        let run = Run::of(&self.command(days, arguments).output().unwrap());
        self.date(days);
        run
    }

    fn json(&self, days: i64, arguments: &[&str]) -> Value {
        let run = self.run(days, arguments);
        assert_eq!(run.code, 0, "{arguments:?}, {days} days on: {run:?}");
        run.document()
    }

    fn import(&self, days: i64, memory: &[u8], more: &[&str]) -> String {
        self.sandbox.write("memory", memory);
        let line = [&["import", "vm", "--memory", "memory"], more].concat();
        id(&self.json(days, &line))
    }

    fn restored(&self, days: i64, reference: &str) -> Vec<u8> {
        drop(std::fs::remove_file(self.sandbox.path("restored")));
        self.json(days, &["restore", reference, "--memory", "restored"]);
        self.sandbox.read("restored")
    }

    /// Dates every file of the store by the clock that is moved.
    fn date(&self, days: i64) {
        let now = moved(days);
        let times = FileTimes::new().set_modified(now).set_accessed(now);
        for path in list(&self.sandbox.store()).into_keys() {
            let file = File::open(self.sandbox.store().join(path));
            file.and_then(|file| file.set_times(times)).unwrap();
        }
    }

    /// That the store holds exactly these, in this order, whatever the clock says.
    fn holds(&self, expected: &[(String, Vec<u8>)]) {
        for days in JUMPS {
            let listed = self.json(days, &["list"]);
            let snapshots = listed["snapshots"].as_array().unwrap();
            let mut found: Vec<_> = snapshots.iter().collect();
            found.sort_by_key(|one| one["seq"].as_u64());
            let found: Vec<String> = found.into_iter().map(id).collect();
            let ids: Vec<&String> = expected.iter().map(|(id, _)| id).collect();
            assert!(found.iter().eq(ids), "{days} days on: {listed}");
            assert!(listed["damaged"].as_array().unwrap().is_empty(), "{listed}");
            for (id, memory) in expected {
                assert!(self.restored(days, id) == *memory, "{id}, {days} days on");
            }
            let (last, _) = expected.last().unwrap();
            assert_eq!(id(&self.json(days, &["show", "vm@latest"])), *last);
        }
    }
}

fn moved(days: i64) -> SystemTime {
    let by = Duration::from_secs((days * DAY).unsigned_abs());
    let now = SystemTime::now();
    if days < 0 { now - by } else { now + by }
}

fn chosen(document: &Value, list: &str) -> Vec<String> {
    let all = document[list].as_array().unwrap().iter();
    all.map(|one| one.as_str().map_or_else(|| id(one), str::to_owned))
        .collect()
}

#[test]
fn snapshots_keep_their_order_and_their_bytes_on_a_clock_that_jumps() {
    let Some(jumping) = Jumping::new() else {
        return;
    };
    let mut memory = pattern(16, 1);
    let mut made = Vec::new();
    for (number, days) in [0, 30, -30, 0, -30, 30].into_iter().enumerate() {
        page(&mut memory, 3).fill(u8::try_from(number).unwrap() + 1);
        let line: &[&str] = if number == 0 {
            &[]
        } else {
            &["--parent", "vm@latest"]
        };
        let taken = jumping.import(days, &memory, line);
        // The clock did jump.
        let shown = jumping.json(0, &["show", &taken]);
        let created = shown["created_unix_ms"].as_u64().unwrap();
        let now = moved(days).duration_since(UNIX_EPOCH).unwrap();
        let away = now.abs_diff(Duration::from_millis(created));
        assert!(away < Duration::from_hours(1), "{shown}");
        made.push((taken, memory.clone()));
    }
    jumping.holds(&made);
    // What is kept by number is the same on every clock; of spans, one that is behind ends none.
    let planned = |rule: [&str; 2]| {
        let line = [&["prune", "vm", "--dry-run"], &rule[..]].concat();
        JUMPS.map(|days| chosen(&jumping.json(days, &line), "removed"))
    };
    let oldest: Vec<&String> = made[..4].iter().rev().map(|(id, _)| id).collect();
    let by_number = planned(["--keep-last", "2"]);
    assert!(
        by_number
            .iter()
            .all(|ids| ids.iter().eq(oldest.iter().copied())),
        "{by_number:?}"
    );
    let [behind, right, ahead] = planned(["--keep-within", "10d"]);
    assert!(
        behind.iter().all(|id| right.contains(id)),
        "{behind:?}, {right:?}"
    );
    assert!(
        right.iter().all(|id| ahead.contains(id)),
        "{right:?}, {ahead:?}"
    );
    jumping.json(-30, &["prune", "vm", "--keep-last", "4"]);
    jumping.holds(&made[2..]);
    // What the chain needs stays, whenever it is collected.
    for days in JUMPS {
        let done = jumping.json(days, &["gc"]);
        assert_eq!(chosen(&done, "collected"), Vec::<String>::new());
    }
    jumping.holds(&made[2..]);
    jumping.json(30, &["undelete", &made[0].0]);
    assert!(jumping.restored(-30, &made[0].0) == made[0].1);
    for days in JUMPS {
        assert_eq!(jumping.json(days, &["verify"])["ok"], true);
        jumping.json(days, &["audit", "--verify"]);
    }
    // A check of a time that is to come is none, deleted ones included; one more is enough.
    for expected in [made.len(), 0] {
        let due = jumping.json(-30, &["verify", "--older-than", "7d"]);
        assert_eq!(due["snapshots"], expected, "{due}");
    }
}

// spec: GC-11
#[test]
fn a_grace_that_a_jump_put_into_the_future_has_not_passed() {
    let Some(jumping) = Jumping::new() else {
        return;
    };
    let memory = [1, 2].map(|seed| pattern(16, seed));
    let gone = jumping.import(0, &memory[0], &[]);
    let stays = jumping.import(0, &memory[1], &[]);
    jumping.json(0, &["delete", &gone]);
    let collect = |days| chosen(&jumping.json(days, &["gc", "--grace", "7d"]), "collected");
    // It is seen in the future; then the clock is set right, and jumps the other way.
    for days in [30, 0, -30, 30, 36] {
        assert_eq!(collect(days), Vec::<String>::new(), "{days} days on");
    }
    // Until then it can come back, and its grace begins anew.
    jumping.json(36, &["undelete", &gone]);
    assert!(jumping.restored(-30, &gone) == memory[0]);
    jumping.json(30, &["delete", &gone]);
    for days in [30, -30, 36] {
        assert_eq!(collect(days), Vec::<String>::new(), "{days} days on");
    }
    assert_eq!(collect(38), [gone]);
    jumping.holds(&[(stays, memory[1].clone())]);
}

#[test]
fn two_collections_whose_clocks_differ_by_two_months_and_a_writer_beside_them() {
    let Some(jumping) = Jumping::new() else {
        return;
    };
    let mut memory = pattern(16, 1);
    let base = jumping.import(0, &memory, &[]);
    for round in 0..4 {
        let unneeded = jumping.import(30, &pattern(16, 50 + round), &[]);
        jumping.json(-30, &["delete", &unneeded]);
        page(&mut memory, 5).fill(u8::try_from(round).unwrap() + 1);
        jumping.sandbox.write("memory", &memory);
        let name = format!("beside-{round}");
        let import = [
            "import", "vm", "--memory", "memory", "--parent", &base, "--name", &name,
        ];
        let lines: [(i64, &[&str]); 3] =
            [(-30, &["gc"]), (30, &["gc", "--grace", "1h"]), (0, &import)];
        let at_once = lines.map(|(days, line)| {
            let mut command = jumping.command(days, line);
            command.stdout(Stdio::piped()).stderr(Stdio::piped());
            command.spawn().unwrap()
        });
        let runs = at_once.map(|child| Run::of(&child.wait_with_output().unwrap()));
        let [old, young, writer] = &runs;
        // One that comes while the other is at it is told so.
        for run in [old, young] {
            assert!(matches!(run.code, 0 | 6), "{runs:?}");
        }
        assert_eq!(writer.code, 0, "{runs:?}");
        assert!(jumping.restored(-30, &format!("vm/{name}")) == memory);
        assert!(jumping.restored(30, &base) == pattern(16, 1));
        assert_eq!(jumping.json(0, &["verify"])["ok"], true);
    }
}

#[test]
fn an_archive_outlives_collections_of_the_vault_on_a_clock_that_jumps() {
    let Some(jumping) = Jumping::new() else {
        return;
    };
    let memory = pattern(64, 1);
    let kept = jumping.import(30, &memory, &[]);
    jumping.json(30, &["archive", &kept]);
    let other = jumping.import(-30, &pattern(64, 2), &[]);
    jumping.json(-30, &["archive", &other]);
    jumping.json(0, &["vault", "delete", &other]);
    for days in JUMPS {
        jumping.json(days, &["vault", "gc"]);
    }
    jumping.json(-30, &["delete", &kept]);
    jumping.json(30, &["gc"]);
    let thawed = id(&jumping.json(-30, &["thaw", &kept]));
    assert!(jumping.restored(0, &thawed) == memory);
    assert_eq!(jumping.json(30, &["vault", "verify"])["ok"], true);
}
