//! What the demo found.

use std::path::PathBuf;

use serde::Serialize;
use snapshot_format::SnapshotId;
use tinyvm::Backend;

use super::child::Back;
use super::machine::{Pause, Taken};
use crate::quantity::show_bytes;
use crate::table::{draw, table};
use crate::view::short;

/// The whole demo.
#[derive(Serialize)]
pub(super) struct Report {
    backend: Backend,
    pub(super) verified: bool,
    rounds: u32,
    memory_bytes: u64,
    /// The longest pause.
    pause_ms: f64,
    /// Of the last snapshot of the first branch.
    restore_first_instruction_ms: f64,
    store: Option<PathBuf>,
    snapshots: Vec<Row>,
    clones: Vec<CloneRow>,
}

/// One of the clones of the last snapshot that ran at the same time.
#[derive(Serialize)]
pub(super) struct CloneRow {
    generation: String,
    restore_first_instruction_ms: f64,
    same_end: bool,
}

impl CloneRow {
    pub(super) fn new(back: Back, expected: &serde_json::Value) -> Self {
        Self {
            restore_first_instruction_ms: ms(back.first_instruction_ns),
            same_end: back.ended_as(expected),
            generation: back.generation,
        }
    }
}

/// One snapshot, taken and brought back.
#[derive(Serialize)]
pub(super) struct Row {
    id: SnapshotId,
    parent: Option<SnapshotId>,
    branch: String,
    steps: u64,
    pause_ms: f64,
    pause: PauseParts,
    state_ms: f64,
    harvest_ms: f64,
    write_ms: f64,
    sync_ms: f64,
    rounds_ms: f64,
    finish_ms: f64,
    seal_ms: f64,
    publish_ms: f64,
    pages: Pages,
    bytes_stored: u64,
    layout: String,
    engine: String,
    restore_first_instruction_ms: f64,
    /// How the restored guest got its memory: `served` or `copied`.
    restored: String,
    /// When it was verified.
    verification: String,
    /// What the restored guest has in place of the original's generation id.
    generation: String,
    /// Whether memory and registers ended as in the run without a break.
    same_end: bool,
    /// What the snapshot and the restore tell of themselves, in nanoseconds and bytes.
    metrics: Metrics,
}

#[derive(Serialize)]
struct Metrics {
    snapshot: serde_json::Value,
    restore: serde_json::Value,
}

/// The parts of a pause: together they are all of it.
#[expect(
    clippy::struct_field_names,
    reason = "they are the keys of the document"
)]
#[derive(Serialize)]
struct PauseParts {
    stop_ms: f64,
    notify_ms: f64,
    quiesce_ms: f64,
    vcpus_ms: f64,
    vm_ms: f64,
    devices_ms: f64,
    harvest_ms: f64,
    memory_ms: f64,
    resume_ms: f64,
}

#[derive(Serialize)]
struct Pages {
    present: u64,
    zero: u64,
    inherited: u64,
}

impl Row {
    /// A snapshot, and the guest that was restored from it.
    pub(super) fn new(taken: Taken, back: &Back, expected: &serde_json::Value) -> Self {
        Self {
            id: taken.id,
            parent: taken.parent,
            branch: taken.branch,
            steps: taken.steps,
            pause_ms: ms(taken.pause_ns),
            pause: PauseParts::from(&taken.pause),
            state_ms: ms(taken.state_ns),
            harvest_ms: ms(taken.harvest_ns),
            write_ms: ms(taken.write_ns),
            sync_ms: ms(taken.sync_ns),
            rounds_ms: ms(taken.rounds_ns),
            finish_ms: ms(taken.finish_ns),
            seal_ms: ms(taken.seal_ns),
            publish_ms: ms(taken.publish_ns),
            pages: Pages {
                present: taken.present,
                zero: taken.zero,
                inherited: taken.inherited,
            },
            bytes_stored: taken.bytes_stored,
            layout: taken.layout,
            engine: taken.engine,
            restore_first_instruction_ms: ms(back.first_instruction_ns),
            restored: back.memory.clone(),
            verification: back.verification.clone(),
            generation: back.generation.clone(),
            same_end: back.ended_as(expected),
            metrics: Metrics {
                snapshot: taken.metrics,
                restore: back.metrics.clone(),
            },
        }
    }
}

impl From<&Pause> for PauseParts {
    fn from(pause: &Pause) -> Self {
        Self {
            stop_ms: ms(pause.stop),
            notify_ms: ms(pause.notify),
            quiesce_ms: ms(pause.quiesce),
            vcpus_ms: ms(pause.vcpus),
            vm_ms: ms(pause.vm),
            devices_ms: ms(pause.devices),
            harvest_ms: ms(pause.harvest),
            memory_ms: ms(pause.memory),
            resume_ms: ms(pause.resume),
        }
    }
}

