//! The trees that a loss of power may leave.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use super::{Event, Logged};
use crate::backend::MemBackend;
use crate::backend::mem::disk::{Disk, Inode};
use crate::backend::mem::op::{Op, Slot};

/// Unsynced operations that are lost and kept one by one; the latest ones.
const MAX_SINGLE: usize = 32;

/// Files and directories whose unsynced changes are lost and kept one by one; the latest ones.
const MAX_SUBJECTS: usize = 32;

/// Writes that are torn: the latest of each of that many files.
const MAX_TORN: usize = 4;

/// What a disk writes at once, and what a page cache does.
const SECTOR_BYTES: usize = 512;
const BLOCK_BYTES: usize = 4096;

/// A tree that a machine may find when it starts again.
#[derive(Clone, Debug)]
pub struct CrashState {
    /// What of the unsynced operations it holds, by the numbers of their calls.
    pub what: String,
    /// The tree: nothing in it is locked.
    pub image: MemBackend,
}

/// Positions in the log.
type Positions = BTreeSet<usize>;

/// Which of the unsynced operations reached the disk, and how.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
struct Choice {
    kept: Positions,
    /// Writes that brought length and blocks, but zeros for bytes.
    zeroed: Positions,
    /// A write of which only a part arrived.
    torn: Option<(usize, (usize, usize))>,
}

/// Every tree of the selection that `log` may leave of `start`.
pub(super) fn states(
    start: Disk,
    log: Vec<Logged>,
    live: Disk,
) -> impl Iterator<Item = CrashState> {
    let durable = durable(&log);
    let mut seen = BTreeSet::new();
    let choices = Loose::new(&log, &durable).choices();
    choices.into_iter().filter_map(move |(what, mut choice)| {
        // What lies below the kept names comes with them; then equal choices give equal trees.
        choice.kept.extend(&durable);
        choice.kept = with_earlier_names(&log, choice.kept);
        choice.zeroed.retain(|at| choice.kept.contains(at));
        if !seen.insert(choice.clone()) {
            return None;
        }
        let image = replay(&start, &log, &choice, &live);
        Some(CrashState { what, image })
    })
}

/// Positions of the operations that a later sync of their file or directory covers.
fn durable(log: &[Logged]) -> Positions {
    let mut waiting: BTreeMap<Inode, Vec<usize>> = BTreeMap::new();
    let mut durable = BTreeSet::new();
    for (at, logged) in log.iter().enumerate() {
        match &logged.event {
            Event::Done(Op::Sync { inode }) => {
                durable.extend(waiting.remove(inode).unwrap_or_default());
            }
            // The kernel may have dropped the pages and called them clean.
            Event::FailedSync(inode) => drop(waiting.remove(inode)),
            Event::Done(op) => {
                if let Some(subject) = op.subject() {
                    waiting.entry(subject).or_default().push(at);
                }
            }
        }
    }
    with_earlier_names(log, durable)
}

/// `kept` and every earlier change of the names that it touches.
///
/// A name is one place on the disk, and a rename changes two at once: no crash keeps the later
/// state of a name whose earlier change, elsewhere also visible, never happened.
fn with_earlier_names(log: &[Logged], mut kept: Positions) -> Positions {
    let mut touched: BTreeSet<&Slot> = BTreeSet::new();
    for (at, logged) in log.iter().enumerate().rev() {
        let Some(op) = logged.change() else { continue };
        if kept.contains(&at) || op.slots().any(|slot| touched.contains(slot)) {
            touched.extend(op.slots());
            kept.insert(at);
        }
    }
    kept
}

/// The operations that no sync covers, in the order of the log.
struct Loose<'a> {
    ops: Vec<(usize, &'a Logged, &'a Op)>,
}

impl<'a> Loose<'a> {
    fn new(log: &'a [Logged], durable: &Positions) -> Self {
        let changes = log
            .iter()
            .enumerate()
            .filter_map(|(at, logged)| Some((at, logged, logged.change()?)));
        Self {
            ops: changes.filter(|(at, ..)| !durable.contains(at)).collect(),
        }
    }

    fn choices(&self) -> Vec<(String, Choice)> {
        let mut choices = self.wholes();
        choices.extend(self.subjects());
        choices.extend(self.singles());
        choices.extend(self.torn());
        choices
    }

    fn of(&self, wanted: impl Fn(&Op) -> bool) -> Positions {
        let chosen = self.ops.iter().filter(|(_, _, op)| wanted(op));
        chosen.map(|(at, ..)| *at).collect()
    }

    fn all(&self) -> Positions {
        self.of(|_| true)
    }

