//! Cutting and failing every call of every scenario.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use snapshot_format::Digest;
use snapshot_memory::backend::{CrashState, Fault, FaultBackend, MemBackend};
use snapshot_store::{ErrorKind, Store};

use super::cold;
use super::judge::{fingerprint, judge};
use super::model::{Model, chain};
use super::report::Report;
use super::said::Saying;
use super::scenario::{self, Operation, Run, Scenario, opening};
use super::upkeep;

/// How much is enumerated.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Effort {
    /// Every call, and a second cut during every clean-up that no other scenario shows.
    Full,
    /// Every seventh call: a part of it for tests.
    Reduced,
}

/// Which calls fail, and how.
const FAULTS: [(&str, Fault); 2] = [
    ("no space", Fault::Error(io::ErrorKind::StorageFull)),
    ("i/o error", Fault::Errno(EIO)),
];

/// Linux's number of an I/O error.
const EIO: i32 = 5;

/// Bytes that may be written before the disk is full.
const BUDGETS: [u64; 6] = [0, 100, 4096, 20_000, 40_000, 60_000];

/// Enumerates the crash points of every scenario. `Err` is a fault of the check itself.
pub fn enumerate(effort: Effort) -> Result<Report, String> {
    let scenarios = scenario::all()?;
    let next = AtomicUsize::new(0);
    let work = || {
        let mut report = Report::default();
        while let Some(scenario) = scenarios.get(next.fetch_add(1, Ordering::Relaxed)) {
            let mut campaign = Campaign {
                scenario,
                report: &mut report,
                judged: BTreeMap::new(),
                counted: BTreeSet::new(),
            };
            campaign.run(effort)?;
        }
        Ok(report)
    };
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    let reports: Vec<Result<Report, String>> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        let ended = threads.into_iter().map(|thread| {
            let report = thread.join();
            report.unwrap_or_else(|_| Err("a worker panicked".to_owned()))
        });
        ended.collect()
    });
    let mut all = Report::default();
    for report in reports {
        all.add(report?);
    }
    all.add(cold::enumerate(effort)?);
    Ok(all)
}

/// The enumeration of one scenario.
struct Campaign<'a> {
    scenario: &'a Scenario,
    report: &'a mut Report,
    /// Trees that were judged, by what was allowed to be in them.
    judged: BTreeMap<(Digest, Allowed), Result<(), String>>,
    /// Crash points that were counted.
    counted: BTreeSet<(usize, &'static str, Digest)>,
}

/// Which set of snapshots a tree may hold.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Allowed {
    Before,
    After,
    Either,
}

