//! Which lineages there are, and the verdict.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::ControlFlow;
use std::sync::Arc;

use snapshot_format::VmName;
use snapshot_memory::backend::FsBackend;
use snapshot_memory::skip::skip;
use snapshot_store::{OpenOptions, Selection, Store};
use tinyvm::Backend;

use super::lineage::{Lineage, Lived};
use super::options::Options;
use crate::random::Random;
use crate::stored_guest::{Failure, tell};
use crate::watchdog::Watchdog;

/// Every so many generations all snapshots are verified.
const VERIFY: u64 = 50;

/// What came of it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Tally {
    generations: u64,
    differences: u64,
    /// How often guests were brought back, and snapshots taken, in each way.
    ways: BTreeMap<String, u64>,
}

impl Tally {
    /// Whether every byte was right.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.differences == 0
    }

    fn count(&mut self, lived: &Lived) {
        let brought = lived
            .bring
            .map_or_else(|| "started".to_owned(), |bring| bring.to_string());
        for way in [brought, lived.take.to_string()] {
            *self.ways.entry(way).or_default() += 1;
        }
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (generations, differences) = (self.generations, self.differences);
        write!(f, "generations: {generations}, differences: {differences}")
    }
}

/// Lets guests live, one generation after the other; prints each difference.
///
/// The error is one of this process: nothing is known about the guests then.
pub fn run(options: &Options) -> Result<Tally, Failure> {
    let seed = options.seed();
    println!("seed: {seed}");
    let place = match &options.dir {
        Some(dir) => tempfile::tempdir_in(dir),
        None => tempfile::tempdir(),
    }?;
    let files = FsBackend::create(&place.path().join("store"))?;
    let store = Store::create(Arc::new(files), &OpenOptions::default())?;
    let mut campaign = Campaign {
        store,
        random: Random::new(seed),
        tally: Tally::default(),
        lineages: Vec::new(),
        begun: 0,
    };
    for backend in backends() {
        let lineage = campaign.begin(backend)?;
        campaign.lineages.push(lineage);
    }
    let watchdog = Watchdog::start(options.timeout(), |begun| {
        println!("{begun} stands still");
        println!("generations: 1, differences: 1");
    })?;
    for generation in 1..=options.generations {
        watchdog.begins(format!("generation {generation}"));
        campaign.generation(generation)?;
        if options.fail_fast && !campaign.tally.is_clean() {
            break;
        }
    }
    campaign.verify();
    let ways = campaign.tally.ways.iter();
    let ways: Vec<String> = ways.map(|(way, count)| format!("{way} {count}")).collect();
    println!("ways: {}", ways.join(", "));
    Ok(campaign.tally)
}

fn backends() -> Vec<Backend> {
    let mut all = vec![Backend::Process];
    match tinyvm::kvm_available() {
        Ok(()) => all.push(Backend::Kvm),
        Err(error) => skip("kvm", &error.to_string()),
    }
    all
}

struct Campaign {
    store: Store,
    random: Random,
    tally: Tally,
    lineages: Vec<Lineage>,
    /// Lineages that were begun: each has a name of its own.
    begun: u64,
}

impl Campaign {
    fn begin(&mut self, backend: Backend) -> Result<Lineage, Failure> {
        self.begun += 1;
        let vm = VmName::new(format!("soak-{}", self.begun))?;
        Lineage::new(backend, vm, &mut self.random)
    }

    /// One generation of the lineage whose turn it is. One that went wrong ends with it.
    fn generation(&mut self, number: u64) -> Result<(), Failure> {
        let count = self.lineages.len() as u64;
        let turn = usize::try_from(number % count)?;
        let Some(lineage) = self.lineages.get_mut(turn) else {
            return Ok(());
        };
        let backend = lineage.backend;
        self.tally.generations += 1;
        match lineage.live(&self.store, &mut self.random) {
            Ok(lived) => self.tally.count(&lived),
            Err(error) => {
                self.differs(&format!(
                    "generation {number}, {backend:?}: {}",
                    tell(&*error)
                ));
                let begun = self.begin(backend)?;
                if let Some(lineage) = self.lineages.get_mut(turn) {
                    *lineage = begun;
                }
            }
        }
        if number.is_multiple_of(VERIFY) {
            self.verify();
        }
        Ok(())
    }

    /// Checks every snapshot.
    fn verify(&mut self) {
        let mut go_on = |_| ControlFlow::Continue(());
        match self.store.verify(Selection::All, &mut go_on) {
            Ok(report) if report.ok => {}
            Ok(report) => {
                let problems = report.errors.into_iter().map(|problem| problem.message);
                self.differs(&problems.collect::<Vec<_>>().join("; "));
            }
            Err(error) => self.differs(&tell(&error)),
        }
    }

    fn differs(&mut self, problem: &str) {
        self.tally.differences += 1;
        println!("{problem}");
    }
}
