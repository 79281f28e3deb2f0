//! Where the guest's memory regions lie in a memory file: `GPA:LEN@OFF,…`.

use std::str::FromStr;

use snapshot_format::{GuestAddress, MemoryLayout, MemoryRegion, PAGE_BYTES};

use crate::quantity::parse_bytes;

/// Regions in the order of their guest physical addresses, and where each begins in the file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Regions {
    /// The regions.
    pub(crate) layout: MemoryLayout,
    /// The offset in bytes of each in the memory file.
    pub(crate) offsets: Vec<u64>,
}

impl Regions {
    /// One region from address 0, which is the whole file.
    pub(crate) fn whole(len_bytes: u64) -> Result<Self, String> {
        Ok(Self {
            layout: MemoryLayout::single(len_bytes).map_err(|error| error.to_string())?,
            offsets: vec![0],
        })
    }

    /// Fails unless a file of this length holds every region.
    pub(crate) fn check_file(&self, file_len_bytes: u64) -> Result<(), String> {
        for (region, &offset) in self.layout.regions().iter().zip(&self.offsets) {
            let end = offset.checked_add(region.len_bytes);
            if end.is_none_or(|end| end > file_len_bytes) {
                return Err(format!(
                    "region {} of {} bytes at offset {offset} ends beyond the file, which has \
                     {file_len_bytes} bytes",
                    region.start, region.len_bytes
                ));
            }
        }
        Ok(())
    }
}

impl FromStr for Regions {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut placed = text.split(',').map(placed).collect::<Result<Vec<_>, _>>()?;
        placed.sort_by_key(|(region, _)| region.start);
        let (regions, offsets) = placed.into_iter().unzip();
        Ok(Self {
            layout: MemoryLayout::new(regions).map_err(|error| error.to_string())?,
            offsets,
        })
    }
}

/// One `GPA:LEN@OFF`.
fn placed(text: &str) -> Result<(MemoryRegion, u64), String> {
    let parts = text
        .split_once(':')
        .and_then(|(start, rest)| Some((start, rest.split_once('@')?)));
    let Some((start, (len, offset))) = parts else {
        return Err(format!(
            "{text:?} is no region: write GPA:LEN@OFF, as in 0x100000000:1G@3G"
        ));
    };
    let offset_bytes = parse_bytes(offset)?;
    if !offset_bytes.is_multiple_of(PAGE_BYTES) {
        return Err(format!("offset {offset} is no multiple of {PAGE_BYTES}"));
    }
    let region = MemoryRegion {
        start: GuestAddress(parse_bytes(start)?),
        len_bytes: parse_bytes(len)?,
    };
    Ok((region, offset_bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    // spec: CLI-12
    #[test]
    fn regions_are_put_in_the_order_of_their_addresses() {
        let regions: Regions = "0x100000000:1M@0,0:2M@1M".parse().unwrap();
        let starts: Vec<_> = regions.layout.regions().iter().map(|r| r.start.0).collect();
        assert_eq!(starts, [0, 1 << 32]);
        assert_eq!(regions.offsets, [1 << 20, 0]);
        assert_eq!(regions.check_file(3 << 20), Ok(()));
        assert!(regions.check_file((3 << 20) - 1).is_err());
    }

    // spec: CLI-12
    #[test]
    fn what_is_no_region_is_refused() {
        for text in [
            "",
            "0",
            "0:4096",
            "0:4096@",
            "0:4096@1",
            "0:1@0",
            "0:0@0",
            "1:4096@0",
            "0:4096@0,",
            "0:8192@0,4096:4096@8192",
            "0:4096@99999999999999999999",
        ] {
            assert!(text.parse::<Regions>().is_err(), "{text:?} was accepted");
        }
        let huge: Regions = format!("0:4096@{}", u64::MAX - 4095).parse().unwrap();
        assert!(huge.check_file(u64::MAX).is_err());
    }
}
