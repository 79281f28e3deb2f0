use snapshot_format::{Digest, PageIndex};

use super::*;
use crate::capture::LayoutChoice;
use crate::image::ImageError;
use crate::mapping::MappingOptions;
use crate::plan::tests::rig::{Chain, bytes_of};
use crate::restore::PageRun;

fn threads(count: usize) -> FillOptions {
    FillOptions::default().threads(NonZeroUsize::new(count).unwrap())
}

fn fresh(layout: &MemoryLayout) -> MappedMemory {
    MappedMemory::new(layout.clone(), MappingOptions::default()).unwrap()
}

// spec: RPL-10
#[test]
fn all_of_a_chain_is_copied_by_any_number_of_threads() {
    let mut chain = Chain::of_pages(3000);
    chain.write(PageRange::new(0, 1000), 1);
    chain.write(PageRange::new(2100, 1), 1);
    chain.take(None, LayoutChoice::Sparse);
    let dirty: Vec<_> = (0..3000)
        .step_by(17)
        .map(|p| PageRange::new(p, 1))
        .collect();
    for page in &dirty {
        chain.write(*page, 2);
    }
    chain.take(Some(&dirty), LayoutChoice::Packed);
    let image = chain.image();
    for count in [1, 2, 5] {
        let memory = fresh(image.layout());
        let filled = fill_memory(&image, &memory, &threads(count)).unwrap();
        assert_eq!(filled.copied_bytes + filled.zero_bytes, 3000 * PAGE_BYTES);
        assert!(filled.zero_bytes > 1500 * PAGE_BYTES, "{filled:?}");
        assert!(bytes_of(&memory) == chain.bytes(), "{count} threads");
    }
}

// spec: RPL-10
#[test]
fn a_damaged_page_ends_the_fill() {
    let mut chain = Chain::of_pages(2000);
    chain.write(PageRange::new(0, 2000), 1);
    chain.take(None, LayoutChoice::Sparse);
    let path = chain.data_path(0);
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[1234 * 4096 + 7] ^= 1;
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, bytes).unwrap();
    let image = chain.image();
    for count in [1, 2] {
        let error = fill_memory(&image, &fresh(image.layout()), &threads(count)).unwrap_err();
        let FillError::Source { pages, source } = error else {
            unreachable!("{error}")
        };
        let SourceError::Image(ImageError::DataDigest { page, .. }) = *source else {
            unreachable!("{source}")
        };
        assert!((pages.start..pages.end()).contains(&PageIndex(1234)));
        assert!((1234 - 15..=1234).contains(&page.0), "{page:?}");
    }
}

#[test]
fn memory_of_another_layout_is_refused() {
    let mut chain = Chain::of_pages(10);
    chain.take(None, LayoutChoice::Sparse);
    let memory = fresh(&MemoryLayout::single(11 * PAGE_BYTES).unwrap());
    let error = fill_memory(&chain.image(), &memory, &threads(1)).unwrap_err();
    assert!(matches!(
        error,
        FillError::LayoutDiffers {
            expected: 10,
            found: 11
        }
    ));
}

#[test]
fn a_fill_that_is_cancelled_ends() {
    let mut chain = Chain::of_pages(10);
    chain.take(None, LayoutChoice::Sparse);
    let image = chain.image();
    let cancel = Cancel::default();
    cancel.ask();
    let options = threads(2).cancel(cancel);
    let error = fill_memory(&image, &fresh(image.layout()), &options).unwrap_err();
    assert!(matches!(error, FillError::Cancelled));
}

/// A source that says nothing true about runs.
struct Liar(MemoryLayout, u64);

impl PageSource for Liar {
    fn layout(&self) -> &MemoryLayout {
        &self.0
    }

    fn run(&self, _: PageRange) -> Result<PageRun, SourceError> {
        Ok(PageRun {
            count: self.1,
            is_zero: false,
        })
    }

    fn read_pages(&self, pages: PageRange, out: &mut [u8]) -> Result<(), SourceError> {
        assert_eq!(pages.len_bytes(), Some(out.len() as u64));
        out.fill(7);
        Ok(())
    }
}

#[test]
fn a_source_that_counts_wrongly_neither_stalls_nor_overruns() {
    let layout = MemoryLayout::single(600 * PAGE_BYTES).unwrap();
    for count in [0, u64::MAX] {
        let memory = fresh(&layout);
        fill_memory(&Liar(layout.clone(), count), &memory, &threads(2)).unwrap();
        let all = Digest::of(&bytes_of(&memory));
        assert_eq!(all, Digest::of(&vec![7; 600 * 4096]));
    }
}
