use std::ops::ControlFlow;
use std::path::PathBuf;

use snapshot_format::{
    DataFileRef, DataLayout, Envelope, ErrorKind, FrameCoding, LeafTable, MapRoot, PageRange,
    SectionKind,
};

use super::fixture::{Cell, Chain, path};
use super::{ragged, use_all};
use crate::backend::{Backend, MemBackend, RelPath};
use crate::frames::{FrameCodec, FrameFault};
use crate::image::{DataFile, DataFileNames, ImageError, MemoryImage};

/// Two data files of frames of every coding, the last of each leaf short.
fn framed() -> Chain {
    let mut chain = Chain::new(ragged());
    chain.codecs = vec![FrameCodec::Lz4, FrameCodec::ZSTD];
    let mut first = vec![Cell::Zero; 50];
    (0..16).for_each(|page| first[page] = Cell::Data(2));
    (16..32).for_each(|page| first[page] = Cell::Data(page as u8 & !1));
    first[32] = Cell::Data(65);
    (43..46).for_each(|page| first[page] = Cell::Data(page as u8 * 2));
    chain.add(&first, DataLayout::Frames, 1);
    let mut second = vec![Cell::Inherited; 50];
    (5..25)
        .step_by(2)
        .for_each(|page| second[page] = Cell::Data(8));
    second[6] = Cell::Zero;
    chain.add(&second, DataLayout::Frames, 1);
    chain
}

#[test]
fn frames_of_every_coding_are_read() {
    let chain = framed();
    let leaf = chain.open_file(1).unwrap().index_leaf(0).unwrap().unwrap();
    let frames: Vec<_> = leaf.frames().collect();
    let codings: Vec<_> = frames.iter().map(|frame| frame.entry.coding).collect();
    assert_eq!(
        codings,
        [FrameCoding::Lz4, FrameCoding::Zstd, FrameCoding::Plain]
    );
    assert_eq!(frames[2].pages, 1);
    assert!(use_all(&chain).unwrap() == chain.model);
    // Page by page, backwards, so that no frame is the one before.
    let image = chain.image().unwrap();
    for page in (0..50).rev() {
        let mut out = [0xEE; 4096];
        image.read_pages(PageRange::new(page, 1), &mut out).unwrap();
        assert!(
            out == chain.model[page as usize * 4096..][..4096],
            "page {page}"
        );
    }
}

// spec: MAP-22, MAP-23
#[test]
fn a_flip_of_any_byte_of_a_file_of_frames_is_found() {
    let chain = framed();
    for number in 1..=2 {
        for name in ["img", "map"] {
            let path = path(number, name);
            let len = chain.backend.metadata(&path).unwrap().len_bytes as usize;
            let is_long = name == "map";
            for at in (0..len).step_by(if is_long { 53 } else { 1 }) {
                let flip = |bytes: &mut Vec<u8>| bytes[at] ^= 0x04;
                chain.backend.tamper(&path, flip).unwrap();
                let error = first_damage(&chain, number).expect("a flip that nobody sees");
                assert_eq!(error.kind(), Some(ErrorKind::Corrupt), "byte {at}: {error}");
                assert_eq!(error.file(), Some(&*format!("{number}.{name}")), "{error}");
                chain.backend.tamper(&path, flip).unwrap();
            }
        }
    }
}

fn first_damage(chain: &Chain, number: usize) -> Option<ImageError> {
    let file = match chain.open_file(number) {
        Ok(file) => file,
        Err(error) => return Some(error),
    };
    let mut first = None;
    let mut report = |error| {
        first.get_or_insert(error);
    };
    file.check(&mut report, &mut |_| ControlFlow::Continue(()));
    first
}

