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

#[test]
fn memory_of_the_vmm_stays_mapped_when_what_borrowed_it_goes() {
    let owner = MappedMemory::new(layout(), MappingOptions::default()).unwrap();
    // SAFETY: the owner outlives the loan, and its memory is reached atomically only.
    let loan = unsafe { MappedMemory::borrowed(layout(), owner.base()) }.unwrap();
    loan.write(PAGE_BYTES, b"guest").unwrap();
    assert!(loan.write(5 * PAGE_BYTES, b"x").is_err());
    drop(loan);
    let mut seen = [0; 5];
    owner.read(PAGE_BYTES, &mut seen).unwrap();
    assert_eq!(&seen, b"guest");
}

#[test]
#[cfg(target_os = "linux")]
fn a_file_is_mapped_over_a_part_and_never_over_a_memfd() {
    use std::io::Write;
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&[7; 2 * PAGE]).unwrap();
    let memory = MappedMemory::new(layout(), MappingOptions::default()).unwrap();
    memory.write(0, &vec![1; 5 * PAGE]).unwrap();
    let map = |memory: &MappedMemory, pages, offset| memory.map_file(pages, file.as_fd(), offset);
    map(&memory, PageRange::new(3, 1), PAGE_BYTES).unwrap();
    let mut all = vec![0; 5 * PAGE];
    memory.read(0, &mut all).unwrap();
    let expected: Vec<u8> = [1, 1, 1, 7, 1]
        .into_iter()
        .flat_map(|byte| [byte; PAGE])
        .collect();
    assert_eq!(all, expected);
    // Beyond the guest, of no pages, and at no page of the file.
    assert!(map(&memory, PageRange::new(4, 2), 0).is_err());
    assert!(map(&memory, PageRange::new(4, 0), 0).is_err());
    assert!(map(&memory, PageRange::new(4, 1), 5).is_err());
    let options = MappingOptions::default().kind(MappingKind::Memfd);
    let memfd = MappedMemory::new(layout(), options).unwrap();
    let refused = map(&memfd, PageRange::new(0, 1), 0).unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::Unsupported);
}
