//! Many clones of one snapshot, each with a KVM machine.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::SUITE;
use super::lab::Lab;
use super::ours::Recipe;
use super::subject::Subject;
use super::touch::Way;
use crate::child::{Job, Running};
use crate::clones::{CloneJob, Cloned};
use crate::error::BenchError;
use crate::kvm;
use crate::ledger::Ledger;
use crate::machine_code::WRITTEN_BYTES;
use crate::row::{Case, Rival, Row};
use crate::sample::{Contestant, Samples, alternate};
use crate::statistics::quantile;

/// Bytes of the guest that is cloned.
const MEM_BYTES: u64 = 1 << 30;

/// Clones of a round.
const CLONES: usize = 100;

/// What is subtracted: as many processes, or as many machines in one process, without a guest.
const ALONE: &str = "process-and-vm-alone";

/// One case.
#[derive(Clone, Copy, Debug)]
struct Fleet {
    name: &'static str,
    is_default: bool,
    way: Way,
    /// Clones of one process.
    per_process: usize,
    peers: &'static [(&'static str, Way)],
}

const PEERS: &[(&str, Way)] = &[
    ("map-private", Way::MapPrivate),
    ("uffd-one-page", Way::OnePage),
];

const FLEETS: [Fleet; 5] = [
    Fleet {
        name: "clone-100",
        is_default: true,
        way: Way::Ours(Recipe::Mapped),
        per_process: 1,
        peers: PEERS,
    },
    Fleet {
        name: "clone-100-on-fault",
        is_default: true,
        way: Way::Ours(Recipe::Served),
        per_process: 1,
        peers: &[],
    },
    Fleet {
        name: "clone-100-in-process",
        is_default: true,
        way: Way::Ours(Recipe::Mapped),
        per_process: CLONES,
        peers: &[],
    },
    Fleet {
        name: "clone-100-in-process-on-fault",
        is_default: true,
        way: Way::Ours(Recipe::Served),
        per_process: CLONES,
        peers: &[],
    },
    Fleet {
        name: "clone-100-background",
        is_default: false,
        way: Way::Ours(Recipe::Background),
        per_process: 1,
        peers: &[],
    },
];

/// The cases of this module.
pub(crate) const NAMES: &[&str] = &[
    FLEETS[0].name,
    FLEETS[1].name,
    FLEETS[2].name,
    FLEETS[3].name,
    FLEETS[4].name,
    FIRST_INSTRUCTION_1G,
    FIRST_INSTRUCTION_8G,
];

const FIRST_INSTRUCTION_1G: &str = "first-instruction-1g";
const FIRST_INSTRUCTION_8G: &str = "first-instruction-8g";

/// What the processes of a round said.
type Said = RefCell<BTreeMap<&'static str, Vec<Vec<Cloned>>>>;

/// Runs all cases that are wanted.
pub(super) fn run(lab: &Lab<'_>, ledger: &mut Ledger) -> Result<(), BenchError> {
    let options = lab.options();
    let wanted = FLEETS
        .iter()
        .filter(|fleet| options.wants(fleet.name, fleet.is_default || options.all));
    let wanted: Vec<&Fleet> = wanted.collect();
    let sizes = [
        (FIRST_INSTRUCTION_1G, MEM_BYTES),
        (FIRST_INSTRUCTION_8G, 8 << 30),
    ];
    let first = sizes.iter().filter(|(name, _)| options.wants(name, true));
    let first: Vec<_> = first.collect();
    if wanted.is_empty() && first.is_empty() {
        return Ok(());
    }
    if let Err(reason) = kvm::available() {
        eprintln!("SKIP kvm: {reason}");
        return Ok(());
    }
    for (name, mem_bytes) in first {
        ledger.add(first_instruction(lab, name, *mem_bytes)?)?;
    }
    for fleet in wanted {
        ledger.add(measure(lab, fleet)?)?;
    }
    Ok(())
}

/// One clone in one process: its memory brought back and the first instruction done, without the
/// making of process and machine.
fn first_instruction(
    lab: &Lab<'_>,
    name: &'static str,
    mem_bytes: u64,
) -> Result<Vec<Row>, BenchError> {
    eprintln!("measuring {SUITE}/{name}");
    let subject = lab.subject(mem_bytes, 1)?;
    lab.warm(&subject)?;
    let said = Said::default();
    let recipe = Recipe::Served;
    let ways = [("ours", Way::Ours(recipe))];
    let contestants = ways.iter().chain(PEERS).map(|&(name, way)| {
        let (subject, said) = (&subject, &said);
        Contestant::new(name, move || {
            let (_, cloned) = round(subject, Some(way), 1, 1)?;
            let ms = cloned.iter().map(|one| one.restore_ms + one.first_ms).sum();
            said.borrow_mut().entry(name).or_default().push(cloned);
            Ok(Duration::from_secs_f64(f64::max(ms, 0.0) / 1e3))
        })
    });
    let samples = alternate(contestants.collect(), lab.options().rounds(), || Ok(()))?;
    let said = said.into_inner();
    let median = |of: fn(&Cloned) -> f64| {
        let rounds = said.get("ours").into_iter().flatten().skip(1).flatten();
        quantile(&rounds.map(of).collect::<Vec<_>>(), 0.5)
    };
    let case = Case {
        suite: SUITE,
        name: name.to_owned(),
        policy: format!(
            "{}: {}; warm cache; without making process and machine",
            recipe.verification(),
            recipe.method()
        ),
        file_system: Some(lab.file_system()),
        counts: BTreeMap::from([("mem_bytes".to_owned(), subject.mem_bytes)]),
        figures: BTreeMap::from([
            ("ready_ms".to_owned(), median(|one| one.restore_ms)),
            ("machine_ms".to_owned(), median(|one| one.machine_ms)),
        ]),
    };
    Ok(rows(&case, samples, &[]))
}

