//! Several threads do the work, and none of it shows.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use snapshot_format::{PAGE_BYTES, PageRange};

use crate::backend::{FaultBackend, MemBackend};
use crate::capture::rig::{Chain, PAGE, layout, mapped};
use crate::capture::writer::*;
use crate::capture::{Cancel, CaptureControl, LayoutChoice};
use crate::error::MemoryError;
use crate::mapping::MappedMemory;
use crate::source::HostRun;

// spec: MEM-08
#[test]
fn the_number_of_threads_changes_no_call() {
    let layout = layout(&[(0, 5000), (1 << 20, 3000)]);
    let memory = mapped(&layout);
    for page in (0..8000).filter(|page| page % 3 != 0) {
        memory
            .write(page * PAGE_BYTES, &[page as u8 | 1; PAGE])
            .unwrap();
    }
    let calls = |threads: usize, layout| {
        let backend = Arc::new(FaultBackend::new(&MemBackend::new()));
        let mut chain = Chain::new(backend.clone());
        chain.options = CaptureOptions::default()
            .layout(layout)
            .threads(threads.try_into().unwrap());
        let full = chain.take(&memory, None, Stability::Paused).unwrap();
        let root = full.map_root;
        let calls: Vec<String> = backend
            .calls()
            .iter()
            .map(|call| format!("{call:?}"))
            .collect();
        (root, calls)
    };
    for layout in [LayoutChoice::Sparse, LayoutChoice::Packed] {
        let alone = calls(1, layout);
        (2..5).for_each(|threads| assert_eq!(calls(threads, layout), alone));
    }
}

/// Memory whose reader panics when it comes to a page.
struct Panics(MappedMemory, u64);

impl GuestMemorySource for Panics {
    fn layout(&self) -> &MemoryLayout {
        self.0.layout()
    }

    fn read_pages(&self, pages: PageRange, out: &mut [u8]) -> Result<(), MemoryError> {
        assert!(
            !(pages.start.0..pages.end().0).contains(&self.1),
            "this page cannot be read"
        );
        self.0.read_pages(pages, out)
    }

    fn host_run(&self, _: PageRange) -> Option<HostRun<'_>> {
        None
    }
}

// spec: MEM-09
#[test]
fn a_source_that_panics_ends_the_capture() {
    for (page, threads) in [(0, 1), (0, 3), (4999, 3), (2600, 2)] {
        let source = Panics(mapped(&layout(&[(0, 5000)])), page);
        let mut chain = Chain::new(Arc::new(MemBackend::new()));
        chain.options = CaptureOptions::default().threads(threads.try_into().unwrap());
        let taken = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            chain.take(&source, None, Stability::Running).map(drop)
        }));
        assert!(taken.is_err(), "page {page} on {threads} threads");
    }
}

// spec: MEM-09
#[test]
fn a_capture_ends_when_it_is_asked_to() {
    let memory = mapped(&layout(&[(0, 5000)]));
    memory.write(0, &vec![7; 5000 * PAGE]).unwrap();
    for after in 1..5 {
        let cancel = Cancel::default();
        let (asked, told) = (cancel.clone(), Arc::new(AtomicUsize::new(0)));
        let counted = told.clone();
        let control = CaptureControl::default()
            .cancel(cancel)
            .progress(move |progress| {
                assert!(progress.taken_bytes <= progress.total_bytes);
                if counted.fetch_add(1, Ordering::Relaxed) + 1 == after {
                    asked.ask();
                }
            });
        let mut chain = Chain::new(Arc::new(MemBackend::new()));
        chain.options = CaptureOptions::default().control(control);
        let taken = chain.take(&memory, None, Stability::Paused).map(drop);
        assert!(matches!(taken, Err(SinkError::Cancelled)), "{taken:?}");
        assert_eq!(told.load(Ordering::Relaxed), after);
    }
}