impl Report {
    /// The report of a demo whose snapshots were checked with this result.
    pub(super) fn new(
        backend: Backend,
        rounds: u32,
        memory_bytes: u64,
        store: Option<PathBuf>,
        (snapshots, clones): (Vec<Row>, Vec<CloneRow>),
        checked: bool,
    ) -> Self {
        let mut ids: Vec<&str> = snapshots.iter().map(|row| &*row.generation).collect();
        ids.extend(clones.iter().map(|clone| &*clone.generation));
        let count = ids.len();
        ids.sort_unstable();
        ids.dedup();
        let are_others = ids.len() == count;
        let last = snapshots.iter().rfind(|row| row.branch == "main");
        Self {
            backend,
            verified: checked
                && are_others
                && snapshots.iter().all(|row| row.same_end)
                && clones.iter().all(|clone| clone.same_end),
            rounds,
            memory_bytes,
            pause_ms: snapshots.iter().map(|row| row.pause_ms).fold(0.0, f64::max),
            restore_first_instruction_ms: last.map_or(0.0, |row| row.restore_first_instruction_ms),
            store,
            snapshots,
            clones,
        }
    }
}

/// Milliseconds, to the microsecond; at most 71 minutes.
fn ms(nanoseconds: u64) -> f64 {
    let microseconds = u32::try_from(nanoseconds.div_ceil(1000)).unwrap_or(u32::MAX);
    f64::from(microseconds) / 1000.0
}

/// A line of the table of times: its name, and where its figure is.
type TimePart = (&'static str, fn(&Row) -> f64);

/// Where the time of each snapshot went, part by part.
fn tell_times(rows: &[Row]) -> String {
    let columns: Vec<String> = rows
        .iter()
        .map(|row| format!(">{}", short(row.id)))
        .collect();
    let titles = ["TIME ms"]
        .into_iter()
        .chain(columns.iter().map(String::as_str));
    let mut times = table(&titles.collect::<Vec<_>>());
    let parts: [TimePart; 14] = [
        ("rounds, before it", |row| row.rounds_ms),
        ("stop", |row| row.pause.stop_ms),
        ("notify", |row| row.pause.notify_ms),
        ("quiesce", |row| row.pause.quiesce_ms),
        ("vCPUs", |row| row.pause.vcpus_ms),
        ("VM", |row| row.pause.vm_ms),
        ("devices", |row| row.pause.devices_ms),
        ("harvest", |row| row.pause.harvest_ms),
        ("memory", |row| row.pause.memory_ms),
        ("resume", |row| row.pause.resume_ms),
        ("= pause", |row| row.pause_ms),
        ("finish, after it", |row| row.finish_ms),
        ("seal, after it", |row| row.seal_ms),
        ("publish, after it", |row| row.publish_ms),
    ];
    // What only live snapshots have is shown of those.
    let any = |part: fn(&Row) -> f64| rows.iter().any(|row| part(row) > 0.0);
    for (name, part) in parts {
        if matches!(name, "rounds, before it" | "finish, after it") && !any(part) {
            continue;
        }
        let cells = rows.iter().map(|row| format!("{:.3}", part(row)));
        times.add_row([name.to_owned()].into_iter().chain(cells));
    }
    draw(&times)
}

/// What the clones that ran at the same time did, in one line.
fn tell_clones(clones: &[CloneRow]) -> String {
    if clones.is_empty() {
        return String::new();
    }
    let times: Vec<String> = clones
        .iter()
        .map(|clone| format!("{:.2}", clone.restore_first_instruction_ms))
        .collect();
    let (count, times) = (clones.len(), times.join(", "));
    let end = match clones.iter().filter(|clone| !clone.same_end).count() {
        0 => "all ended the same".to_owned(),
        others => format!("{others} ENDED OTHERWISE"),
    };
    format!("{count} clones of the last one at once, first report after {times} ms: {end}\n\n")
}

/// Tables of the snapshots and of their times, and the verdict in one line.
pub(super) fn tell(report: &Report) -> String {
    let mut rows = table(&[
        "SNAPSHOT",
        "PARENT",
        "BRANCH",
        ">PAUSE ms",
        ">STATE",
        ">HARVEST",
        ">WRITE",
        ">SYNC",
        ">PRESENT",
        ">ZERO",
        ">INHERITED",
        ">ON DISK",
        ">RESTORE ms",
        "END",
    ]);
    for row in &report.snapshots {
        let time = |ms: f64| format!("{ms:.2}");
        rows.add_row([
            short(row.id),
            row.parent.map_or_else(|| "-".to_owned(), short),
            row.branch.clone(),
            time(row.pause_ms),
            time(row.state_ms),
            time(row.harvest_ms),
            time(row.write_ms),
            time(row.sync_ms),
            row.pages.present.to_string(),
            row.pages.zero.to_string(),
            row.pages.inherited.to_string(),
            show_bytes(row.bytes_stored),
            time(row.restore_first_instruction_ms),
            if row.same_end { "same" } else { "DIFFERENT" }.to_owned(),
        ]);
    }
    let guest = match report.backend {
        Backend::Kvm => "a KVM guest",
        _ => "a guest hosted by a process",
    };
    let verdict = if report.verified {
        "verified: every snapshot was restored in a new process as a clone, with a generation id of \
         its own, ran on and ended with the memory and the registers of the run without a break"
    } else {
        "NOT VERIFIED: see the last column, and run `vmsnap verify`"
    };
    let kept = match &report.store {
        Some(path) => format!("; kept in {}", path.display()),
        None => String::new(),
    };
    format!(
        "{}\n{}\n{}{guest} of {}: {verdict}{kept}\n",
        draw(&rows),
        tell_times(&report.snapshots),
        tell_clones(&report.clones),
        show_bytes(report.memory_bytes)
    )
}