/// A hundred clones at once, and a hundred processes and machines without a guest.
fn measure(lab: &Lab<'_>, fleet: &Fleet) -> Result<Vec<Row>, BenchError> {
    eprintln!("measuring {SUITE}/{}", fleet.name);
    let subject = lab.subject(MEM_BYTES, 1)?;
    lab.warm(&subject)?;
    let said = Said::default();
    let ways = [("ours", Some(fleet.way)), (ALONE, None)];
    let peers = fleet.peers.iter().map(|&(name, way)| (name, Some(way)));
    let contestants = ways.into_iter().chain(peers).map(|(name, way)| {
        let (subject, said) = (&subject, &said);
        Contestant::new(name, move || {
            let processes = CLONES / fleet.per_process;
            let (took, cloned) = round(subject, way, processes, fleet.per_process)?;
            said.borrow_mut().entry(name).or_default().push(cloned);
            Ok(took / u32::try_from(CLONES).unwrap_or(u32::MAX))
        })
    });
    let samples = alternate(contestants.collect(), lab.options().rounds(), || Ok(()))?;
    let case = case(lab, fleet, &samples, &said.into_inner());
    Ok(rows(&case, samples, &[ALONE]))
}

/// Starts so many processes with so many clones each, and keeps all until the last has said that
/// it is there; how long that took.
fn round(
    subject: &Subject,
    way: Option<Way>,
    processes: usize,
    per_process: usize,
) -> Result<(Duration, Vec<Cloned>), BenchError> {
    let job = Job::Clone(CloneJob::new(subject, way, per_process));
    let mut running = Vec::with_capacity(processes);
    let mut cloned = Vec::with_capacity(processes);
    let start = Instant::now();
    for _ in 0..processes {
        let mut process = Running::start(&job)?;
        cloned.push(process.answer()?);
        running.push(process);
    }
    let took = start.elapsed();
    // All at once: each takes a while to give its machine back.
    running.iter_mut().for_each(Running::let_go);
    running.into_iter().try_for_each(Running::end)?;
    Ok((took, cloned))
}

fn case(
    lab: &Lab<'_>,
    fleet: &Fleet,
    samples: &[Samples],
    said: &BTreeMap<&'static str, Vec<Vec<Cloned>>>,
) -> Case {
    let ms = |who: &str| {
        let samples = samples.iter().find(|samples| samples.name == who);
        samples.map_or(&[][..], |samples| &samples.ms)
    };
    let beyond = |who: &str| {
        let pairs = ms(who).iter().zip(ms(ALONE));
        let beyond: Vec<f64> = pairs.map(|(with, without)| with - without).collect();
        quantile(&beyond, 0.5)
    };
    let median = |who: &str, of: &dyn Fn(&Cloned) -> f64| {
        let rounds = said.get(who).into_iter().flatten().skip(1).flatten();
        quantile(&rounds.map(of).collect::<Vec<_>>(), 0.5)
    };
    #[expect(clippy::cast_precision_loss, reason = "a number of clones")]
    let count = fleet.per_process as f64;
    let resident = |who| median(who, &|one| whole_to_float(one.anonymous_bytes)) / count;
    let rss = resident("ours") - resident(ALONE) - whole_to_float(WRITTEN_BYTES);
    let mut figures = BTreeMap::from([
        ("per_clone_ms".to_owned(), beyond("ours")),
        (
            "restore_ms".to_owned(),
            median("ours", &|one| one.restore_ms) / count,
        ),
        (
            "machine_ms".to_owned(),
            median("ours", &|one| one.machine_ms) / count,
        ),
        (
            "first_ms".to_owned(),
            median("ours", &|one| one.first_ms) / count,
        ),
        ("rss_beyond_written_bytes".to_owned(), rss.round()),
    ]);
    for (name, _) in fleet.peers {
        figures.insert(format!("{name}_per_clone_ms"), beyond(name));
    }
    let policy = match fleet.way {
        Way::Ours(recipe) => format!("{}: {}; warm cache", recipe.verification(), recipe.method()),
        _ => String::new(),
    };
    Case {
        suite: SUITE,
        name: fleet.name.to_owned(),
        policy,
        file_system: Some(lab.file_system()),
        counts: BTreeMap::from([
            ("mem_bytes".to_owned(), lab.options().scaled(MEM_BYTES)),
            ("clones".to_owned(), CLONES as u64),
            ("written_bytes".to_owned(), WRITTEN_BYTES),
        ]),
        figures,
    }
}

#[expect(clippy::cast_precision_loss, reason = "far below 2^53 bytes")]
fn whole_to_float(bytes: u64) -> f64 {
    bytes as f64
}

/// The rows of a contest; those in `limits` are no peers.
fn rows(case: &Case, samples: Vec<Samples>, limits: &[&str]) -> Vec<Row> {
    let mut samples = samples.into_iter();
    let Some(ours) = samples.next() else {
        return Vec::new();
    };
    let rivals: Vec<Rival> = samples
        .map(|samples| {
            if limits.contains(&samples.name) {
                Rival::Limit(samples)
            } else {
                Rival::Peer(samples)
            }
        })
        .collect();
    case.compare(&ours, &rivals)
}
