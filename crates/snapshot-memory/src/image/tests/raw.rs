//! Raw files that share blocks with the data files.

use std::ops::ControlFlow;

use super::fixture::{Cell, Chain, layout, path};
use crate::backend::Backend;
use crate::image::{ImageError, RawBytes, RawStep, RawWriter};
use snapshot_format::DataLayout;

const PAGE: u64 = 4096;

/// Writes the memory of `chain` to the file `name`; what was done, and what was said to be needed.
pub(super) fn write(
    chain: &Chain,
    name: &str,
    shares: bool,
) -> Result<(RawBytes, u64), ImageError> {
    chain.backend.set_shares_blocks(shares);
    let image = chain.image()?;
    let mut file = chain.backend.create(&path(0, name)).unwrap();
    let mut writer = RawWriter::start(&image, &mut *file, name)?;
    writer.share()?;
    let needed = writer.needed_bytes()?;
    let written = writer.run(&mut |_| ControlFlow::Continue(()))?;
    Ok((written.unwrap(), needed))
}

pub(super) fn bytes_of(chain: &Chain, name: &str) -> Vec<u8> {
    let file = chain.backend.open(&path(0, name)).unwrap();
    let mut bytes = vec![0; usize::try_from(file.len().unwrap()).unwrap()];
    file.read_exact_at(0, &mut bytes).unwrap();
    bytes
}

/// A full snapshot of 64 pages in units of so many, and a diff of one page.
fn base_and_own_page(layouts: [(DataLayout, u16); 2]) -> Chain {
    let mut chain = Chain::new(layout(&[(3, 64)]));
    let mut cells: Vec<Cell> = (0..64).map(|page| Cell::Data(page + 100)).collect();
    chain.add(&cells, layouts[0].0, layouts[0].1);
    cells.fill(Cell::Inherited);
    cells[20] = Cell::Data(7);
    chain.add(&cells, layouts[1].0, layouts[1].1);
    chain
}

// spec: CAC-05
#[test]
fn whole_units_of_long_runs_are_shared_and_the_rest_is_copied() {
    use DataLayout::{Frames, Packed, Sparse};
    for (base, own, copied_pages) in [
        ((Sparse, 1), (Packed, 1), 1),
        ((Packed, 1), (Sparse, 1), 1),
        // Image page 20 is guest page 23, in the unit of the guest pages 16 to 31.
        ((Sparse, 16), (Packed, 1), 16),
        ((Sparse, 4), (Packed, 1), 4),
        ((Frames, 1), (Packed, 1), 64),
    ] {
        let chain = base_and_own_page([base, own]);
        let (written, needed) = write(&chain, "raw", true).unwrap();
        let expected = RawBytes {
            shared: (64 - copied_pages) * PAGE,
            copied: copied_pages * PAGE,
        };
        assert_eq!(
            (written, needed),
            (expected, copied_pages * PAGE),
            "{base:?}"
        );
        assert!(bytes_of(&chain, "raw") == chain.model, "{base:?}");
    }
}

// spec: CAC-05
#[test]
fn damage_of_a_page_that_is_shared_is_found() {
    for layout in [(DataLayout::Sparse, 16), (DataLayout::Packed, 1)] {
        for page in [0, 1, 12, 19, 20, 21, 63] {
            let chain = base_and_own_page([layout, (DataLayout::Packed, 1)]);
            let at = page * 4096 + 4095;
            let data = path(1, "img");
            chain.backend.tamper(&data, |bytes| bytes[at] ^= 1).unwrap();
            let written = write(&chain, "raw", true);
            // The page that the second snapshot has of its own is part of a unit, or of nothing.
            if page == 20 && layout.1 == 1 {
                assert!(written.is_ok(), "{written:?}");
                continue;
            }
            let is_told = matches!(written, Err(ImageError::DataDigest { .. }));
            assert!(is_told, "{layout:?}, page {page}: {written:?}");
        }
    }
}

#[test]
fn every_step_is_told_before_it_is_taken_and_can_be_the_last() {
    let chain = base_and_own_page([(DataLayout::Sparse, 1), (DataLayout::Packed, 1)]);
    for shares in [false, true] {
        chain.backend.set_shares_blocks(shares);
        let image = chain.image().unwrap();
        let mut steps: Vec<RawStep> = Vec::new();
        let mut last = usize::MAX;
        for round in 0.. {
            let name = format!("{shares}{round}");
            let mut file = chain.backend.create(&path(0, &name)).unwrap();
            let mut writer = RawWriter::start(&image, &mut *file, &name).unwrap();
            assert_eq!(writer.share().unwrap(), shares);
            steps.clear();
            let written = writer.run(&mut |step| {
                steps.push(step);
                if steps.len() > last {
                    return ControlFlow::Break(());
                }
                ControlFlow::Continue(())
            });
            assert_eq!(written.unwrap().is_some(), last == usize::MAX);
            let (done, next): (Vec<_>, Vec<_>) = steps
                .iter()
                .map(|step| (step.done_bytes, step.next_bytes))
                .unzip();
            assert!(done.is_sorted(), "{done:?}");
            if last == usize::MAX {
                assert_eq!(done.last(), Some(&(64 * PAGE)));
                assert_eq!(next.iter().sum::<u64>(), 64 * PAGE);
                last = steps.len();
            }
            let Some(before) = last.checked_sub(1) else {
                break;
            };
            last = before;
        }
    }
}
