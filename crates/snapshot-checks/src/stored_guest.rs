//! Guests in and out of a store, in every way that there is.

use std::error::Error;
use std::fmt;
use std::num::NonZeroUsize;

use hypervisor_bridge::{Cancel, Overrides};
use snapshot_format::{PageRange, SnapshotId, VmName};
use snapshot_store::{NewSnapshot, Store};
use tinyvm::{
    Backend, Guest, GuestConfig, GuestSnapshot, Image, Position, Program, Purpose, Replay,
    SnapshotPages, saved_registers,
};

use crate::compare::compare;
use crate::random::Random;
use crate::way::Way;

/// Whatever went wrong.
pub(crate) type Failure = Box<dyn Error + Send + Sync>;

/// How a guest gets its memory.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Bring {
    /// All of it is read before it runs.
    Copied,
}

impl Bring {
    pub(crate) const ALL: [Self; 1] = [Self::Copied];
}

impl fmt::Display for Bring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Copied => "copied",
        })
    }
}

/// How a snapshot is taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Take {
    /// Which pages.
    pub(crate) pages: SnapshotPages,
    /// How they get to the disk.
    pub(crate) way: Way,
}

impl Take {
    /// One of all ways; the first snapshot of a machine is of all pages.
    pub(crate) fn choose(random: &mut Random, is_first: bool) -> Self {
        let pages = if is_first || random.is_one_in(6) {
            SnapshotPages::Full
        } else {
            SnapshotPages::Diff
        };
        let way = random.pick(&Way::ALL).copied().unwrap_or_default();
        Self { pages, way }
    }
}

impl fmt::Display for Take {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.pages {
            SnapshotPages::Full => "full",
            _ => "diff",
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

/// A guest as the snapshot `id` left it.
pub(crate) fn restore(
    store: &Store,
    backend: Backend,
    id: SnapshotId,
    bring: Bring,
    purpose: Purpose,
) -> Result<Box<dyn Guest>, Failure> {
    let record = store.snapshot(id)?;
    let config = GuestConfig::from_bytes(&store.manifest(id)?.vm_config)?;
    let sections = store.state(id)?;
    let stored = store.image(id)?;
    let Bring::Copied = bring;
    let restored = tinyvm::restore(
        backend,
        Image {
            config,
            pages: &mut |pages: PageRange, out: &mut [u8]| {
                stored.image().read_pages(pages, out).map_err(Into::into)
            },
            sections,
            snapshot: record.reference(),
            purpose,
            overrides: Overrides::default(),
        },
    )?;
    Ok(restored.guest)
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
    Ok(guest.snapshot(take.pages, &mut sink, &Cancel::default())?)
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
    guest.look(&mut |memory, registers| {
        found = replay
            .advance(Position::of(registers))
            .map_err(|error| error.to_string())
            .and_then(|()| {
                compare("the guest", replay, |pages, out| {
                    memory.read_pages(pages, out)
                })
            });
    })?;
    Ok(found?)
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
