mod fixture;
mod framed;
mod raw;
mod relayout;

use std::ops::ControlFlow;

use fixture::{Cell, Chain, layout, path};
use proptest::prelude::*;
use snapshot_format::{DataLayout, MemoryLayout, PageRange};

use crate::backend::Backend;
use crate::image::ImageError;
use crate::raw_file::RawFile;
use crate::restore::{PageRun, PageSource};
use crate::source::GuestMemorySource;

/// Regions whose ends lie inside digest units, a hole smaller than a unit, and two leaves.
fn ragged() -> MemoryLayout {
    layout(&[(3, 30), (36, 9), (16380, 11)])
}

fn cells() -> impl Strategy<Value = Vec<Cell>> {
    let cell = prop_oneof![
        2 => Just(Cell::Inherited),
        1 => Just(Cell::Zero),
        3 => any::<u8>().prop_map(Cell::Data),
    ];
    prop::collection::vec(cell, 50)
}

fn data_layouts() -> impl Strategy<Value = (DataLayout, u16)> {
    prop_oneof![
        Just((DataLayout::Packed, 1)),
        Just((DataLayout::Frames, 1)),
        prop::sample::select(vec![1, 2, 4, 8, 16]).prop_map(|unit| (DataLayout::Sparse, unit)),
    ]
}

fn chain_of(snapshots: &[(Vec<Cell>, (DataLayout, u16))]) -> Chain {
    let mut chain = Chain::new(ragged());
    for (number, (cells, (data_layout, unit_pages))) in snapshots.iter().enumerate() {
        let mut cells = cells.clone();
        if number == 0 {
            cells
                .iter_mut()
                .filter(|cell| **cell == Cell::Inherited)
                .for_each(|c| *c = Cell::Zero);
        }
        chain.add(&cells, *data_layout, *unit_pages);
    }
    chain
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn every_run_of_every_chain_reads_as_the_model(
        snapshots in prop::collection::vec((cells(), data_layouts()), 1..5),
        start in 0u64..50,
        count in 0u64..50,
    ) {
        let chain = chain_of(&snapshots);
        let image = chain.image().unwrap();
        let count = count.min(50 - start);
        let mut out = vec![0xEE; count as usize * 4096];
        image.read_pages(PageRange::new(start, count), &mut out).unwrap();
        let expected = &chain.model[start as usize * 4096..][..out.len()];
        prop_assert!(out == expected);

        let mut file = chain.backend.create(&path(0, "raw")).unwrap();
        let mut go = |_| ControlFlow::Continue(());
        prop_assert!(image.write_raw(&mut *file, "raw", &mut go).unwrap());
        prop_assert!(raw::bytes_of(&chain, "raw") == chain.model);
        let (copied, all) = raw::write(&chain, "copied", false).unwrap();
        let (mixed, own) = raw::write(&chain, "mixed", true).unwrap();
        prop_assert_eq!((copied.shared, copied.copied), (0, all));
        prop_assert_eq!((mixed.shared + mixed.copied, mixed.copied), (all, own));
        prop_assert!(raw::bytes_of(&chain, "copied") == chain.model);
        prop_assert!(raw::bytes_of(&chain, "mixed") == chain.model);
    }

    #[test]
    fn a_check_of_sound_files_reports_nothing(
        snapshots in prop::collection::vec((cells(), data_layouts()), 1..4),
    ) {
        let chain = chain_of(&snapshots);
        for number in 1..=snapshots.len() {
            let mut errors = Vec::new();
            chain.open_file(number).unwrap().check(
                &mut |error| errors.push(error.to_string()),
                &mut |_| ControlFlow::Continue(()),
            );
            prop_assert!(errors.is_empty(), "{errors:?}");
        }
    }

    #[test]
    fn comparing_names_exactly_the_pages_that_differ(
        before in cells(),
        after in cells(),
        kind in data_layouts(),
    ) {
        let chain = chain_of(&[(before, kind)]);
        let newer = chain_of(&[(after, kind)]);
        let (old, new) = (chain.image().unwrap(), newer.image().unwrap());
        let differing = old.differing_pages(&new, None).unwrap();
        let pages = chain.model.chunks(4096).zip(newer.model.chunks(4096));
        for (page, (a, b)) in pages.enumerate() {
            prop_assert_eq!(differing.is_set(snapshot_format::PageIndex(page as u64)), a != b);
        }
    }
}

