//! Suite `memory`: guest memory to disk, durable and published.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::time::Duration;

use snapshot_format::DataLayout;
use snapshot_memory::{Dedup, DirtyBitmap};

use crate::engine::{Engine, Until, Way};
use crate::error::BenchError;
use crate::guest::{Guest, touch_free_memory};
use crate::ledger::Ledger;
use crate::limit::HugeBuffer;
use crate::options::Options;
use crate::page_set::PageSet;
use crate::peer::{PLAIN_4M, Sync, write_plain};
use crate::place::Place;
use crate::plan::{Against, PLANS, Plan, RSS};
use crate::row::{Case, Rival, Row};
use crate::rss;
use crate::sample::{Contestant, Samples, alternate};
use crate::scratch::Scratch;
use crate::squib::{SQUIB_4K, SQUIB_16K, Squib};

const SEED: u64 = 0x5eed_0001;

/// Runs the suite as the options say, in `place`.
pub(crate) fn run(options: &Options, place: &Place, ledger: &mut Ledger) -> Result<(), BenchError> {
    let mem_bytes = options.mem_bytes();
    if place.is_host() && options.wants(RSS, true) {
        // First of all: what earlier cases gave back to the allocator would hide what is needed.
        eprintln!("measuring memory/{RSS}");
        ledger.add(rss::run(mem_bytes, place)?)?;
    }
    let wanted = |plan: &&Plan| {
        let by_default = plan.is_default || options.all && place.is_host();
        options.wants(plan.name, by_default)
    };
    let plans: Vec<&Plan> = PLANS.iter().filter(wanted).collect();
    if plans.is_empty() {
        return Ok(());
    }
    let suite = Suite {
        buffer: HugeBuffer::noise(usize::try_from(mem_bytes).unwrap_or(usize::MAX), SEED)?,
        rounds: options.rounds(),
        scratch: place.scratch(),
        place,
    };
    let mut last: Option<(&Plan, Guest)> = None;
    for plan in plans {
        let reused = last.take().filter(|(old, _)| {
            (old.content, old.host_pages, old.dedup) == (plan.content, plan.host_pages, Dedup::Off)
        });
        let mut guest = match reused {
            Some((_, guest)) => guest,
            None => Guest::new(mem_bytes, plan.content, plan.host_pages, SEED)?,
        };
        ledger.add(suite.measure(plan, &mut guest)?)?;
        last = Some((plan, guest));
    }
    Ok(())
}

struct Suite<'a> {
    buffer: HugeBuffer,
    rounds: NonZeroUsize,
    scratch: &'a Scratch,
    place: &'a Place,
}

/// The pages of a case.
struct Dirty {
    set: PageSet,
    bitmap: DirtyBitmap,
}

impl Suite<'_> {
    /// All contestants of a case. The guest is changed where pages are compared with the parent's.
    fn measure(&self, plan: &Plan, guest: &mut Guest) -> Result<Vec<Row>, BenchError> {
        let name = self.place.case(plan.name);
        eprintln!("measuring memory/{name}");
        let len_bytes = guest.len_bytes();
        let dirty = plan.dirty.map(|(percent, dirt)| {
            let set = PageSet::new(len_bytes, percent, dirt, SEED + percent);
            let bitmap = set.bitmap(len_bytes);
            Dirty { set, bitmap }
        });
        let engine = Engine::with_parent(self.scratch, dirty.is_some().then_some(&*guest))?;
        if let Some(dirty) = dirty.as_ref().filter(|_| plan.dedup != Dedup::Off) {
            guest.rewrite_half(&dirty.set, SEED);
        }
        let guest = &*guest;
        let (counted, bytes) = match &dirty {
            None => ("bytes_nonzero", guest.nonzero_bytes()),
            Some(dirty) => ("bytes_dirty", dirty.set.len_bytes()),
        };
        let way = plan.way();
        let bitmap = dirty.as_ref().map(|dirty| &dirty.bitmap);
        let mut stored = engine.stored();
        let ours = Contestant::new("ours", || {
            let took = engine.take(guest, bitmap, &way)?;
            stored = engine.stored();
            Ok(took)
        });
        let rivals = plan.against.iter();
        let rivals =
            rivals.map(|&rival| self.rival(rival, plan, &engine, guest, dirty.as_ref(), bytes));
        // A peer that widens dirty pages to 16 KiB writes up to four times as many bytes.
        let warm_bytes = len_bytes.min(bytes.saturating_mul(4));
        let contestants = std::iter::once(ours).chain(rivals).collect();
        let samples = alternate(contestants, self.rounds, || touch_free_memory(warm_bytes))?;
        self.scratch.remove_kept()?;
        let layout = match stored.layout {
            Some(DataLayout::Sparse) => "sparse",
            Some(DataLayout::Packed) => "packed",
            Some(DataLayout::Frames) => "frames",
            _ => "other data",
        };
        let case = Case {
            suite: "memory",
            name,
            policy: format!("{}; {layout} by {}", plan.policy(), stored.engine.name()),
            file_system: Some(self.place.file_system().name.clone()),
            counts: BTreeMap::from([
                ("mem_bytes".to_owned(), len_bytes),
                (counted.to_owned(), bytes),
                ("bytes_stored".to_owned(), stored.data_bytes),
                ("bytes_metadata".to_owned(), stored.metadata_bytes),
            ]),
            figures: BTreeMap::new(),
        };
        Ok(rows(&case, samples, plan))
    }

    fn rival<'a>(
        &'a self,
        rival: Against,
        plan: &Plan,
        engine: &'a Engine<'_>,
        guest: &'a Guest,
        dirty: Option<&'a Dirty>,
        limit_bytes: u64,
    ) -> Contestant<'a> {
        let until = plan.until();
        let sync = match until {
            Until::Published => Sync::All,
            Until::Sealed => Sync::Data,
            Until::Written => Sync::Nothing,
        };
        let set = dirty.map(|dirty| &dirty.set);
        let squib = |squib: Squib| {
            Contestant::new(squib.name, move || {
                self.scratch.fresh(|path| match (set, until) {
                    (Some(set), _) => squib.diff(guest, set, path),
                    (None, Until::Written) => squib.full_unsynced(guest, path),
                    (None, _) => squib.full(guest, path),
                })
            })
        };
        match rival {
            Against::Squib4k => squib(SQUIB_4K),
            Against::Squib16k => squib(SQUIB_16K),
            Against::Plain4m => Contestant::new(PLAIN_4M, move || {
                self.scratch
                    .fresh(|path| write_plain(guest, set, sync, path))
            }),
            Against::Auto => Contestant::new("auto", move || -> Result<Duration, BenchError> {
                engine.take(guest, dirty.map(|dirty| &dirty.bitmap), &Way::default())
            }),
            Against::Direct => Contestant::new(plan.limit_name(), move || {
                self.scratch
                    .fresh(|path| self.buffer.write_direct(path, limit_bytes, sync))
            }),
        }
    }
}

/// The rows of a contest: ourselves first, then the rivals as the plan lists them.
fn rows(case: &Case, samples: Vec<Samples>, plan: &Plan) -> Vec<Row> {
    let mut samples = samples.into_iter();
    let Some(ours) = samples.next() else {
        return Vec::new();
    };
    let rivals: Vec<Rival> = samples
        .zip(plan.against)
        .map(|(samples, against)| match against {
            Against::Direct => Rival::Limit(samples),
            _ => Rival::Peer(samples),
        })
        .collect();
    case.compare(&ours, &rivals)
}

#[cfg(test)]
mod tests;
