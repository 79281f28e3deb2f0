//! What is found in the place of a working set, before it is opened and after.

use snapshot_memory::backend::{MemBackend, Planted};
use snapshot_store::ErrorKind;

use super::forgery::Forgery;
use super::rig::{Held, Rig, expect_told, open};
use crate::hostile::Tally;
use crate::hostile::cache::{Instead, put};
use crate::hostile::store::Fallible;

const PAGE: usize = 4096;

/// Puts everything in the place of every working set.
pub(super) fn run(rig: &Rig, tally: &mut Tally) -> Fallible<()> {
    for (number, held) in rig.changed().iter().enumerate() {
        let mut place = Place { rig, held, tally };
        place.others();
        place.swaps();
        place.forged()?;
        // The working sets are alike: of one, every byte.
        if number == 0 && rig.every == 1 {
            place.flips(1, 1);
        } else {
            place.flips(211, 16);
        }
        if number == 0 {
            place.lengths();
        }
    }
    Ok(())
}

struct Place<'p> {
    rig: &'p Rig,
    held: &'p Held,
    tally: &'p mut Tally,
}

/// How much is asked after a change.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Depth {
    /// Whether this snapshot comes back.
    Memory,
    /// What verifying tells, the other snapshots, and a new working set as well.
    All,
}

impl Place<'_> {
    /// Something that is no file.
    fn others(&mut self) {
        let others = [
            ("nothing", Instead::Nothing),
            ("a directory", Instead::Directory),
            ("a pipe", Instead::Other(Planted::Pipe)),
            ("a symbolic link", Instead::Other(Planted::SymbolicLink)),
        ];
        for (what, instead) in others {
            self.attempt(what, &instead, Depth::All);
        }
    }

    /// Every so many bytes before and behind the data, and in every so many pages of it each bit.
    fn flips(&mut self, bytes: usize, pages: usize) {
        let (start, end) = (self.held.data_start(), self.held.data_end());
        let frame = (0..start).chain(end..self.held.bytes.len());
        for at in frame.step_by(bytes) {
            let depth = if at % 37 == 0 {
                Depth::All
            } else {
                Depth::Memory
            };
            let what = format!("byte {at} flipped");
            self.attempt_bytes(&what, flipped(&self.held.bytes, at, 1 << (at % 8)), depth);
        }
        for (page, first) in (start..end).step_by(PAGE).enumerate().step_by(pages) {
            for bit in 0..8 {
                let at = first + (page * 8 + bit) * 53 % PAGE;
                let what = format!("bit {bit} of byte {at} flipped");
                let bytes = flipped(&self.held.bytes, at, 1 << bit);
                self.attempt_open(&what, &bytes);
                let depth = if page == bit {
                    Depth::All
                } else {
                    Depth::Memory
                };
                self.attempt_bytes(&what, bytes, depth);
            }
        }
    }

    /// Cut where its parts meet and beside that, and longer.
    fn lengths(&mut self) {
        for at in boundaries(self.held, self.rig.every) {
            for end in [at.saturating_sub(1), at, at + 1] {
                let Some(cut) = self.held.bytes.get(..end) else {
                    continue;
                };
                if end < self.held.bytes.len() {
                    let what = format!("cut at {end}");
                    self.attempt_bytes(&what, cut.to_vec(), Depth::Memory);
                    if end < self.held.data_end() {
                        self.attempt_open(&what, cut);
                    }
                }
            }
        }
        for more in [1, 7, 8, 72, 4095, 4096] {
            let mut longer = self.held.bytes.clone();
            longer.resize(longer.len() + more, 0);
            self.attempt_bytes(&format!("{more} bytes more"), longer, Depth::All);
        }
        let twice = self.held.bytes.repeat(2);
        self.attempt_bytes("twice", twice, Depth::All);
    }

    /// Files and data of other snapshots, and pages and units of its own in another order.
    fn swaps(&mut self) {
        let (start, end) = (self.held.data_start(), self.held.data_end());
        for other in &self.rig.held {
            if other.known.id == self.held.known.id {
                continue;
            }
            let id = other.known.id;
            let what = format!("that of snapshot {id}");
            self.attempt_bytes(&what, other.bytes.clone(), Depth::All);
            let mut bytes = self.held.bytes.clone();
            let theirs = other.bytes.get(start..end).unwrap_or_default();
            crate::seal::put(&mut bytes, start, theirs);
            let what = format!("the data of snapshot {id}");
            self.attempt_open(&what, &bytes);
            self.attempt_bytes(&what, bytes, Depth::All);
        }
        for len in [PAGE, 16 * PAGE, 256 * PAGE] {
            let mut bytes = self.held.bytes.clone();
            let data = bytes.get_mut(start..end).unwrap_or_default();
            if let Some((one, rest)) = data.split_at_mut_checked(len)
                && let Some(two) = rest.get_mut(..len)
            {
                one.swap_with_slice(two);
                let what = format!("two pieces of {len} bytes swapped");
                self.attempt_open(&what, &bytes);
                self.attempt_bytes(&what, bytes, Depth::All);
            }
        }
    }

    /// A file of the same length that is sound but for its pages: the placement names another.
    fn forged(&mut self) -> Fallible<()> {
        let mut forged = Forgery::of(self.held);
        forged.data.rotate_left(PAGE);
        let bytes = forged.digested().seal()?;
        self.attempt_bytes("other pages with their digests", bytes, Depth::All);
        Ok(())
    }

    fn attempt_bytes(&mut self, what: &str, bytes: Vec<u8>, depth: Depth) {
        self.attempt(what, &Instead::Bytes(bytes), depth);
    }

    /// Puts something in its place.
    fn attempt(&mut self, what: &str, instead: &Instead, depth: Depth) {
        let (rig, held) = (self.rig, self.held);
        let verdict = self.tally.count(held.path.as_str(), what, || {
            let tree = rig.tree.snapshot();
            put(&tree, &held.path, instead).map_err(|error| error.to_string())?;
            let is_file = matches!(instead, Instead::Bytes(_));
            judge(rig, held, &tree, is_file, depth)
        });
        if let Some(Err(why)) = verdict {
            let file = held.path.as_str();
            self.tally.accept_wrong(file, format_args!("{what}: {why}"));
        }
    }

    /// Gives the file other bytes, of which some are of the data, once it is open.
    fn attempt_open(&mut self, what: &str, bytes: &[u8]) {
        let (rig, held) = (self.rig, self.held);
        let what = format!("{what} when it is open");
        let verdict = self.tally.count(held.path.as_str(), &what, || {
            let tree = rig.tree.snapshot();
            let store = open(&tree).map_err(|error| error.to_string())?;
            let came = rig.bring(&store, held, &|| {
                Ok(tree.tamper(&held.path, |file| bytes.clone_into(file))?)
            });
            match (came.wrong, came.refused) {
                (Some(why), _) => Err(why),
                (None, Some(_)) if !came.accepted => Ok(()),
                _ => Err("is replayed".to_owned()),
            }
        });
        if let Some(Err(why)) = verdict {
            let file = held.path.as_str();
            self.tally.accept_wrong(file, format_args!("{what}: {why}"));
        }
    }
}

