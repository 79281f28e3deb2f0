use std::sync::atomic::Ordering;

use super::super::Background;
use super::super::rig::{Numbered, lazy, single, until, watched, word};
use super::*;
use crate::dirty::{DirtyBitmap, DirtySource};
use crate::mapping::MappingKind;

const PAGES: u64 = 600;

fn options() -> LazyOptions {
    LazyOptions::new(ServeOptions::new(1))
}

fn check_all(memory: &LazyMemory, but: &[(u64, u64)]) {
    for page in 0..PAGES {
        let other = but.iter().find(|(changed, _)| *changed == page);
        let expected = other.map_or_else(|| Numbered::word(page), |(_, word)| *word);
        assert_eq!(word(memory, page), expected, "page {page}");
    }
}

// spec: SRV-02
#[test]
fn every_page_is_as_in_the_snapshot_whatever_it_is_touched_in() {
    watched(|| {
        for kind in [MappingKind::Anonymous, MappingKind::Memfd] {
            for tracks in [false, true] {
                if tracks && kind == MappingKind::Memfd {
                    continue;
                }
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

// spec: SRV-13
#[test]
fn pages_that_were_put_there_do_not_count_as_written() {
    watched(|| {
        let Some(memory) = lazy(Numbered::new(PAGES), options().tracks(true)) else {
            return;
        };
        let memory = Arc::new(memory);
        let (mut writes, mut discards) = LazyMemory::track(&memory).unwrap();
        writes.start().unwrap();
        discards.start().unwrap();
        let harvest = |source: &mut dyn DirtySource| {
            let bits = DirtyBitmap::new(PAGES);
            source.harvest(&bits).unwrap();
            bits.iter_runs()
                .map(|run| (run.start.0, run.count))
                .collect::<Vec<_>>()
        };
        // Zero ones among them.
        for page in 0..100 {
            word(&memory, page);
        }
        memory.server().fill(PageRange::new(200, 50)).unwrap();
        assert_eq!(harvest(&mut writes), []);
        for page in [3, 30, 220, 400] {
            memory.memory().write(page * PAGE + 100, &[1]).unwrap();
        }
        memory.memory().discard(PageRange::new(31, 2)).unwrap();
        memory.memory().discard(single(500)).unwrap();
        assert_eq!(harvest(&mut writes), [(3, 1), (30, 1), (220, 1), (400, 1)]);
        assert_eq!(harvest(&mut discards), [(31, 2), (500, 1)]);
        assert_eq!(harvest(&mut writes), []);
        assert_eq!(harvest(&mut discards), []);
        // It is zero for the guest, and not so in the snapshot.
        assert_eq!(word(&memory, 500), 0);
        assert_eq!(harvest(&mut writes), [(500, 1)]);
        drop(memory);
        drop(writes);
        assert!(discards.harvest(&DirtyBitmap::new(PAGES)).is_err());
    });
}

#[test]
fn a_memfd_that_is_tracked_is_refused() {
    let options = options()
        .mapping(MappingOptions::default().kind(MappingKind::Memfd))
        .tracks(true);
    let refused = LazyMemory::restore(Numbered::new(PAGES), options);
    assert!(matches!(refused, Err(ServeError::Unsupported { .. })));
}

// spec: SRV-06
#[test]
fn a_terabyte_costs_the_window_that_is_touched() {
    watched(|| {
        for tracks in [false, true] {
            let source = Numbered::new(1 << 28);
            let Some(memory) = lazy(source.clone(), options().tracks(tracks)) else {
                return;
            };
            let page = (1 << 27) + 9;
            assert_eq!(word(&memory, page), Numbered::word(page));
            let server = memory.server();
            // The reader goes on with the page, the server notes it after that.
            until(|| server.leaf_count() > 0);
            assert_eq!(source.reads.load(Ordering::SeqCst), 1);
            assert_eq!((server.leaf_count(), server.stats().faults), (1, 1));
        }
    });
}

// spec: SRV-11
#[test]
fn the_background_fills_all_that_can_be_read_and_says_what_it_skipped() {
    watched(|| {
        for threads in [1, 2] {
            let source = Numbered::new(PAGES);
            source.damage(40);
            let serve = ServeOptions::new(threads).background(Background::default());
            let Some(memory) = lazy(source.clone(), LazyOptions::new(serve)) else {
                return;
            };
            let minute = std::time::Duration::from_mins(1);
            assert_eq!(memory.server().wait_filled(minute), Some(16));
            let filled = memory.server().stats().background_pages;
            let data = (0..PAGES).filter(|page| !Numbered::is_zero(*page)).count() as u64;
            assert!((data - 16..data).contains(&filled), "{filled} of {data}");
            assert_eq!(memory.events().take().len(), 0, "nobody has asked for it");
            let reads = source.reads.load(Ordering::SeqCst);
            for page in (0..32).chain(48..PAGES) {
                assert_eq!(word(&memory, page), Numbered::word(page));
            }
            assert_eq!(source.reads.load(Ordering::SeqCst), reads);
        }
    });
}

#[test]
fn the_rate_of_the_background_is_capped() {
    watched(|| {
        let rate = std::num::NonZeroU64::new(1);
        let background = Background {
            bytes_a_second: rate,
        };
        let serve = ServeOptions::new(1).background(background);
        let Some(memory) = lazy(Numbered::new(PAGES), LazyOptions::new(serve)) else {
            return;
        };
        until(|| memory.server().stats().background_pages > 0);
        check_all(&memory, &[]);
        // The next piece would come after hours.
        assert!(memory.server().stats().background_pages <= 16);
        assert_eq!(memory.server().wait_filled(std::time::Duration::ZERO), None);
    });
}

// spec: SRV-09
#[test]
fn the_trace_names_what_was_brought_in_the_order_of_faults() {
    watched(|| {
        let serve = ServeOptions::new(1).window_bytes(PAGE).trace_runs(3);
        let Some(memory) = lazy(Numbered::new(PAGES), LazyOptions::new(serve)) else {
            return;
        };
        for page in [300, 2, 301, 5, 300] {
            word(&memory, page);
        }
        let trace = memory.server().trace();
        assert_eq!(trace.runs, [300, 2, 301].map(single));
        assert_eq!(trace.left_out, 1);
    });
}

#[test]
fn windows_of_2_mib_become_huge_pages_where_the_kernel_moves_them() {
    watched(|| {
        let source = Numbered::without_zero(1536);
        let serve = ServeOptions::new(1).huge_pages(true);
        let mapping = MappingOptions::default().huge_pages(true);
        let Some(memory) = lazy(source, LazyOptions::new(serve).mapping(mapping)) else {
            return;
        };
        memory.memory().discard(single(700)).unwrap();
        for page in (0..1536).rev().step_by(3) {
            let expected = if page == 700 { 0 } else { page + 1 };
            assert_eq!(word(&memory, page), expected);
        }
        // Counted after the thread goes on.
        until(|| memory.server().stats().demand_pages == 1535);
        let stats = memory.server().stats();
        assert!(stats.huge_pages <= 2, "{stats:?}");
        if memory.server().context().moves_pages() && stats.huge_pages == 0 {
            crate::skip::skip("uffd", "the kernel gave no huge page to move");
        }
    });
}

const PAGE: u64 = snapshot_format::PAGE_BYTES;

// spec: SRV-16
#[test]
fn who_waits_for_a_page_waits_for_its_piece_and_not_for_the_rest_of_the_window() {
    watched(|| {
        let source = Numbered::in_pieces(PAGES, 4);
        source.hold_pages(12..16);
        let Some(memory) = lazy(source.clone(), options()) else {
            return;
        };
        // The rest of the window is held back, and the page is there all the same.
        assert_eq!(word(&memory, 9), 10);
        until(|| source.waiting.load(Ordering::SeqCst) == 1);
        let placed = memory.server().stats().demand_pages;
        assert_eq!(placed, 4, "the piece alone, 8 to 11");
        source.hold(false);
        until(|| memory.server().stats().demand_pages == 16);
        assert_eq!(memory.server().stats().faults, 1);
        assert_eq!(
            [0, 7, 12, 15].map(|page| word(&memory, page)),
            [1, 8, 13, 16]
        );
        assert_eq!(memory.server().stats().faults, 1, "the window came with it");
    });
}
