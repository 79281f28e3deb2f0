//! Where all pages of a snapshot lie.

use serde::Serialize;
use snapshot_format::{DataLayout, GuestAddress, PAGE_BYTES, PageRange, SnapshotId};

use super::facts::MappingCount;
use super::mappings::{MAX_MAPPINGS, Mappable};
use crate::image::{Extent, ImageError, MemoryImage};

/// Where all pages of a snapshot lie: counted by region of guest memory and by data file. Making it
/// reads the whole flattened map.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[non_exhaustive]
pub struct MapSummary {
    /// Pages of the guest.
    pub pages: u64,
    /// Of those, pages that are zero.
    pub zero_pages: u64,
    /// How many mappings of the data files make up the memory.
    pub mappings: MappingCount,
    /// The regions of guest memory, by address.
    pub regions: Vec<RegionSummary>,
    /// The data files of the chain, oldest first; also those that no page is in any more.
    pub files: Vec<FileSummary>,
}

/// The pages of one region.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[non_exhaustive]
pub struct RegionSummary {
    /// Where it starts.
    pub start: GuestAddress,
    /// Its pages.
    pub pages: u64,
    /// Of those, pages that are zero.
    pub zero_pages: u64,
    /// Runs of pages that lie in one data file, or are zero.
    pub runs: u64,
}

/// The pages that one data file has of a snapshot.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[non_exhaustive]
pub struct FileSummary {
    /// The snapshot that wrote it.
    pub snapshot: SnapshotId,
    /// What it is called.
    pub name: String,
    /// How pages lie in it.
    pub layout: &'static str,
    /// Pages of the snapshot that lie in it.
    pub pages: u64,
    /// The runs that they form.
    pub runs: u64,
}

impl MapSummary {
    /// Counts all pages of `image`.
    pub fn of(image: &MemoryImage) -> Result<Self, ImageError> {
        let files = image.files().map(|file| {
            let file = file?;
            Ok(FileSummary {
                snapshot: file.root().id,
                name: file.names().data.clone(),
                layout: layout_name(file.root().data_layout),
                pages: 0,
                runs: 0,
            })
        });
        let files = files.collect::<Result<Vec<_>, ImageError>>()?;
        let mut summary = Self {
            pages: image.layout().page_count(),
            zero_pages: 0,
            mappings: MappingCount::of(&Mappable::of(image, MAX_MAPPINGS)?),
            regions: Vec::new(),
            files,
        };
        let mut start = 0;
        for region in image.layout().regions() {
            let pages = PageRange::new(start, region.len_bytes / PAGE_BYTES);
            start += pages.count;
            let mut counted = RegionSummary {
                start: region.start,
                pages: pages.count,
                zero_pages: 0,
                runs: 0,
            };
            let mut last = None;
            image.visit(pages, &mut |extent| {
                // An extent ends with its leaf; a run goes on.
                let is_new = last.replace(extent.file) != Some(extent.file);
                counted.runs += u64::from(is_new);
                if extent.file.is_none() {
                    counted.zero_pages += extent.pages.count;
                }
                summary.count(extent, is_new);
                Ok(())
            })?;
            summary.zero_pages += counted.zero_pages;
            summary.regions.push(counted);
        }
        Ok(summary)
    }

    fn count(&mut self, extent: Extent, is_new: bool) {
        let place = extent
            .file
            .and_then(|file| usize::from(file).checked_sub(1));
        if let Some(file) = place.and_then(|place| self.files.get_mut(place)) {
            file.pages += extent.pages.count;
            file.runs += u64::from(is_new);
        }
    }
}

fn layout_name(layout: DataLayout) -> &'static str {
    match layout {
        DataLayout::Sparse => "sparse",
        DataLayout::Packed => "packed",
        DataLayout::Frames => "frames",
        _ => "unknown",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capture::LayoutChoice;
    use crate::plan::tests::rig::Chain;

    // spec: RPL-14
    #[test]
    fn every_page_is_counted_once() {
        let mut chain = Chain::of_pages(20_000);
        chain.write(PageRange::new(16_000, 1000), 1);
        chain.take(None, LayoutChoice::Sparse);
        let dirty = [PageRange::new(16_380, 10), PageRange::new(3, 1)];
        dirty.iter().for_each(|pages| chain.write(*pages, 2));
        chain.take(Some(&dirty), LayoutChoice::Packed);
        let summary = MapSummary::of(&chain.image()).unwrap();
        assert_eq!((summary.pages, summary.zero_pages), (20_000, 18_999));
        let files: Vec<_> = summary
            .files
            .iter()
            .map(|f| (f.layout, f.pages, f.runs))
            .collect();
        assert_eq!(files, [("sparse", 990, 2), ("packed", 11, 2)]);
        // Zero, 3, zero, old, new across two leaves, old, zero.
        let region = summary.regions[0];
        assert_eq!(
            (region.pages, region.zero_pages, region.runs),
            (20_000, 18_999, 7)
        );
        assert_eq!(summary.mappings, MappingCount::Counted { mappings: 4 });
    }
}
