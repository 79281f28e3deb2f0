//! Memory that is plugged, unplugged and moved between the snapshots of a chain.

use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::*;
use snapshot_format::{GuestPage, LEAF_PAGES, PAGE_BYTES, PageIndex, PageState};

use super::chain::options;
use crate::backend::MemBackend;
use crate::capture::rig::{Chain, PAGE, bytes_of, layout, mapped};
use crate::capture::writer::*;
use crate::capture::{Dedup, LayoutChoice};
use crate::dirty::DirtyBitmap;

const LEAF: u64 = LEAF_PAGES as u64;

/// What fills each guest page that is memory.
type Memory = BTreeMap<u64, u8>;

fn guest_pages(layout: &MemoryLayout) -> impl Iterator<Item = u64> + '_ {
    let indices = (0..layout.page_count()).map(PageIndex);
    indices.filter_map(|index| layout.guest_page(index).map(|page| page.0))
}

fn image_of(memory: &Memory) -> Vec<u8> {
    memory.values().flat_map(|fill| vec![*fill; PAGE]).collect()
}

/// Gives memory of `layout` that holds what `memory` says.
fn guest(layout: &MemoryLayout, memory: &Memory) -> crate::mapping::MappedMemory {
    let guest = mapped(layout);
    for (index, fill) in (0..).zip(memory.values()) {
        guest.write(index * PAGE_BYTES, &[*fill; PAGE]).unwrap();
    }
    guest
}

/// Takes a diff of `memory`; the pages of `dirty` that are memory are its bits.
fn take(chain: &mut Chain, layout: &MemoryLayout, memory: &Memory, dirty: &[u64]) {
    let bits = DirtyBitmap::of_layout(Arc::new(layout.clone()));
    for page in dirty {
        if let Some(index) = layout.image_page(GuestPage(*page)) {
            bits.set(index);
        }
    }
    let first = chain.written.is_empty();
    let dirty = (!first).then_some(&bits);
    let guest = guest(layout, memory);
    chain.take(&guest, dirty, Stability::Paused).unwrap();
}

/// The rules of a map whose layout is not its parent's.
fn assert_map_follows(chain: &Chain, parent: &MemoryLayout) {
    let image = chain.newest();
    let (now, root) = (
        image.layout(),
        image.files().last().unwrap().unwrap().root(),
    );
    let leaves = now.leaves();
    for leaf in image.table().refs() {
        assert!(leaves.contains(&leaf.number), "a leaf without memory");
    }
    for number in leaves {
        let memory = now.leaf_pages(number);
        if memory != parent.leaf_pages(number) && root.file > 1 {
            assert!(root.index.get(number).is_some(), "leaf {number} changed");
            assert!(root.owners.get(number).is_some(), "leaf {number} changed");
        }
        let owners = image.owner_leaf(number).unwrap().unwrap();
        assert_eq!(owners.owned_outside(&memory), None);
    }
    for page in guest_pages(now).map(GuestPage) {
        if parent.image_page(page).is_none() {
            let number = u32::try_from(page.0 / LEAF).unwrap();
            let leaf = image
                .files()
                .last()
                .unwrap()
                .unwrap()
                .index_leaf(number)
                .unwrap();
            let state = leaf.unwrap().state((page.0 % LEAF) as usize);
            assert_ne!(state, PageState::Inherited, "{page:?} is new");
        }
    }
}

#[derive(Clone, Debug)]
struct Round {
    /// Regions: where in which leaf, and how many pages.
    regions: Vec<(u64, u64, u64)>,
    /// Pages written, by their place in the image.
    writes: Vec<(u64, u8)>,
    /// What plugged memory holds.
    plugged: u8,
    options: CaptureOptions,
}

fn rounds() -> impl Strategy<Value = Vec<Round>> {
    // Around the ends of leaves, and of units of 16 pages.
    let region = (0..4u64, prop_oneof![0..60u64, LEAF - 60..LEAF], 1..60u64);
    let round = (
        prop::collection::vec(region, 1..5),
        prop::collection::vec((0..400u64, 0..4u8), 0..30),
        0..3u8,
        options(),
    );
    let round = round.prop_map(|(regions, writes, plugged, options)| Round {
        regions,
        writes,
        plugged,
        options,
    });
    prop::collection::vec(round, 2..6)
}

