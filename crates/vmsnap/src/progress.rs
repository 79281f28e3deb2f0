//! How far long work has come: a bar for people, or JSON lines for programs, on standard error.

use std::io::{IsTerminal, Write};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;

/// How progress is told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum ProgressMode {
    /// Not at all.
    Silent,
    /// A bar with an estimate, once the work has taken [`PATIENCE`].
    Bar,
    /// One JSON document a line.
    Json,
}

/// The progress of one piece of work, in bytes.
#[derive(Debug)]
pub(crate) struct Progress {
    phase: &'static str,
    started: Instant,
    told: Mutex<Told>,
}

#[derive(Debug)]
struct Told {
    how: How,
    done: u64,
    total: u64,
    last: Instant,
}

#[derive(Debug)]
enum How {
    Silent,
    Waiting,
    Bar(ProgressBar),
    Json,
}

/// One line of `--progress json`.
#[derive(Serialize)]
struct Line {
    schema: &'static str,
    phase: &'static str,
    done_bytes: u64,
    total_bytes: u64,
    elapsed_ms: u64,
}

/// Work shorter than this shows no bar.
const PATIENCE: Duration = Duration::from_millis(700);

/// The least time between two JSON lines.
const LINE_INTERVAL: Duration = Duration::from_millis(200);

const SCHEMA: &str = "vmsnap.progress.v1";
const BAR: &str = "{prefix} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} ETA {eta}";

impl ProgressMode {
    /// The mode of people: a bar if standard error is a terminal.
    pub(crate) fn for_people() -> Self {
        if std::io::stderr().is_terminal() {
            Self::Bar
        } else {
            Self::Silent
        }
    }
}

impl Progress {
    /// Progress of `phase` towards `total` bytes.
    pub(crate) fn new(mode: ProgressMode, phase: &'static str, total: u64) -> Self {
        let now = Instant::now();
        let told = Told {
            how: match mode {
                ProgressMode::Silent => How::Silent,
                ProgressMode::Bar => How::Waiting,
                ProgressMode::Json => How::Json,
            },
            done: 0,
            total,
            last: now,
        };
        if mode == ProgressMode::Json {
            write_line(phase, 0, total, Duration::ZERO);
        }
        Self {
            phase,
            started: now,
            told: Mutex::new(told),
        }
    }

    /// Counts `bytes` more as done.
    pub(crate) fn add(&self, bytes: u64) {
        self.update(|told| told.done = told.done.saturating_add(bytes));
    }

    /// Says that `done` of `total` bytes are done.
    pub(crate) fn set(&self, done: u64, total: u64) {
        self.update(|told| (told.done, told.total) = (done, total));
    }

    fn update(&self, change: impl FnOnce(&mut Told)) {
        // A panic elsewhere leaves plain numbers behind, which are as good as before.
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut told);
        let elapsed = self.started.elapsed();
        if matches!(told.how, How::Waiting) && elapsed >= PATIENCE {
            told.how = How::Bar(bar(self.phase, told.total));
        }
        match &told.how {
            How::Bar(bar) => {
                bar.set_length(told.total);
                bar.set_position(told.done);
            }
            How::Json if told.last.elapsed() >= LINE_INTERVAL => {
                write_line(self.phase, told.done, told.total, elapsed);
                told.last = Instant::now();
            }
            How::Silent | How::Waiting | How::Json => {}
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        let told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        match &told.how {
            How::Silent | How::Waiting => {}
            How::Bar(bar) => bar.finish_and_clear(),
            How::Json => write_line(self.phase, told.done, told.total, self.started.elapsed()),
        }
    }
}

fn bar(phase: &'static str, total: u64) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr());
    if let Ok(style) = ProgressStyle::with_template(BAR) {
        bar.set_style(style);
    }
    bar.set_prefix(phase);
    bar
}

/// A reader that went away is no reason to stop the work.
fn write_line(phase: &'static str, done_bytes: u64, total_bytes: u64, elapsed: Duration) {
    let line = Line {
        schema: SCHEMA,
        phase,
        done_bytes,
        total_bytes,
        elapsed_ms: u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX),
    };
    if let Ok(text) = serde_json::to_string(&line) {
        let _ = writeln!(std::io::stderr(), "{text}");
    }
}
