//! Checks by age and by budget, and what is remembered of them.

use std::ops::ControlFlow;
use std::time::Duration;

use super::rig::{A, image, kind, named, names, path, reopen, store, take};
use crate::{ErrorKind, Selection, Store, VerifyOptions, VerifyReport};
use snapshot_format::{Digest, SnapshotId, SnapshotRef};
use snapshot_memory::backend::{Backend, MemBackend};

const DAY_MS: u64 = 24 * 3600 * 1000;

/// Three snapshots of different machines.
fn three() -> (MemBackend, Store, [SnapshotRef; 3]) {
    let (tree, store) = store();
    let of = |vm| take(&store, named(vm, "a"), &image(&A)).unwrap();
    let all = [of("one"), of("two"), of("three")];
    (tree, store, all)
}

fn on_day(day: u64) -> VerifyOptions {
    VerifyOptions::of(Selection::All).now_unix_ms(day * DAY_MS)
}

fn run(store: &Store, options: &VerifyOptions) -> VerifyReport {
    store
        .verify_with(options, &mut |_| ControlFlow::Continue(()))
        .unwrap()
}

fn week(day: u64) -> VerifyOptions {
    on_day(day).older_than(Some(Duration::from_millis(7 * DAY_MS)))
}

/// The number of each snapshot's last check, 0 for none.
fn numbers(store: &Store, all: &[SnapshotRef]) -> Vec<u64> {
    let last = all.iter().map(|one| store.last_check(one.id));
    last.map(|check| check.map_or(0, |check| check.seq))
        .collect()
}

// spec: VFY-01
#[test]
fn a_budget_goes_round_all_snapshots_the_least_recently_checked_first() {
    let (_, store, all) = three();
    let budget = |day| on_day(day).max_bytes(Some(1));
    for day in 1..=3 {
        let report = run(&store, &budget(day));
        assert_eq!((report.ok, report.snapshots, report.left), (true, 1, 2));
    }
    let mut found = numbers(&store, &all);
    found.sort_unstable();
    assert_eq!(found, [1, 2, 3]);
    // Thirty days back and thirty ahead: the order stays.
    let first = |store: &Store| {
        let oldest = all
            .iter()
            .min_by_key(|one| store.last_check(one.id).unwrap().seq);
        oldest.unwrap().id
    };
    for day in [400, 1, 200, 430, 2, 30] {
        let oldest = first(&store);
        let next = numbers(&store, &all).into_iter().max().unwrap() + 1;
        run(&store, &budget(day));
        assert_eq!(store.last_check(oldest).unwrap().seq, next, "on day {day}");
    }
    // All of them, where the budget allows it.
    let report = run(&store, &on_day(31).max_bytes(Some(1 << 30)));
    assert_eq!((report.snapshots, report.left), (3, 0));
}

// spec: VFY-03
#[test]
fn a_jump_of_the_clock_leaves_nothing_unchecked() {
    let (_, store, all) = three();
    assert_eq!(run(&store, &week(100)).snapshots, 3);
    assert_eq!(run(&store, &week(106)).snapshots, 0);
    // Back: every check seems to come from the future, and is done again.
    assert_eq!(run(&store, &week(70)).snapshots, 3);
    // Ahead and back again.
    assert_eq!(run(&store, &week(130)).snapshots, 3);
    assert_eq!(run(&store, &week(101)).snapshots, 3);
    assert_eq!(run(&store, &week(107)).snapshots, 0);
    assert_eq!(run(&store, &week(108)).snapshots, 3);
    assert!(numbers(&store, &all).iter().all(|number| *number > 9));
}

// spec: VFY-02
#[test]
fn a_damaged_record_is_none_and_hides_no_other() {
    let (tree, store, all) = three();
    run(&store, &on_day(100));
    let record = |at: usize| path(&format!("verified/{}.json", all[at].id));
    tree.tamper(&record(0), |bytes| bytes[90] ^= 1).unwrap();
    // Another's record in its place.
    let foreign = super::rig::read(&tree, &record(0));
    tree.tamper(&record(1), |bytes| *bytes = foreign).unwrap();
    let found = numbers(&store, &all);
    assert_eq!((found[0], found[1]), (0, 0));
    assert!(found[2] > 0);
    assert_eq!(run(&store, &week(101)).snapshots, 2);
    // Without any of it everything is due, and the store is as good.
    for name in names(&tree, "verified") {
        tree.remove_file(&path(&format!("verified/{name}")))
            .unwrap();
    }
    assert_eq!(run(&reopen(&tree), &week(102)).snapshots, 3);
    assert_eq!(numbers(&store, &all).len(), 3);
}

