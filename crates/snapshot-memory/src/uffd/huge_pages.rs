//! Whether guest memory is on huge pages.

use std::fs::File;
use std::io;

use snapshot_format::PageRange;

use super::abi::{PAGE_IS_HUGE, PageRegion};
use super::ioctl;
use crate::source::{GuestMemorySource, HostRun};

/// What guest memory is made of, as the kernel's direct writes see it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Backing {
    /// Pages of 4 KiB, or not known: writes gain from being gathered in a buffer first.
    Small,
    /// Huge pages: writes go straight from there.
    Huge,
}

/// Places that are looked at, evenly spread.
const SAMPLES: u64 = 8;

/// Pages that are looked at in each place: 2 MiB.
const SAMPLE_PAGES: u64 = 512;

/// Runs that a sample may have; more of them are not huge.
const MAX_REGIONS: usize = 16;

/// What the memory of `source` is made of, judged by a sample of at most 16 MiB: at least 7 of 8
/// pages that are there must lie on huge pages. Direct writes from small pages cost so much more
/// that fewer would lose what the others gain.
///
/// Costs some tens of microseconds. Where the kernel does not tell (before 6.7, or without
/// `/proc`), the answer is [`Backing::Small`].
pub(crate) fn backing(source: &dyn GuestMemorySource) -> Backing {
    match sample(source) {
        Ok(pages) if pages.huge > 0 && pages.huge >= pages.present / 8 * 7 => Backing::Huge,
        Ok(_) => Backing::Small,
        Err(error) => {
            tracing::debug!(%error, "it is not known whether guest memory is on huge pages");
            Backing::Small
        }
    }
}

/// Bytes of a sample.
#[derive(Clone, Copy, Default)]
struct Sampled {
    present: u64,
    huge: u64,
}

fn sample(source: &dyn GuestMemorySource) -> io::Result<Sampled> {
    let pages = source.layout().page_count();
    let mut sum = Sampled::default();
    let pagemap = File::open("/proc/self/pagemap")?;
    for place in 0..SAMPLES {
        let start = pages / SAMPLES * place;
        let range = PageRange::new(start, SAMPLE_PAGES.min(pages - start));
        if let Some(run) = source.host_run(range).filter(|_| !range.is_empty()) {
            let found = look(&pagemap, &run)?;
            sum.present += found.present;
            sum.huge += found.huge;
        }
    }
    Ok(sum)
}

fn look(pagemap: &File, run: &HostRun<'_>) -> io::Result<Sampled> {
    let start = run.address().addr() as u64;
    let range = start..start + run.len_bytes() as u64;
    let mut regions = [PageRegion::default(); MAX_REGIONS];
    let (count, _) = ioctl::find_present(pagemap, &range, &mut regions)?;
    let mut found = Sampled::default();
    for region in regions.iter().take(count) {
        let bytes = region.end.saturating_sub(region.start);
        found.present += bytes;
        if region.categories & PAGE_IS_HUGE != 0 {
            found.huge += bytes;
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests;
