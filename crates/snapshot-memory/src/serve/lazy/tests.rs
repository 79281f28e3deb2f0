use std::sync::atomic::Ordering;

use super::super::rig::{Numbered, lazy, single, until, watched, word};
use super::*;
use crate::mapping::MappingKind;

const PAGES: u64 = 600;

fn options() -> LazyOptions {
    LazyOptions::new(ServeOptions::new(1))
}

fn check_all(memory: &LazyMemory, but: &[(u64, u64)]) {
    for page in 0..PAGES {
        let other = but.iter().find(|(changed, _)| *changed == page);
        let expected = other.map_or(Numbered::word(page), |(_, word)| *word);
        assert_eq!(word(memory, page), expected, "page {page}");
    }
}

// spec: SRV-02
#[test]
fn every_page_is_as_in_the_snapshot_whatever_it_is_touched_in() {
    watched(|| {
        for kind in [MappingKind::Anonymous, MappingKind::Memfd] {
            for tracks in [false, true] {
                for threads in [1, 3] {
                    let options = LazyOptions::new(ServeOptions::new(threads))
                        .mapping(MappingOptions::default().kind(kind))
                        .tracks(tracks);
                    let Some(memory) = lazy(Numbered::new(PAGES), options) else {
                        return;
                    };
                    std::thread::scope(|scope| {
                        for _ in 0..3 {
                            scope.spawn(|| check_all(&memory, &[]));
                        }
                    });
                    let stats = memory.server().stats();
                    assert!(stats.demand_pages > 0 && stats.zero_pages > 0, "{stats:?}");
                    assert_eq!(stats.lost_pages, 0);
                }
            }
        }
    });
}

// spec: SRV-07
#[test]
fn writes_stay_and_pages_that_were_given_back_are_zero() {
    watched(|| {
        for tracks in [false, true] {
            let Some(memory) = lazy(Numbered::new(PAGES), options().tracks(tracks)) else {
                return;
            };
            memory.memory().write(3 * PAGE, &[9; 16]).unwrap();
            assert_eq!(word(&memory, 5), 6);
            // Of the three, one was written, one is there, one is absent.
            for page in [3, 5, 300] {
                memory.memory().discard(single(page)).unwrap();
            }
            memory.memory().write(8 * PAGE, &[7; 16]).unwrap();
            let bytes = Numbered::bytes(PageRange::new(0, PAGES));
            memory
                .server()
                .prefetch(PageRange::new(0, PAGES), &bytes)
                .unwrap();
            memory.server().fill(PageRange::new(0, PAGES)).unwrap();
            let seven = u64::from_le_bytes([7; 8]);
            check_all(&memory, &[(3, 0), (5, 0), (300, 0), (8, seven)]);
            let stats = memory.server().stats();
            assert_eq!(stats.discarded_pages, 3);
            memory.memory().discard(PageRange::new(0, PAGES)).unwrap();
            for page in 0..PAGES {
                assert_eq!(word(&memory, page), 0);
            }
        }
    });
}

// spec: SRV-10
#[test]
fn a_page_that_cannot_be_had_holds_its_thread_until_it_is_abandoned() {
    watched(|| {
        let source = Numbered::new(PAGES);
        source.damage(20);
        let Some(memory) = lazy(source, options()) else {
            return;
        };
        // Its neighbours in the window are there.
        assert_eq!(word(&memory, 19), 20);
        assert_eq!(word(&memory, 21), 22);
        std::thread::scope(|scope| {
            let readers: Vec<_> = (0..2).map(|_| scope.spawn(|| word(&memory, 20))).collect();
            until(|| memory.server().stats().lost_pages == 1);
            assert_eq!(word(&memory, 40), 41, "others are served");
            assert!(readers.iter().all(|reader| !reader.is_finished()));
            let failures = memory.events().take();
            let pages: Vec<_> = failures.iter().map(|failure| failure.pages).collect();
            assert_eq!(pages, [single(20)], "it is told of once");
            memory.server().abandon();
            for reader in readers {
                assert_eq!(reader.join().unwrap(), 0);
            }
        });
    });
}

// spec: SRV-10
#[test]
fn a_lost_page_that_is_handed_in_lets_its_thread_go_on() {
    watched(|| {
        let source = Numbered::new(PAGES);
        source.damage(20);
        let Some(memory) = lazy(source, options()) else {
            return;
        };
        std::thread::scope(|scope| {
            let reader = scope.spawn(|| word(&memory, 20));
            until(|| memory.server().stats().lost_pages == 1);
            memory
                .server()
                .prefetch(single(20), &Numbered::bytes(single(20)))
                .unwrap();
            assert_eq!(reader.join().unwrap(), 21);
        });
    });
}

// spec: SRV-05
#[test]
fn a_window_that_several_threads_wait_for_is_read_once() {
    watched(|| {
        let source = Numbered::new(PAGES);
        let options = LazyOptions::new(ServeOptions::new(3));
        let Some(memory) = lazy(source.clone(), options) else {
            return;
        };
        source.hold(true);
        std::thread::scope(|scope| {
            let readers: Vec<_> = [72, 73, 74, 75, 76, 73]
                .map(|page| {
                    scope.spawn({
                        let memory = &memory;
                        move || word(memory, page)
                    })
                })
                .into_iter()
                .collect();
            until(|| memory.server().stats().faults >= 6);
            assert_eq!(source.reads.load(Ordering::SeqCst), 1);
            source.hold(false);
            for reader in readers {
                assert!((73..78).contains(&reader.join().unwrap()));
            }
        });
        // Of the window from 64 to 80 the pages from 70 on are not zero.
        assert_eq!(source.reads.load(Ordering::SeqCst), 1);
    });
}

// spec: SRV-08
#[test]
fn a_page_that_is_given_back_while_it_is_read_stays_zero() {
    watched(|| {
        let source = Numbered::new(PAGES);
        let Some(memory) = lazy(source.clone(), LazyOptions::new(ServeOptions::new(2))) else {
            return;
        };
        source.hold(true);
        std::thread::scope(|scope| {
            let reader = scope.spawn(|| word(&memory, 100));
            until(|| source.waiting.load(Ordering::SeqCst) == 1);
            memory.memory().discard(PageRange::new(96, 16)).unwrap();
            source.hold(false);
            assert_eq!(reader.join().unwrap(), 0);
            for page in 96..112 {
                assert_eq!(word(&memory, page), 0, "page {page}");
            }
        });
    });
}

#[test]
fn memory_that_was_finished_is_complete_and_no_longer_served() {
    watched(|| {
        for tracks in [false, true] {
            let source = Numbered::new(PAGES);
            let Some(mut memory) = lazy(source.clone(), options().tracks(tracks)) else {
                return;
            };
            memory.memory().discard(single(7)).unwrap();
            assert_eq!(memory.server_mut().finish().unwrap(), !tracks);
            source.damage(0);
            check_all(&memory, &[(7, 0)]);
            memory.memory().discard(single(9)).unwrap();
            assert_eq!(word(&memory, 9), 0);
        }
    });
}

// spec: SRV-12
#[test]
fn a_caller_may_bring_the_only_thread() {
    watched(|| {
        let Some(memory) = lazy(Numbered::new(PAGES), LazyOptions::new(ServeOptions::new(0)))
        else {
            return;
        };
        std::thread::scope(|scope| {
            let server = scope.spawn(|| memory.server().run());
            check_all(&memory, &[]);
            memory.server().stop_serving();
            server.join().unwrap();
        });
    });
}

const PAGE: u64 = snapshot_format::PAGE_BYTES;