    fn wholes(&self) -> Vec<(String, Choice)> {
        let zeroed = Choice {
            kept: self.all(),
            zeroed: self.of(|op| op.write_len().is_some()),
            torn: None,
        };
        vec![
            keep("everything".to_owned(), self.all()),
            keep("nothing unsynced".to_owned(), Positions::new()),
            keep("names without bytes".to_owned(), self.of(Op::is_name)),
            keep(
                "bytes without names".to_owned(),
                self.of(|op| !op.is_name()),
            ),
            ("zeros for unsynced bytes".to_owned(), zeroed),
        ]
    }

    /// The unsynced changes of each file and of each directory, lost alone and kept alone.
    fn subjects(&self) -> Vec<(String, Choice)> {
        let mut latest = Vec::new();
        for (_, logged, op) in self.ops.iter().rev() {
            let subject = op.subject();
            if !latest.iter().any(|(_, known)| *known == subject) {
                latest.push((logged.number, subject));
            }
        }
        let mut choices = Vec::new();
        for (number, subject) in latest.into_iter().take(MAX_SUBJECTS) {
            let others = self.of(|op| op.subject() != subject);
            let own = self.of(|op| op.subject() == subject);
            let names = self.of(|op| op.is_name() || op.subject() == subject);
            let bytes = self.of(|op| !op.is_name() || op.subject() == subject);
            let changed = format!("what call {number} last changed");
            let zeroed = Choice {
                kept: self.all(),
                zeroed: self.of(|op| op.subject() == subject && op.write_len().is_some()),
                torn: None,
            };
            choices.extend([
                keep(format!("all but {changed}"), others),
                keep(format!("only {changed}"), own),
                keep(format!("names, and of bytes only {changed}"), names),
                keep(format!("bytes, and of names only {changed}"), bytes),
                (format!("zeros in {changed}"), zeroed),
            ]);
        }
        choices
    }

    /// The latest operations, each lost alone and kept alone.
    fn singles(&self) -> Vec<(String, Choice)> {
        let mut choices = Vec::new();
        for &(at, logged, _) in self.ops.iter().rev().take(MAX_SINGLE) {
            let mut others = self.all();
            others.remove(&at);
            let mut bytes = self.of(|op| !op.is_name());
            bytes.insert(at);
            let only = Positions::from([at]);
            choices.extend([
                keep(format!("all but {logged}"), others),
                keep(format!("only {logged}"), only),
                keep(format!("bytes and {logged}"), bytes),
            ]);
        }
        choices
    }

    /// The last write of each file, cut off at several points, and with its start missing.
    fn torn(&self) -> Vec<(String, Choice)> {
        let mut files = BTreeSet::new();
        let writes = self.ops.iter().rev().filter_map(|(at, logged, op)| {
            let len = op.write_len()?;
            files.insert(op.subject()).then_some((*at, *logged, len))
        });
        let mut choices = Vec::new();
        for (at, logged, len) in writes.take(MAX_TORN) {
            let mut names = self.of(Op::is_name);
            names.insert(at);
            for part in parts(len) {
                let torn = Some((at, (part.start, part.end)));
                for (with, kept) in [("everything", self.all()), ("names", names.clone())] {
                    let choice = Choice {
                        kept,
                        torn,
                        ..Choice::default()
                    };
                    let (start, end) = (part.start, part.end);
                    let what = format!("{with}, bytes {start}..{end} of {len} of {logged}");
                    choices.push((what, choice));
                }
            }
        }
        choices
    }
}

fn keep(what: String, kept: Positions) -> (String, Choice) {
    let choice = Choice {
        kept,
        ..Choice::default()
    };
    (what, choice)
}

/// The parts of a write of `len` bytes that may arrive: the byte that starts it, a sector, a block,
/// half, all but a sector, all but a byte; and all but the first sector or block.
fn parts(len: usize) -> Vec<Range<usize>> {
    let ends = BTreeSet::from([
        1,
        SECTOR_BYTES,
        BLOCK_BYTES,
        len / 2,
        len.saturating_sub(SECTOR_BYTES),
        len.saturating_sub(1),
    ]);
    let heads = ends.into_iter().map(|end| 0..end);
    let tails = [SECTOR_BYTES, BLOCK_BYTES].map(|start| start..len);
    let parts = heads.chain(tails);
    parts
        .filter(|part| part.start < part.end && part.end <= len && part.len() < len)
        .collect()
}

fn replay(start: &Disk, log: &[Logged], choice: &Choice, live: &Disk) -> MemBackend {
    let mut disk = start.image();
    for logged in log {
        if let Some(Op::Link { inode, .. }) = logged.change() {
            disk.adopt(*inode, live);
        }
    }
    for at in &choice.kept {
        let Some(op) = log.get(*at).and_then(Logged::change) else {
            continue;
        };
        match choice.torn {
            Some((torn, (from, to))) if torn == *at => disk.apply(&op.part(from..to)),
            _ if choice.zeroed.contains(at) => disk.apply(&op.zeroed()),
            _ => disk.apply(op),
        }
    }
    MemBackend::of(disk, None)
}
