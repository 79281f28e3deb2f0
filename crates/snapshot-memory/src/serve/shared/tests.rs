use std::sync::atomic::Ordering;

use super::super::rig::{Numbered, single, unless_skipped, until, watched, word};
use super::super::{LazyMemory, LazyOptions, ServeOptions};
use super::*;
use crate::dirty::{DirtyBitmap, DirtySource};

const PAGES: u64 = 400;

fn clone_of(pages: &Arc<SharedPages>, tracks: bool) -> Option<LazyMemory> {
    let options = LazyOptions::new(ServeOptions::new(1)).tracks(tracks);
    unless_skipped(LazyMemory::share(pages.clone(), options))
}

fn kibibytes(pages: &SharedPages) -> usize {
    let blocks = nix::sys::stat::fstat(pages.memfd()).unwrap().st_blocks;
    usize::try_from(blocks / 2).unwrap()
}

// spec: SRV-14
#[test]
fn clones_read_a_page_once_and_write_their_own() {
    watched(|| {
        let source = Numbered::new(PAGES);
        let pages = SharedPages::new(source.clone()).unwrap();
        let clones: Option<Vec<_>> = [false, true, false]
            .map(|tracks| clone_of(&pages, tracks))
            .into_iter()
            .collect();
        let Some(clones) = clones else {
            return;
        };
        for (n, clone) in clones.iter().enumerate() {
            clone
                .memory()
                .write(3 * PAGE_BYTES, &[n as u8 + 1; 16])
                .unwrap();
        }
        std::thread::scope(|scope| {
            for (n, clone) in clones.iter().enumerate() {
                scope.spawn(move || {
                    for page in 0..PAGES {
                        let own = u64::from_le_bytes([n as u8 + 1; 8]);
                        let expected = if page == 3 { own } else { Numbered::word(page) };
                        assert_eq!(word(clone, page), expected, "clone {n}, page {page}");
                    }
                });
            }
        });
        let data = (0..PAGES).filter(|page| !Numbered::is_zero(*page)).count();
        assert_eq!(kibibytes(&pages), data * 4, "zero pages take no memory");
        let reads = source.reads.load(Ordering::SeqCst);
        let late = clone_of(&pages, false).unwrap();
        for page in 0..PAGES {
            assert_eq!(word(&late, page), Numbered::word(page));
        }
        assert_eq!(source.reads.load(Ordering::SeqCst), reads);
    });
}

// spec: SRV-07
#[test]
fn what_a_clone_gives_back_is_zero_to_it_and_stays_for_the_others() {
    watched(|| {
        let pages = SharedPages::new(Numbered::new(PAGES)).unwrap();
        for tracks in [false, true] {
            let (Some(one), Some(other)) = (clone_of(&pages, tracks), clone_of(&pages, tracks))
            else {
                return;
            };
            one.memory().write(5 * PAGE_BYTES, &[1; 16]).unwrap();
            assert_eq!(word(&one, 6), 7);
            one.memory().discard(PageRange::new(5, 3)).unwrap();
            for page in 5..8 {
                assert_eq!(word(&one, page), 0);
                assert_eq!(word(&other, page), page + 1);
            }
            let mut one = one;
            one.memory().discard(PageRange::new(110, 2)).unwrap();
            if one.server_mut().finish().unwrap() {
                assert!(!tracks);
            }
            assert_eq!([110, 111].map(|page| word(&one, page)), [0, 0]);
            assert_eq!(word(&one, 112), 113);
        }
    });
}

#[test]
fn writes_of_a_clone_are_tracked() {
    watched(|| {
        let pages = SharedPages::new(Numbered::new(PAGES)).unwrap();
        let Some(clone) = clone_of(&pages, true) else {
            return;
        };
        let clone = Arc::new(clone);
        let (mut writes, _) = LazyMemory::track(&clone).unwrap();
        writes.start().unwrap();
        for page in 0..50 {
            word(&clone, page);
        }
        for page in [7, 33, 90] {
            clone.memory().write(page * PAGE_BYTES, &[1]).unwrap();
        }
        let bits = DirtyBitmap::new(PAGES);
        writes.harvest(&bits).unwrap();
        let found: Vec<_> = bits
            .iter_runs()
            .map(|run| (run.start.0, run.count))
            .collect();
        assert_eq!(found, [(7, 1), (33, 1), (90, 1)]);
    });
}

// spec: SRV-14
#[test]
fn a_memfd_that_is_full_is_sealed_and_needs_no_server() {
    let source = Numbered::new(PAGES);
    let pages = SharedPages::new(source).unwrap();
    pages.fill().unwrap();
    let memory = pages.map().unwrap();
    for page in 0..PAGES {
        let mut word = [0; 8];
        memory.read(page * PAGE_BYTES, &mut word).unwrap();
        assert_eq!(u64::from_le_bytes(word), Numbered::word(page));
    }
    memory.write(0, &[1]).unwrap();
    assert_eq!(pwrite(pages.memfd(), &[1], 0), Err(Errno::EPERM));
    assert!(nix::unistd::ftruncate(pages.memfd(), 0).is_err());
    // It may be asked for twice.
    pages.fill().unwrap();
}

// spec: SRV-10
#[test]
fn a_page_that_cannot_be_read_is_shared_with_nobody() {
    watched(|| {
        let source = Numbered::new(PAGES);
        source.damage(20);
        let pages = SharedPages::new(source).unwrap();
        assert!(matches!(pages.fill(), Err(ServeError::Source { .. })));
        let Some(clone) = clone_of(&pages, false) else {
            return;
        };
        assert_eq!(word(&clone, 21), 22);
        std::thread::scope(|scope| {
            let reader = scope.spawn(|| word(&clone, 20));
            until(|| clone.server().stats().lost_pages == 1);
            assert_eq!(clone.events().take().len(), 1);
            // Handed in by another way, it is there for all.
            clone
                .server()
                .prefetch(single(20), &Numbered::bytes(single(20)))
                .unwrap();
            assert_eq!(reader.join().unwrap(), 21);
        });
        assert_eq!(word(&clone_of(&pages, false).unwrap(), 20), 21);
    });
}