/// Regions without overlap, in order.
fn layout_of(regions: &[(u64, u64, u64)]) -> MemoryLayout {
    let mut starts: Vec<_> = regions
        .iter()
        .map(|(leaf, at, n)| (leaf * LEAF + at, *n))
        .collect();
    starts.sort_unstable();
    let mut free_from = 0;
    let mut kept = Vec::new();
    for (start, count) in starts {
        let start = start.max(free_from);
        free_from = start + count;
        kept.push((start, count));
    }
    layout(&kept)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]
    // spec: MAP-24
    // spec: MAP-25
    // spec: MAP-26
    #[test]
    fn every_instant_reads_back_whatever_was_plugged_since(rounds in rounds()) {
        let mut chain = Chain::new(Arc::new(MemBackend::new()));
        let mut memory = Memory::new();
        let mut parent = layout_of(&rounds[0].regions);
        let mut images = Vec::new();
        for round in rounds {
            let layout = layout_of(&round.regions);
            let pages: Vec<u64> = guest_pages(&layout).collect();
            let kept = |page| memory.get(&page).copied().unwrap_or(round.plugged);
            memory = pages.iter().map(|page| (*page, kept(*page))).collect();
            let mut dirty = Vec::new();
            for (nth, fill) in round.writes {
                let page = pages[(nth % pages.len() as u64) as usize];
                memory.insert(page, fill);
                dirty.push(page);
            }
            chain.options = round.options;
            take(&mut chain, &layout, &memory, &dirty);
            let stats = chain.written.last().unwrap().stats;
            prop_assert_eq!(stats.present + stats.zero + stats.inherited, layout.page_count());
            if images.is_empty() {
                parent = layout.clone();
            }
            assert_map_follows(&chain, &parent);
            images.push(image_of(&memory));
            parent = layout;
        }
        for (number, expected) in images.iter().enumerate() {
            prop_assert!(bytes_of(&chain.image(number)) == *expected, "snapshot {}", number);
        }
        chain.assert_sound();
    }
}

// spec: MAP-26
#[test]
fn memory_that_goes_and_comes_back_inherits_nothing_of_what_it_was() {
    let (whole, half) = (layout(&[(0, 40), (LEAF, 40)]), layout(&[(0, 20)]));
    for dedup in [Dedup::Off, Dedup::Digest, Dedup::Compare] {
        let mut chain = Chain::new(Arc::new(MemBackend::new()));
        chain.options = CaptureOptions::default()
            .dedup(dedup)
            .layout(LayoutChoice::Packed);
        let filled = |layout: &MemoryLayout, fill| -> Memory {
            guest_pages(layout).map(|page| (page, fill)).collect()
        };
        take(&mut chain, &whole, &filled(&whole, 7), &[]);
        // Nothing was written; two leaves lose memory, one of them all of it.
        take(&mut chain, &half, &filled(&half, 7), &[]);
        let gone = &chain.written[1];
        assert_eq!(
            (gone.stats.present, gone.stats.zero, gone.stats.inherited),
            (0, 0, 20)
        );
        let leaves: Vec<_> = gone
            .flattened
            .refs()
            .iter()
            .map(|leaf| leaf.number)
            .collect();
        assert_eq!(leaves, [0]);
        assert_map_follows(&chain, &whole);
        // It comes back, zero at first, and nobody marks it.
        let mut back = filled(&whole, 0);
        back.extend(filled(&half, 7));
        take(&mut chain, &whole, &back, &[]);
        let stats = chain.written[2].stats;
        assert_eq!(
            (stats.present, stats.zero, stats.inherited),
            (0, 60, 20),
            "{dedup:?}"
        );
        assert_map_follows(&chain, &half);
        assert!(bytes_of(&chain.newest()) == image_of(&back));
        assert!(bytes_of(&chain.image(0)) == image_of(&filled(&whole, 7)));
        chain.assert_sound();
    }
}

// spec: MAP-24
#[test]
fn a_leaf_of_other_memory_is_refused() {
    let (before, after) = (layout(&[(0, 40)]), layout(&[(0, 20)]));
    let mut chain = Chain::new(Arc::new(MemBackend::new()));
    let memory: Memory = guest_pages(&before).map(|page| (page, 7)).collect();
    take(&mut chain, &before, &memory, &[]);
    let files = |chain: &Chain| {
        let image = chain.image(0);
        (image.table().clone(), image)
    };
    // A snapshot of less memory, whose writer left the leaf as it was.
    let (table, image) = files(&chain);
    let whole = MemoryImage::new(after, table.clone(), image.into_files()).unwrap();
    let error = whole.owner_leaf(0).unwrap_err();
    assert!(
        matches!(error, crate::ImageError::LeafMemory { leaf: 0 }),
        "{error}"
    );
    // And one whose table names a leaf without memory.
    let (_, image) = files(&chain);
    let elsewhere = layout(&[(LEAF, 20)]);
    let error = MemoryImage::new(elsewhere, table, image.into_files()).unwrap_err();
    assert!(
        matches!(error, crate::ImageError::LeafMemory { leaf: 0 }),
        "{error}"
    );
}
