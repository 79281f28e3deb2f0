//! A guest of this process, whose memory waits for a handler.

// UNSAFETY: madvise of guest memory that these tests map.
#![expect(unsafe_code, reason = "gives pages back as a balloon does")]

use std::path::Path;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use nix::sys::mman::{MmapAdvise, madvise};
use snapshot_format::{GuestAddress, MemoryLayout, MemoryRegion, PAGE_BYTES};
use snapshot_memory::skip::skip;
use snapshot_memory::{
    FaultModes, HandlerWatch, MappedMemory, MappingOptions, MemoryEvents, ServedRange, UffdContext,
    UffdOptions,
};

/// Pages of a guest, in two regions with a hole between.
pub(crate) const PAGES: u64 = 600;

/// How long a test waits for what must come.
pub(crate) const LIMIT: Duration = Duration::from_mins(1);

pub(crate) fn layout() -> MemoryLayout {
    let region = |start, pages: u64| MemoryRegion {
        start: GuestAddress(start),
        len_bytes: pages * PAGE_BYTES,
    };
    MemoryLayout::new(vec![region(0, 400), region(1 << 32, PAGES - 400)]).unwrap()
}

pub(crate) fn number(page: u64) -> u64 {
    if page.is_multiple_of(5) { 0 } else { page }
}

/// A guest of this process, whose memory waits for a handler.
pub(crate) struct Guest {
    pub(crate) memory: Arc<MappedMemory>,
    pub(crate) context: Arc<UffdContext>,
    pub(crate) ranges: Vec<ServedRange>,
}

impl Guest {
    pub(crate) fn new() -> Self {
        let memory = Arc::new(MappedMemory::new(layout(), MappingOptions::default()).unwrap());
        let context = UffdContext::new(UffdOptions::default()).unwrap();
        let modes = FaultModes {
            missing: true,
            minor: false,
            writes: false,
        };
        // As two regions, though they are neighbours here.
        let whole = context.register(&*memory, modes).unwrap();
        let start = whole[0].addresses.start;
        let range = |first: u64, pages: u64| ServedRange {
            addresses: start + first * PAGE_BYTES..start + (first + pages) * PAGE_BYTES,
            first: snapshot_format::PageIndex(first),
        };
        Self {
            memory,
            context: Arc::new(context),
            ranges: vec![range(0, 400), range(400, PAGES - 400)],
        }
    }

    /// What is at the end of a page.
    pub(crate) fn read(&self, page: u64) -> u64 {
        read(&self.memory, page)
    }

    pub(crate) fn check_all(&self) {
        // Neither in order nor by windows.
        for step in 0..PAGES {
            let page = step * 367 % PAGES;
            assert_eq!(self.read(page), number(page), "page {page}");
        }
    }

    /// Gives a page back, as a balloon does.
    pub(crate) fn give_back(&self, page: u64) {
        let offset = usize::try_from(page * PAGE_BYTES).unwrap();
        let len = usize::try_from(PAGE_BYTES).unwrap();
        let place = self.memory.base().as_ptr().wrapping_add(offset);
        let place = std::ptr::NonNull::new(place).unwrap().cast();
        // SAFETY: the page is part of the mapping, to which there are no references.
        unsafe { madvise(place, len, MmapAdvise::MADV_DONTNEED) }.unwrap();
    }

    /// A thread that reads a page.
    pub(crate) fn reader(&self, page: u64) -> JoinHandle<u64> {
        let memory = Arc::clone(&self.memory);
        thread::spawn(move || read(&memory, page))
    }

    pub(crate) fn hand_over(&self, socket: &Path) -> (HandlerWatch, MemoryEvents) {
        let (events, reporter) = MemoryEvents::new().unwrap();
        let (context, ranges) = (Arc::clone(&self.context), self.ranges.clone());
        let watch = HandlerWatch::connect(socket, context, ranges, reporter, LIMIT);
        (watch.unwrap(), events)
    }
}

pub(crate) fn read(memory: &MappedMemory, page: u64) -> u64 {
    let mut bytes = [0; 8];
    memory
        .read((page + 1) * PAGE_BYTES - 8, &mut bytes)
        .unwrap();
    u64::from_le_bytes(bytes)
}

/// Whether this host lets a process serve the faults of another.
pub(crate) fn can_serve() -> bool {
    let made = UffdContext::new(UffdOptions::default());
    made.inspect_err(|error| skip("uffd", &error.to_string()))
        .is_ok()
}