// spec: VFY-03
// spec: VFY-04
#[test]
fn damage_stays_due_and_hides_no_snapshot() {
    let (tree, store, all) = three();
    let data = path(&format!("snapshots/{}/memory.img", all[1].id));
    tree.tamper(&data, |bytes| bytes[0] ^= 1).unwrap();
    assert!(!run(&store, &week(100)).ok);
    assert!(!store.last_check(all[1].id).unwrap().sound);
    let again = run(&store, &week(101));
    assert_eq!((again.ok, again.snapshots), (false, 1));
    // It does not keep a budget from the others.
    let budget = on_day(102).max_bytes(Some(1));
    assert!(run(&store, &budget).ok && run(&store, &budget).ok);
    assert!(!run(&store, &budget).ok);
}

// spec: VFY-04
#[test]
fn what_was_checked_before_a_stop_is_remembered_and_the_gone_are_forgotten() {
    let (tree, store, all) = three();
    let mut done = 0;
    let stopped = store.verify_with(&on_day(9), &mut |progress| {
        done = progress.snapshots;
        match progress.snapshots {
            2 => ControlFlow::Break(()),
            _ => ControlFlow::Continue(()),
        }
    });
    assert_eq!((kind(stopped), done), (Some(ErrorKind::Interrupted), 2));
    assert_eq!(numbers(&store, &all).iter().filter(|n| **n > 0).count(), 2);
    assert_eq!(run(&store, &week(10)).snapshots, 1);
    // Gone for good: no longer remembered. In the trash: still.
    store
        .delete(&store.plan_delete(all[0].id).unwrap())
        .unwrap();
    let folder = format!("snapshots/{}", all[1].id);
    for name in names(&tree, &folder) {
        tree.remove_file(&path(&format!("{folder}/{name}")))
            .unwrap();
    }
    tree.remove_dir(&path(&folder)).unwrap();
    run(&store, &on_day(11));
    let found = numbers(&store, &all);
    assert!(found[0] > 0 && found[1] == 0 && found[2] > 0, "{found:?}");
    // A look that is not to leave a trace leaves none.
    let before = names(&tree, "verified");
    tree.remove_file(&path(&format!("verified/{}", before[0])))
        .unwrap();
    store
        .verify(Selection::All, &mut |_| ControlFlow::Continue(()))
        .unwrap();
    assert_eq!(names(&tree, "verified").len(), before.len() - 1);
}

/// A sound file with another body.
fn with_body(file: &[u8], from: &str, to: &str) -> Vec<u8> {
    let text = std::str::from_utf8(file).unwrap();
    let (_, body) = text.split_once("\"body\":").unwrap();
    let body = body.strip_suffix("}\n").unwrap();
    assert!(body.contains(from), "{body}");
    let body = body.replace(from, to);
    let checksum = Digest::of(body.as_bytes());
    format!("{{\"checksum\":\"{checksum}\",\"body\":{body}}}\n").into_bytes()
}

// spec: VFY-02
#[test]
fn nonsense_the_future_a_huge_file_and_strangers_in_verified_change_nothing_else() {
    let (tree, store, all) = three();
    run(&store, &on_day(100));
    let record = |at: usize| path(&format!("verified/{}.json", all[at].id));
    let valid = super::rig::read(&tree, &record(0));
    let of_later = with_body(&valid, "\"version\":1", "\"version\":2");
    let seq = format!("\"seq\":{}", store.last_check(all[0].id).unwrap().seq);
    let endless = with_body(&valid, &seq, &format!("\"seq\":{}", u64::MAX));
    let hostile: [Vec<u8>; 7] = [
        endless,
        b"[]".to_vec(),
        Vec::new(),
        vec![b'{'; 2 << 20],
        [0xff; 300].to_vec(),
        of_later,
        valid[..valid.len() - 20].to_vec(),
    ];
    for bytes in hostile {
        tree.tamper(&record(0), |old| *old = bytes.clone()).unwrap();
        assert_eq!(numbers(&store, &all)[0], 0);
        // Only that one is due, and its record is written anew.
        assert_eq!(run(&store, &week(101)).snapshots, 1);
        assert!(numbers(&store, &all)[0] > 0);
    }
    for name in ["x.json", "00.json", "readme", ".x.json.new"] {
        let mut file = tree.create(&path(&format!("verified/{name}"))).unwrap();
        file.write_all_at(0, b"stranger").unwrap();
    }
    let stranger = format!("verified/{}.json", SnapshotId([9; 16]));
    tree.create_dir(&path(&stranger)).unwrap();
    assert!(run(&store, &on_day(102)).ok);
    assert_eq!(numbers(&store, &all).len(), 3);
}
