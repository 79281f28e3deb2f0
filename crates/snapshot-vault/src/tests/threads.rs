//! Several writers and collectors at once, on the same folder.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use snapshot_memory::backend::MemBackend;

use crate::testing::{Guest, archive, domain_on, restored};
use crate::{CollectOptions, ErrorKind, FolderObjects, ObjectKind};

#[test]
fn writers_and_collectors_at_once_lose_nothing_that_was_told_as_done() {
    let backend = Arc::new(MemBackend::new());
    let open = || domain_on(Arc::new(FolderObjects::open(backend.clone()).unwrap()));
    let is_over = AtomicBool::new(false);
    let mut kept = Vec::new();
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let options = CollectOptions {
                    copy_below_percent: 80,
                    expire_trash: true,
                    ..CollectOptions::default()
                };
                let domain = open();
                while !is_over.load(Ordering::Relaxed) {
                    // Two that copy from each other's packs may give up, and lose nothing.
                    if let Err(error) = domain.collect(&options) {
                        assert_eq!(error.kind(), ErrorKind::Busy, "{error}");
                    }
                }
            });
        }
        let writers = (1..=3_u8).map(|writer| {
            scope.spawn(move || {
                let domain = open();
                let guest = Guest::new(48, 1);
                let mut own = Vec::new();
                let mut near = None;
                for round in 0..6_u8 {
                    // Writers have most pages in common, and delete every second archive.
                    let page = usize::from(writer * 7 + round) % 48;
                    guest.write(page, u64::from(writer) * 100 + u64::from(round));
                    let changed = [page];
                    let relative = near.map(|near| (near, &changed[..]));
                    let archived = archive(&domain, writer * 10 + round, &guest, relative).unwrap();
                    if round % 2 == 0 {
                        own.push((archived.id, guest.image()));
                        near = Some(archived.id);
                    } else {
                        domain.delete_archive(archived.id).unwrap();
                        near = None;
                    }
                }
                own
            })
        });
        let writers: Vec<_> = writers.collect();
        for writer in writers {
            kept.extend(writer.join().unwrap());
        }
        is_over.store(true, Ordering::Relaxed);
    });
    let domain = open();
    for (id, image) in &kept {
        assert!(restored(&domain, *id).unwrap() == *image, "archive {id}");
    }
    domain.collect(&CollectOptions::default()).unwrap();
    assert!(domain.verify(1).unwrap().is_ok());
    assert_eq!(domain.list(ObjectKind::Tombstone).unwrap(), []);
    assert_eq!(kept.len(), 9);
}
