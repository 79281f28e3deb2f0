//! Restored memory against the image that it was restored from.

use snapshot_format::{PAGE_BYTES, PageRange};
use snapshot_memory::GuestMemorySource;

use super::{Difference, ReloadError, ReloadReport};
use crate::copy::PageReader;
use crate::step::Step;

/// Pages that are compared at a time: 1 MiB.
const CHUNK_PAGES: u64 = 256;

/// Adds every page of `memory` to the report that is not what `image` says. No vCPU has run.
pub fn compare_memory(
    report: &mut ReloadReport,
    memory: &dyn GuestMemorySource,
    image: &mut PageReader<'_>,
) -> Result<(), ReloadError> {
    let failed = |source| ReloadError::Capture {
        step: Step::Memory,
        source,
    };
    let page_count = memory.layout().page_count();
    let page_bytes = usize::try_from(PAGE_BYTES).unwrap_or(usize::MAX);
    let mut first = 0;
    while first < page_count {
        let pages = PageRange::new(first, CHUNK_PAGES.min(page_count - first));
        let len = usize::try_from(pages.count).unwrap_or(usize::MAX) * page_bytes;
        let (mut saved, mut again) = (vec![0; len], vec![0; len]);
        image(pages, &mut saved).map_err(failed)?;
        memory
            .read_pages(pages, &mut again)
            .map_err(|error| failed(error.into()))?;
        let pairs = saved.chunks(page_bytes).zip(again.chunks(page_bytes));
        for (page, (saved, again)) in (first..).zip(pairs) {
            if saved != again {
                report.differences.push(difference(page, saved, again));
            }
        }
        report.pages += pages.count;
        first += pages.count;
    }
    Ok(())
}

/// The first byte that differs stands for the page.
fn difference(page: u64, saved: &[u8], again: &[u8]) -> Difference {
    let mut pairs = saved.iter().zip(again).enumerate();
    let first = pairs.find(|(_, (saved, again))| saved != again);
    let (at, saved, again) = first.map_or((0, 0, 0), |(at, (saved, again))| (at, *saved, *again));
    Difference {
        section: "memory".to_owned(),
        instance: 0,
        field: format!("page {page}, byte {at:#x}"),
        saved: Some(format!("{saved:#04x}")),
        again: Some(format!("{again:#04x}")),
        allowed: None,
    }
}
