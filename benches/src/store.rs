//! Suite `store`: the cold tier against programs that keep files, on memory as a guest's is.

use std::collections::BTreeMap;
use std::fs;
use std::hint::black_box;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

use snapshot_format::Digest;

use crate::error::BenchError;
use crate::ledger::Ledger;
use crate::limit::HugeBuffer;
use crate::options::Options;
use crate::peer::Sync;
use crate::place::Place;
use crate::row::{Case, Rival, Row};
use crate::sample::Samples;
use corpus::Corpus;
use ours::{OurRepository, Source};
use peer::{Inputs, PeerRepository, Tool};
use plan::Phase;
use repository::Repository;

mod corpus;
mod ours;
mod peer;
pub(crate) mod plan;
mod repository;

const SUITE: &str = "store";

/// Who takes part, with the program if it is one.
const CONTESTANTS: [(&str, Option<Tool>); 3] = [
    ("ours", None),
    (Tool::Restic.name(), Some(Tool::Restic)),
    (Tool::Borg.name(), Some(Tool::Borg)),
];

/// Runs the suite as the options say, in `place`.
pub(crate) fn run(options: &Options, place: &Place, ledger: &mut Ledger) -> Result<(), BenchError> {
    if !plan::names().any(|name| options.wants(name, true)) {
        return Ok(());
    }
    for tool in Tool::ALL {
        match tool.version() {
            Some(version) => eprintln!("{version}"),
            None => eprintln!("SKIP {}: it cannot be run", tool.name()),
        }
    }
    let scratch = place.scratch();
    let input = scratch.path().join("store-input");
    fs::create_dir(&input).map_err(BenchError::at("create", &input))?;
    let corpus = Corpus::new(options.mem_bytes())?;
    let lab = Lab {
        source: Source::new(&corpus, &input.join("store"))?,
        inputs: Inputs::write(&input, [&corpus.first, &corpus.second])?,
        place,
        expected: Digest::of(&corpus.second),
        noise: HugeBuffer::noise(64 << 20, 0x57)?,
    };
    scratch.settle()?;
    let measured = lab.measure(options.rounds().get(), &corpus)?;
    for phase in Phase::ALL {
        if options.wants(phase.case(), true) {
            ledger.add(measured.rows(phase, place, &corpus))?;
        }
    }
    scratch.discard(&input)
}

/// What every cycle starts from.
struct Lab<'a> {
    source: Source,
    inputs: Inputs,
    place: &'a Place,
    /// Of the second image.
    expected: Digest,
    noise: HugeBuffer,
}

/// One cycle of a contestant.
struct Cycle {
    times: [Duration; 4],
    /// Bytes of the repository's files after the first snapshot, and added by the second.
    stored_bytes: u64,
    added_bytes: u64,
}

/// All cycles.
#[derive(Default)]
struct Measured {
    cycles: BTreeMap<&'static str, Vec<Cycle>>,
    /// As many bytes as ours stored, written straight to the disk.
    writes: Vec<Duration>,
    /// The bytes of the first image that are not zero, digested on one core.
    digests: Vec<Duration>,
}

impl Lab<'_> {
    /// Lets everybody go through a cycle in each round, in an order that is drawn anew, after one
    /// round that does not count.
    fn measure(&self, rounds: usize, corpus: &Corpus) -> Result<Measured, BenchError> {
        let mut measured = Measured::default();
        let mut rng = fastrand::Rng::with_seed(0x0de7);
        let mut order = CONTESTANTS.to_vec();
        order.retain(|(_, tool)| tool.is_none_or(|tool| tool.version().is_some()));
        for round in 0..=rounds {
            rng.shuffle(&mut order);
            for (name, tool) in order.clone() {
                eprintln!("measuring {SUITE}, round {round}: {name}");
                let cycle = self.cycle(tool)?;
                if round == 0 {
                    continue;
                }
                if tool.is_none() {
                    measured.writes.push(self.write(cycle.stored_bytes)?);
                    measured.digests.push(digest(&corpus.first));
                }
                measured.cycles.entry(name).or_default().push(cycle);
            }
        }
        Ok(measured)
    }

    /// One cycle from an empty repository.
    fn cycle(&self, tool: Option<Tool>) -> Result<Cycle, BenchError> {
        let scratch = self.place.scratch();
        let parent = scratch.path().join("store-cycle");
        fs::create_dir(&parent).map_err(BenchError::at("create", &parent))?;
        let mut repository: Box<dyn Repository> = match tool {
            None => Box::new(OurRepository::new(&self.source, &parent)?),
            Some(tool) => Box::new(PeerRepository::new(tool, &self.inputs, &parent)?),
        };
        let mut times = [Duration::ZERO; 4];
        let mut bytes = [0; 4];
        let empty = files_bytes(repository.directory())?;
        for ((phase, time), bytes) in Phase::ALL.into_iter().zip(&mut times).zip(&mut bytes) {
            scratch.settle()?;
            *time = repository.run(phase)?;
            *bytes = files_bytes(repository.directory())?;
        }
        let restored = repository.restored();
        let found = fs::read(restored).map_err(BenchError::at("read", restored))?;
        if Digest::of(&found) != self.expected {
            return Err(BenchError::RestoredDiffers {
                program: tool.map_or("ours", Tool::name),
            });
        }
        drop(repository);
        scratch.discard(&parent)?;
        Ok(Cycle {
            times,
            stored_bytes: bytes[0] - empty,
            added_bytes: bytes[1] - bytes[0],
        })
    }

    /// So many bytes straight to the disk.
    fn write(&self, bytes: u64) -> Result<Duration, BenchError> {
        let bytes = bytes.next_multiple_of(4096);
        let write = |path: &Path| self.noise.write_direct(path, bytes, Sync::All);
        self.place.scratch().fresh(write)
    }
}

