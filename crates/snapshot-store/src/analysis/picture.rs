//! Memory as a picture: cells of pages, each with what lies in it.

use serde::Serialize;
use snapshot_format::PageRange;
use snapshot_memory::{ImageError, MemoryImage};

/// A memory in cells.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[non_exhaustive]
pub struct Picture {
    /// Pages of the image.
    pub pages: u64,
    /// Pages of every cell but the last, which may have less.
    pub cell_pages: u64,
    /// How many generations there are: data files of the chain.
    pub generations: u32,
    /// The cells, in the order of the image.
    pub cells: Vec<PictureCell>,
}

/// Neighbouring pages.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
#[non_exhaustive]
pub struct PictureCell {
    /// How many there are.
    pub pages: u64,
    /// Those that are zero.
    pub zero: u64,
    /// Those that the working set names.
    pub working_set: u64,
    /// The others, by generation: how many snapshots were made after the one that stored them.
    /// Generations without a page are left out.
    pub by_generation: Vec<(u32, u64)>,
}

impl Picture {
    /// The memory of `image` in at most `max_cells` cells, of which there is one at least.
    pub fn of(
        image: &MemoryImage,
        working_set: impl IntoIterator<Item = PageRange>,
        max_cells: u64,
    ) -> Result<Self, ImageError> {
        let pages = image.layout().page_count();
        let cell_pages = pages.div_ceil(max_cells.max(1)).max(1);
        let generations = u32::try_from(image.references().len()).unwrap_or(u32::MAX);
        let mut picture = Self {
            pages,
            cell_pages,
            generations,
            cells: (0..pages)
                .step_by(usize::try_from(cell_pages).unwrap_or(usize::MAX))
                .map(|start| PictureCell {
                    pages: cell_pages.min(pages - start),
                    ..PictureCell::default()
                })
                .collect(),
        };
        image.visit(PageRange::new(0, pages), &mut |extent| {
            let generation = extent
                .file
                .map(|file| generations.saturating_sub(u32::from(file)));
            picture.each_cell(extent.pages, |cell, count| cell.add(generation, count));
            Ok(())
        })?;
        for pages in working_set {
            picture.each_cell(pages, |cell, count| cell.working_set += count);
        }
        Ok(picture)
    }

    /// Gives every cell that `pages` touch, with how many of them are in it.
    fn each_cell(&mut self, pages: PageRange, mut each: impl FnMut(&mut PictureCell, u64)) {
        let mut at = pages.start.0;
        let end = pages.end().0;
        while at < end {
            let number = at / self.cell_pages;
            let next = ((number + 1).saturating_mul(self.cell_pages)).min(end);
            let cell = usize::try_from(number)
                .ok()
                .and_then(|at| self.cells.get_mut(at));
            if let Some(cell) = cell {
                each(cell, next - at);
            }
            at = next;
        }
    }
}

impl PictureCell {
    fn add(&mut self, generation: Option<u32>, count: u64) {
        let Some(generation) = generation else {
            self.zero += count;
            return;
        };
        match self
            .by_generation
            .binary_search_by_key(&generation, |(known, _)| *known)
        {
            Ok(at) => {
                if let Some((_, pages)) = self.by_generation.get_mut(at) {
                    *pages += count;
                }
            }
            Err(at) => self.by_generation.insert(at, (generation, count)),
        }
    }

    /// The generation that most pages of the cell are of; `None` where most are zero.
    #[must_use]
    pub fn most(&self) -> Option<u32> {
        let most = self.by_generation.iter().max_by_key(|(_, pages)| *pages);
        most.filter(|(_, pages)| *pages >= self.zero)
            .map(|(generation, _)| *generation)
    }
}
