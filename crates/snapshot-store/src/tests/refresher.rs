//! Working sets that follow what guests touch.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use super::rig::{PAGE, kind, named, path, store, take, verify};
use crate::{Selection, Store, WorkingSetRefresher};
use snapshot_format::{PageIndex, PageRange, SnapshotRef, WorkingSetOrigin};
use snapshot_memory::backend::MemBackend;
use snapshot_memory::{
    FreshMemory, HoldBack, MappedMemory, MappingOptions, Observed, ReplayOptions, Seen,
    TouchedPages, Verdict, WorkingSet, WorkingSetFault, WorkingSetKeeper, WorkingSetOptions,
    write_working_set,
};

const PAGES: u64 = 1024;

/// A snapshot of which each page is filled with its number.
fn snapshot() -> (MemBackend, Store, SnapshotRef, Vec<u8>) {
    let (tree, store) = store();
    let image: Vec<u8> = (0..PAGES)
        .flat_map(|page| vec![u8::try_from(page % 251).unwrap() + 1; PAGE])
        .collect();
    let taken = take(&store, named("web", "a"), &image).unwrap();
    (tree, store, taken, image)
}

fn touched(runs: &[(u64, u64)]) -> TouchedPages {
    let mut touched = TouchedPages::new(PAGES, WorkingSetOrigin::Trace);
    touched.add_all(
        runs.iter()
            .map(|&(start, count)| PageRange::new(start, count)),
    );
    touched
}

fn all(runs: &[(u64, u64)]) -> Observed {
    Observed::all(touched(runs))
}

fn refresher(store: &Store, taken: SnapshotRef) -> WorkingSetRefresher {
    let options = WorkingSetOptions::default().max_bytes(256 * PAGE as u64);
    store.working_set_refresher(taken.id, options)
}

/// The pages of the set that counts.
fn pages(refresher: &WorkingSetRefresher) -> TouchedPages {
    let set = refresher.open().unwrap().unwrap();
    let mut pages = TouchedPages::new(PAGES, WorkingSetOrigin::Named);
    pages.add_all(set.index().runs.iter().map(|run| run.pages));
    pages
}

/// Puts all of a set into fresh memory and compares.
fn replay(set: &mut WorkingSet, image: &[u8]) -> u64 {
    let layout = snapshot_format::MemoryLayout::single(image.len() as u64).unwrap();
    let memory = MappedMemory::new(layout, MappingOptions::default()).unwrap();
    let replayed = set.replay(&FreshMemory(&memory), &ReplayOptions::new(1));
    let replayed = replayed.unwrap();
    for run in &set.index().runs {
        let at = usize::try_from(run.pages.start.0).unwrap() * PAGE;
        let mut bytes = vec![0; usize::try_from(run.pages.count).unwrap() * PAGE];
        memory.read(at as u64, &mut bytes).unwrap();
        assert!(bytes == image[at..at + bytes.len()]);
    }
    replayed.data_pages
}

// spec: WS-17
// spec: WS-19
#[test]
fn a_set_is_made_anew_where_it_is_worth_it_and_holds_no_more_than_its_bound() {
    let (_, store, taken, image) = snapshot();
    let refresher = refresher(&store, taken);
    let refresh = |observed: &Observed| {
        let refreshed = refresher.refresh(observed).unwrap();
        (refreshed.change.verdict, refreshed.generation)
    };
    assert!(refresher.open().unwrap().is_none());
    assert_eq!(refresh(&all(&[(40, 10)])), (Verdict::First, Some(2)));
    assert_eq!(refresh(&all(&[(500, 63)])), (Verdict::TooFew, None));
    assert_eq!(refresh(&all(&[(0, 200)])), (Verdict::Replace, Some(3)));
    assert_eq!(refresh(&all(&[(20, 200)])), (Verdict::Same, None));
    let mut before = refresher.open().unwrap().unwrap();
    // A guest whose set was brought, and that misses others: those come first.
    let sample = HoldBack::new(1);
    let observed = Observed::new(touched(&[(600, 100)]), Seen::NotBrought(Some(sample)));
    assert_eq!(refresh(&observed), (Verdict::Extend, Some(4)));
    let now = pages(&refresher);
    assert!(now.pages() <= 256);
    assert!((600..700).all(|page| now.has(PageIndex(page))));
    assert!((200..600).all(|page| !now.has(PageIndex(page))));
    let held = (0..200).filter(|page| sample.holds(PageIndex(*page)));
    for page in held {
        assert!(!now.has(PageIndex(page)), "{page} is stale");
    }
    // Who had the set from before open reads on.
    assert_eq!(replay(&mut before, &image), 200);
    replay(&mut refresher.open().unwrap().unwrap(), &image);
    // More than there is room for: what was touched first.
    assert_eq!(refresh(&all(&[(700, 300)])), (Verdict::Replace, Some(5)));
    assert_eq!(pages(&refresher).runs(), [PageRange::new(700, 256)]);
    let report = verify(&store, Selection::All);
    assert!(report.ok, "{:?}", report.errors);
}