/// Digests what is not zero in 64 KiB runs, as the chunks of the cold tier are.
fn digest(image: &[u8]) -> Duration {
    let start = Instant::now();
    for run in image.chunks(64 << 10) {
        if run.iter().any(|&byte| byte != 0) {
            black_box(Digest::of(run));
        }
    }
    start.elapsed()
}

/// Bytes of the files below a directory, as they are long.
fn files_bytes(directory: &Path) -> Result<u64, BenchError> {
    let at = || BenchError::at("look at", directory);
    let mut sum = 0;
    for entry in fs::read_dir(directory).map_err(at())? {
        let entry = entry.map_err(at())?;
        let metadata = entry.metadata().map_err(at())?;
        sum += if metadata.is_dir() {
            files_bytes(&entry.path())?
        } else {
            metadata.size()
        };
    }
    Ok(sum)
}

impl Measured {
    /// The rows of a case.
    fn rows(&self, phase: Phase, place: &Place, corpus: &Corpus) -> Vec<Row> {
        let Some(ours) = self.samples(phase, CONTESTANTS[0].0) else {
            return Vec::new();
        };
        let peers = Tool::ALL
            .iter()
            .filter_map(|tool| self.samples(phase, tool.name()));
        let mut rivals: Vec<Rival> = peers.map(Rival::Peer).collect();
        match phase {
            Phase::Ingest => rivals.push(Rival::Limit(samples("odirect", &self.writes))),
            Phase::Verify => rivals.push(Rival::Limit(samples("blake3-one-core", &self.digests))),
            Phase::Diff | Phase::Restore => {}
        }
        let mut counts = BTreeMap::from([
            ("mem_bytes".to_owned(), corpus.first.len() as u64),
            ("program_bytes".to_owned(), corpus.program_bytes),
        ]);
        for (name, cycles) in &self.cycles {
            let Some(last) = cycles.last() else { continue };
            let prefix = if *name == CONTESTANTS[0].0 {
                String::new()
            } else {
                format!("{name}_")
            };
            match phase {
                Phase::Ingest => counts.insert(format!("{prefix}bytes_stored"), last.stored_bytes),
                Phase::Diff => counts.insert(format!("{prefix}bytes_added"), last.added_bytes),
                Phase::Verify | Phase::Restore => None,
            };
        }
        let case = Case {
            suite: SUITE,
            name: phase.case().to_owned(),
            policy: phase.policy().to_owned(),
            file_system: Some(place.file_system().name.clone()),
            counts,
            figures: BTreeMap::new(),
        };
        case.compare(&ours, &rivals)
    }

    fn samples(&self, phase: Phase, name: &'static str) -> Option<Samples> {
        let at = Phase::ALL.iter().position(|other| *other == phase)?;
        let cycles = self.cycles.get(name)?.iter();
        let times: Vec<Duration> = cycles
            .filter_map(|cycle| cycle.times.get(at).copied())
            .collect();
        Some(samples(name, &times))
    }
}

fn samples(name: &'static str, times: &[Duration]) -> Samples {
    let ms = times.iter().map(|time| time.as_secs_f64() * 1e3).collect();
    Samples { name, ms }
}
