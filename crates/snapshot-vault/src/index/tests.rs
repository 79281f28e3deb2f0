use std::collections::BTreeSet;

use super::*;
use crate::pack::PageMask;
use crate::testing::domain;
use crate::{MemoryObjects, tombstone};
use snapshot_format::FrameCoding;

fn entry(id: u8, base: Option<u8>) -> Entry {
    Entry {
        id: ChunkId([id; 32]),
        representation: base.map_or(Representation::Full, |base| Representation::Delta {
            base: ChunkId([base; 32]),
            mask: PageMask(1),
        }),
        coding: FrameCoding::Plain,
        stored_len: 4096,
        payload_checksum: 0,
        offset: 64,
    }
}

fn index(packs: &[&[Entry]]) -> Index {
    let mut index = Index::new(&domain(&MemoryObjects::new()), Purpose::Count);
    for (number, entries) in (1..).zip(packs) {
        let table = PackTable {
            entries: entries.to_vec(),
        };
        index.add(ObjectId([number; 16]), 1 << 20, &table);
    }
    index
}

fn pack_of(way: Option<Way>) -> Option<u8> {
    let [own, _] = way?.records();
    own.map(|located| located.pack.0[0])
}

#[test]
fn a_delta_is_available_with_a_full_record_of_its_base_only() {
    let chunk = ChunkId([5; 32]);
    assert!(!index(&[&[entry(5, Some(6))]]).is_available(chunk));
    // A delta of a delta: the base has no full record.
    let chained = index(&[&[entry(5, Some(6)), entry(6, Some(7)), entry(7, None)]]);
    assert!(!chained.is_available(chunk));
    assert!(chained.is_available(ChunkId([6; 32])));
    assert!(index(&[&[entry(5, Some(6))], &[entry(6, None)]]).is_available(chunk));
}

#[test]
fn a_full_record_comes_before_a_delta_and_both_are_ways() {
    let both = index(&[&[entry(5, Some(6)), entry(6, None)], &[entry(5, None)]]);
    let chunk = ChunkId([5; 32]);
    assert_eq!(pack_of(both.find(chunk)), Some(2));
    assert_eq!(both.ways(chunk, Which::Good).count(), 2);
}

#[test]
fn a_chunk_that_a_pack_holds_twice_is_found_twice_and_the_zero_chunk_always() {
    let twice = index(&[&[entry(5, None), entry(5, None)]]);
    assert_eq!(twice.ways(ChunkId([5; 32]), Which::Good).count(), 2);
    let zero = domain(&MemoryObjects::new()).secrets().zero();
    assert_eq!(twice.find(zero), Some(Way::Zero));
    let mut over_zero = entry(5, Some(9));
    over_zero.representation = Representation::Delta {
        base: zero,
        mask: PageMask(1),
    };
    let found = index(&[&[over_zero]]).find(ChunkId([5; 32]));
    assert!(matches!(found, Some(Way::OverZero(_))), "{found:?}");
}

#[test]
fn condemned_packs_are_read_from_and_not_counted_on_and_packs_that_went_are_neither() {
    let objects = MemoryObjects::new();
    let domain = domain(&objects);
    let guest = crate::testing::Guest::new(16, 1);
    crate::testing::archive(&domain, 1, &guest, None).unwrap();
    let mut index = Index::new(&domain, Purpose::Count);
    index.refresh(&domain).unwrap();
    let (pack, _) = index.good_packs().next().unwrap();
    let chunk = index.records[0].entry.id;
    assert!(index.is_available(chunk));
    let body = tombstone::encode(&BTreeSet::from([pack]));
    domain
        .put(ObjectKind::Tombstone, ObjectId([7; 16]), &body)
        .unwrap();
    index.refresh(&domain).unwrap();
    assert!(!index.is_available(chunk));
    assert_eq!(index.ways(chunk, Which::Any).count(), 1);
    domain.delete(ObjectKind::Pack, pack).unwrap();
    index.refresh(&domain).unwrap();
    assert_eq!(index.ways(chunk, Which::Any).count(), 0);
}
