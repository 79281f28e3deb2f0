//! What every dirty source must do.

use snapshot_format::{PAGE_BYTES, PageIndex, PageRange};

use crate::dirty::{DirtyBitmap, DirtyGuarantee, DirtySource};

/// Runs a source that is not started through everything that a tracker relies on.
///
/// `write` makes a watched writer (a vCPU, this process) write to the image page that it is given,
/// and returns when the write is done.
///
/// # Panics
///
/// Where the source breaks a promise; the message names it.
pub fn dirty_source_suite(source: &mut dyn DirtySource, mut write: impl FnMut(PageIndex)) {
    let count = source.layout().page_count();
    let granule = granule_pages(source);
    start(source);
    let first = [0, 1, count / 3, count / 2, count - 1];

    // What was written before the first harvest may be named or not; afterwards the slate is clean.
    harvest(source, count);
    if source.guarantee() == DirtyGuarantee::Exact {
        assert!(
            harvest(source, count).is_clean(),
            "{}: pages that nobody wrote are dirty",
            source.name()
        );
    }
    check_writes(source, &mut write, &first, granule);
    // Again: a harvest must arm the source for the next write to the same page.
    check_writes(source, &mut write, &first, granule);

    // Several writes to one page are one bit, and a harvest ORs into what is there.
    write(PageIndex(0));
    write(PageIndex(0));
    let into = DirtyBitmap::new(count);
    into.set(PageIndex(count - 1));
    assert!(
        source.harvest(&into).is_ok(),
        "{}: harvest failed",
        source.name()
    );
    assert!(
        into.is_set(PageIndex(0)) && into.is_set(PageIndex(count - 1)),
        "{}: a harvest must OR into the bitmap",
        source.name()
    );
    let stopped = source.stop();
    assert!(
        stopped.is_ok(),
        "{}: stop failed: {stopped:?}",
        source.name()
    );
    start(source);
    harvest(source, count);
    check_writes(source, &mut write, &[count - 1], granule);
    let stopped = source.stop();
    assert!(
        stopped.is_ok(),
        "{}: second stop failed: {stopped:?}",
        source.name()
    );
}

fn check_writes(
    source: &mut dyn DirtySource,
    write: &mut impl FnMut(PageIndex),
    pages: &[u64],
    granule: u64,
) {
    let count = source.layout().page_count();
    let expected = DirtyBitmap::new(count);
    for &page in pages {
        write(PageIndex(page));
        expected.set_range(PageRange::new(page / granule * granule, granule));
    }
    let found = harvest(source, count);
    for &page in pages {
        assert!(
            found.is_set(PageIndex(page)),
            "{}: the write to page {page} is lost",
            source.name()
        );
    }
    if source.guarantee() == DirtyGuarantee::Exact {
        assert!(
            found == expected,
            "{}: an exact source names {found:?}, {expected:?} were written",
            source.name()
        );
        assert!(
            harvest(source, count).is_clean(),
            "{}: a harvest must clear the bits",
            source.name()
        );
    }
}

fn harvest(source: &mut dyn DirtySource, count: u64) -> DirtyBitmap {
    let into = DirtyBitmap::new(count);
    let result = source.harvest(&into);
    assert!(
        result.is_ok(),
        "{}: harvest failed: {result:?}",
        source.name()
    );
    into
}

fn start(source: &mut dyn DirtySource) {
    let result = source.start();
    assert!(
        result.is_ok(),
        "{}: start failed: {result:?}",
        source.name()
    );
}

fn granule_pages(source: &dyn DirtySource) -> u64 {
    let granule = source.granule_bytes();
    assert!(
        granule.is_power_of_two() && granule >= PAGE_BYTES,
        "{}: a granule of {granule} bytes",
        source.name()
    );
    assert!(!source.name().is_empty(), "a source has a name");
    granule / PAGE_BYTES
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use snapshot_format::MemoryLayout;

    use super::*;
    use crate::dirty::VmmWrites;
    use crate::mapping::{MappedMemory, MappingKind, MappingOptions};
    use crate::uffd::WpAsyncSource;

    // spec: DRT-06
    #[test]
    fn the_vmm_s_own_writes_conform() {
        let layout = MemoryLayout::single(100 * PAGE_BYTES).unwrap();
        let (mut source, marker) = VmmWrites::new(layout);
        dirty_source_suite(&mut source, |page| marker.mark(PageRange::new(page.0, 1)));
    }

    // spec: DRT-06
    #[test]
    fn asynchronous_write_protection_conforms() {
        for kind in [MappingKind::Anonymous, MappingKind::Memfd] {
            let layout = MemoryLayout::single(2000 * PAGE_BYTES).unwrap();
            let options = MappingOptions::default().kind(kind);
            let memory = Arc::new(MappedMemory::new(layout, options).unwrap());
            match WpAsyncSource::new(memory.clone()) {
                Ok(mut source) => dirty_source_suite(&mut source, |page| {
                    memory.write(page.0 * PAGE_BYTES + 1, &[1]).unwrap();
                }),
                Err(error) => crate::skip::skip("uffd", &error.to_string()),
            }
        }
    }
}