fn judge(
    rig: &Rig,
    held: &Held,
    tree: &MemBackend,
    is_file: bool,
    depth: Depth,
) -> Result<(), String> {
    let store = open(tree).map_err(|error| format!("the store does not open: {error}"))?;
    let came = rig.bring(&store, held, &|| Ok(()));
    match (came.wrong, came.refused) {
        (Some(why), _) => return Err(why),
        (None, Some(ErrorKind::Corrupt | ErrorKind::TooNew)) if !came.accepted => {}
        (None, Some(_)) if !came.accepted && !is_file => {}
        (None, refused) => return Err(format!("is no damage to a restore, but {refused:?}")),
    }
    if depth == Depth::Memory {
        return Ok(());
    }
    expect_told(&store, held)?;
    let mut others = rig.held.iter().filter(|one| one.known.id != held.known.id);
    others.try_for_each(|other| rig.expect_whole(&store, other))?;
    // It is made anew, whatever stands in its place.
    let published = store.publish_working_set(held.known.id, &held.bytes);
    published.map_err(|error| format!("cannot be made anew: {error}"))?;
    rig.expect_whole(&store, held)
}

fn flipped(bytes: &[u8], at: usize, mask: u8) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    if let Some(byte) = bytes.get_mut(at) {
        *byte ^= mask;
    }
    bytes
}

/// Where parts of the file meet: header, index, runs, digests, pages, table and its entries. Of
/// runs, digests and pages those of each `every`.
pub(super) fn boundaries(held: &Held, every: usize) -> Vec<usize> {
    let (start, end) = (held.data_start(), held.data_end());
    let digests = RUNS + held.index.runs.len() * 8;
    let mut places = vec![0, 64, 128];
    places.extend((RUNS..digests).step_by(8 * every));
    places.extend((digests..filled(held)).step_by(32 * every));
    places.push(filled(held));
    places.extend((start..end).step_by(PAGE * every));
    places.extend((end..=held.bytes.len()).step_by(72));
    places
}

/// Where the index ends but for zeros.
pub(super) fn filled(held: &Held) -> usize {
    RUNS + held.index.runs.len() * 8 + held.index.digests.len() * 32
}

/// Where the runs start.
const RUNS: usize = 128 + 64;
