//! The rules of frames, broken one at a time.

use proptest::collection::vec;
use proptest::prelude::*;
use snapshot_format::page_map::{FRAME_PAGES, LeafError};
use snapshot_format::{
    DecodeError, Digest, ErrorKind, FrameCoding, FrameEntry, IndexLeaf, IndexLeafBuilder,
    LEAF_PAGES, MapRoot, limits,
};

use crate::damaged::with_header_byte;
use crate::framed::{as_packed, map, with_entry, with_first_leaf, with_root};
use crate::golden::parse_fully;
use crate::rules::{corrupt, poked, refused};

const fn entry(coding: FrameCoding, stored_len: u32) -> FrameEntry {
    FrameEntry {
        coding,
        stored_len,
        checksum: 7,
    }
}

/// A builder with `pages` present pages.
fn leaf_of(pages: usize, unit_pages: u16) -> IndexLeafBuilder {
    let mut leaf = IndexLeafBuilder::new(0, unit_pages).expect("a valid unit");
    leaf.present().insert(0, pages);
    (0..pages.div_ceil(unit_pages.into())).for_each(|_| leaf.digest(Digest([1; 32])));
    leaf
}

// spec: MAP-17
#[test]
fn there_is_a_frame_for_each_16_pages() {
    let leaf = map().index[0].encode();
    let parse = |offset, new: &[u8]| IndexLeaf::parse(&poked(&leaf, offset, new), 0);
    for count in [1, 2, 4, 255] {
        corrupt(parse(28, &[count]), "a frame for each 16 present pages");
    }
    // No frame at all: the table is left over.
    corrupt(parse(28, &[0]), "bytes are declared");
    corrupt(
        IndexLeaf::parse(&leaf[..leaf.len() - 1], 0),
        "bytes are declared",
    );
    let packed = with_root(as_packed);
    corrupt(parse_fully(&packed), "only there");
    let bare = map().index[0].encode();
    let bare = poked(&bare[..bare.len() - 24], 28, &[0]);
    corrupt(parse_fully(&with_first_leaf(map(), bare)), "only there");
    // Units of 2 pages with as many digests.
    let mut wide = leaf_of(16, 2).finish(0).expect("eight units").encode();
    wide[28] = 1;
    wide.extend([0, 0, 1, 0, 0, 0, 0, 0]);
    corrupt(IndexLeaf::parse(&wide, 0), "of units of one page");
}

// spec: MAP-18
#[test]
fn frames_lie_in_the_data_file() {
    assert_eq!(parse_fully(&map().bytes), Ok(()));
    let beyond = with_root(|root| root.data_len_bytes -= 1);
    corrupt(parse_fully(&beyond), "lie in the data file");
    let far = poked(&map().index[0].encode(), 8, &[0xff; 8]);
    corrupt(
        parse_fully(&with_first_leaf(map(), far)),
        "lie in the data file",
    );
    let overlap = with_entry(0, |word| word + 1);
    corrupt(parse_fully(&overlap), "those of the leaf before end");
    let short = with_root(|root| root.data_len_bytes += 1);
    corrupt(parse_fully(&short), "the last frame ends the data file");
    let long = with_root(|root| root.data_len_bytes = root.layout.len_bytes() + 1);
    corrupt(parse_fully(&long), "not longer than the image");
    let units = with_root(|root| root.unit_pages = 2);
    corrupt(parse_fully(&units), "1 in packed data and in frames");
}

// spec: MAP-19
#[test]
fn a_frame_has_its_own_length_or_less() {
    let with = |index, change: fn(u32) -> u32| parse_fully(&with_entry(index, change));
    for change in [|len| len - 1, |len| len + 1, |_| 0, |len| len | 1 << 28] {
        corrupt(with(2, change), "a plain frame has its own length");
    }
    for change in [|_| 1 << 28, |_| 1 << 28 | 65_536, |_| u32::MAX >> 3] {
        corrupt(with(0, change), "a compressed one less");
    }
}

// spec: MAP-20
#[test]
fn an_unknown_coding_is_not_understood() {
    for coding in [3, 9, 15] {
        let leaf = with_entry(1, |word| word & u32::MAX >> 4 | coding << 28);
        refused(
            parse_fully(&leaf),
            ErrorKind::Unsupported,
            "plain (0), as LZ4 (1) or as Zstandard (2)",
        );
    }
}

