//! The page map: leaves, tables and roots, without the frame of a file.

use snapshot_format::page_map::flatten;
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
    let index = IndexLeaf::parse(body, number).ok();
    if let Some(leaf) = &index {
        assert_eq!(leaf.encode(), body);
        check_index(leaf);
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

fn check_index(leaf: &IndexLeaf) {
    let mut rank = 0;
    for page in 0..LEAF_PAGES {
        let is_present = leaf.state(page) == PageState::Present;
        assert_eq!(leaf.present_rank(page), is_present.then_some(rank));
        assert_eq!(leaf.unit_digest(page).is_some(), is_present);
        rank += usize::from(is_present);
    }
    assert_eq!(leaf.present().count(), rank);
    assert_eq!(leaf.units().count(), leaf.digests().len());
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
