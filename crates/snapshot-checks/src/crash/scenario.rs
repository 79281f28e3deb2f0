//! The operations whose calls are cut, each on the store that the ones before it left.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use snapshot_format::{Description, PageRange, SnapshotId, WorkingSetOrigin};
use snapshot_memory::backend::{Backend, MemBackend};
use snapshot_memory::{
    CaptureControl, CaptureOptions, PageSource, TouchedPages, WorkingSetOptions, write_working_set,
};
use snapshot_store::{OpenOptions, Reference, Store, StoreError};

use super::attempt::{Attempt, Title};
use super::branches;
use super::garbage;
use super::laid::Laid;
use super::model::{Expected, Model, chain};
use super::said::{self, Saying};
use super::upkeep;
use crate::Way;

/// One operation on a store.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Operation {
    /// A new store.
    Create,
    /// A snapshot, by a guest that was restored from its parent.
    Take(Title),
    /// A live snapshot of such a guest, which writes meanwhile.
    TakeLive(Title),
    /// To the trash.
    Delete(&'static str),
    /// Back from the trash.
    Undelete(&'static str),
    /// A new `snapshot.json`.
    Describe(&'static str),
    /// The same pages in another layout.
    Relayout(&'static str, Laid),
    /// A working set of this page, or none any more.
    WorkingSet(&'static str, Option<u64>),
    /// A materialised image, which shares blocks of data files or is a copy.
    Warm(&'static str, Blocks),
    /// No materialised image any more.
    Cool(&'static str),
    /// A branch of the first machine, from a snapshot.
    Branch(&'static str, &'static str),
    /// The first machine on a branch.
    Switch(&'static str),
    /// A snapshot put onto the main branch of the first machine, as one of this name.
    Merge(&'static str, &'static str),
    /// Every byte checked, and remembered to be.
    Verify,
    /// Garbage, which is these deleted snapshots and superseded files.
    Collect(&'static [&'static str]),
    /// A policy that keeps the newest alone, and takes this one.
    Prune(&'static str),
    /// A snapshot repaired whose data was damaged before.
    Repair(&'static str),
    /// Parity beside the files of a snapshot, new or in the place of another.
    Parity(&'static str),
    /// All that it needs in a data file of its own.
    Consolidate(&'static str),
    /// What the store keeps beside its snapshots.
    Say(Saying),
}

/// Where the blocks of a materialised image come from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Blocks {
    Shared,
    Copied,
}

/// An operation, the store before it, and what that holds.
#[derive(Debug)]
pub(super) struct Scenario {
    pub(super) name: String,
    pub(super) operation: Operation,
    /// How memory is captured, if the operation does.
    pub(super) options: CaptureOptions,
    /// Whether the clean-up after each cut is cut in turn.
    pub(super) cut_twice: bool,
    pub(super) tree: MemBackend,
    pub(super) before: Model,
    pub(super) after: Model,
}

/// What one run of an operation did.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) result: Result<(), StoreError>,
    /// The guest, to try again with.
    pub(super) attempt: Option<Attempt>,
}

pub(super) const fn title(
    vm: &'static str,
    name: &'static str,
    parent: Option<&'static str>,
) -> Title {
    Title { vm, name, parent }
}

/// Names of scenarios and their operations, in order.
const PLAN: [(&str, Operation); 40] = [
    ("create", Operation::Create),
    ("full", Operation::Take(title("web", "base", None))),
    (
        "diff",
        Operation::Take(title("web", "one", Some("web/base"))),
    ),
    (
        "diff-on-diff",
        Operation::Take(title("web", "two", Some("web/one"))),
    ),
    (
        "branch",
        Operation::Take(title("web", "side", Some("web/one"))),
    ),
    // In the middle of a chain, with children: what lies another way than before is written, and
    // what lies as it did at first counts again.
    ("relayout", Operation::Relayout("web/one", Laid::Compressed)),
    (
        "relayout-sparse",
        Operation::Relayout("web/one", Laid::Sparse),
    ),
    (
        "relayout-packed",
        Operation::Relayout("web/one", Laid::Packed),
    ),
    (
        "diff-over-relayout",
        Operation::Take(title("web", "four", Some("web/one"))),
    ),
    (
        "relayout-full",
        Operation::Relayout("web/base", Laid::Packed),
    ),
    (
        "diff-over-both",
        Operation::Take(title("web", "five", Some("web/two"))),
    ),
    // Given, carried over by a new layout, replaced, taken away.
    ("working-set", Operation::WorkingSet("web/two", Some(7))),
    (
        "relayout-beside",
        Operation::Relayout("web/two", Laid::Compressed),
    ),
    (
        "working-set-anew",
        Operation::WorkingSet("web/two", Some(8)),
    ),
    ("working-set-drop", Operation::WorkingSet("web/two", None)),
    ("describe", Operation::Describe("web/one")),
    // An image that goes with its snapshot.
    ("warm", Operation::Warm("web/one", Blocks::Copied)),
    ("delete", Operation::Delete("web/one")),
    (
        "diff-over-trash",
        Operation::Take(title("web", "three", Some("web/two"))),
    ),
    ("undelete", Operation::Undelete("web/one")),
    ("second-vm", Operation::Take(title("db", "base", None))),
    ("live", Operation::TakeLive(title("run", "base", None))),
    (
        "live-diff",
        Operation::TakeLive(title("run", "one", Some("run/base"))),
    ),
    // Every page of it has bytes, and can share its block.
    ("dense", Operation::Take(title(DENSE, "base", None))),
    ("warm-shared", Operation::Warm("dense/base", Blocks::Shared)),
    ("warm-again", Operation::Warm("dense/base", Blocks::Copied)),
    ("cool", Operation::Cool("dense/base")),
    ("make-branch", Operation::Branch("fix", "web/base")),
    ("spare-branch", Operation::Branch("spare", "web/base")),
    ("switch", Operation::Switch("fix")),
    ("merge", Operation::Merge("web/side", "web/merged")),
    ("audit", Operation::Say(Saying::Entry)),
    ("audit-again", Operation::Say(Saying::Entry)),
    ("access", Operation::Say(Saying::Access(0o440))),
    ("no-branch", Operation::Say(Saying::NoBranch("spare"))),
    ("verify", Operation::Verify),
    ("verify-again", Operation::Verify),
    // Its pages lie in two data files.
    ("repair", Operation::Repair("web/base")),
    ("parity", Operation::Parity("web/base")),
    ("parity-again", Operation::Parity("web/base")),
];

/// The virtual machine whose memory has no zero page.
const DENSE: &str = "dense";

/// The snapshots of the plan that are taken in every [`Way`].
const IN_EVERY_WAY: [&str; 2] = ["full", "diff-on-diff"];

/// Makes every scenario, by running the plans without a fault.
pub(super) fn all() -> Result<Vec<Scenario>, String> {
    let mut scenarios = follow(&PLAN)?;
    // What prepares a collection is cut in the other plan.
    let mut of_garbage = follow(&garbage::PLAN)?;
    of_garbage.retain(|scenario| {
        matches!(
            scenario.operation,
            Operation::Collect(_) | Operation::Prune(_) | Operation::Consolidate(_)
        )
    });
    scenarios.extend(of_garbage);
    Ok(scenarios)
}

/// The scenarios of one plan, each on the store that the ones before it left.
fn follow(plan: &[(&'static str, Operation)]) -> Result<Vec<Scenario>, String> {
    let mut tree = MemBackend::new();
    let mut before = Model::default();
    let mut scenarios = Vec::new();
    for &(name, operation) in plan {
        let after = after(operation, &before)?;
        let shares = matches!(operation, Operation::Warm(_, Blocks::Shared));
        tree.set_shares_blocks(shares);
        upkeep::damage_for(operation, &tree)?;
        let next = tree.snapshot();
        let options = CaptureOptions::default().threads(NonZeroUsize::MIN);
        run(operation, Arc::new(next.clone()), &before, &options)?
            .result
            .map_err(|error| format!("{name} fails without a fault: {}", chain(&error)))?;
        let scenario = Scenario {
            name: name.to_owned(),
            operation,
            options,
            cut_twice: true,
            tree: std::mem::replace(&mut tree, next),
            before: std::mem::replace(&mut before, after.clone()),
            after,
        };
        if IN_EVERY_WAY.contains(&name) {
            scenarios.extend(Way::ALL.map(|way| scenario.in_way(way)));
        }
        scenarios.push(scenario);
    }
    Ok(scenarios)
}

impl Scenario {
    /// The same, with memory captured in this way.
    fn in_way(&self, way: Way) -> Self {
        Self {
            name: format!("{}, {way}", self.name),
            operation: self.operation,
            // One thread: calls are numbered.
            options: way.options(NonZeroUsize::MIN),
            // What is to be cleaned up is the same stage in every way.
            cut_twice: false,
            tree: self.tree.clone(),
            before: self.before.clone(),
            after: self.after.clone(),
        }
    }
}

/// Runs an operation, with memory captured as `options` say. What the store says is in the result;
/// `Err` is a fault of the check.
pub(super) fn run(
    operation: Operation,
    backend: Arc<dyn Backend>,
    before: &Model,
    options: &CaptureOptions,
) -> Result<Run, String> {
    let done = |result| {
        Ok(Run {
            result,
            attempt: None,
        })
    };
    if operation == Operation::Create {
        return done(Store::create(backend, &opening()).map(drop));
    }
    let store = match Store::open(backend, &opening()) {
        Ok(store) => store,
        Err(error) => return done(Err(error)),
    };
    let on = |name, act: &dyn Fn(SnapshotId) -> Result<(), StoreError>| {
        done(resolve(name).and_then(|reference| act(store.resolve(&reference)?)))
    };
    match operation {
        Operation::Create => done(Ok(())),
        Operation::Take(title) | Operation::TakeLive(title) => {
            let attempt = match begin(title, &store, before, options) {
                Ok(attempt) => attempt?,
                Err(error) => return done(Err(error)),
            };
            let taken = match operation {
                Operation::TakeLive(_) => attempt.take_live(&store, seed(title)),
                _ => attempt.take(&store),
            };
            Ok(Run {
                result: taken.map(drop),
                attempt: Some(attempt),
            })
        }
        Operation::Delete(name) => on(name, &|id| store.delete(&store.plan_delete(id)?)),
        Operation::Undelete(name) => done(
            resolve(name).and_then(|reference| store.undelete(store.resolve_in_trash(&reference)?)),
        ),
        Operation::Describe(name) => done(describe(&store, name)),
        Operation::Relayout(name, laid) => {
            on(name, &|id| store.relayout(id, &laid.options()).map(drop))
        }
        Operation::WorkingSet(name, page) => on(name, &|id| match page {
            Some(page) => give_working_set(&store, id, page),
            None => store.drop_working_set(id).map(drop),
        }),
        Operation::Warm(name, _) => on(name, &|id| {
            store.warm(id, &CaptureControl::default()).map(drop)
        }),
        Operation::Cool(name) => on(name, &|id| store.drop_cached(id).map(drop)),
        Operation::Collect(_) => done(garbage::collect(&store)),
        Operation::Prune(_) => done(garbage::prune(&store)),
        Operation::Consolidate(name) => on(name, &|id| garbage::consolidate(&store, id)),
        Operation::Branch(name, start) => done(branches::make(&store, name, start)),
        Operation::Switch(name) => done(branches::switch(&store, name)),
        Operation::Merge(source, name) => done(branches::merge(&store, source, name)),
        Operation::Say(saying) => done(said::say(&store, saying)),
        Operation::Verify => upkeep::verify(&store),
        Operation::Repair(name) => Ok(upkeep::repair(&store, name)),
        Operation::Parity(name) => on(name, &|id| upkeep::parity(&store, id)),
    }
}

fn describe(store: &Store, name: &str) -> Result<(), StoreError> {
    let id = store.resolve(&resolve(name)?)?;
    let text = Description::new(NEW_DESCRIPTION).unwrap_or_default();
    store.change_metadata(id, |metadata| metadata.description = text)?;
    Ok(())
}

/// A guest that was restored from its parent in `store`, and has run since.
///
/// The outer error is the store's, the inner one a fault of the check.
fn begin(
    title: Title,
    store: &Store,
    before: &Model,
    options: &CaptureOptions,
) -> Result<Result<Attempt, String>, StoreError> {
    let parent = match title.parent {
        None => None,
        Some(name) => {
            let id = store.resolve(&resolve(name)?)?;
            let reference = store.snapshot(id)?.reference();
            match before.snapshots.get(name) {
                Some(expected) => Some((reference, expected)),
                None => return Ok(Err(format!("{name} is not in the model"))),
            }
        }
    };
    let attempt = Attempt::new(title, parent, options.clone());
    Ok(attempt.inspect(|attempt| match title.vm {
        DENSE => attempt.fill(seed(title)),
        _ => attempt.run(seed(title)),
    }))
}

/// A snapshot that is taken of a guest of its parent's memory which ran.
fn taken(title: Title, before: &Model) -> Result<Expected, String> {
    let parent = title.parent.and_then(|name| before.snapshots.get(name));
    let guest = super::guest::Guest::new(parent.map(|parent| parent.image.as_slice()))
        .map_err(|error| chain(&error))?;
    match title.vm {
        DENSE => guest.fill(seed(title)),
        _ => guest.scribble(seed(title)),
    };
    Ok(Expected {
        image: guest.image(),
        is_live: true,
        description: title.name.to_owned(),
        parent: title.parent.map(str::to_owned),
        generation: 1,
        working_set: None,
        is_warm: false,
    })
}

/// What the store holds once `operation` is done.
fn after(operation: Operation, before: &Model) -> Result<Model, String> {
    let mut after = before.clone();
    let unknown = |name: &str| format!("{name} is not in the model");
    match operation {
        // Of these no snapshot becomes another one.
        Operation::Create
        | Operation::Verify
        | Operation::Repair(_)
        | Operation::Parity(_)
        | Operation::Switch(_) => {}
        Operation::Branch(name, _) => after.said.branch(name),
        Operation::Say(saying) => after.said.say(saying),
        Operation::Take(title) | Operation::TakeLive(title) => {
            let name = format!("{}/{}", title.vm, title.name);
            after.snapshots.insert(name, taken(title, before)?);
        }
        Operation::Delete(name) | Operation::Undelete(name) => {
            let snapshot = after.snapshots.get_mut(name);
            let snapshot = snapshot.ok_or_else(|| unknown(name))?;
            snapshot.is_live = matches!(operation, Operation::Undelete(_));
            snapshot.is_warm = false;
        }
        Operation::Describe(name) => {
            let snapshot = after.snapshots.get_mut(name);
            let snapshot = snapshot.ok_or_else(|| unknown(name))?;
            NEW_DESCRIPTION.clone_into(&mut snapshot.description);
        }
        Operation::Relayout(name, _) | Operation::Consolidate(name) => {
            let snapshot = after.snapshots.get_mut(name);
            snapshot.ok_or_else(|| unknown(name))?.generation += 1;
        }
        Operation::WorkingSet(name, page) => {
            let snapshot = after.snapshots.get_mut(name);
            let snapshot = snapshot.ok_or_else(|| unknown(name))?;
            snapshot.generation += 1;
            snapshot.working_set = page;
        }
        Operation::Warm(name, _) | Operation::Cool(name) => {
            let snapshot = after.snapshots.get_mut(name);
            snapshot.ok_or_else(|| unknown(name))?.is_warm =
                matches!(operation, Operation::Warm(..));
        }
        Operation::Merge(source, name) => {
            let giver = before.snapshots.get(source);
            let giver = giver.ok_or_else(|| unknown(source))?;
            let merged = branches::expected(giver, source, name);
            after.snapshots.insert(name.to_owned(), merged);
        }
        Operation::Collect(gone) => {
            for name in gone {
                after.collect(name).ok_or_else(|| unknown(name))?;
            }
        }
        Operation::Prune(name) => {
            let snapshot = after.snapshots.get_mut(name);
            snapshot.ok_or_else(|| unknown(name))?.is_live = false;
        }
    }
    Ok(after)
}

/// Gives a snapshot a working set of one page.
fn give_working_set(store: &Store, id: SnapshotId, page: u64) -> Result<(), StoreError> {
    let image = store.image(id)?;
    let reference = store.detail(id)?.record.reference();
    let mut touched = TouchedPages::new(image.layout().page_count(), WorkingSetOrigin::Named);
    touched.add(PageRange::new(page, 1));
    let options = WorkingSetOptions::default();
    let mut stage = store.stage_working_set(id)?;
    write_working_set(&image, reference, &touched, &options, stage.file())?;
    stage.publish().map(drop)
}

/// How stores are opened here: nobody else holds a lock.
pub(super) fn opening() -> OpenOptions {
    OpenOptions::default().lock_wait(Duration::ZERO)
}

pub(super) fn resolve(name: &str) -> Result<Reference, StoreError> {
    name.parse()
}

fn seed(title: Title) -> u8 {
    let letters = title.vm.bytes().chain(title.name.bytes());
    letters.fold(3, |seed, letter| seed.wrapping_mul(5).wrapping_add(letter))
}

/// What [`Operation::Describe`] writes.
const NEW_DESCRIPTION: &str = "described anew";
