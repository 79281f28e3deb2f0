//! The audit log: appended to, cut short, tampered with.

use std::sync::Arc;

use super::rig::{kind, one, options, path, read, reopen};
use crate::{Access, Actor, AuditEvent, AuditReport, ErrorKind, Intent, Store, StoreError};
use snapshot_format::{Digest, SnapshotId};
use snapshot_memory::backend::{Backend, FaultBackend, MemBackend};

const LOG: &str = "audit.jsonl";

fn actor() -> Actor {
    Actor {
        host: "host".to_owned(),
        pid: 7,
        uid: 0,
    }
}

fn intent(store: &Store, command: &str) -> Result<Intent, StoreError> {
    let arguments = ["--dry".to_owned(), "line\nfeed".to_owned()];
    store.audit_intent(actor(), command, &arguments, &[SnapshotId([1; 16])])
}

fn done(store: &Store, intent: &Intent) {
    store.audit_outcome(intent, "done", "", &[]).unwrap();
}

fn report(store: &Store) -> AuditReport {
    store.read_audit(None, &mut |_, _| {}).unwrap()
}

fn has_head(store: &Store, head: Digest) -> bool {
    let report = store.read_audit(Some(head), &mut |_, _| {}).unwrap();
    assert_eq!(
        report.ok,
        report.problem_count == 0 && report.head_found == Some(true)
    );
    report.ok
}

fn bytes(tree: &MemBackend) -> Vec<u8> {
    read(tree, &path(LOG))
}

/// A log of two commands that are done and one that is not; the heads after each entry.
fn logged() -> (MemBackend, Store, Vec<Digest>) {
    let (tree, store, _) = one();
    for command in ["import", "delete"] {
        let begun = intent(&store, command).unwrap();
        done(&store, &begun);
    }
    let _ = intent(&store, "gc").unwrap();
    let mut heads = Vec::new();
    let told = store.read_audit(None, &mut |_, head| heads.push(head));
    assert!(told.unwrap().ok);
    (tree, store, heads)
}

// spec: AUD-01
// spec: AUD-06
#[test]
fn entries_tell_what_began_and_what_came_of_it() {
    let (_, store, heads) = logged();
    let mut told = Vec::new();
    let report = store
        .read_audit(None, &mut |entry, _| {
            told.push((entry.seq, entry.event.clone()));
        })
        .unwrap();
    assert_eq!(
        (report.entries, report.last_seq, report.torn_bytes),
        (5, 5, 0)
    );
    assert_eq!(Some(&report.head), heads.last());
    assert_eq!(report.unfinished_count, 1);
    assert_eq!(
        (
            report.unfinished[0].seq,
            report.unfinished[0].command.as_str()
        ),
        (5, "gc")
    );
    assert!(matches!(&told[0].1, AuditEvent::Intent { command, .. } if command == "import"));
    assert!(matches!(&told[3].1, AuditEvent::Outcome { of: 3, result, .. } if result == "done"));
    for head in heads {
        assert!(has_head(&store, head));
    }
    assert!(!has_head(&store, Digest([7; 32])));
    // A log that there is not is empty, and begins with no chain.
    let (_, empty, _) = one();
    assert_eq!(report_of_nothing(), self::report(&empty));
    assert!(has_head(&empty, Digest([0; 32])));
}

fn report_of_nothing() -> AuditReport {
    AuditReport::default()
}

// spec: AUD-05
#[test]
fn a_changed_byte_is_found_alone_or_by_a_head() {
    let (tree, store, heads) = logged();
    let whole = bytes(&tree);
    let head = *heads.last().unwrap();
    let last_line = whole[..whole.len() - 1]
        .iter()
        .rposition(|byte| *byte == b'\n')
        .unwrap();
    for at in 0..whole.len() {
        for bit in [0, 3, 7] {
            tree.tamper(&path(LOG), |bytes| bytes[at] ^= 1 << bit)
                .unwrap();
            let found = report(&store);
            // The end may look as if it had been cut short. What is before it may not.
            let is_torn = at >= last_line && found.torn_bytes > 0;
            assert!(!found.ok || is_torn, "bit {bit} at {at}");
            assert!(!has_head(&store, head), "bit {bit} at {at}");
            tree.tamper(&path(LOG), |bytes| bytes[at] ^= 1 << bit)
                .unwrap();
        }
    }
    assert!(has_head(&store, head));
}

// spec: AUD-05
#[test]
fn entries_left_out_put_in_or_moved_are_found() {
    let (tree, store, heads) = logged();
    let whole = bytes(&tree);
    let lines: Vec<&[u8]> = whole.split_inclusive(|byte| *byte == b'\n').collect();
    assert_eq!(lines.len(), 5);
    let write = |lines: Vec<&[u8]>| {
        tree.tamper(&path(LOG), |bytes| *bytes = lines.concat())
            .unwrap();
    };
    for at in 0..lines.len() - 1 {
        let mut without = lines.clone();
        without.remove(at);
        let mut twice = lines.clone();
        twice.insert(at, lines[at]);
        let mut moved = lines.clone();
        moved.swap(at, at + 1);
        for changed in [without, twice, moved] {
            write(changed);
            assert!(!report(&store).ok, "line {at}");
        }
    }
    // An end that is cut off shows by a head alone.
    write(lines[..3].to_vec());
    assert!(report(&store).ok);
    assert!(has_head(&store, heads[2]));
    assert!(!has_head(&store, heads[3]));
}

