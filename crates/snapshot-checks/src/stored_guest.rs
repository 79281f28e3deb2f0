//! Guests that are snapshotted into a store in every way that there is, and compared.

use std::error::Error;
use std::fmt;
use std::num::NonZeroUsize;

use hypervisor_bridge::{Cancel, LiveOptions};
use snapshot_format::{PAGE_BYTES, PageRange, SnapshotId, VmName};
use snapshot_memory::LayoutChoice;
use snapshot_store::{NewSnapshot, Store};
use tinyvm::{
    Backend, Capture, Guest, GuestConfig, GuestSnapshot, Position, Program, Replay, SnapshotPages,
    saved_registers,
};

use crate::compare::compare;
use crate::random::Random;
use crate::way::Way;

/// Whatever went wrong.
pub(crate) type Failure = Box<dyn Error + Send + Sync>;

/// One in so many snapshots is of all pages, which lets the memory of its file be mapped.
const FULL: u64 = 3;

/// Runs of pages that are given back at a time, and how many pages they have at most.
const DISCARDS: u64 = 8;
const DISCARDED_PAGES: u64 = 24;

/// The first page of what the program writes by chance: below are its code and tables.
const HEAP_PAGE: u64 = (1 << 20) / PAGE_BYTES;

/// How a snapshot is taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Take {
    /// Which pages.
    pub(crate) pages: SnapshotPages,
    /// Whether they are written while the guest runs.
    pub(crate) is_live: bool,
    /// How they get to the disk.
    pub(crate) way: Way,
}

impl Take {
    /// One of all ways; the first snapshot of a machine is of all pages.
    pub(crate) fn choose(random: &mut Random, is_first: bool) -> Self {
        let pages = if is_first || random.is_one_in(FULL) {
            SnapshotPages::Full
        } else {
            SnapshotPages::Diff
        };
        let mut way = random.pick(&Way::ALL).copied().unwrap_or_default();
        let is_live = random.is_one_in(2);
        if is_live {
            // Packed data has no place for a page that changes.
            way.layout = LayoutChoice::Auto;
        }
        Self {
            pages,
            is_live,
            way,
        }
    }
}

impl fmt::Display for Take {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match (self.pages, self.is_live) {
            (SnapshotPages::Full, false) => "full",
            (SnapshotPages::Full, true) => "full live",
            (_, false) => "diff",
            (_, true) => "diff live",
        })
    }
}

/// A guest that does not end by itself, in so little memory that all of it is compared often.
pub(crate) fn config(seed: u64) -> GuestConfig {
    GuestConfig {
        memory_bytes: 4 << 20,
        steps: u64::from(u32::MAX),
        seed,
        program: Program::Pattern,
    }
}

/// Snapshots `guest`, which runs on, into the store.
pub(crate) fn snapshot(
    store: &Store,
    vm: &VmName,
    guest: &mut dyn Guest,
    config: &GuestConfig,
    take: Take,
) -> Result<GuestSnapshot, Failure> {
    let parent = match take.pages {
        SnapshotPages::Diff => guest.base(),
        _ => None,
    };
    let threads = NonZeroUsize::MIN;
    let new = NewSnapshot::of(vm.clone())
        .parent(parent)
        .config(config.to_bytes())
        .capture(take.way.options(threads));
    let mut sink = store.sink(new);
    let capture = if take.is_live {
        Capture::Live(LiveOptions::default())
    } else {
        Capture::Paused
    };
    Ok(guest.capture(capture, take.pages, &mut sink, &Cancel::default())?)
}

/// Where the guest of a snapshot stood, as its state says.
pub(crate) fn position(
    store: &Store,
    backend: Backend,
    id: SnapshotId,
) -> Result<Position, Failure> {
    let mut sections = store.state(id)?;
    Ok(Position::of(&saved_registers(backend, &mut sections)?))
}

/// Compares every byte of a snapshot.
pub(crate) fn compare_image(store: &Store, id: SnapshotId, replay: &Replay) -> Result<(), Failure> {
    let stored = store.image(id)?;
    let what = format!("snapshot {id}");
    Ok(compare(&what, replay, |pages, out| {
        stored.image().read_pages(pages, out)
    })?)
}

/// Compares every byte of a guest where it stands, and takes `replay` there.
pub(crate) fn compare_guest(guest: &mut dyn Guest, replay: &mut Replay) -> Result<(), Failure> {
    let mut found = Ok(());
    guest.look(&mut |standing| {
        let memory = standing.memory();
        found = replay
            .advance(Position::of(standing.registers()))
            .map_err(|error| error.to_string())
            .and_then(|()| {
                compare("the guest", replay, |pages, out| {
                    memory.read_pages(pages, out)
                })
            });
    })?;
    Ok(found?)
}

/// Gives pages of the heap back where the guest stands, takes `replay` there, and has zeros there,
/// too. Whoever brings the guest its memory may be about to bring just those.
pub(crate) fn discard(
    guest: &mut dyn Guest,
    replay: &mut Replay,
    random: &mut Random,
) -> Result<(), Failure> {
    let mut done = Ok(());
    guest.look(&mut |standing| {
        let position = Position::of(standing.registers());
        done = replay.advance(position).and_then(|()| {
            for _ in 0..DISCARDS {
                let page_count = standing.memory().layout().page_count();
                let count = 1 + random.below(DISCARDED_PAGES);
                let heap = page_count - HEAP_PAGE - count;
                let first = HEAP_PAGE + random.below(heap);
                standing.discard(PageRange::new(first, count))?;
                let zeros = vec![0; usize::try_from(count * PAGE_BYTES).unwrap_or(0)];
                replay.write(first * PAGE_BYTES, &zeros);
            }
            Ok(())
        });
    })?;
    Ok(done?)
}

/// An error with all that is below it.
pub(crate) fn tell(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}
