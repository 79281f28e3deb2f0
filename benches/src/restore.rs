//! Suite `restore`: how long until a guest reads its first byte, until it is warm, and what a clone
//! costs.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::time::Duration;

use crate::child::{self, Job};
use crate::error::BenchError;
use crate::ledger::Ledger;
use crate::options::Options;
use crate::place::Place;
use crate::row::{Case, Rival, Row};
use crate::sample::{Contestant, Samples, alternate};
use crate::statistics::quantile;
use lab::Lab;
use plan::{Against, Cache, End, PLANS, Plan, Touching};
use touch::{Reading, TouchJob, Touched};

pub(crate) mod direct;
mod fleet;
mod lab;
pub(crate) mod one_page;
pub(crate) mod ours;
pub(crate) mod plain;
pub(crate) mod plan;
mod qemu;
pub(crate) mod subject;
mod synthetic;
pub(crate) mod touch;
mod working_set;

pub(crate) use synthetic::layout;

const SUITE: &str = "restore";

/// Runs the suite as the options say, in `place`.
pub(crate) fn run(options: &Options, place: &Place, ledger: &mut Ledger) -> Result<(), BenchError> {
    let lab = Lab::new(options, place);
    for plan in PLANS {
        if options.wants(plan.name, plan.is_default || options.all) {
            ledger.add(measure(&lab, plan)?)?;
        }
    }
    ledger.add(working_set::run(&lab)?)?;
    fleet::run(&lab, ledger)?;
    qemu::run(&lab, ledger)
}

/// What a contestant said in its rounds, beside the time that counts.
#[derive(Default)]
struct Said {
    sums: BTreeMap<u64, (String, u64)>,
    ours: Vec<Touched>,
}

/// All contestants of a case.
fn measure(lab: &Lab<'_>, plan: &Plan) -> Result<Vec<Row>, BenchError> {
    eprintln!("measuring {SUITE}/{}", plan.name);
    let said = RefCell::<Said>::default();
    let mut contestants = vec![contestant(lab, plan, "ours", plan.touching, &said)?];
    for against in plan.against {
        contestants.push(contestant(
            lab,
            plan,
            against.name,
            against.touching,
            &said,
        )?);
    }
    let rounds = plan.rounds(lab.options().rounds());
    let samples = alternate(contestants, rounds, || Ok(()))?;
    let case = case(lab, plan, &said.into_inner());
    Ok(rows(&case, samples, plan.against))
}

/// Somebody who brings memory back, in a fresh process for each sample.
fn contestant<'a>(
    lab: &'a Lab<'_>,
    plan: &'a Plan,
    name: &'static str,
    touching: Touching,
    said: &'a RefCell<Said>,
) -> Result<Contestant<'a>, BenchError> {
    let subject = lab.subject(touching.mem_bytes, touching.depth)?;
    if plan.cache == Cache::Warm {
        lab.warm(&subject)?;
    }
    let pages = lab.options().scaled_pages(plan.pages);
    let is_alike =
        touching.mem_bytes == plan.touching.mem_bytes && touching.depth == plan.touching.depth;
    let round = Cell::new(0);
    let run = move || {
        let number = round.replace(round.get() + 1);
        let reading = Reading {
            pages,
            choice: plan.choice(number),
            order: number,
        };
        if plan.cache == Cache::Cold {
            lab.chill(&subject)?;
        }
        let job = Job::Touch(TouchJob::new(&subject, touching.way, reading));
        let touched: Touched = child::ask(&job)?;
        let mut said = said.borrow_mut();
        if is_alike {
            said.compare(plan.name, name, number, touched.sum)?;
        }
        let took = match plan.end {
            End::First => touched.first_ms,
            End::All => touched.all_ms,
        };
        if name == "ours" && number > 0 {
            said.ours.push(touched);
        }
        Ok(Duration::from_secs_f64(took / 1e3))
    };
    Ok(Contestant::new(name, run))
}

impl Said {
    /// Everybody who reads the same pages of the same memory must find the same bytes.
    fn compare(&mut self, case: &str, who: &str, round: u64, sum: u64) -> Result<(), BenchError> {
        let first = self
            .sums
            .entry(round)
            .or_insert_with(|| (who.to_owned(), sum));
        if first.1 == sum {
            return Ok(());
        }
        Err(BenchError::Differs {
            who: who.to_owned(),
            other: first.0.clone(),
            case: case.to_owned(),
        })
    }
}

/// The case, with what ours said beside its time.
fn case(lab: &Lab<'_>, plan: &Plan, said: &Said) -> Case {
    let median = |of: &dyn Fn(&Touched) -> f64| {
        let values: Vec<f64> = said.ours.iter().map(of).collect();
        quantile(&values, 0.5)
    };
    let mut counts = BTreeMap::from([
        (
            "mem_bytes".to_owned(),
            lab.options().scaled(plan.touching.mem_bytes),
        ),
        ("depth".to_owned(), plan.touching.depth as u64),
        ("pages".to_owned(), lab.options().scaled_pages(plan.pages)),
    ]);
    if let Some(last) = said.ours.last() {
        counts.extend(last.counts.clone());
    }
    let mut figures =
        BTreeMap::from([("ready_ms".to_owned(), median(&|touched| touched.ready_ms))]);
    if plan.end == End::All {
        figures.insert("first_ms".to_owned(), median(&|touched| touched.first_ms));
    }
    Case {
        suite: SUITE,
        name: plan.name.to_owned(),
        policy: plan.policy(),
        file_system: Some(lab.file_system()),
        counts,
        figures,
    }
}

/// The rows of a contest: ourselves first, then the rivals as they are listed.
fn rows(case: &Case, samples: Vec<Samples>, against: &[Against]) -> Vec<Row> {
    let mut samples = samples.into_iter();
    let Some(ours) = samples.next() else {
        return Vec::new();
    };
    let rivals: Vec<Rival> = samples
        .zip(against)
        .map(|(samples, against)| {
            if against.is_limit {
                Rival::Limit(samples)
            } else {
                Rival::Peer(samples)
            }
        })
        .collect();
    case.compare(&ours, &rivals)
}

#[cfg(test)]
mod tests;