// spec: WS-18
// spec: WS-19
#[test]
fn a_set_that_is_of_no_use_is_told_and_made_anew() {
    let (tree, store, taken, image) = snapshot();
    let refresher = refresher(&store, taken);
    refresher.refresh(&all(&[(0, 200)])).unwrap();
    let file = path(&format!("snapshots/{}/working-set.2", taken.id));
    for at in [3, 140, 5000] {
        let tampered = tree.snapshot();
        let flip = |bytes: &mut Vec<u8>| bytes[at] ^= 1;
        tampered.tamper(&file, flip).unwrap();
        let store = super::rig::reopen(&tampered);
        let keeper = store.working_set_refresher(taken.id, WorkingSetOptions::default());
        let is_in_data = at == 5000;
        match WorkingSetKeeper::open(&keeper) {
            Ok(Some(_)) => assert!(is_in_data),
            Ok(None) => unreachable!("it is named"),
            Err(error) => {
                assert!(!is_in_data);
                assert_eq!(error.fault(), WorkingSetFault::Damaged, "{error}");
                let refreshed = keeper.refresh(&all(&[(9, 3)])).unwrap();
                assert_eq!(refreshed.change.verdict, Verdict::First);
                replay(&mut keeper.open().unwrap().unwrap(), &image);
                let report = store.verify(Selection::All, &mut |_| ControlFlow::Continue(()));
                assert!(report.unwrap().ok);
            }
        }
    }
    // A snapshot that is not there is no working set that is not there.
    store.delete(&store.plan_delete(taken.id).unwrap()).unwrap();
    assert_eq!(
        kind(refresher.refresh(&all(&[(0, 200)]))),
        Some(crate::ErrorKind::NotFound)
    );
}

// spec: WS-19
#[test]
fn refreshers_at_once_and_one_who_reads_do_each_other_no_harm() {
    let (tree, store, taken, image) = snapshot();
    let image = Arc::new(image);
    refresher(&store, taken).refresh(&all(&[(0, 200)])).unwrap();
    std::thread::scope(|scope| {
        let writers: Vec<_> = (0..3_u64)
            .map(|number| {
                let store = super::rig::reopen(&tree);
                scope.spawn(move || {
                    let refresher = refresher(&store, taken);
                    let mut published = 0;
                    for round in 0..6 {
                        let start = (number * 311 + round * 97) % 800;
                        match refresher.refresh(&all(&[(start, 200)])) {
                            Ok(refreshed) => published += u64::from(refreshed.generation.is_some()),
                            Err(error) => assert_eq!(error.kind(), crate::ErrorKind::Busy),
                        }
                    }
                    published
                })
            })
            .collect();
        for _ in 0..20 {
            let image = Arc::clone(&image);
            match refresher(&store, taken).open() {
                Ok(set) => assert_eq!(replay(&mut set.unwrap(), &image), 200),
                // Its name went between the placement and the file.
                Err(error) => assert_eq!(error.kind(), crate::ErrorKind::Busy, "{error}"),
            }
        }
        let published: u64 = writers.into_iter().map(|all| all.join().unwrap()).sum();
        assert!(published > 0);
    });
    // The same observation by two: the second finds it done.
    let two = [refresher(&store, taken), refresher(&store, taken)];
    let observed = all(&[(824, 200)]);
    let again = two.map(|refresher| refresher.refresh(&observed).unwrap().change.verdict);
    assert_eq!(again[1], Verdict::Same);
    assert!(verify(&store, Selection::All).ok);
}

// spec: WS-19
#[test]
fn who_waited_judges_by_the_set_that_counts_then() {
    let (tree, store, taken, _) = snapshot();
    let mut stage = store.stage_working_set(taken.id).unwrap();
    let refreshed = std::thread::scope(|scope| {
        let waits = scope.spawn(|| {
            let patient = super::rig::options().lock_wait(Duration::from_mins(1));
            let store = Store::open(Arc::new(tree.clone()), &patient).unwrap();
            refresher(&store, taken).refresh(&all(&[(0, 200)]))
        });
        // Time to find that there is no set, and to wait; one that comes later finds the same.
        std::thread::sleep(Duration::from_millis(200));
        let image = store.image(taken.id).unwrap();
        let options = WorkingSetOptions::default();
        let touched = touched(&[(0, 200)]);
        write_working_set(&image, taken, &touched, &options, stage.file()).unwrap();
        stage.publish().unwrap();
        waits.join().unwrap().unwrap()
    });
    assert_eq!(refreshed.change.verdict, Verdict::Same);
    assert_eq!(refreshed.generation, None);
}
