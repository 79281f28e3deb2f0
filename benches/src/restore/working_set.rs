//! A cold start that knows its working set, against demand paging and one read of as many bytes.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use snapshot_format::PAGE_BYTES;
use snapshot_memory::{
    LazyMemory, LazyOptions, ServeOptions, TouchedPages, WorkingSetOptions, write_working_set,
};

use super::direct::{DirectJob, DirectRead};
use super::lab::Lab;
use super::ours::{self, Recipe};
use super::subject::Subject;
use super::touch::{Reading, TouchJob, Touched, Way};
use super::{SUITE, Said};
use crate::child::{self, Job};
use crate::error::BenchError;
use crate::limit::HugeBuffer;
use crate::peer::Sync;
use crate::row::{Case, Rival, Row};
use crate::sample::{Contestant, Samples, alternate};
use crate::scratch::forget_cached;
use crate::statistics::quantile;

const COLD: &str = "working-set-cold";

/// The cases of this module.
pub(crate) const NAMES: &[&str] = &[COLD];

const MEM_BYTES: u64 = 1 << 30;

/// Pages of the working set: 64 MiB.
const PAGES: u64 = (64 << 20) / PAGE_BYTES;

/// Where the choice of the pages begins.
const CHOICE: u64 = 0x3052;

/// The better of the two ways in which the kernel pages on demand.
const DEMAND: &str = "demand-paging";

const DEFAULT: &str = "map-private";
const RANDOM: &str = "map-private-random";
const ONE_PAGE: &str = "uffd-one-page";
const SERVED: &str = "served-without";
const LIMIT: &str = "odirect-read";

/// Runs the case if it is wanted.
pub(super) fn run(lab: &Lab<'_>) -> Result<Vec<Row>, BenchError> {
    if !lab.options().wants(COLD, true) {
        return Ok(Vec::new());
    }
    eprintln!("measuring {SUITE}/{COLD}");
    let subject = lab.subject(MEM_BYTES, 1)?;
    let pages = lab.options().scaled_pages(PAGES);
    record(&subject, pages)?;
    let contiguous = lab.place().scratch().path().join("contiguous");
    let len_bytes = pages * PAGE_BYTES;
    let noise = HugeBuffer::noise(usize::try_from(len_bytes).unwrap_or(usize::MAX), 5)?;
    noise.write_direct(&contiguous, len_bytes, Sync::All)?;
    drop(noise);
    let rounds = Rounds {
        lab,
        subject: &subject,
        pages,
        said: RefCell::default(),
    };
    let contestants = vec![
        rounds.contestant("ours", Way::Ours(Recipe::WorkingSet)),
        rounds.contestant(DEFAULT, Way::MapPrivate),
        rounds.contestant(RANDOM, Way::MapPrivateRandom),
        rounds.contestant(ONE_PAGE, Way::OnePage),
        rounds.contestant(SERVED, Way::Ours(Recipe::Served)),
        Contestant::new(LIMIT, || read(&contiguous, len_bytes)),
    ];
    let samples = alternate(contestants, lab.options().rounds(), || Ok(()))?;
    lab.place().scratch().keep(contiguous)?;
    let case = case(lab, len_bytes, &rounds.said.into_inner());
    Ok(rows(&case, samples))
}

/// Lets a first run say which pages it touches, and writes them beside the snapshot.
fn record(subject: &Subject, pages: u64) -> Result<(), BenchError> {
    let store = ours::open(&subject.store)?;
    let (image, _lease) = store.image(subject.id)?.into_parts();
    let image = Arc::new(image);
    // One page a fault: what was not asked for is not part of it.
    let serve = ServeOptions::new(1).window_bytes(PAGE_BYTES);
    let source = Arc::clone(&image);
    let memory = LazyMemory::restore(source, LazyOptions::new(serve))?;
    let mut word = [0; 8];
    let page_count = subject.mem_bytes / PAGE_BYTES;
    for page in reading(pages, 0).pages_of(page_count) {
        let offset = page * PAGE_BYTES;
        let read = memory.memory().read(offset, &mut word);
        read.map_err(|_| BenchError::Outside { offset })?;
    }
    let touched = TouchedPages::of_trace(page_count, &memory.server().trace());
    let mut stage = store.stage_working_set(subject.id)?;
    let reference = store.snapshot(subject.id)?.reference();
    let options = WorkingSetOptions::default();
    write_working_set(&*image, reference, &touched, &options, stage.file())?;
    stage.publish()?;
    Ok(())
}

