//! The page map: leaves, tables and roots, without the frame of a file.

use snapshot_format::envelope::HEADER_BYTES;
use snapshot_format::page_map::{FRAME_PAGES, flatten};
use snapshot_format::{IndexLeaf, LEAF_PAGES, LeafTable, MapRoot, OwnerLeaf, PageState};

/// Whatever is accepted is written as it was read, and its counts agree with its pages.
///
/// # Panics
///
/// If that does not hold.
pub fn fuzz_page_map(bytes: &[u8]) {
    let number = bytes
        .first_chunk()
        .map_or(0, |chunk| u32::from_le_bytes(*chunk));
    let body = bytes.get(4..).unwrap_or_default();
    for bytes in [body, bytes] {
        if let Ok(table) = LeafTable::parse(bytes) {
            assert_eq!(table.encode(), bytes);
        }
        if let Ok(root) = MapRoot::decode(bytes) {
            assert_eq!(root.encode(), bytes);
        }
    }
    let index = parse_index(body, number);
    if let Some((leaf, number)) = first_leaf(bytes) {
        parse_index(leaf, number);
    }
    let owner = OwnerLeaf::parse(body, number, u16::MAX).ok();
    if let Some(leaf) = &owner {
        assert!((0..LEAF_PAGES).all(|page| leaf.owner(page) <= leaf.max_owner()));
        assert_eq!(leaf.encode(), body);
    }
    let file = owner
        .as_ref()
        .map_or(1, |leaf| leaf.max_owner().saturating_add(1));
    if let Some(index) = index.filter(|_| file < u16::MAX) {
        check_flattened(owner.as_ref(), &index, file);
    }
}

fn parse_index(bytes: &[u8], number: u32) -> Option<IndexLeaf> {
    let leaf = IndexLeaf::parse(bytes, number).ok()?;
    assert_eq!(leaf.encode(), bytes);
    check_index(&leaf);
    Some(leaf)
}

/// The first leaf of a whole map, with the number that it says: seeds are whole maps.
fn first_leaf(bytes: &[u8]) -> Option<(&[u8], u32)> {
    let leaf = bytes.get(HEADER_BYTES..)?;
    let field = |at: usize| {
        let bytes = leaf.get(at..at + 4)?;
        Some(u32::from_le_bytes(bytes.try_into().ok()?))
    };
    let count = |at| Some(usize::try_from(field(at)?).ok()?.min(LEAF_PAGES));
    let len = IndexLeaf::encoded_len(count(24)?, count(28)?);
    Some((leaf.get(..len)?, field(4)?))
}

fn check_index(leaf: &IndexLeaf) {
    let mut rank = 0;
    for page in 0..LEAF_PAGES {
        let is_present = leaf.state(page) == PageState::Present;
        assert_eq!(leaf.present_rank(page), is_present.then_some(rank));
        assert_eq!(leaf.unit_digest(page).is_some(), is_present);
        rank += usize::from(is_present);
    }
    assert_eq!(leaf.present().count(), rank);
    check_frames(leaf, rank);
    assert_eq!(leaf.units().count(), leaf.digests().len());
}

/// Frames hold every present page once, in order and back to back, and none is longer than its
/// pages.
fn check_frames(leaf: &IndexLeaf, present: usize) {
    let (mut rank, mut end) = (0, leaf.data_offset());
    for frame in leaf.frames() {
        assert_eq!((frame.first_rank, frame.offset), (rank, end));
        assert!((1..=FRAME_PAGES).contains(&frame.pages));
        assert!(frame.entry.fits(frame.pages));
        (rank, end) = (rank + frame.pages, frame.end());
    }
    let held = if leaf.frame_count() == 0 { 0 } else { present };
    assert_eq!(rank, held);
    for page in leaf.present().pages() {
        let frame = leaf.frame_of(page);
        assert_eq!(frame.is_some(), held > 0);
        let rank = leaf.present_rank(page).unwrap_or(usize::MAX);
        assert!(frame.is_none_or(|frame| {
            (frame.first_rank..frame.first_rank + frame.pages).contains(&rank)
        }));
    }
}

fn check_flattened(parent: Option<&OwnerLeaf>, index: &IndexLeaf, file: u16) {
    let parent = parent.filter(|parent| parent.number() == index.number());
    let flat = flatten(parent, index, file);
    for page in 0..LEAF_PAGES {
        let expected = match index.state(page) {
            PageState::Present => file,
            PageState::Zero => 0,
            PageState::Inherited => parent.map_or(0, |parent| parent.owner(page)),
        };
        assert_eq!(flat.owner(page), expected, "owner of page {page}");
    }
    assert_eq!(
        OwnerLeaf::parse(&flat.encode(), flat.number(), file),
        Ok(flat)
    );
}