fn one_of_each() -> Chain {
    let mut first = vec![Cell::Zero; 50];
    (0..20).for_each(|page| first[page] = Cell::Data(page as u8));
    first[40] = Cell::Data(9);
    let mut second = vec![Cell::Inherited; 50];
    second[5] = Cell::Data(77);
    second[6] = Cell::Zero;
    chain_of(&[
        (first, (DataLayout::Sparse, 16)),
        (second, (DataLayout::Sparse, 1)),
    ])
}

/// Opening, reading everything and checking everything; the first error.
fn use_all(chain: &Chain) -> Result<Vec<u8>, ImageError> {
    let image = chain.image()?;
    let mut first = None;
    for file in image.files() {
        let mut report = |error| {
            first.get_or_insert(error);
        };
        file?.check(&mut report, &mut |_| ControlFlow::Continue(()));
    }
    if let Some(error) = first {
        return Err(error);
    }
    let mut out = vec![0; chain.model.len()];
    image.read_pages(PageRange::new(0, 50), &mut out)?;
    Ok(out)
}

#[test]
fn a_flip_of_any_byte_of_a_data_file_is_found_and_located() {
    let chain = one_of_each();
    assert!(use_all(&chain).unwrap() == chain.model);
    for number in 1..=2 {
        for at in (0..chain.model.len()).step_by(509) {
            chain
                .backend
                .tamper(&path(number, "img"), |bytes| bytes[at] ^= 0x10)
                .unwrap();
            let error = use_all(&chain).unwrap_err();
            assert_eq!(error.file(), Some(&*format!("{number}.img")), "{error}");
            let offset = error.offset().unwrap() as usize;
            assert!(
                offset <= at && at < offset + 65536,
                "{at} was reported at {offset}"
            );
            chain
                .backend
                .tamper(&path(number, "img"), |bytes| bytes[at] ^= 0x10)
                .unwrap();
        }
    }
}

#[test]
fn a_flip_of_any_byte_of_a_map_is_found() {
    let chain = one_of_each();
    for number in 1..=2 {
        let map = path(number, "map");
        let len = chain.backend.metadata(&map).unwrap().len_bytes as usize;
        for at in (0..len).step_by(31) {
            chain
                .backend
                .tamper(&map, |bytes| bytes[at] ^= 0x01)
                .unwrap();
            let error = use_all(&chain).unwrap_err();
            assert_eq!(
                error.file(),
                Some(&*format!("{number}.map")),
                "byte {at}: {error}"
            );
            chain
                .backend
                .tamper(&map, |bytes| bytes[at] ^= 0x01)
                .unwrap();
        }
    }
}

#[test]
fn a_file_that_was_cut_is_refused() {
    for (name, len) in [("img", 4096), ("img", 0), ("map", 100), ("map", 0)] {
        let chain = one_of_each();
        chain
            .backend
            .tamper(&path(1, name), |bytes| bytes.truncate(len))
            .unwrap();
        let error = chain.image().unwrap_err();
        assert_eq!(
            error.kind(),
            Some(snapshot_format::ErrorKind::Corrupt),
            "{error}"
        );
    }
}

#[test]
fn the_map_of_another_snapshot_is_refused() {
    let mut chain = one_of_each();
    chain.files[1].map_root = chain.files[0].map_root;
    assert!(matches!(
        chain.image().unwrap_err(),
        ImageError::OtherMap { .. }
    ));
    let mut chain = one_of_each();
    chain.files[1].snapshot = chain.files[0].snapshot;
    assert!(matches!(
        chain.image().unwrap_err(),
        ImageError::OtherMap { .. }
    ));
}

