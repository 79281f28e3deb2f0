//! The image of a guest that never stops writing, compared with its memory in the pause.

use std::sync::Arc;

use snapshot_format::{MemoryLayout, PAGE_BYTES, PageRange};
use snapshot_memory::skip::skip;
use snapshot_memory::{
    DirtySource, GuestMemorySource, MappedMemory, MappingKind, MappingOptions, VmmWrites,
    WpAsyncSource, WriteMarker,
};

use crate::testing::live_image_suite;

const PAGES: u64 = 600;

/// Snapshots of each kind of memory and source.
const SNAPSHOTS: u32 = 120;

/// Takes snapshots while a guest writes pages all over, some of them zero, and compares each.
fn check(memory: &Arc<MappedMemory>, marker: Option<&WriteMarker>, source: Box<dyn DirtySource>) {
    let mut write = |random: u64| {
        let page = random % PAGES;
        let value = if random.is_multiple_of(5) { 0 } else { random };
        let words = value.to_le_bytes().repeat(512);
        memory.write(page * PAGE_BYTES, &words).unwrap();
        if let Some(marker) = marker {
            marker.mark(PageRange::new(page, 1));
        }
        if random.is_multiple_of(64) {
            std::thread::yield_now();
        }
    };
    live_image_suite(&**memory, source, SNAPSHOTS, &mut write).unwrap();
}

fn mapped(kind: MappingKind) -> Arc<MappedMemory> {
    let layout = MemoryLayout::single(PAGES * PAGE_BYTES).unwrap();
    let options = MappingOptions::default().kind(kind);
    Arc::new(MappedMemory::new(layout, options).unwrap())
}

// spec: LIV-01
#[test]
fn images_under_load_are_memory_at_the_pause_by_write_protection() {
    for kind in [MappingKind::Anonymous, MappingKind::Memfd] {
        let memory = mapped(kind);
        match WpAsyncSource::new(memory.clone()) {
            Ok(source) => check(&memory, None, Box::new(source)),
            Err(error) => return skip("uffd", &error.to_string()),
        }
    }
}

// spec: LIV-01
#[test]
fn images_under_load_are_memory_at_the_pause_by_marks() {
    let memory = mapped(MappingKind::Anonymous);
    let (writes, marker) = VmmWrites::new(memory.layout().clone());
    check(&memory, Some(&marker), Box::new(writes));
}