// spec: AUD-03
// spec: AUD-04
#[test]
fn a_line_that_was_cut_short_is_named_by_the_next_entry() {
    let (tree, store, heads) = logged();
    let whole = bytes(&tree);
    let start = whole[..whole.len() - 1]
        .iter()
        .rposition(|byte| *byte == b'\n')
        .unwrap()
        + 1;
    for end in start..whole.len() - 1 {
        tree.tamper(&path(LOG), |bytes| *bytes = whole[..end].to_vec())
            .unwrap();
        let cut = report(&store);
        assert!(cut.ok, "cut at {end}");
        assert_eq!((cut.entries, cut.torn_bytes), (4, (end - start) as u64));
        // Cut once more, within what closes the line, and then whole.
        let begun = intent(&store, "again").unwrap();
        assert_eq!(begun.seq(), 5);
        let after = bytes(&tree);
        assert_eq!(after[..end], whole[..end], "nothing is written over");
        if end > start {
            for twice in [end + 1, end + 40] {
                tree.tamper(&path(LOG), |bytes| *bytes = after[..twice].to_vec())
                    .unwrap();
                let _ = intent(&store, "once more").unwrap();
                let found = report(&store);
                assert!(found.ok, "{found:?}");
                assert_eq!((found.entries, found.torn_bytes), (5, 0));
            }
            // What is torn is covered as well.
            tree.tamper(&path(LOG), |bytes| bytes[start] ^= 1).unwrap();
            assert!(!report(&store).ok);
        }
    }
    // With all but its line feed the entry is there.
    tree.tamper(&path(LOG), |bytes| {
        *bytes = whole[..whole.len() - 1].to_vec();
    })
    .unwrap();
    assert!(has_head(&store, *heads.last().unwrap()));
    assert_eq!(intent(&store, "again").unwrap().seq(), 6);
    assert!(has_head(&store, *heads.last().unwrap()));
    assert_eq!(report(&store).entries, 6);
}

// spec: AUD-02
// spec: AUD-03
#[test]
fn an_append_that_fails_leaves_a_log_that_goes_on() {
    let (tree, _, heads) = logged();
    let run = |backend: &FaultBackend| {
        let store = Store::open(Arc::new(backend.clone()), &options())?;
        intent(&store, "more")
    };
    let whole = FaultBackend::new(&tree);
    let _ = run(&whole).unwrap();
    let before = bytes(&tree);
    for room in 0..bytes(&whole.live()).len() - before.len() {
        let backend = FaultBackend::new(&tree);
        backend.limit_bytes(room as u64);
        assert_eq!(kind(run(&backend)), Some(ErrorKind::NoSpace));
        let after = backend.live();
        assert!(bytes(&after).starts_with(&before));
        let store = reopen(&after);
        done(&store, &intent(&store, "later").unwrap());
        assert!(has_head(&store, *heads.last().unwrap()), "room for {room}");
    }
    for number in 1..=whole.call_count() {
        let backend = FaultBackend::new(&tree);
        backend.cut_at(number);
        run(&backend).unwrap_err();
        for state in backend.crash_states() {
            let store = reopen(&state.image);
            let _ = intent(&store, "later").unwrap();
            assert!(has_head(&store, *heads.last().unwrap()), "cut at {number}");
        }
    }
}

// spec: AUD-06
// spec: AUD-07
#[test]
fn what_no_entry_can_be_is_damage_and_the_log_goes_on_behind_it() {
    let (tree, store, _) = logged();
    let long = vec![b'x'; 3 << 20];
    tree.tamper(&path(LOG), |bytes| {
        bytes.extend_from_slice(&long);
        bytes.push(b'\n');
    })
    .unwrap();
    let offset = bytes(&tree).len() as u64 - long.len() as u64 - 1;
    let found = report(&store);
    assert_eq!((found.entries, found.problem_count), (5, 1));
    assert_eq!(found.problems[0].offset, offset);
    let begun = intent(&store, "later").unwrap();
    assert_eq!(begun.seq(), 6);
    let found = report(&store);
    assert_eq!((found.entries, found.problem_count), (6, 1));
    // From garbage alone the log begins.
    tree.tamper(&path(LOG), |bytes| *bytes = vec![0; 100])
        .unwrap();
    assert_eq!(intent(&store, "first").unwrap().seq(), 1);
    assert!(report(&store).ok);
}

// spec: AUD-08
#[test]
fn a_store_that_can_only_be_read_is_read_and_not_appended_to() {
    let (tree, _, heads) = logged();
    let readers = options().access(Access::ReadOnly);
    let store = Store::open(Arc::new(tree.clone()), &readers).unwrap();
    assert!(has_head(&store, *heads.last().unwrap()));
    let before = bytes(&tree);
    intent(&store, "import").unwrap_err();
    assert_eq!(bytes(&tree), before);
    assert_eq!(
        tree.list(&path("locks"))
            .unwrap()
            .iter()
            .filter(|e| e.name == "audit")
            .count(),
        1
    );
}
