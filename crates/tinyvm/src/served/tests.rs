//! Guests whose pages cannot be brought.

use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use hypervisor_bridge::testing::{KeptSnapshot, MemorySink, Script};
use hypervisor_bridge::{ClockPolicy, Overrides};
use snapshot_format::{MemoryLayout, PAGE_BYTES, PageRange};
use snapshot_memory::skip::skip;
use snapshot_memory::{PageRun, PageSource, ServeOptions, SourceError};

use super::ServedPages;
use crate::tests::{can_run, config, take};
use crate::{Backend, GuestError, Image, ImagePages, Purpose, SnapshotPages, restore, start};

/// Pages that a guest gets before the others are lost: fewer than its program writes.
const READABLE: u64 = 64;

/// How long a guest may take to end.
const LIMIT: Duration = Duration::from_mins(1);

/// A snapshot that cannot be read any more after so many pages.
struct Fails {
    kept: KeptSnapshot,
    readable: u64,
    reads: AtomicU64,
}

impl PageSource for Fails {
    fn layout(&self) -> &MemoryLayout {
        &self.kept.layout
    }

    fn run(&self, pages: PageRange) -> Result<PageRun, SourceError> {
        Ok(PageRun {
            count: pages.count,
            is_zero: false,
        })
    }

    fn read_pages(&self, pages: PageRange, out: &mut [u8]) -> Result<(), SourceError> {
        if self.reads.fetch_add(pages.count, Ordering::Relaxed) >= self.readable {
            return Err(SourceError::Other("the medium has failed".into()));
        }
        self.kept.read_pages(pages, out).map_err(SourceError::Other)
    }
}

/// Runs a guest that gets so many pages, and tells how it ended; `None`: this host serves none.
fn run_on(backend: Backend, readable: u64) -> Option<Result<(), GuestError>> {
    let mut guest = start(backend, &config()).unwrap();
    let mut sink = MemorySink::new(Script::default());
    let kept = take(&mut *guest, SnapshotPages::Full, &mut sink);
    let (sections, snapshot) = (kept.offers(), kept.reference);
    let source = Arc::new(Fails {
        kept,
        readable,
        reads: AtomicU64::new(0),
    });
    let serve = ServeOptions::new(1).window_bytes(PAGE_BYTES);
    let image = Image {
        config: config(),
        pages: ImagePages::Served(ServedPages::of(source, serve)),
        sections,
        snapshot,
        purpose: Purpose::Resume(ClockPolicy::Frozen),
        overrides: Overrides::default(),
    };
    let mut guest = match restore(backend, image) {
        Err(error) if error.is_for_want_of_userfaultfd() => {
            skip("uffd", &error.to_string());
            return None;
        }
        restored => restored.unwrap().guest,
    };
    // A guest that waits for ever would take this thread with it.
    let (tell, told) = mpsc::channel();
    thread::spawn(move || {
        let ran = guest.run(config().steps).map(drop);
        // It never runs again, and can be let go.
        let finished = guest.finish();
        assert_eq!(ran.is_ok(), finished.is_ok());
        tell.send(ran).unwrap();
    });
    Some(told.recv_timeout(LIMIT).unwrap())
}

fn lost_pages_end_it(backend: Backend) {
    if !can_run(backend) {
        return;
    }
    let Some(whole) = run_on(backend, u64::MAX) else {
        return;
    };
    whole.unwrap();
    let lost = run_on(backend, READABLE).unwrap().unwrap_err();
    let count = config().layout().unwrap().page_count();
    let is_told = matches!(
        &lost,
        GuestError::MemoryLost { source } if source.pages.count > 0 && source.pages.end().0 <= count
    );
    assert!(is_told, "{lost:?}");
    let mut cause: &dyn Error = &lost;
    while let Some(below) = cause.source() {
        cause = below;
    }
    assert!(cause.to_string().contains("medium has failed"), "{lost:?}");
}

#[test]
fn lost_pages_end_a_kvm_guest() {
    lost_pages_end_it(Backend::Kvm);
}

#[test]
fn lost_pages_end_a_process_guest() {
    lost_pages_end_it(Backend::Process);
}
