//! What a guest of the fake may do where.

use std::collections::BTreeMap;

use crate::hv::Protection;
use crate::refusal::{HvCode, HvRefusal};

/// Bytes of a host page.
const PAGE: u64 = 16 << 10;

/// Guest physical memory, without its contents.
#[derive(Default)]
pub(super) struct FakeMemory {
    /// By the number of the host page.
    pages: BTreeMap<u64, Protection>,
    pub(super) stores: Vec<u64>,
}

impl FakeMemory {
    pub(super) fn map(
        &mut self,
        start: u64,
        len_bytes: u64,
        to: Protection,
    ) -> Result<(), HvRefusal> {
        for page in pages("hv_vm_map", start, len_bytes)? {
            self.pages.insert(page, to);
        }
        Ok(())
    }

    pub(super) fn protect(
        &mut self,
        start: u64,
        len_bytes: u64,
        to: Protection,
    ) -> Result<(), HvRefusal> {
        const CALL: &str = "hv_vm_protect";
        let pages = pages(CALL, start, len_bytes)?;
        if pages.clone().any(|page| !self.pages.contains_key(&page)) {
            return Err(HvCode::BadArgument.to(CALL));
        }
        for page in pages {
            self.pages.insert(page, to);
        }
        Ok(())
    }

    pub(super) fn protection(&self, address: u64) -> Option<Protection> {
        self.pages.get(&(address / PAGE)).copied()
    }
}

fn pages(
    call: &'static str,
    start: u64,
    len_bytes: u64,
) -> Result<std::ops::Range<u64>, HvRefusal> {
    let end = start.checked_add(len_bytes);
    match end {
        Some(end)
            if len_bytes > 0 && start.is_multiple_of(PAGE) && len_bytes.is_multiple_of(PAGE) =>
        {
            Ok(start / PAGE..end / PAGE)
        }
        _ => Err(HvCode::BadArgument.to(call)),
    }
}