// spec: MAP-22
#[test]
fn a_damaged_frame_names_its_place_and_spares_the_others() {
    let chain = framed();
    chain
        .backend
        .tamper(&path(1, "img"), |bytes| bytes[3] ^= 1)
        .unwrap();
    let image = chain.image().unwrap();
    let mut out = vec![0; 4096];
    let error = image
        .read_pages(PageRange::new(0, 1), &mut out)
        .unwrap_err();
    assert_eq!((error.file(), error.offset()), (Some("1.img"), Some(0)));
    assert!(
        matches!(
            &error,
            ImageError::Frame {
                source: FrameFault::Checksum { .. },
                ..
            }
        ),
        "{error}"
    );
    assert!(error.to_string().contains("put back a copy"), "{error}");
    image.read_pages(PageRange::new(20, 1), &mut out).unwrap();
    assert!(out == chain.model[20 * 4096..][..4096]);
}

#[test]
fn reads_in_a_row_decode_each_frame_once() {
    let chain = framed();
    let image = chain.image().unwrap();
    let mut out = vec![0; 4096];
    image.read_pages(PageRange::new(0, 1), &mut out).unwrap();
    // The frame is in memory: damage behind it is not seen until another takes its place.
    chain
        .backend
        .tamper(&path(1, "img"), |bytes| bytes[3] ^= 1)
        .unwrap();
    let read = |page| image.read_pages(PageRange::new(page, 1), &mut vec![0; 4096]);
    read(2).unwrap();
    read(14).unwrap();
    read(16).unwrap();
    read(14).unwrap_err();
}

#[test]
fn threads_read_frames_at_the_same_time() {
    let chain = framed();
    let image = chain.image().unwrap();
    std::thread::scope(|scope| {
        for step in [1, 7, 11, 49] {
            let (image, model) = (&image, &chain.model);
            scope.spawn(move || {
                for turn in 0..400 {
                    let page = turn * step % 50;
                    let mut out = [0xEE; 4096];
                    let range = PageRange::new(page, 1);
                    image.read_pages(range, &mut out).unwrap();
                    assert!(out == model[page as usize * 4096..][..4096], "page {page}");
                }
            });
        }
    });
}

fn golden(name: &str) -> Vec<u8> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let path = folder
        .join("../snapshot-format/tests/golden/v0.2")
        .join(name);
    std::fs::read(path).unwrap()
}

// spec: MAP-23, VER-06
#[test]
fn golden_frames_read_as_they_were_written() {
    let map = golden("memory-frames.map");
    let envelope = Envelope::parse(&map).unwrap();
    let root = envelope.section(SectionKind::MAP_ROOT, 0).unwrap();
    let root = MapRoot::parse(envelope.header(), envelope.table(), root).unwrap();
    let backend = MemBackend::new();
    for (name, bytes) in [("map", &map), ("img", &golden("memory-frames.img"))] {
        let path = RelPath::root().join(name).unwrap();
        backend
            .create(&path)
            .unwrap()
            .write_all_at(0, bytes)
            .unwrap();
    }
    let open = |name| backend.open(&RelPath::root().join(name).unwrap()).unwrap();
    let names = DataFileNames {
        map: "map".to_owned(),
        data: "img".to_owned(),
    };
    let wanted = DataFileRef {
        snapshot: root.id,
        index: 0,
        map_root: root.digest(),
    };
    let file = DataFile::open(open("map"), open("img"), names, &wanted).unwrap();
    let (mut errors, mut checked) = (Vec::new(), 0);
    file.check(&mut |error| errors.push(error.to_string()), &mut |len| {
        checked += len;
        ControlFlow::Continue(())
    });
    assert_eq!(errors, Vec::<String>::new());
    assert!(checked > root.data_len_bytes);
    for (leaf, first, letters) in [(0, 0, "AB"), (0, 300, "DEF"), (1, 16_384, "C")] {
        let leaf = file.index_leaf(leaf).unwrap().unwrap();
        let each = if letters == "AB" { 16 } else { 1 };
        for (group, letter) in letters.bytes().enumerate() {
            let page = snapshot_format::GuestPage(first + group as u64 * each);
            let mut out = vec![0; each as usize * 4096];
            file.read_held(&leaf, page, &mut out).unwrap();
            assert!(out.iter().all(|byte| *byte == letter), "{letter}");
        }
    }
    // It is the second of its chain: alone it is no image.
    let image = MemoryImage::new(root.layout, LeafTable::default(), vec![file]);
    assert!(matches!(image, Err(ImageError::FileNumber { .. })));
}
