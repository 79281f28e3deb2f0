//! The one message of the handshake: where a VMM's memory is, and which part of the image it holds.

use std::ops::Range;

use serde::{Deserialize, Serialize};
use snapshot_format::limits::MAX_REGIONS;
use snapshot_format::{MemoryLayout, PAGE_BYTES, PageIndex};

use super::HandshakeError;
use crate::uffd::ServedRange;

/// One region of guest memory, as Firecracker names its fields.
///
/// Fields that this version does not know are passed over, as newer VMMs may send more.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct Region {
    /// The first address, in the VMM.
    base_host_virt_addr: u64,
    /// Bytes.
    size: u64,
    /// The offset in the memory file, in bytes.
    offset: u64,
    /// Bytes of a page.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    page_size: Option<u64>,
    /// The older name of the same; it never held KiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    page_size_kib: Option<u64>,
}

/// The message for `ranges`.
pub(super) fn encode(ranges: &[ServedRange]) -> Result<Vec<u8>, HandshakeError> {
    let region = |range: &ServedRange| {
        Some(Region {
            base_host_virt_addr: range.addresses.start,
            size: range.pages().len_bytes()?,
            offset: range.first.image_offset()?,
            page_size: Some(PAGE_BYTES),
            page_size_kib: Some(PAGE_BYTES),
        })
    };
    let regions: Option<Vec<_>> = ranges.iter().map(region).collect();
    let regions = regions.ok_or(HandshakeError::Beyond { region: 0 })?;
    serde_json::to_vec(&regions).map_err(HandshakeError::Json)
}

/// What `message` says, checked against the image that is to be served.
pub(super) fn decode(
    message: &[u8],
    layout: &MemoryLayout,
) -> Result<Vec<ServedRange>, HandshakeError> {
    let regions: Vec<Region> = serde_json::from_slice(message).map_err(HandshakeError::Json)?;
    if regions.is_empty() || regions.len() > MAX_REGIONS {
        return Err(HandshakeError::Count(regions.len()));
    }
    let ranges = regions.iter().enumerate();
    let ranges = ranges.map(|(index, region)| region.range(index, layout));
    let ranges = ranges.collect::<Result<Vec<_>, _>>()?;
    let addresses = ranges.iter().map(|range| range.addresses.clone());
    check_apart(addresses.collect(), "addresses")?;
    let offsets = regions
        .iter()
        .map(|region| region.offset..region.offset + region.size);
    check_apart(offsets.collect(), "offsets")?;
    Ok(ranges)
}

impl Region {
    fn range(&self, index: usize, layout: &MemoryLayout) -> Result<ServedRange, HandshakeError> {
        let page_bytes = self.page_size.or(self.page_size_kib).unwrap_or(PAGE_BYTES);
        if page_bytes != PAGE_BYTES {
            return Err(HandshakeError::PageSize {
                region: index,
                bytes: page_bytes,
            });
        }
        let parts = [self.base_host_virt_addr, self.size, self.offset];
        if self.size == 0 || parts.iter().any(|part| part % PAGE_BYTES != 0) {
            return Err(HandshakeError::Unaligned { region: index });
        }
        let beyond = HandshakeError::Beyond { region: index };
        let end = self.base_host_virt_addr.checked_add(self.size);
        let Some(end) = end.filter(|end| *end <= MAX_ADDRESS) else {
            return Err(beyond);
        };
        let image_end = self.offset.checked_add(self.size);
        if image_end.is_none_or(|end| end > layout.len_bytes()) {
            return Err(beyond);
        }
        Ok(ServedRange {
            addresses: self.base_host_virt_addr..end,
            first: PageIndex(self.offset / PAGE_BYTES),
        })
    }
}

/// No process of a supported host has an address beyond: page tables of five levels.
const MAX_ADDRESS: u64 = 1 << 56;

fn check_apart(mut ranges: Vec<Range<u64>>, what: &'static str) -> Result<(), HandshakeError> {
    ranges.sort_unstable_by_key(|range| range.start);
    let pairs = ranges.iter().zip(ranges.iter().skip(1));
    for (one, next) in pairs {
        if next.start < one.end {
            return Err(HandshakeError::Overlap {
                what,
                start: next.start,
            });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
