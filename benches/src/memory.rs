//! Suite `memory`: guest memory to disk, durable and published.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::engine::Engine;
use crate::error::BenchError;
use crate::guest::{Content, Guest, PageSet, touch_free_memory};
use crate::limit::HugeBuffer;
use crate::options::Options;
use crate::row::{Case, Rival, Row};
use crate::sample::{Contestant, Rounds, Samples, alternate};
use crate::scratch::Scratch;
use crate::squib::{SQUIB_4K, SQUIB_16K};

/// Part of the pages that a diff takes, in percent, and the name of the case.
const DIFFS: [(u64, &str); 3] = [(1, "diff-1pct"), (10, "diff-10pct"), (50, "diff-50pct")];

/// The names of all cases.
pub(crate) const CASES: [&str; 5] = [
    "full-random",
    "diff-1pct",
    "diff-10pct",
    "diff-50pct",
    "full-60pct-zero",
];

const SEED: u64 = 0x5eed_0001;

/// Runs the suite as the options say; `wanted` picks among [`CASES`].
pub(crate) fn run(
    options: &Options,
    scratch: &Scratch,
    wanted: impl Fn(&str) -> bool,
) -> Result<Vec<Row>, BenchError> {
    let mem_bytes = options.mem_bytes();
    let len = usize::try_from(mem_bytes).unwrap_or(usize::MAX);
    let suite = Suite {
        buffer: HugeBuffer::noise(len, SEED)?,
        rounds: options.rounds(),
        scratch,
    };
    let mut rows = Vec::new();
    let guest = Guest::new(mem_bytes, Content::Random, SEED)?;
    if wanted("full-random") {
        rows.extend(suite.full("full-random", &guest)?);
    }
    for (percent, name) in DIFFS.into_iter().filter(|(_, name)| wanted(name)) {
        let dirty = PageSet::random(mem_bytes, percent, SEED + percent);
        rows.extend(suite.diff(name, &guest, &dirty)?);
    }
    drop(guest);
    if wanted("full-60pct-zero") {
        let guest = Guest::new(mem_bytes, Content::ZeroPercent(60), SEED)?;
        rows.extend(suite.full("full-60pct-zero", &guest)?);
    }
    Ok(rows)
}

struct Suite<'a> {
    buffer: HugeBuffer,
    rounds: Rounds,
    scratch: &'a Scratch,
}

impl Suite<'_> {
    /// All of the guest's memory, against peers that write all of it and a limit that writes the
    /// pages that are not zero.
    fn full(&self, name: &'static str, guest: &Guest) -> Result<Vec<Row>, BenchError> {
        eprintln!("measuring memory/{name}");
        let bytes_nonzero = guest.nonzero_bytes();
        let engine = Engine::with_parent(self.scratch, None)?;
        let samples = alternate(
            vec![
                Contestant::new("ours", || engine.full(guest)),
                Contestant::new(SQUIB_4K.name, || {
                    self.scratch
                        .fresh("squib-4k", |path| SQUIB_4K.full(guest, path))
                }),
                Contestant::new(SQUIB_16K.name, || {
                    self.scratch
                        .fresh("squib-16k", |path| SQUIB_16K.full(guest, path))
                }),
                Contestant::new("odirect", || self.limit(bytes_nonzero)),
            ],
            self.rounds,
            || touch_free_memory(guest.len_bytes()),
        )?;
        let counts = BTreeMap::from([("bytes_nonzero", bytes_nonzero)]);
        Ok(rows(name, counts, &engine, samples))
    }

    /// The pages of `dirty`, against peers and a limit that write as many bytes.
    fn diff(
        &self,
        name: &'static str,
        guest: &Guest,
        dirty: &PageSet,
    ) -> Result<Vec<Row>, BenchError> {
        eprintln!("measuring memory/{name}");
        let engine = Engine::with_parent(self.scratch, Some(guest))?;
        let bits = dirty.bitmap(guest.len_bytes());
        let samples = alternate(
            vec![
                Contestant::new("ours", || engine.diff(guest, &bits)),
                Contestant::new(SQUIB_4K.name, || {
                    self.scratch
                        .fresh("squib-4k", |path| SQUIB_4K.diff(guest, dirty, path))
                }),
                Contestant::new(SQUIB_16K.name, || {
                    self.scratch
                        .fresh("squib-16k", |path| SQUIB_16K.diff(guest, dirty, path))
                }),
                Contestant::new("contiguous", || self.limit(dirty.len_bytes())),
            ],
            self.rounds,
            || touch_free_memory(guest.len_bytes()),
        )?;
        let counts = BTreeMap::from([("bytes_dirty", dirty.len_bytes())]);
        Ok(rows(name, counts, &engine, samples))
    }

    fn limit(&self, len_bytes: u64) -> Result<Duration, BenchError> {
        self.scratch
            .fresh("limit", |path| self.buffer.write_direct(path, len_bytes))
    }
}

/// The rows of a contest of ourselves, two peers and a limit, in this order.
fn rows(
    name: &'static str,
    mut counts: BTreeMap<&'static str, u64>,
    engine: &Engine<'_>,
    samples: Vec<Samples>,
) -> Vec<Row> {
    let stored = engine.stored();
    counts.insert("bytes_stored", stored.data_bytes);
    counts.insert("bytes_metadata", stored.metadata_bytes);
    let case = Case {
        suite: "memory",
        name,
        policy: "durable, digests, published",
        counts,
    };
    let mut samples = samples.into_iter();
    let Some(ours) = samples.next() else {
        return Vec::new();
    };
    let mut rivals: Vec<Rival> = samples.map(Rival::Peer).collect();
    if let Some(Rival::Peer(last)) = rivals.pop() {
        rivals.push(Rival::Limit(last));
    }
    case.compare(&ours, &rivals)
}

#[cfg(test)]
mod tests;
