//! Guests brought back by restore plans, in every way that there is.

use std::fmt;
use std::sync::Arc;

use hypervisor_bridge::Overrides;
use snapshot_format::{PAGE_BYTES, SnapshotId};
use snapshot_memory::{
    Background, CaptureControl, KernelFacts, MappedFrom, MappingCount, MemoryFacts, MemoryImage,
    MethodKind, RawImage, RawImageFacts, RestoreCosts, RestoreFrom, RestoreMethod, RestorePlan,
    ServeOptions, TargetFacts, TargetKind, UffdContext, UffdOptions, Verification, Wanted,
    WorkingSet,
};
use snapshot_store::Store;
use tinyvm::{Backend, Guest, GuestConfig, Image, ImagePages, PlannedPages, Purpose};

use crate::random::Random;
use crate::stored_guest::Failure;

/// Threads of a restore that reads before its guest runs.
const THREADS: u32 = 2;

/// How a guest gets its memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Bring {
    /// The data files are mapped; where they cannot be, it is as [`Cached`](Self::Cached).
    Mapped(Verification),
    /// The raw image in the cache is mapped; it is built where there is none.
    Cached(Verification),
    /// A sealed memfd of checked pages is mapped.
    Sealed,
    /// Each page is read when it is touched, and no other.
    Touched,
    /// So are the pages around it, and all others beside the guest.
    Filled,
    /// As one of several clones: read once, mapped by each.
    Shared,
    /// All of it is read before it runs.
    Eager,
}

/// What mapped files may be checked by.
const POLICIES: [Verification; 3] = [
    Verification::Trusted,
    Verification::Background,
    Verification::Eager,
];

impl Bring {
    /// One of the ways that this host has.
    pub(crate) fn choose(random: &mut Random) -> Self {
        let policy = random.pick(&POLICIES).copied();
        let policy = policy.unwrap_or(Verification::Eager);
        let ways = [
            Self::Mapped(policy),
            Self::Cached(policy),
            Self::Sealed,
            Self::Eager,
            Self::Touched,
            Self::Filled,
            Self::Shared,
        ];
        let known = if has_userfaultfd() { &ways } else { &ways[..4] };
        random.pick(known).copied().unwrap_or(Self::Eager)
    }

    /// What is asked of the plan.
    fn wanted(self) -> Wanted {
        let wanted = Wanted::default();
        match self {
            Self::Mapped(policy) | Self::Cached(policy) => {
                wanted.method(MethodKind::Mapped).verification(policy)
            }
            Self::Sealed => wanted.method(MethodKind::Mapped),
            Self::Touched | Self::Filled | Self::Shared => wanted.method(MethodKind::Served),
            Self::Eager => wanted.method(MethodKind::Eager),
        }
    }

    /// Whether `method` is this way.
    fn is(self, method: RestoreMethod) -> bool {
        match method {
            RestoreMethod::Mapped { from, .. } => match from {
                MappedFrom::DataFiles => matches!(self, Self::Mapped(_)),
                MappedFrom::RawImage => matches!(self, Self::Cached(_)),
                MappedFrom::SealedMemfd => self == Self::Sealed,
            },
            RestoreMethod::Served { .. } => {
                matches!(self, Self::Touched | Self::Filled | Self::Shared)
            }
            RestoreMethod::Eager => self == Self::Eager,
        }
    }

    /// How pages are served, if they are.
    fn serve(self) -> ServeOptions {
        match self {
            Self::Touched => ServeOptions::new(1).window_bytes(PAGE_BYTES),
            Self::Filled => ServeOptions::new(2).background(Background::default()),
            _ => ServeOptions::new(1),
        }
    }
}

/// Whether pages can be served here.
pub(crate) fn has_userfaultfd() -> bool {
    UffdContext::new(UffdOptions::default()).is_ok()
}

impl fmt::Display for Bring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mapped(policy) => write!(f, "mapped {policy}"),
            Self::Cached(policy) => write!(f, "cached {policy}"),
            Self::Sealed => f.write_str("sealed"),
            Self::Touched => f.write_str("served touched"),
            Self::Filled => f.write_str("served filled"),
            Self::Shared => f.write_str("served shared"),
            Self::Eager => f.write_str("eager"),
        }
    }
}

/// A guest that was brought back.
pub(crate) struct Brought {
    pub(crate) guest: Box<dyn Guest>,
    /// How.
    pub(crate) bring: Bring,
    /// The pages that its plan brings in before and beside it.
    pub(crate) working_set: Option<WorkingSet>,
}

/// A guest as the snapshot `id` left it.
pub(crate) fn restore(
    store: &Store,
    backend: Backend,
    id: SnapshotId,
    bring: Bring,
    purpose: Purpose,
) -> Result<Brought, Failure> {
    let snapshot = store.snapshot(id)?.reference();
    let config = GuestConfig::from_bytes(&store.manifest(id)?.vm_config)?;
    let (image, lease) = store.image(id)?.into_parts();
    let (bring, plan, raw) = plan(store, id, &image, bring)?;
    let mut working_set = None;
    if let Some(stored) = store.working_set(id)?
        && plan.replays_working_set
    {
        let (file, _) = stored.into_parts();
        working_set = Some(WorkingSet::from_file(file, snapshot, image.layout())?);
    }
    let mut from = RestoreFrom::new(Arc::new(image)).serve(bring.serve());
    from.raw = raw;
    let restored = tinyvm::restore(
        backend,
        Image {
            config,
            pages: ImagePages::Planned(PlannedPages::new(plan, from, lease)),
            sections: store.state(id)?,
            snapshot,
            purpose,
            overrides: Overrides::default(),
        },
    )?;
    Ok(Brought {
        guest: restored.guest,
        bring,
        working_set,
    })
}

/// The plan for `bring`, or for what it says instead, and the raw image where it maps that.
fn plan(
    store: &Store,
    id: SnapshotId,
    image: &MemoryImage,
    bring: Bring,
) -> Result<(Bring, RestorePlan, Option<RawImage>), Failure> {
    let wanted = bring.wanted();
    let mut raw = None;
    let mut memory = if let Bring::Cached(_) = bring {
        store.warm(id, &CaptureControl::default())?;
        let cached = store.cached_image(id)?.ok_or("what was built is gone")?;
        let name = cached.path().as_str().to_owned();
        let facts = MemoryFacts::of_cached(image, wanted, RawImageFacts::of(cached.file())?)?;
        let file = Arc::from(cached.into_file());
        raw = Some(RawImage { file, name });
        facts
    } else {
        MemoryFacts::of(image, wanted)?
    };
    if let Some(set) = store.working_set(id)? {
        memory = memory.working_set(set.entry().len_bytes);
    }
    let kernel = KernelFacts::of_host(UffdOptions::default());
    let target = TargetFacts::new(TargetKind::Anonymous, kernel)
        .shared(matches!(bring, Bring::Shared | Bring::Sealed))
        .threads(THREADS);
    let chosen = RestorePlan::choose(&memory, &target, wanted, &RestoreCosts::default());
    let can_map = matches!(memory.mappings, MappingCount::Counted { .. });
    match (chosen, bring) {
        (Ok(plan), _) if bring.is(plan.method) => Ok((bring, plan, raw)),
        (Ok(plan), _) => Err(format!("the plan for {bring} is another: {plan}").into()),
        (Err(_), Bring::Mapped(policy)) if !can_map => {
            plan(store, id, image, Bring::Cached(policy))
        }
        (Err(refused), _) => Err(refused.into()),
    }
}