// spec: MAP-21, VER-05
#[test]
fn frames_ask_for_a_reader_that_knows_them() {
    let bytes = map().bytes;
    assert_eq!(bytes[14], 2);
    let older = with_header_byte(&bytes, 14, 1);
    corrupt(parse_fully(&older), "knows the layout of the data");
}

#[test]
fn a_writer_is_told_of_frames_that_do_not_fit() {
    let plain = entry(FrameCoding::Plain, 65_536);
    let last = entry(FrameCoding::Lz4, 4095);
    leaf_of(17, 1)
        .finish_frames(3, vec![plain, last])
        .expect("two frames");
    let wrong = [
        (1, vec![plain]),
        (1, vec![plain, last, last]),
        (1, vec![plain, entry(FrameCoding::Lz4, 4096)]),
        (1, vec![plain, entry(FrameCoding::Zstd, 0)]),
        (1, vec![entry(FrameCoding::Plain, 65_535), last]),
        (2, vec![plain, last]),
    ];
    for (unit_pages, entries) in wrong {
        let found = entries.len();
        let refused = leaf_of(17, unit_pages).finish_frames(0, entries);
        let expected = LeafError::Frames {
            number: 0,
            present: 17,
            found,
        };
        assert_eq!(refused, Err(expected));
    }
}

#[test]
fn the_longest_leaf_is_accepted() {
    let frames = vec![entry(FrameCoding::Plain, 65_536); LEAF_PAGES / FRAME_PAGES];
    let leaf = leaf_of(LEAF_PAGES, 1).finish_frames(0, frames);
    let bytes = leaf.expect("all frames").encode();
    assert_eq!(bytes.len(), limits::MAX_LEAF_BYTES);
    let leaf = IndexLeaf::parse(&bytes, 0).expect("what was written");
    assert_eq!(leaf.frame_bytes(), 64 << 20);
}

/// Runs of present pages, and for each frame whether and how far it shrank.
fn any_frames() -> impl Strategy<Value = (Vec<(usize, usize)>, Vec<u32>)> {
    let runs = vec((1..300usize, 1..60usize), 1..40);
    (runs, vec(any::<u32>(), 200))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    // spec: MAP-17, MAP-18, MAP-19
    #[test]
    fn a_page_is_found_in_its_frame((runs, shrunk) in any_frames(), data_offset in 0..1u64 << 50) {
        let mut leaf = IndexLeafBuilder::new(5, 1).expect("a valid unit");
        let mut page = 0;
        for (gap, count) in runs {
            leaf.present().insert(page + gap, count);
            page += gap + count;
        }
        let pages: Vec<_> = leaf.present().pages().collect();
        for _ in &pages {
            leaf.digest(Digest([1; 32]));
        }
        let groups = pages.chunks(FRAME_PAGES);
        let entries: Vec<_> = groups.zip(&shrunk).map(|(pages, choice)| {
            let len = u32::try_from(pages.len() * 4096).expect("a frame");
            match choice % 3 {
                0 => entry(FrameCoding::Plain, len),
                1 => entry(FrameCoding::Lz4, 1 + choice % (len - 1)),
                _ => entry(FrameCoding::Zstd, 1 + choice % (len - 1)),
            }
        }).collect();
        let leaf = leaf.finish_frames(data_offset, entries.clone()).expect("frames that fit");
        let parsed = IndexLeaf::parse(&leaf.encode(), 5).expect("what was written");
        prop_assert_eq!(&parsed, &leaf);
        let mut offset = data_offset;
        for (index, frame) in parsed.frames().enumerate() {
            prop_assert_eq!((frame.offset, frame.entry), (offset, entries[index]));
            prop_assert_eq!(frame.first_rank, index * FRAME_PAGES);
            let held = &pages[frame.first_rank..][..frame.pages];
            prop_assert_eq!(frame.decoded_len(), held.len() * 4096);
            for &page in held {
                prop_assert_eq!(parsed.frame_of(page), Some(frame));
            }
            offset = frame.end();
        }
        prop_assert_eq!(parsed.frames().count(), entries.len());
        prop_assert_eq!(offset - data_offset, u64::from(parsed.frame_bytes()));
        prop_assert_eq!(parsed.frame_of(0), None);
    }
}

#[test]
fn a_root_of_frames_survives() {
    let root = map().root;
    assert_eq!(MapRoot::decode(&root.encode()), Ok::<_, DecodeError>(root));
}
