//! A disk that fills, at every byte of the way.

use std::collections::BTreeSet;

use snapshot_format::PAGE_BYTES;
use snapshot_memory::SinkError;
use snapshot_memory::backend::FaultBackend;

use crate::rig::{LARGE, Rig, SMALL};

const SECTOR_BYTES: u64 = 512;

/// More than any snapshot here needs.
const PLENTY: u64 = 1 << 40;

// spec: MEM-07
#[test]
fn a_disk_that_fills_at_any_sector_leaves_no_trace() {
    for rig in Rig::all(SMALL) {
        let (needed, _) = needed_bytes(&rig);
        let budgets = (0..needed).step_by(512).chain([needed - 1]);
        budgets.for_each(|budget| assert_full_disk(&rig, budget));
    }
}

// spec: MEM-21
#[test]
fn a_disk_that_fills_while_several_buffers_are_under_way_leaves_no_trace() {
    for rig in Rig::all(LARGE) {
        let (needed, data) = needed_bytes(&rig);
        let mut budgets: BTreeSet<u64> = (0..needed).step_by(768 << 10).collect();
        for edge in [2 << 20, 4 << 20, data, needed] {
            budgets.extend([edge - SECTOR_BYTES, edge - 1, edge, edge + SECTOR_BYTES]);
        }
        let budgets = budgets.into_iter().filter(|budget| *budget < needed);
        budgets.for_each(|budget| assert_full_disk(&rig, budget));
    }
}

/// Bytes that the snapshot writes, and those of them that are pages.
fn needed_bytes(rig: &Rig) -> (u64, u64) {
    let backend = FaultBackend::new(&rig.before);
    backend.limit_bytes(PLENTY);
    let (_, stats) = rig.attempt(&backend, rig.options()).unwrap();
    let left = snapshot_memory::backend::Backend::free_bytes(&backend).unwrap();
    (PLENTY - left, stats.present * PAGE_BYTES)
}

fn assert_full_disk(rig: &Rig, budget: u64) {
    let backend = FaultBackend::new(&rig.before);
    backend.limit_bytes(budget);
    let failure = rig.attempt(&backend, rig.options()).unwrap_err();
    let how = format!("{budget} bytes");
    let is_typed = match failure.not_committed() {
        Some(SinkError::File(error)) => {
            error.is_no_space() && error.path.as_str().starts_with(".stage-")
        }
        _ => false,
    };
    assert!(is_typed, "{}: {how}: {}", rig.name, failure.text());
    // To take it again each time would take long.
    if budget.is_multiple_of(8 * SECTOR_BYTES) {
        rig.assert_untouched(&backend, &how);
    }
}