fn reading(pages: u64, order: u64) -> Reading {
    Reading {
        pages,
        choice: CHOICE,
        order,
    }
}

/// What the contestants that bring memory back have in common.
struct Rounds<'a> {
    lab: &'a Lab<'a>,
    subject: &'a Subject,
    pages: u64,
    said: RefCell<Said>,
}

impl Rounds<'_> {
    fn contestant(&self, name: &'static str, way: Way) -> Contestant<'_> {
        let round = Cell::new(0);
        Contestant::new(name, move || {
            let number = round.replace(round.get() + 1);
            self.lab.chill(self.subject)?;
            let reading = reading(self.pages, number);
            let job = Job::Touch(TouchJob::new(self.subject, way, reading));
            let touched: Touched = child::ask(&job)?;
            let mut said = self.said.borrow_mut();
            said.compare(COLD, name, number, touched.sum)?;
            let took = Duration::from_secs_f64(touched.all_ms / 1e3);
            if name == "ours" && number > 0 {
                said.ours.push(touched);
            }
            Ok(took)
        })
    }
}

/// The limit: as many bytes in a row, by one direct read.
fn read(path: &Path, len_bytes: u64) -> Result<Duration, BenchError> {
    forget_cached(path).map_err(BenchError::at("forget", path))?;
    let read: DirectRead = child::ask(&Job::Direct(DirectJob::new(path, len_bytes)))?;
    Ok(Duration::from_secs_f64(read.ms / 1e3))
}

fn case(lab: &Lab<'_>, len_bytes: u64, said: &Said) -> Case {
    let median = |of: &dyn Fn(&Touched) -> f64| {
        let values: Vec<f64> = said.ours.iter().map(of).collect();
        quantile(&values, 0.5)
    };
    let recipe = Recipe::WorkingSet;
    let mut counts = BTreeMap::from([
        ("mem_bytes".to_owned(), lab.options().scaled(MEM_BYTES)),
        ("working_set_bytes".to_owned(), len_bytes),
    ]);
    if let Some(last) = said.ours.last() {
        counts.extend(last.counts.clone());
    }
    Case {
        suite: SUITE,
        name: COLD.to_owned(),
        policy: format!(
            "{}: {} from a recorded working set; cold cache",
            recipe.verification(),
            recipe.method()
        ),
        file_system: Some(lab.file_system()),
        counts,
        figures: BTreeMap::from([
            ("ready_ms".to_owned(), median(&|touched| touched.ready_ms)),
            ("first_ms".to_owned(), median(&|touched| touched.first_ms)),
        ]),
    }
}

/// The rows: the better of the two demand pagings first, under a name of its own.
fn rows(case: &Case, samples: Vec<Samples>) -> Vec<Row> {
    let mut samples = samples.into_iter();
    let Some(ours) = samples.next() else {
        return Vec::new();
    };
    let others: Vec<Samples> = samples.collect();
    let paging = others
        .iter()
        .filter(|samples| [DEFAULT, RANDOM].contains(&samples.name));
    let better = paging.min_by(|a, b| a.median_ms().total_cmp(&b.median_ms()));
    let better = better.map(|better| {
        Rival::Peer(Samples {
            name: DEMAND,
            ms: better.ms.clone(),
        })
    });
    let mut rivals: Vec<Rival> = better.into_iter().collect();
    rivals.extend(others.into_iter().map(|samples| {
        if samples.name == LIMIT {
            Rival::Limit(samples)
        } else {
            Rival::Peer(samples)
        }
    }));
    case.compare(&ours, &rivals)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_peer_is_the_better_of_two() {
        let samples = |name, ms| Samples {
            name,
            ms: vec![ms; 3],
        };
        let case = Case {
            suite: SUITE,
            name: COLD.to_owned(),
            policy: String::new(),
            file_system: None,
            counts: BTreeMap::new(),
            figures: BTreeMap::new(),
        };
        let all = vec![
            samples("ours", 10.0),
            samples(DEFAULT, 300.0),
            samples(RANDOM, 200.0),
            samples(LIMIT, 5.0),
        ];
        let rows = rows(&case, all);
        let against: Vec<_> = rows.iter().filter_map(Row::against).collect();
        let names: Vec<&str> = against.iter().map(|rival| rival.name).collect();
        assert_eq!(names, [DEMAND, DEFAULT, RANDOM, LIMIT]);
        assert!((against[0].pairs.median - 20.0).abs() < 1e-9);
        assert!(against[3].is_limit);
    }
}
