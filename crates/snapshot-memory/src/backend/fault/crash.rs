//! The trees that a loss of power may leave.

use std::collections::{BTreeMap, BTreeSet};

use super::Logged;
use crate::backend::MemBackend;
use crate::backend::mem::disk::{Disk, Inode, Op};

/// Unsynced operations that are lost and kept one by one; the latest ones.
const MAX_SINGLE: usize = 32;

/// A tree that a machine may find when it starts again.
#[derive(Clone, Debug)]
pub struct CrashState {
    /// What of the unsynced operations it holds.
    pub what: String,
    /// The tree.
    pub image: MemBackend,
}

/// Which of the unsynced operations reached the disk, and how.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Choice {
    /// Positions in the log.
    kept: BTreeSet<usize>,
    /// Writes bring the length but zeros for bytes.
    zeroed: bool,
    /// How many bytes of this write arrived.
    torn: Option<(usize, usize)>,
}

/// Every tree of the selection that `log` may leave of `start`.
pub(super) fn states(
    start: Disk,
    log: Vec<Logged>,
    live: Disk,
) -> impl Iterator<Item = CrashState> {
    let durable = durable(&log);
    let loose: Vec<usize> = log
        .iter()
        .enumerate()
        .filter(|(at, logged)| done(logged).is_some() && !durable.contains(at))
        .map(|(at, _)| at)
        .collect();
    let mut seen = BTreeSet::new();
    choices(&log, &loose)
        .into_iter()
        .filter_map(move |(what, choice)| {
            if !seen.insert(choice.clone()) {
                return None;
            }
            let image = replay(&start, &log, &durable, &choice, &live);
            Some(CrashState { what, image })
        })
}

/// The first `len` bytes of a write.
pub(super) fn torn(op: &Op, len: usize) -> Op {
    match op {
        Op::Write {
            inode,
            offset,
            bytes,
        } => Op::Write {
            inode: *inode,
            offset: *offset,
            bytes: bytes.iter().copied().take(len).collect(),
        },
        other => other.clone(),
    }
}

/// Positions of the operations that a later sync of their file or directory covers.
fn durable(log: &[Logged]) -> BTreeSet<usize> {
    let mut waiting: BTreeMap<Inode, Vec<usize>> = BTreeMap::new();
    let mut durable = BTreeSet::new();
    for (at, logged) in log.iter().enumerate() {
        match logged {
            Logged::Done(Op::Sync { inode }) => {
                durable.extend(waiting.remove(inode).unwrap_or_default());
            }
            // The kernel may have dropped the pages and called them clean.
            Logged::FailedSync(inode) => drop(waiting.remove(inode)),
            Logged::Done(op) => {
                if let Some(subject) = op.subject() {
                    waiting.entry(subject).or_default().push(at);
                }
            }
        }
    }
    durable
}

fn choices(log: &[Logged], loose: &[usize]) -> Vec<(String, Choice)> {
    let mut choices = Vec::new();
    let mut add = |what: String, kept: BTreeSet<usize>, zeroed: bool, torn| {
        choices.push((what, Choice { kept, zeroed, torn }));
    };
    let op = |at: &usize| log.get(*at).and_then(done);
    let all: BTreeSet<usize> = loose.iter().copied().collect();
    let of = |wanted: &dyn Fn(&Op) -> bool| -> BTreeSet<usize> {
        let chosen = loose.iter().filter(|at| op(at).is_some_and(wanted));
        chosen.copied().collect()
    };
    add("everything kept".to_owned(), all.clone(), false, None);
    add(
        "nothing unsynced kept".to_owned(),
        BTreeSet::new(),
        false,
        None,
    );
    add(
        "names without bytes".to_owned(),
        of(&Op::is_name),
        false,
        None,
    );
    add(
        "bytes without names".to_owned(),
        of(&|op| !op.is_name()),
        false,
        None,
    );
    add("zeros for bytes".to_owned(), all.clone(), true, None);
    for &at in loose.iter().rev().take(MAX_SINGLE) {
        let label = op(&at).map_or("", Op::label);
        let mut others = all.clone();
        others.remove(&at);
        add(format!("all but {label} #{at}"), others, false, None);
        add(
            format!("only {label} #{at}"),
            BTreeSet::from([at]),
            false,
            None,
        );
    }
    let last_write = loose.iter().rev().find_map(|at| match op(at) {
        Some(Op::Write { bytes, .. }) => Some((*at, bytes.len())),
        _ => None,
    });
    if let Some((at, len)) = last_write {
        let points = BTreeSet::from([1, len / 2, len.saturating_sub(512), len.saturating_sub(1)]);
        for point in points.into_iter().filter(|point| *point < len) {
            let torn = Some((at, point));
            add(
                format!("write #{at} torn at {point}"),
                all.clone(),
                false,
                torn,
            );
            add(
                format!("only write #{at}, torn at {point}"),
                BTreeSet::from([at]),
                false,
                torn,
            );
        }
    }
    choices
}

fn replay(
    start: &Disk,
    log: &[Logged],
    durable: &BTreeSet<usize>,
    choice: &Choice,
    live: &Disk,
) -> MemBackend {
    let mut disk = start.image();
    for logged in log {
        if let Some(Op::Link { inode, .. }) = done(logged) {
            disk.adopt(*inode, live);
        }
    }
    for (at, op) in log
        .iter()
        .enumerate()
        .filter_map(|(at, l)| Some((at, done(l)?)))
    {
        let lost = !durable.contains(&at) && !choice.kept.contains(&at);
        match (op, choice.torn) {
            _ if lost => {}
            (_, Some((torn_at, len))) if torn_at == at => disk.apply(&torn(op, len)),
            (
                Op::Write {
                    inode,
                    offset,
                    bytes,
                },
                _,
            ) if choice.zeroed && !durable.contains(&at) => {
                disk.apply(&Op::Write {
                    inode: *inode,
                    offset: *offset,
                    bytes: vec![0; bytes.len()].into(),
                });
            }
            _ => disk.apply(op),
        }
    }
    MemBackend::of(disk, None)
}

/// The operation that a log entry stands for; `None` for syncs, done and failed.
fn done(logged: &Logged) -> Option<&Op> {
    match logged {
        Logged::Done(Op::Sync { .. }) | Logged::FailedSync(_) => None,
        Logged::Done(op) => Some(op),
    }
}
