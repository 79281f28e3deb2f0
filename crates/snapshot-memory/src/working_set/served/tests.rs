use std::sync::Arc;

use snapshot_format::PAGE_BYTES;

use crate::backend::MemBackend;
use crate::serve::{LazyMemory, LazyOptions, ServeOptions};
use crate::skip::skip;
use crate::working_set::rig::{self, Numbered};
use crate::working_set::{ReplayOptions, TouchedPages, WorkingSetOptions};

const PAGES: u64 = 2048;

/// Memory that is served one page at a time; `None`, and said so, where this host cannot.
fn lazy(source: &Arc<Numbered>) -> Option<LazyMemory> {
    let options = LazyOptions::new(ServeOptions::new(1).window_bytes(PAGE_BYTES));
    match LazyMemory::restore(source.clone(), options) {
        Ok(memory) => Some(memory),
        Err(error) => {
            skip("uffd", &error.to_string());
            None
        }
    }
}

fn word(memory: &LazyMemory, page: u64) -> u64 {
    let mut word = [0; 8];
    let read = memory.memory().read(page * PAGE_BYTES + 16, &mut word);
    read.unwrap();
    u64::from_le_bytes(word)
}

// spec: WS-07
// spec: WS-11
#[test]
fn what_one_guest_touched_is_there_before_the_next_one_touches_it() {
    let source = Arc::new(Numbered::new(PAGES));
    let Some(first) = lazy(&source) else { return };
    // Odd pages backwards: in no order of addresses, and none of them a neighbour.
    let pages: Vec<u64> = (0..PAGES).rev().filter(|page| page % 4 == 3).collect();
    for page in &pages {
        word(&first, *page);
    }
    let touched = TouchedPages::of_trace(PAGES, &first.server().trace());
    let traced: Vec<u64> = touched.runs().iter().map(|run| run.start.0).collect();
    assert_eq!(traced, pages, "the order of the faults");
    drop(first);
    let backend = MemBackend::new();
    rig::write(&backend, &source, &touched, WorkingSetOptions::default()).unwrap();

    for threads in [1, 2] {
        let memory = lazy(&source).unwrap();
        // The guest runs already: it has written one page of the set, and brought another.
        memory
            .memory()
            .write(7 * PAGE_BYTES + 16, &77_u64.to_le_bytes())
            .unwrap();
        assert_eq!(word(&memory, 11), 12);
        let before = memory.server().stats();
        let mut set = rig::open(&backend, &source).unwrap();
        let replayed = set.replay(memory.server(), &ReplayOptions::new(threads));
        let replayed = replayed.unwrap();
        assert_eq!(
            replayed.data_pages + replayed.zero_pages,
            pages.len() as u64
        );
        for page in &pages {
            let expected = match page {
                7 => 77,
                page if Numbered::is_zero(*page) => 0,
                page => page + 1,
            };
            assert_eq!(word(&memory, *page), expected, "page {page}");
        }
        let after = memory.server().stats();
        assert_eq!(after.faults, before.faults, "nobody had to wait");
    }
}
