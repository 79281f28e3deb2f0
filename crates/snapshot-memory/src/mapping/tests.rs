use snapshot_format::{GuestAddress, MemoryRegion};

use super::*;

const PAGE: usize = PAGE_BYTES as usize;

fn layout() -> MemoryLayout {
    let region = |start, pages| MemoryRegion {
        start: GuestAddress(start),
        len_bytes: pages * PAGE_BYTES,
    };
    MemoryLayout::new(vec![region(0, 3), region(1 << 32, 2)]).unwrap()
}

#[test]
fn what_is_written_is_read_in_every_kind() {
    for kind in [MappingKind::Anonymous, MappingKind::Memfd] {
        for huge in [false, true] {
            let options = MappingOptions::default().kind(kind).huge_pages(huge);
            let memory = MappedMemory::new(layout(), options).unwrap();
            let bytes: Vec<u8> = (0..2 * PAGE).map(|i| (i % 251) as u8).collect();
            memory.write(PAGE_BYTES + 3, &bytes).unwrap();
            let mut all = vec![1; 5 * PAGE];
            memory.read_pages(PageRange::new(0, 5), &mut all).unwrap();
            let mut expected = vec![0; 5 * PAGE];
            expected[PAGE + 3..3 * PAGE + 3].copy_from_slice(&bytes);
            assert_eq!(all, expected, "{kind:?}, huge pages {huge}");
            assert_eq!(memory.memfd().is_some(), kind == MappingKind::Memfd);
        }
    }
}

#[test]
fn what_lies_beyond_the_guest_is_refused() {
    let memory = MappedMemory::new(layout(), MappingOptions::default()).unwrap();
    let mut page = [0; PAGE];
    for start in [5, 6, u64::MAX] {
        let range = PageRange::new(start, 1);
        let error = memory.read_pages(range, &mut page).unwrap_err();
        assert!(matches!(error, MemoryError::OutOfRange { .. }), "{error}");
        assert!(memory.host_run(range).is_none());
    }
    assert!(memory.write(5 * PAGE_BYTES - 1, &[1, 2]).is_err());
    assert!(memory.host_run(PageRange::new(4, 2)).is_none());
}

#[test]
fn a_buffer_of_another_length_is_refused() {
    let memory = MappedMemory::new(layout(), MappingOptions::default()).unwrap();
    let error = memory
        .read_pages(PageRange::new(0, 2), &mut [0; PAGE])
        .unwrap_err();
    assert!(matches!(error, MemoryError::BufferLength { .. }), "{error}");
}

#[test]
fn a_host_run_is_the_memory_itself() {
    let memory = MappedMemory::new(layout(), MappingOptions::default()).unwrap();
    let run = memory.host_run(PageRange::new(2, 2)).unwrap();
    memory.write(2 * PAGE_BYTES, &[7; 2 * PAGE]).unwrap();
    let mut seen = vec![0; run.len_bytes()];
    run.copy_to(0, &mut seen);
    assert_eq!(seen, [7; 2 * PAGE]);
}
