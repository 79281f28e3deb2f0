//! Random values: what is written is read back, and maps agree with a simple model.

use std::collections::BTreeMap;

use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use snapshot_format::page_map::flatten;
use snapshot_format::{
    Arch, BranchName, Codec, Digest, Envelope, EnvelopeBuilder, Features, FileKind, GuestAddress,
    IndexLeaf, IndexLeafBuilder, LEAF_PAGES, LeafRef, LeafTable, Manifest, MemoryLayout,
    MemoryRegion, OwnerLeaf, PageBits, PageState, SectionKind, SectionPayload, SnapshotId,
    SnapshotRef, VmName, inspect,
};

/// The state of each page that is not inherited, as a simple map.
type Model = BTreeMap<usize, PageState>;

fn any_model() -> impl Strategy<Value = Model> {
    let page = prop_oneof![0..LEAF_PAGES, 0..200usize, LEAF_PAGES - 70..LEAF_PAGES];
    let state = prop_oneof![Just(PageState::Zero), Just(PageState::Present)];
    let runs = btree_map(page, (1..90usize, state), 0..40);
    runs.prop_map(|runs| {
        let pages = runs.into_iter().flat_map(|(start, (count, state))| {
            (start..(start + count).min(LEAF_PAGES)).map(move |page| (page, state))
        });
        pages.collect()
    })
}

fn digest_of(number: u32, unit: usize) -> Digest {
    Digest::of(format!("{number} {unit}").as_bytes())
}

fn leaf_of(model: &Model, number: u32, unit_pages: u16, data_offset: u64) -> IndexLeaf {
    let mut leaf = IndexLeafBuilder::new(number, unit_pages).expect("a valid unit");
    let mut last_unit = None;
    for (&page, &state) in model {
        if state == PageState::Zero {
            leaf.zero().insert(page, 1);
            continue;
        }
        leaf.present().insert(page, 1);
        let unit = page / usize::from(unit_pages);
        if last_unit.replace(unit) != Some(unit) {
            leaf.digest(digest_of(number, unit));
        }
    }
    leaf.finish(data_offset).expect("one digest a unit")
}

fn any_unit() -> impl Strategy<Value = u16> {
    (0..5u32).prop_map(|shift| 1 << shift)
}

fn any_section() -> impl Strategy<Value = SectionPayload> {
    let codec = prop_oneof![Just(Codec::Raw), Just(Codec::Bitcode)];
    (any::<u16>(), codec, any::<bool>(), vec(any::<u8>(), 0..100)).prop_map(
        |(version, codec, critical, bytes)| SectionPayload {
            kind: SectionKind::CALLER,
            instance: 0,
            version,
            codec,
            critical,
            bytes,
        },
    )
}