impl Campaign<'_> {
    fn run(&mut self, effort: Effort) -> Result<(), String> {
        let whole = FaultBackend::new(&self.scenario.tree);
        whole.trace_call_sites();
        let run = self.start(&whole)?;
        run.result.map_err(|error| chain(&error))?;
        let calls = whole.calls();
        let sites = calls.iter().map(|call| (call.operation, call.site.clone()));
        self.report.sites.extend(sites);
        // What was reported as done survives whatever comes.
        self.crash(&whole, calls.len() + 1, "done", Allowed::After, effort)?;
        let step = if effort == Effort::Full { 1 } else { 7 };
        for number in (1..=calls.len()).step_by(step) {
            let backend = FaultBackend::new(&self.scenario.tree);
            backend.cut_at(number);
            drop(self.start(&backend)?);
            self.crash(&backend, number, "cut", Allowed::Either, effort)?;
            for (name, fault) in FAULTS {
                let backend = FaultBackend::new(&self.scenario.tree);
                backend.fail_at(number, fault);
                let run = self.start(&backend)?;
                self.fault(&backend, number, name, &run, effort)?;
            }
        }
        for (number, budget) in BUDGETS.into_iter().enumerate() {
            let backend = FaultBackend::new(&self.scenario.tree);
            backend.limit_bytes(budget);
            let run = self.start(&backend)?;
            let allowed = allowed(self.scenario.operation, &run);
            self.live(&backend, number, "disk full", allowed)?;
            self.crash(&backend, number, "disk full", allowed, effort)?;
        }
        Ok(())
    }

    fn start(&self, backend: &FaultBackend) -> Result<Run, String> {
        let Scenario {
            operation,
            before,
            options,
            ..
        } = self.scenario;
        scenario::run(*operation, Arc::new(backend.clone()), before, options)
    }

    /// Judges a run in which one call failed; then tries again in the same process.
    fn fault(
        &mut self,
        backend: &FaultBackend,
        number: usize,
        how: &'static str,
        run: &Run,
        effort: Effort,
    ) -> Result<(), String> {
        let allowed = allowed(self.scenario.operation, run);
        self.live(backend, number, how, allowed)?;
        self.crash(backend, number, how, allowed, effort)?;
        let Err(error) = &run.result else {
            return Ok(());
        };
        if error.kind() == ErrorKind::DurabilityUncertain {
            return Ok(());
        }
        if matches!(self.scenario.operation, Operation::Relayout(..)) {
            // Whatever the failed attempt left is in nobody's way.
            let again = self.start(backend)?.result;
            let result = again.map_err(|error| chain(&error));
            let place = format!("{} {number} {how}, again", self.scenario.name);
            self.report.point(&|| place.clone(), result);
            self.live(backend, number, "again", Allowed::After)?;
        }
        if let Some(attempt) = &run.attempt {
            // The bits of the failed attempt must have come back.
            attempt.run(77);
            let place = format!("{} {number} {how}, again", self.scenario.name);
            let retried = Store::open(Arc::new(backend.clone()), &opening())
                .and_then(|store| attempt.take(&store).map(|_| store));
            match retried {
                Err(error) => self.report.violation(format!("{place}: {}", chain(&error))),
                Ok(store) => {
                    let mut model = self.scenario.after.clone();
                    let added = self.scenario.after.snapshots.keys();
                    let before = &self.scenario.before.snapshots;
                    if let Some(name) = added.into_iter().find(|name| !before.contains_key(*name)) {
                        model.snapshots.insert(name.clone(), attempt.expected());
                    }
                    let result = model.compare(&store);
                    self.report.point(&|| place.clone(), result);
                }
            }
        }
        Ok(())
    }

    /// Judges the tree of a process that lives on.
    fn live(
        &mut self,
        backend: &FaultBackend,
        number: usize,
        how: &'static str,
        allowed: Allowed,
    ) -> Result<(), String> {
        self.state(&backend.live(), number, how, "alive", allowed)?;
        Ok(())
    }

    /// Judges every tree that may be found after losing power now, and a second loss of power
    /// while each is opened.
    fn crash(
        &mut self,
        backend: &FaultBackend,
        number: usize,
        how: &'static str,
        allowed: Allowed,
        effort: Effort,
    ) -> Result<(), String> {
        for CrashState { what, image } in backend.crash_states() {
            let is_new = self.state(&image, number, how, &what, allowed)?;
            if is_new && effort == Effort::Full && self.scenario.cut_twice {
                self.second_crash(&image, number, &what, allowed)?;
            }
        }
        Ok(())
    }

    fn second_crash(
        &mut self,
        image: &MemBackend,
        number: usize,
        what: &str,
        allowed: Allowed,
    ) -> Result<(), String> {
        let open = |backend: &FaultBackend| {
            drop(Store::open_or_create(Arc::new(backend.clone()), &opening()));
        };
        let whole = FaultBackend::new(image);
        open(&whole);
        for second in 1..=whole.call_count() {
            let backend = FaultBackend::new(image);
            backend.cut_at(second);
            open(&backend);
            for state in backend.crash_states() {
                let what = format!("{what}, then call {second} of opening: {}", state.what);
                self.state(&state.image, number, "second cut", &what, allowed)?;
            }
        }
        Ok(())
    }

    /// Judges one tree. Whether it had not been judged before for this scenario.
    fn state(
        &mut self,
        image: &MemBackend,
        number: usize,
        how: &'static str,
        what: &str,
        allowed: Allowed,
    ) -> Result<bool, String> {
        let digest = fingerprint(image)?;
        let key = (digest, allowed);
        let is_new = !self.judged.contains_key(&key);
        let Scenario { before, after, .. } = self.scenario;
        let models: &[&Model] = match allowed {
            Allowed::Before => &[before],
            Allowed::After => &[after],
            Allowed::Either => &[before, after],
        };
        let verdict = self.judged.entry(key);
        let verdict = verdict.or_insert_with(|| {
            let healed = upkeep::healed(self.scenario.operation, image, before)?;
            judge(&healed, models)
        });
        let verdict = verdict.clone();
        if self.counted.insert((number, how, digest)) {
            let name = &self.scenario.name;
            let place = || format!("{name}, call {number} ({how}): {what}");
            self.report.point(&place, verdict);
        }
        Ok(is_new)
    }
}

/// What the store may hold after a run of `operation` with a fault in it.
fn allowed(operation: Operation, run: &Run) -> Allowed {
    match &run.result {
        Ok(()) => Allowed::After,
        // Access is said first, and given to one file after the other; an entry whose sync failed may
        // be in the log.
        Err(_) if matches!(operation, Operation::Say(Saying::Access(_) | Saying::Entry)) => {
            Allowed::Either
        }
        Err(error) if error.kind() == ErrorKind::DurabilityUncertain => Allowed::Either,
        Err(_) => Allowed::Before,
    }
}
