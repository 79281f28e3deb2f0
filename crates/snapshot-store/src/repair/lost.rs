//! What is lost of whose memory, by guest address.

use snapshot_format::{
    DataFileRef, GuestPage, LEAF_PAGES, MemoryLayout, MemoryRegion, PAGE_BYTES, PageIndex,
};
use snapshot_memory::DamagedUnit;

use crate::directory::Location;
use crate::error::StoreError;
use crate::placed::Placed;
use crate::repair::report::{HurtSnapshot, LostRange};
use crate::store::Store;

/// Every snapshot whose memory has a page that only the lost units of `data` held, `layout` being
/// that of the snapshot which wrote it.
pub(super) fn hurt(
    store: &Store,
    data: DataFileRef,
    layout: &MemoryLayout,
    lost: &[DamagedUnit],
) -> Result<Vec<HurtSnapshot>, StoreError> {
    let pages = guest_pages(layout, lost);
    let mut hurt = Vec::new();
    if pages.is_empty() {
        return Ok(hurt);
    }
    for location in Location::SEARCH {
        for id in store.ids_at(location)? {
            // What cannot be read is damage of its own.
            let Ok(placed) = Placed::read(store.backend(), location, id) else {
                continue;
            };
            let mut dependencies = placed.placement.dependencies.iter();
            let is_it =
                |other: &DataFileRef| (other.snapshot, other.index) == (data.snapshot, data.index);
            let Some(place) = dependencies.position(is_it) else {
                continue;
            };
            let owned = owned(store, &placed, place + 1, &pages)?;
            if !owned.is_empty() {
                hurt.push(HurtSnapshot {
                    id,
                    vm: placed.manifest.vm.clone(),
                    location,
                    lost: ranges(&placed.manifest.layout, &owned),
                });
            }
        }
    }
    Ok(hurt)
}

/// The pages that data file `number` owns in the flattened map of a snapshot. One whose map cannot
/// be read may be hurt in all of them.
fn owned(
    store: &Store,
    placed: &Placed,
    number: usize,
    pages: &[GuestPage],
) -> Result<Vec<GuestPage>, StoreError> {
    let image = store.open_image(placed)?;
    let is_owned = |page: &&GuestPage| {
        let leaf = u32::try_from(page.0 / LEAF_PAGES as u64).ok();
        let leaf = leaf.map(|leaf| image.owner_leaf(leaf));
        let within = usize::try_from(page.0 % LEAF_PAGES as u64).unwrap_or(0);
        match leaf {
            Some(Ok(Some(leaf))) => usize::from(leaf.owner(within)) == number,
            Some(Ok(None)) | None => false,
            Some(Err(_)) => true,
        }
    };
    Ok(pages.iter().filter(is_owned).copied().collect())
}

/// The pages of units that are present in them, ascending.
fn guest_pages(layout: &MemoryLayout, units: &[DamagedUnit]) -> Vec<GuestPage> {
    let of_unit = |unit: &DamagedUnit| {
        let pages = (unit.pages.start.0..).zip(unit.present.clone());
        let present = pages.filter(|(_, present)| *present);
        let guest = present.filter_map(|(page, _)| layout.guest_page(PageIndex(page)));
        guest.collect::<Vec<_>>()
    };
    let mut pages: Vec<GuestPage> = units.iter().flat_map(of_unit).collect();
    pages.sort_unstable();
    pages.dedup();
    pages
}

/// Ascending pages as ranges that do not leave their region.
fn ranges(layout: &MemoryLayout, pages: &[GuestPage]) -> Vec<LostRange> {
    let mut ranges: Vec<LostRange> = Vec::new();
    for page in pages {
        let start = page.0 * PAGE_BYTES;
        let holds = |region: &MemoryRegion| {
            start >= region.start.0 && start - region.start.0 < region.len_bytes
        };
        let Some(number) = layout.regions().iter().position(holds) else {
            continue;
        };
        match ranges.last_mut() {
            Some(last) if last.region == number && last.start + last.len_bytes == start => {
                last.len_bytes += PAGE_BYTES;
            }
            _ => ranges.push(LostRange {
                region: number,
                region_start: layout.regions().get(number).map_or(0, |r| r.start.0),
                start,
                len_bytes: PAGE_BYTES,
            }),
        }
    }
    ranges
}
