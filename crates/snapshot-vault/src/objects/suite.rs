//! What every store of objects must pass.

use std::thread;

use super::{ObjectError, ObjectKind, ObjectName, Objects};
use crate::id::{DomainId, ObjectId};

/// Tries the promises of [`Objects`] that one process can see, on an empty store.
///
/// # Panics
///
/// Where one is broken: it says which.
pub fn objects_suite(objects: &dyn Objects) {
    let domain = DomainId([3; 16]);
    let packs = ObjectName::folder(ObjectKind::Pack, domain);
    let name = |number: u8| ObjectName::of(ObjectKind::Pack, domain, ObjectId([number; 16]));

    let listed = objects.list(&packs);
    check(
        listed.is_ok_and(|listed| listed.is_empty()),
        "a folder that is not there lists as empty",
    );
    check_bytes(objects, &name);
    thread::scope(|scope| {
        for number in 0..8 {
            scope.spawn(move || objects.put(&name(number), &[number; 100]).is_ok());
        }
    });
    let mut listed = objects.list(&packs).unwrap_or_default();
    listed.sort();
    check(
        listed
            .iter()
            .map(|found| found.name.clone())
            .eq((0..8).map(name))
            && listed.iter().all(|found| found.len_bytes == 100),
        "a list holds every object that was put, with its length",
    );
    let missing = objects.get(&name(9), 0, &mut [0]);
    check(
        matches!(missing, Err(ObjectError::NotFound)),
        "what was never put is not found",
    );
}

/// What was put comes back, in parts too, until it is deleted.
fn check_bytes(objects: &dyn Objects, name: &dyn Fn(u8) -> ObjectName) {
    let lens = [0, 1, 4095, 4096, 4097, (2 << 20) - 1, (2 << 20) + 5];
    for (number, len) in (100_u8..).zip(lens) {
        let bytes: Vec<u8> = (0..=250).cycle().take(len).collect();
        let object = name(number);
        check(
            objects.delete(&object).is_ok(),
            "what is not there can be deleted",
        );
        check(objects.put(&object, &bytes).is_ok(), "an object is put");
        let mut back = vec![0xEE; len + 1];
        let found = objects.get(&object, 0, &mut back);
        check(
            found.is_ok_and(|found| found == len) && back.starts_with(&bytes),
            "an object has the bytes that were put, and no more",
        );
        let mut middle = vec![0; len / 2];
        let found = objects.get(&object, (len / 4) as u64, &mut middle);
        check(
            found.is_ok_and(|found| found == len / 2)
                && bytes.get(len / 4..len / 4 + len / 2) == Some(&middle),
            "a range has the bytes at its offset",
        );
        let beyond = objects.get(&object, len as u64 + 1, &mut [0]);
        check(
            beyond.is_ok_and(|found| found == 0),
            "there is nothing beyond the end",
        );
        let missing = objects
            .delete(&object)
            .and_then(|()| objects.get(&object, 0, &mut [0]));
        check(
            matches!(missing, Err(ObjectError::NotFound)),
            "what was deleted is not found",
        );
    }
}

fn check(is_kept: bool, promise: &str) {
    assert!(is_kept, "broken: {promise}");
}