#[test]
fn pages_beyond_the_image_are_refused() {
    let image = one_of_each().image().unwrap();
    for range in [
        PageRange::new(50, 1),
        PageRange::new(0, 51),
        PageRange::new(u64::MAX, 1),
    ] {
        let mut out = vec![0; range.count as usize * 4096];
        assert!(image.read_pages(range, &mut out).is_err(), "{range:?}");
    }
    assert!(
        image
            .read_pages(PageRange::new(0, 2), &mut [0; 4096])
            .is_err()
    );
}

#[test]
fn a_restore_can_be_broken_off() {
    let chain = one_of_each();
    let mut file = chain.backend.create(&path(0, "raw")).unwrap();
    let mut stop = |_| ControlFlow::Break(());
    assert!(
        !chain
            .image()
            .unwrap()
            .write_raw(&mut *file, "raw", &mut stop)
            .unwrap()
    );
}

// spec: MEM-06
#[test]
fn a_raw_file_gives_regions_from_their_offsets_and_tells_when_it_shrinks() {
    let chain = one_of_each();
    let raw = path(0, "raw");
    let bytes: Vec<u8> = (0..60 * 4096u32).map(|i| (i / 4096) as u8).collect();
    chain
        .backend
        .create(&raw)
        .unwrap()
        .write_all_at(0, &bytes)
        .unwrap();
    let open = || chain.backend.open(&raw).unwrap();
    let offsets = vec![20 * 4096, 0, 40 * 4096];
    let source = RawFile::new(open(), ragged(), offsets).unwrap();
    let mut out = vec![0; 50 * 4096];
    source.read_pages(PageRange::new(0, 50), &mut out).unwrap();
    let first_bytes: Vec<u8> = out.chunks(4096).map(|page| page[0]).collect();
    let expected: Vec<u8> = (20..50).chain(0..9).chain(40..51).collect();
    assert_eq!(first_bytes, expected);

    assert!(RawFile::new(open(), ragged(), vec![0, 0]).is_err());
    assert!(RawFile::new(open(), ragged(), vec![0, 0, 50 * 4096]).is_err());
    chain
        .backend
        .tamper(&raw, |bytes| bytes.truncate(45 * 4096))
        .unwrap();
    assert!(source.read_pages(PageRange::new(0, 50), &mut out).is_err());
    assert!(RawFile::image(open(), ragged()).is_err());
}

#[test]
fn parts_of_one_unit_read_in_a_row_take_one_read_of_it() {
    let chain = one_of_each();
    let image = chain.image().unwrap();
    let read = |page| image.read_pages(PageRange::new(page, 1), &mut vec![0; 4096]);
    read(0).unwrap();
    // The unit is in memory: damage behind it is not seen until another takes its place.
    chain
        .backend
        .tamper(&path(1, "img"), |bytes| bytes[3] ^= 1)
        .unwrap();
    read(2).unwrap();
    read(5).unwrap();
    read(4).unwrap();
    read(40).unwrap();
    let error = read(4).unwrap_err();
    assert!(matches!(error, ImageError::DataDigest { .. }), "{error}");
    // What failed is not kept either.
    read(0).unwrap_err();
}

#[test]
fn a_piece_ends_with_its_data_file_and_a_run_does_not() {
    let image = one_of_each().image().unwrap();
    let told = |run: PageRun| (run.count, run.is_zero);
    let piece = |start| told(image.piece(PageRange::new(start, 16)).unwrap());
    let run = |start| told(PageSource::run(&image, PageRange::new(start, 16)).unwrap());
    assert_eq!(
        [0, 5, 6, 7].map(piece),
        [(5, false), (1, false), (1, true), (13, false)]
    );
    assert_eq!(
        [0, 5, 6, 7].map(run),
        [(6, false), (1, false), (1, true), (13, false)]
    );
}