fn any_layout() -> impl Strategy<Value = MemoryLayout> {
    vec((0..50u64, 1..50u64), 1..20).prop_map(|gaps| {
        let mut start = 0;
        let regions = gaps.into_iter().map(|(gap, pages)| {
            let region = MemoryRegion {
                start: GuestAddress((start + gap) * 4096),
                len_bytes: pages * 4096,
            };
            start += gap + pages;
            region
        });
        MemoryLayout::new(regions.collect()).expect("regions in order")
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn sections_come_back_as_they_were(sections in vec(any_section(), 0..9), id in 1..=u128::MAX) {
        let id = SnapshotId(id.to_le_bytes());
        let sections: Vec<_> = (0..).zip(sections).map(|(instance, section)| SectionPayload {
            instance,
            ..section
        }).collect();
        let builder = EnvelopeBuilder::new(FileKind::State, Arch::Aarch64, id);
        let bytes = sections.iter().fold(builder, EnvelopeBuilder::section).finish();
        let envelope = Envelope::parse(&bytes).expect("what was written");
        prop_assert_eq!(envelope.payloads(), Ok(sections.clone()));
        for section in &sections {
            prop_assert_eq!(envelope.section(section.kind, section.instance), Ok(&*section.bytes));
        }
        prop_assert_eq!(inspect(&bytes, bytes.len() as u64).error, None);
    }

    #[test]
    fn bits_agree_with_a_set(model in any_model()) {
        let mut bits = PageBits::new();
        for page in model.keys() {
            bits.insert(*page, 1);
        }
        prop_assert_eq!(bits.count(), model.len());
        prop_assert!(bits.pages().eq(model.keys().copied()));
        let mut again = PageBits::new();
        let mut end = 0;
        for (start, count) in bits.runs() {
            prop_assert!(count > 0 && (start > end || end == 0), "runs do not touch");
            end = start + count;
            again.insert(start, count);
        }
        prop_assert_eq!(again, bits);
    }

    // spec: MAP-01, MAP-04, MAP-05
    #[test]
    fn a_leaf_agrees_with_a_map(model in any_model(), unit in any_unit(), number in 0..1u32 << 26) {
        let data_offset = if unit == 1 { 4096 * u64::from(number) } else { 0 };
        let leaf = leaf_of(&model, number, unit, data_offset);
        let bytes = leaf.encode();
        let parsed = IndexLeaf::parse(&bytes, number).expect("what was written");
        prop_assert_eq!(&parsed, &leaf);
        prop_assert_eq!(parsed.encode(), bytes);
        let mut rank = 0;
        for page in 0..LEAF_PAGES {
            let state = model.get(&page).copied().unwrap_or(PageState::Inherited);
            prop_assert_eq!(leaf.state(page), state);
            if state == PageState::Present {
                prop_assert_eq!(leaf.present_rank(page), Some(rank));
                let offset = data_offset + rank as u64 * 4096;
                prop_assert_eq!(leaf.packed_offset(page), Some(offset));
                let digest = digest_of(number, page / usize::from(unit));
                prop_assert_eq!(leaf.unit_digest(page), Some(&digest));
                rank += 1;
            } else {
                prop_assert_eq!(leaf.present_rank(page), None);
                prop_assert_eq!(leaf.unit_digest(page), None);
            }
        }
        for (first, digest) in leaf.units() {
            prop_assert_eq!(*digest, digest_of(number, first / usize::from(unit)));
        }
        prop_assert_eq!(leaf.units().count(), leaf.digests().len());
    }

    // spec: MAP-08, MAP-09
    #[test]
    fn a_flattened_chain_agrees_with_a_flat_array(
        chain in vec(any_model(), 1..6),
        first in prop_oneof![Just(1u16), Just(253), Just(4000)],
    ) {
        let mut flat = vec![0; LEAF_PAGES];
        let mut flattened: Option<OwnerLeaf> = None;
        for (file, model) in (first..).zip(&chain) {
            for (&page, &state) in model {
                flat[page] = if state == PageState::Present { file } else { 0 };
            }
            let leaf = leaf_of(model, 3, 1, 0);
            flattened = Some(flatten(flattened.as_ref(), &leaf, file));
        }
        let flattened = flattened.expect("at least one");
        let bytes = flattened.encode();
        let last = first + u16::try_from(chain.len()).expect("a short chain");
        prop_assert_eq!(OwnerLeaf::parse(&bytes, 3, last), Ok(flattened.clone()));
        prop_assert_eq!(OwnerLeaf::from_fn(3, |page| flat[page]), flattened.clone());
        let mut page = 0;
        while page < LEAF_PAGES {
            let run = flattened.run(page, LEAF_PAGES);
            let same = flat[page..].iter().take_while(|owner| **owner == flat[page]).count();
            prop_assert_eq!(run, same);
            prop_assert_eq!(flattened.owner(page), flat[page]);
            page += run;
        }
    }

    // spec: MAP-10
    #[test]
    fn leaf_tables_agree_with_a_map(
        base in btree_map(0..90u32, 0..9000u64, 0..40),
        over in btree_map(0..90u32, 0..9000u64, 0..40),
    ) {
        let table = |model: &BTreeMap<u32, u64>, file| {
            let refs = model.iter().map(|(&number, offset)| LeafRef {
                number,
                file,
                offset: offset * 8,
                len: 32,
                digest: Digest::of(&offset.to_le_bytes()),
            });
            LeafTable::new(refs.collect()).expect("sorted")
        };
        let (low, high) = (table(&base, 1), table(&over, 2));
        prop_assert_eq!(LeafTable::parse(&low.encode()), Ok(low.clone()));
        let laid = low.overlaid(&high);
        prop_assert_eq!(LeafTable::parse(&laid.encode()), Ok(laid.clone()));
        for number in 0..90 {
            prop_assert_eq!(laid.get(number), high.get(number).or_else(|| low.get(number)));
        }
    }

    #[test]
    fn layouts_agree_with_their_leaves(layout in any_layout()) {
        let mut pages = Vec::new();
        for number in layout.leaves() {
            let base = u64::from(number) * LEAF_PAGES as u64;
            pages.extend(layout.leaf_pages(number).pages().map(|page| base + page as u64));
        }
        let expected = (0..layout.page_count()).map(|index| {
            layout.guest_page(snapshot_format::PageIndex(index)).expect("inside").0
        });
        prop_assert!(pages.into_iter().eq(expected));
    }

    #[test]
    fn manifests_come_back_as_they_were(
        id in 1..=u128::MAX,
        parent in proptest::option::of(1..=u128::MAX),
        vm in "[A-Za-z0-9][A-Za-z0-9._-]{0,127}",
        seq: u64,
        layout in any_layout(),
        vm_config in vec(any::<u8>(), 0..50),
        has_memory: bool,
    ) {
        let manifest = Manifest {
            id: SnapshotId(id.to_le_bytes()),
            arch: Arch::Aarch64,
            vm: VmName::new(vm).expect("a name"),
            seq,
            branch: BranchName::main(),
            parent: parent.map(|id| SnapshotRef {
                id: SnapshotId(id.to_le_bytes()),
                digest: Digest::of(&id.to_le_bytes()),
            }),
            created_unix_ms: seq,
            layout,
            map_root: has_memory.then(|| Digest::of(b"root")),
            state: (!has_memory).then(|| Digest::of(b"state")),
            vm_config,
            fingerprint: None,
            features: Features::default(),
        };
        prop_assert_eq!(Manifest::parse(&manifest.encode()), Ok(manifest));
    }

    // spec: CNV-05
    #[test]
    fn any_bytes_get_an_answer(bytes in vec(any::<u8>(), 0..600), magic: bool) {
        let mut bytes = bytes;
        if magic && bytes.len() > 128 {
            bytes[..8].copy_from_slice(&snapshot_format::envelope::MAGIC);
            let crc = crc32c::crc32c(&bytes[..124]);
            bytes[124..128].copy_from_slice(&crc.to_le_bytes());
        }
        let inspection = inspect(&bytes, bytes.len() as u64);
        prop_assert!(inspection.error.is_some());
        prop_assert!(crate::golden::parse_fully(&bytes).is_err());
        prop_assert!(IndexLeaf::parse(&bytes, 0).is_err());
        prop_assert!(OwnerLeaf::parse(&bytes, 0, 1).is_err());
        prop_assert!(snapshot_format::MapRoot::decode(&bytes).is_err());
    }
}
