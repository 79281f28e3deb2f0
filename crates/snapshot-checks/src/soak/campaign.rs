//! Which lineages there are, and the verdict.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use snapshot_format::VmName;
use snapshot_memory::backend::FsBackend;
use snapshot_memory::skip::skip;
use snapshot_store::{OpenOptions, Selection, Store};
use tinyvm::Backend;

use super::lineage::Lineage;
use super::options::Options;
use crate::campaign::Tally;
use crate::random::Random;
use crate::stored_guest::{Failure, tell};

/// Every so many generations all snapshots are verified.
const VERIFY: u64 = 50;

/// Lets guests live, one generation after the other.
pub(super) fn run(options: &Options) -> Result<Tally, Failure> {
    let random = options.common.random();
    let place = options.common.place()?;
    let files = FsBackend::create(&place.path().join("store"))?;
    let store = Store::create(Arc::new(files), &OpenOptions::default())?;
    let mut campaign = Campaign {
        store,
        random,
        tally: Tally::new("generations", "differences"),
        ways: BTreeMap::new(),
        lineages: Vec::new(),
        begun: 0,
    };
    for backend in backends() {
        let lineage = campaign.begin(backend)?;
        campaign.lineages.push(lineage);
    }
    let watchdog = campaign.tally.watch(options.common.timeout())?;
    for generation in 1..=options.generations {
        watchdog.begins(format!("generation {generation}"));
        campaign.generation(generation)?;
        if options.common.is_enough(&campaign.tally) {
            break;
        }
    }
    campaign.verify();
    let ways = campaign.ways.iter();
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
    /// How often each thing was done, by its kind.
    ways: BTreeMap<String, u64>,
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
        self.tally.tries();
        match lineage.live(&self.store, &mut self.random) {
            Ok(lived) => {
                for way in lived.0 {
                    *self.ways.entry(way).or_default() += 1;
                }
            }
            Err(error) => {
                self.tally.differs(&format!(
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
                self.tally.differs(&problems.collect::<Vec<_>>().join("; "));
            }
            Err(error) => self.tally.differs(&tell(&error)),
        }
    }
}
