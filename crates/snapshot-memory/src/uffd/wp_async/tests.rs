use super::*;
use crate::mapping::{MappedMemory, MappingKind, MappingOptions};
use snapshot_format::{GuestAddress, MemoryRegion, PageRange};

const MIB: u64 = 1 << 20;

fn split_layout() -> MemoryLayout {
    let region = |start, len_bytes| MemoryRegion {
        start: GuestAddress(start),
        len_bytes,
    };
    MemoryLayout::new(vec![region(0, 3 * MIB), region(4 << 30, 5 * MIB)]).unwrap()
}

fn started(kind: MappingKind) -> Option<(Arc<MappedMemory>, WpAsyncSource)> {
    started_in(split_layout(), kind)
}

fn started_in(
    layout: MemoryLayout,
    kind: MappingKind,
) -> Option<(Arc<MappedMemory>, WpAsyncSource)> {
    let options = MappingOptions::default().kind(kind);
    let memory = Arc::new(MappedMemory::new(layout, options).unwrap());
    match WpAsyncSource::new(memory.clone()) {
        Ok(mut source) => {
            source.start().unwrap();
            Some((memory, source))
        }
        Err(error) => {
            crate::skip::skip("uffd", &error.to_string());
            None
        }
    }
}

fn harvest(source: &mut WpAsyncSource) -> Vec<PageRange> {
    let bitmap = DirtyBitmap::new(source.layout().page_count());
    source.harvest(&bitmap).unwrap();
    bitmap.iter_runs().collect()
}

fn write_page(memory: &MappedMemory, page: u64) {
    memory.write(page * PAGE_BYTES + 8, &[1]).unwrap();
}

#[test]
fn every_written_page_is_named_once() {
    for kind in [MappingKind::Anonymous, MappingKind::Memfd] {
        let Some((memory, mut source)) = started(kind) else {
            return;
        };
        assert_eq!(
            harvest(&mut source),
            [],
            "{kind:?}: untouched memory is dirty"
        );
        for page in [0, 767, 768, 1000, 1001, 2047] {
            write_page(&memory, page);
        }
        // Pages 767 and 768 lie on both sides of the hole between the regions.
        let expected = [(0, 1), (767, 2), (1000, 2), (2047, 1)];
        assert_eq!(
            harvest(&mut source),
            expected.map(|(at, n)| PageRange::new(at, n)),
            "{kind:?}"
        );
        assert_eq!(
            harvest(&mut source),
            [],
            "{kind:?}: a harvest did not clear"
        );
        write_page(&memory, 1000);
        assert_eq!(
            harvest(&mut source),
            [PageRange::new(1000, 1)],
            "{kind:?}: not armed again"
        );
    }
}

#[test]
fn reading_makes_nothing_dirty() {
    let Some((memory, mut source)) = started(MappingKind::Anonymous) else {
        return;
    };
    let mut page = [0; 4096];
    memory.read(MIB, &mut page).unwrap();
    assert_eq!(harvest(&mut source), []);
}

#[test]
fn more_runs_than_one_scan_reports_are_all_found() {
    let Some((memory, mut source)) = started(MappingKind::Anonymous) else {
        return;
    };
    let pages: Vec<u64> = (0..2048).step_by(2).collect();
    pages.iter().for_each(|&page| write_page(&memory, page));
    let found: Vec<u64> = harvest(&mut source).iter().map(|run| run.start.0).collect();
    assert_eq!(found, pages);
}

// spec: DRT-07
#[test]
fn a_second_userfaultfd_on_the_memory_is_refused() {
    let Some((memory, _first)) = started(MappingKind::Anonymous) else {
        return;
    };
    let mut second = WpAsyncSource::new(memory).unwrap();
    let error = second.start().unwrap_err();
    assert!(matches!(error, DirtyError::Unsupported { .. }), "{error}");
}

#[test]
fn a_source_that_is_not_started_or_stopped_harvests_nothing() {
    let Some((memory, mut source)) = started(MappingKind::Anonymous) else {
        return;
    };
    source.stop().unwrap();
    write_page(&memory, 3);
    let bitmap = DirtyBitmap::new(source.layout().page_count());
    assert!(source.harvest(&bitmap).is_err());
    source.start().unwrap();
    assert_eq!(harvest(&mut source), []);
}

// A hypervisor reaches guest memory the same way: through the page tables, from the kernel.
#[test]
fn writes_that_the_kernel_makes_are_named() {
    use nix::sys::uio::{RemoteIoVec, process_vm_writev};
    let Some((memory, mut source)) = started(MappingKind::Anonymous) else {
        return;
    };
    let page = 1500;
    let base = memory.base().as_ptr().expose_provenance();
    let target = RemoteIoVec {
        base: base + page * 4096,
        len: 5000,
    };
    let bytes = [7; 5000];
    let local = [io::IoSlice::new(&bytes)];
    match process_vm_writev(nix::unistd::Pid::this(), &local, &[target]) {
        Ok(written) => assert_eq!(written, bytes.len()),
        Err(error) => return crate::skip::skip("process-vm", &error.to_string()),
    }
    let expected = PageRange::new(page as u64, 2);
    assert_eq!(harvest(&mut source), [expected]);
}

// spec: LIV-17
#[test]
fn a_shared_scan_finds_the_same_roused_or_not_in_memory_that_it_had_before() {
    // Three pieces.
    let layout = MemoryLayout::single(96 * MIB).unwrap();
    let Some((memory, mut source)) = started_in(layout, MappingKind::Anonymous) else {
        return;
    };
    source.rouse();
    source.make_ready(NonZeroUsize::new(2).unwrap()).unwrap();
    let peek = |source: &mut WpAsyncSource| {
        let found = DirtyBitmap::new(source.layout().page_count());
        source.peek(&found).unwrap();
        found.iter_runs().collect::<Vec<_>>()
    };
    let has_memory = |source: &WpAsyncSource| source.crew.as_ref().unwrap().has_spare();
    let expected = [(0, 1), (8191, 2), (20_000, 1)].map(|(at, n)| PageRange::new(at, n));
    for is_roused in [false, true, true] {
        harvest(&mut source);
        for page in [0, 8191, 8192, 20_000] {
            write_page(&memory, page);
        }
        assert!(has_memory(&source));
        if is_roused {
            source.rouse();
        }
        assert_eq!(peek(&mut source), expected);
        // That is what it took, and it got no more.
        assert!(!has_memory(&source));
    }
    // Without a harvest in between it gets some, and the pages are written still.
    assert_eq!(peek(&mut source), expected);
    source.rouse();
    source.rest();
    assert!(source.crew.is_none());
    assert_eq!(peek(&mut source), expected);
}
