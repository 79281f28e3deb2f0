//! Which pages of a memory differ from those of a snapshot.

use snapshot_format::{GuestPage, PAGE_BYTES, PageIndex, PageRange};

use super::error::ImageError;
use super::reader::MemoryImage;
use crate::dirty::DirtyBitmap;
use crate::error::MemoryError;
use crate::source::GuestMemorySource;

/// Comparing memory with a snapshot failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CompareError {
    /// The snapshot could not be read.
    #[error("read the parent")]
    Image(#[from] ImageError),
    /// The memory could not be read.
    #[error("read the memory to compare")]
    Memory(#[from] MemoryError),
}

impl MemoryImage {
    /// The pages of `source` that differ from this image, or that it does not have.
    ///
    /// Pages are compared by guest page number, so that the layouts may differ. With `among`, only
    /// pages in it are looked at, and all others count as equal.
    pub fn differing_pages(
        &self,
        source: &dyn GuestMemorySource,
        among: Option<&DirtyBitmap>,
    ) -> Result<DirtyBitmap, CompareError> {
        let layout = source.layout();
        let differing = DirtyBitmap::new(layout.page_count());
        let everything = [PageRange::new(0, layout.page_count())];
        let runs: Box<dyn Iterator<Item = PageRange>> = match among {
            Some(among) => Box::new(among.iter_runs()),
            None => Box::new(everything.into_iter()),
        };
        let mut buffers = (vec![0; CHUNK_BYTES], vec![0; CHUNK_BYTES]);
        for run in runs {
            for (guest, run) in layout.runs(run) {
                for start in (0..run.count).step_by(CHUNK_PAGES) {
                    let count = (run.count - start).min(CHUNK_PAGES as u64);
                    let pages = PageRange::new(run.start.0 + start, count);
                    let guest = GuestPage(guest.0 + start);
                    self.compare_chunk(source, guest, pages, &mut buffers, &differing)?;
                }
            }
        }
        Ok(differing)
    }

    fn compare_chunk(
        &self,
        source: &dyn GuestMemorySource,
        guest: GuestPage,
        pages: PageRange,
        (new, old): &mut (Vec<u8>, Vec<u8>),
        differing: &DirtyBitmap,
    ) -> Result<(), CompareError> {
        let mut done = 0;
        while done < pages.count {
            let rest = PageRange::new(pages.start.0 + done, pages.count - done);
            let (known, count) = self.known_run(GuestPage(guest.0 + done), rest.count);
            let run = PageRange::new(rest.start.0, count);
            let len = usize::try_from(count * PAGE_BYTES).unwrap_or(CHUNK_BYTES);
            match known {
                None => differing.set_range(run),
                Some(first) => {
                    let ((new, _), (old, _)) = (new.split_at_mut(len), old.split_at_mut(len));
                    source.read_pages(run, new)?;
                    self.read_pages(PageRange::new(first.0, count), old)?;
                    let pairs = new.chunks(PAGE).zip(old.chunks(PAGE));
                    for (page, (new, old)) in (run.start.0..).zip(pairs) {
                        if new != old {
                            differing.set(PageIndex(page));
                        }
                    }
                }
            }
            done += count;
        }
        Ok(())
    }

    /// How many guest pages from `guest` on this image has in a row, and where; or how many it
    /// lacks in a row. At most `limit`.
    fn known_run(&self, guest: GuestPage, limit: u64) -> (Option<PageIndex>, u64) {
        let place = |page| self.layout().image_page(GuestPage(guest.0 + page));
        let first = place(0);
        let same = |page: &u64| match (first, place(*page)) {
            (None, None) => true,
            (Some(first), Some(here)) => here.0 == first.0 + page,
            _ => false,
        };
        (first, (0..limit).take_while(same).count() as u64)
    }
}

const PAGE: usize = 4096;
const CHUNK_PAGES: usize = 256;
const CHUNK_BYTES: usize = CHUNK_PAGES * PAGE;
