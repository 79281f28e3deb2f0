use super::*;
use crate::testing::{Guest, archive, domain};
use crate::{MemoryObjects, Objects};

/// Two archives, of which the second holds a delta of a chunk of the first.
fn filled() -> (MemoryObjects, Domain) {
    let objects = MemoryObjects::new();
    let domain = domain(&objects);
    let guest = Guest::new(48, 1);
    let first = archive(&domain, 1, &guest, None).unwrap();
    guest.write(3, 9);
    let second = archive(&domain, 2, &guest, Some((first.id, &[3]))).unwrap();
    assert_eq!(second.deltas, 1);
    (objects, domain)
}

#[test]
fn every_record_is_checked_once_whatever_the_threads() {
    let (_, domain) = filled();
    for threads in 0..4 {
        let report = domain.verify(threads).unwrap();
        assert!(report.is_ok(), "{report:?}");
        // Three chunks, a leaf and a manifest; then a delta, a leaf and a manifest.
        assert_eq!((report.packs, report.records, report.recipes), (2, 8, 2));
    }
}

#[test]
fn threads_find_in_several_batches_what_one_finds() {
    let objects = MemoryObjects::new();
    let domain = domain(&objects);
    // Chunks of several batches, in one pack.
    archive(&domain, 1, &Guest::new(2 * BATCH * 16, 1), None).unwrap();
    let (pack, _) = domain.list(ObjectKind::Pack).unwrap()[0];
    let name = domain.name(ObjectKind::Pack, pack);
    let mut bytes = objects.bytes(&name).unwrap();
    for eighth in 1..8 {
        let at = bytes.len() / 8 * eighth;
        bytes[at] ^= 1;
    }
    objects.tamper(&name, bytes);
    let told = |threads| {
        let report = domain.verify(threads).unwrap();
        let problems: Vec<_> = report.problems.iter().map(ToString::to_string).collect();
        (report.records, report.bytes, problems)
    };
    let alone = told(0);
    assert!(alone.2.len() >= 7, "{alone:?}");
    for threads in 1..4 {
        assert_eq!(told(threads), alone, "{threads} threads");
    }
}

#[test]
fn a_flipped_bit_in_any_object_is_found() {
    let (objects, domain) = filled();
    for name in objects.names() {
        let bytes = objects.bytes(&name).unwrap();
        // Every byte of small objects and of the ends of packs, and some of the middle.
        let is_end = |at: usize| at < 400 || bytes.len() - at < 1500 || at.is_multiple_of(997);
        for at in (0..bytes.len()).filter(|at| is_end(*at)) {
            let mut flipped = bytes.clone();
            flipped[at] ^= 0x08;
            objects.tamper(&name, flipped);
            let is_found = domain.verify(0).map_or(true, |report| !report.is_ok());
            assert!(is_found, "{name}, byte {at}");
        }
        objects.tamper(&name, bytes);
    }
    assert!(domain.verify(0).unwrap().is_ok());
}

#[test]
fn a_pack_that_is_lost_leaves_incomplete_archives_that_are_named() {
    let (objects, domain) = filled();
    let (pack, _) = domain.list(ObjectKind::Pack).unwrap()[0];
    objects
        .delete(&domain.name(ObjectKind::Pack, pack))
        .unwrap();
    let report = domain.verify(0).unwrap();
    assert!(!report.is_ok());
    assert!(!report.incomplete.is_empty() || !report.problems.is_empty());
    let archives = domain.archives().unwrap().archives;
    assert!(
        report
            .incomplete
            .iter()
            .all(|(id, _)| archives.iter().any(|found| found.id == *id))
    );
}
