//! Which pages of this process are present.

use std::fs::File;
use std::io;
use std::ops::Range;

use super::abi::PageRegion;
use super::ioctl;

/// Runs that one scan gives at most.
const REGIONS: usize = 1024;

/// Gives every run of present pages in `addresses`, in order.
pub(crate) fn present_runs(
    addresses: &Range<u64>,
    each: &mut dyn FnMut(Range<u64>),
) -> io::Result<()> {
    let pagemap = File::open("/proc/self/pagemap")?;
    let mut regions = vec![PageRegion::default(); REGIONS];
    let mut at = addresses.start;
    while at < addresses.end {
        let (count, next) = ioctl::find_present(&pagemap, &(at..addresses.end), &mut regions)?;
        for region in regions.iter().take(count) {
            // A huge page may reach beyond what was asked for.
            let start = region.start.max(addresses.start);
            let end = region.end.min(addresses.end);
            if start < end {
                each(start..end);
            }
        }
        if next <= at {
            break;
        }
        at = next;
    }
    Ok(())
}
