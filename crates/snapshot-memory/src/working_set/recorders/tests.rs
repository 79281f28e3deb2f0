use snapshot_format::MemoryLayout;

use super::*;
use crate::backend::{Backend, FsBackend, RelPath};
use crate::mapping::{MappedMemory, MappingOptions};
use crate::skip::skip;

fn pages_of(touched: &TouchedPages) -> Vec<u64> {
    let runs = touched.runs().iter();
    runs.flat_map(|run| run.start.0..run.end().0).collect()
}

// spec: WS-15
#[test]
fn pages_that_were_written_are_present_and_no_others() {
    let layout = MemoryLayout::single(3000 * PAGE_BYTES).unwrap();
    let options = MappingOptions::default().huge_pages(false);
    let memory = MappedMemory::new(layout, options).unwrap();
    let written: Vec<u64> = (0..3000)
        .filter(|page| page % 3 == 1 || page % 700 < 9)
        .collect();
    for page in &written {
        memory.write(page * PAGE_BYTES, &[1]).unwrap();
    }
    match TouchedPages::present(&memory) {
        Ok(touched) => {
            assert_eq!(pages_of(&touched), written);
            assert_eq!(touched.origin(), WorkingSetOrigin::Present);
        }
        Err(error) => skip("uffd", &format!("PAGEMAP_SCAN: {error}")),
    }
}

// spec: WS-15
#[test]
fn pages_of_a_file_that_was_just_written_are_resident() {
    let folder = tempfile::tempdir().unwrap();
    let backend = FsBackend::open(folder.path()).unwrap();
    let path = RelPath::root().join("image").unwrap();
    let mut file = backend.create(&path).unwrap();
    file.write_all_at(0, &vec![1; 40 * 4096]).unwrap();
    let file = backend.open(&path).unwrap();
    let touched = TouchedPages::resident_in(&*file, 40).unwrap();
    assert_eq!(touched.runs(), [PageRange::new(0, 40)]);
    let error = TouchedPages::resident_in(&*file, 41).unwrap_err();
    assert!(
        matches!(
            error,
            WorkingSetError::PageCount {
                expected: 41,
                found: 40
            }
        ),
        "{error}"
    );
}

// spec: WS-15
#[test]
fn pages_of_anonymous_memory_are_resident_once_they_are_touched() {
    let layout = MemoryLayout::single(500 * PAGE_BYTES).unwrap();
    let options = MappingOptions::default().huge_pages(false);
    let memory = MappedMemory::new(layout, options).unwrap();
    for page in [3, 4, 499] {
        memory.write(page * PAGE_BYTES, &[1]).unwrap();
    }
    let touched = TouchedPages::resident(&memory).unwrap();
    assert_eq!(pages_of(&touched), [3, 4, 499]);
    assert_eq!(touched.origin(), WorkingSetOrigin::Resident);
}
