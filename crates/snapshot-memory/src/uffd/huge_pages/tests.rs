use std::time::{Duration, Instant};

use snapshot_format::MemoryLayout;

use super::*;
use crate::mapping::{MappedMemory, MappingOptions};
use crate::skip::skip;

const GUEST_BYTES: u64 = 64 << 20;

fn guest(huge: bool, touched: bool) -> MappedMemory {
    let layout = MemoryLayout::single(GUEST_BYTES).unwrap();
    let options = MappingOptions::default().huge_pages(huge);
    let memory = MappedMemory::new(layout, options).unwrap();
    if touched {
        for page in (0..GUEST_BYTES).step_by(4096) {
            memory.write(page, b"x").unwrap();
        }
    }
    memory
}

#[test]
fn small_pages_are_told_from_huge_ones() {
    assert_eq!(backing(&guest(false, true)), Backing::Small);
    let enabled = std::fs::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled");
    if !enabled.is_ok_and(|enabled| !enabled.contains("[never]")) {
        skip("huge-pages", "this kernel gives no transparent huge pages");
        return;
    }
    assert_eq!(backing(&guest(true, true)), Backing::Huge);
}

#[test]
fn memory_that_nobody_touched_is_not_taken_for_huge() {
    assert_eq!(backing(&guest(true, false)), Backing::Small);
}

#[test]
fn the_sample_does_not_grow_with_the_guest() {
    let memory = guest(false, true);
    let times = (0..10).map(|_| {
        let started = Instant::now();
        backing(&memory);
        started.elapsed()
    });
    let fastest = times.min().unwrap();
    // Far more than it takes: some tens of microseconds.
    assert!(fastest < Duration::from_millis(5), "{fastest:?}");
}
