//! The rules of page maps, manifests and placements, broken one at a time.

use snapshot_format::page_map::flatten;
use snapshot_format::{
    Codec, DataFileRef, DataLayout, DecodeError, Digest, EnvelopeBuilder, ErrorKind, FileKind,
    IndexLeaf, IndexLeafBuilder, LeafTable, Manifest, MapRoot, OwnerLeaf, PageState as P,
    Placement, SectionKind, SectionPayload, limits,
};

use crate::cases::{
    DIFF, FULL, Map, layout, manifest_diff, manifest_full, map_diff, map_full, placement, write_map,
};
use crate::golden;
use crate::rules::{corrupt, poked, refused};

/// A map like `map`, whose first index leaf has other bytes.
fn with_leaf(map: &Map, leaf: &[u8]) -> Result<IndexLeaf, DecodeError> {
    let mut reference = map.root.index.refs()[0];
    reference.digest = Digest::of(leaf);
    reference.len = u32::try_from(leaf.len()).expect("a leaf");
    map.root.index_leaf(&reference, leaf)
}

/// The map, written with another root.
fn with_root(map: Map, change: impl FnOnce(&mut MapRoot)) -> Result<(), DecodeError> {
    let mut root = map.root;
    change(&mut root);
    golden::parse_fully(&write_map(root, map.index, map.owners).bytes)
}

// spec: MAP-01, MAP-02, MAP-03, MAP-04
#[test]
fn an_index_leaf_agrees_with_itself() {
    let leaf = map_diff().index[0].encode();
    let parse = |offset, new: &[u8]| IndexLeaf::parse(&poked(&leaf, offset, new), 0);
    corrupt(parse(0, &[2]), "the mark 1");
    corrupt(parse(2, &[3]), "1, 2, 4, 8 or 16");
    corrupt(parse(2, &[32]), "1, 2, 4, 8 or 16");
    corrupt(parse(4, &[1]), "the number it is named by");
    corrupt(parse(16, &[4]), "the count of present pages");
    corrupt(parse(20, &[2]), "the count of zero pages");
    corrupt(parse(24, &[2]), "a digest for each unit");
    corrupt(parse(2, &[16]), "a digest for each unit");
    corrupt(parse(28, &[2]), "a frame for each 16 present pages");
    corrupt(parse(32 + 2048, &[1]), "both present and zero");
    let leaf = IndexLeaf::parse(&leaf, 0).expect("a sound leaf");
    let states = [0, 1, 300, 301, 302, 303].map(|page| leaf.state(page));
    assert_eq!(
        states,
        [
            P::Present,
            P::Inherited,
            P::Present,
            P::Present,
            P::Zero,
            P::Inherited
        ]
    );
}

// spec: MAP-05, MAP-06, MAP-07, MAP-14
#[test]
fn an_index_leaf_agrees_with_its_root() {
    let (full, diff) = (map_full(), map_diff());
    let leaf = diff.index[0].encode();
    assert_eq!(with_leaf(&diff, &leaf), Ok(diff.index[0].clone()));
    corrupt(
        with_leaf(&diff, &poked(&leaf, 8, &4096u64.to_le_bytes())),
        "lie in the data file",
    );
    corrupt(
        with_leaf(&diff, &poked(&leaf, 8, &[1])),
        "lie in the data file",
    );
    corrupt(
        with_leaf(&diff, &poked(&leaf, 8, &[0xff; 8])),
        "lie in the data file",
    );
    let sparse = full.index[0].encode();
    assert_eq!(with_leaf(&full, &sparse), Ok(full.index[0].clone()));
    corrupt(
        with_leaf(&full, &poked(&sparse, 9, &[0x10])),
        "lie in the data file",
    );
    corrupt(with_leaf(&full, &leaf), "the unit of the root");
    // Pages 40 to 255 are no memory.
    let outside = poked(&poked(&leaf, 20, &[2]), 32 + 2048 + 5, &[1]);
    corrupt(with_leaf(&diff, &outside), "outside of memory");
    // Page 0 is zero in the full snapshot, page 1 present.
    let inherited = poked(&poked(&sparse, 20, &[27]), 32 + 2048, &[0b10_0000]);
    corrupt(with_leaf(&full, &inherited), "nothing is inherited");
    // Another leaf in its place.
    let reference = diff.root.index.refs()[0];
    let damaged = diff.root.index_leaf(&reference, &poked(&leaf, 40, &[1]));
    corrupt(damaged, "digest");
    corrupt(
        diff.root.index_leaf(&reference, &leaf[8..]),
        "bytes are declared",
    );
    let owners = diff.owners[0].encode();
    let reference = diff.root.owners.refs()[0];
    assert_eq!(
        diff.root.owner_leaf(&reference, &owners),
        Ok(diff.owners[0].clone())
    );
    corrupt(
        diff.root.owner_leaf(&reference, &poked(&owners, 40, &[9])),
        "digest",
    );
}

// spec: MAP-08
#[test]
fn an_owner_leaf_agrees_with_itself() {
    let leaf = OwnerLeaf::from_fn(0, |page| u16::from(page > 9)).encode();
    let parse = |offset, new: &[u8]| OwnerLeaf::parse(&poked(&leaf, offset, new), 0, 2);
    corrupt(parse(0, &[1]), "the mark 2");
    corrupt(parse(2, &[3]), "0, 1 or 2 bytes");
    corrupt(parse(4, &[1]), "the number it is named by");
    corrupt(parse(8, &[1]), "only owners of no bytes");
    corrupt(parse(100, &[3]), "a data file that the map knows");
    corrupt(
        OwnerLeaf::parse(&OwnerLeaf::uniform(0, 3).encode(), 0, 2),
        "a data file that the map",
    );
    corrupt(parse(32, &[1; 16_384]), "the narrowest width");
    let mut wide = poked(&leaf, 2, &[2]);
    wide.extend([0; 16_384]);
    let narrow = poked(&wide, 32, &vec![0; 2 * 16_384]);
    corrupt(OwnerLeaf::parse(&narrow, 0, 2), "the narrowest width");
    corrupt(
        OwnerLeaf::parse(&wide[..wide.len() - 1], 0, 2),
        "bytes are declared",
    );
}

// spec: MAP-10
#[test]
fn references_are_sorted_and_sound() {
    let table = map_full().root.index.encode();
    let parse = |offset, new: &[u8]| LeafTable::parse(&poked(&table, offset, new));
    corrupt(parse(56, &[0]), "sorted by number");
    corrupt(parse(0, &[1]), "sorted by number");
    corrupt(parse(4, &[33]), "the length of a leaf");
    corrupt(parse(4, &[0, 0, 0, 1]), "the length of a leaf");
    corrupt(parse(4, &[24, 0, 0, 0]), "the length of a leaf");
    corrupt(parse(8, &[1]), "a multiple of 8");
    corrupt(parse(8, &(u64::MAX - 7).to_le_bytes()), "a multiple of 8");
    corrupt(parse(16, &[0]), "from 1 to 4096");
    corrupt(parse(16, &[1, 0x10]), "from 1 to 4096");
    corrupt(
        LeafTable::parse(&table[..table.len() - 1]),
        "bytes are declared",
    );
    let mut refs = map_full().root.index.refs().to_vec();
    refs.reverse();
    assert_eq!(LeafTable::new(refs), None);
}

// spec: MAP-11, MAP-12, MAP-13
#[test]
fn a_root_agrees_with_its_file() {
    let root = map_diff().root.encode();
    let decode = |offset, new: &[u8]| MapRoot::decode(&poked(&root, offset, new));
    corrupt(decode(64, &[0]), "from 1 to 4096");
    corrupt(decode(64, &[1, 0x10]), "from 1 to 4096");
    corrupt(decode(64, &[3]), "leaves of its own file");
    corrupt(decode(66, &[4]), "sparse (1), packed (2) or in frames (3)");
    corrupt(decode(68, &[2]), "1 in packed data");
    corrupt(decode(16, &[0; 16]), "a parent has an id");
    let too_long = layout().len_bytes() + 4096;
    corrupt(
        decode(72, &too_long.to_le_bytes()),
        "packed data is whole pages",
    );
    corrupt(decode(72, &[1]), "packed data is whole pages");
    corrupt(
        with_root(map_full(), |root| root.data_len_bytes -= 4096),
        "as long as the image",
    );
    corrupt(
        with_root(map_full(), |root| root.unit_pages = 32),
        "1, 2, 4, 8 or 16",
    );
    corrupt(decode(96 + 3 * 16, &[9]), "leaves hold memory");
    let full = map_full();
    let missing = write_map(
        full.root,
        full.index[..1].to_vec(),
        full.owners[..1].to_vec(),
    );
    corrupt(
        golden::parse_fully(&missing.bytes),
        "every leaf of memory is named",
    );
    let diff = map_diff();
    let no_owners = write_map(diff.root, diff.index, Vec::new());
    corrupt(
        golden::parse_fully(&no_owners.bytes),
        "the leaves that changed",
    );
    // A header that names another snapshot.
    let map = map_diff().bytes;
    let other = crate::damaged::with_header_byte(&map, 79, 0);
    corrupt(golden::parse_fully(&other), "with parent");
    let orphan = (80..96).fold(map, |map, at| crate::damaged::with_header_byte(&map, at, 0));
    corrupt(golden::parse_fully(&orphan), "without a parent is expected");
}

// spec: MAP-11
#[test]
fn leaves_lie_in_the_section_of_leaves() {
    let map = map_diff();
    let mut root = map.root.clone();
    let mut refs = root.index.refs().to_vec();
    refs[0].offset = 0;
    root.index = LeafTable::new(refs).expect("one leaf");
    let sections = [
        (SectionKind::MAP_LEAVES, vec![0; 8]),
        (SectionKind::MAP_ROOT, root.encode()),
    ];
    let builder = EnvelopeBuilder::new(FileKind::MemoryMap, snapshot_format::Arch::None, DIFF);
    let file = sections
        .into_iter()
        .fold(builder.parent(Some(FULL)), |builder, (kind, bytes)| {
            builder.section(&SectionPayload::raw(kind, 0, 1, bytes))
        });
    corrupt(golden::parse_fully(&file.finish()), "the section of leaves");
}

// spec: MAP-15, MAP-16
#[test]
fn leaves_shared_with_the_parent_stay_true() {
    let (full, child) = (map_full(), placement());
    // The second leaf is the parent's: owner 1 is the same data file in both lists.
    let shared = child.flattened.get(1).expect("a shared leaf");
    assert_eq!(Some(shared), full.root.owners.get(1));
    let owner = child.dependencies[usize::from(shared.file) - 1];
    assert_eq!((owner.snapshot, owner.map_root), (FULL, full.root.digest()));
    // What neither names is zero.
    assert_eq!(child.flattened.get(2), None);
    let mut leaf = IndexLeafBuilder::new(2, 1).expect("a valid unit");
    leaf.present().insert(7, 1);
    leaf.digest(Digest::of(b"page"));
    let leaf = flatten(None, &leaf.finish(0).expect("one unit"), 2);
    assert_eq!([6, 7, 8].map(|page| leaf.owner(page)), [0, 2, 0]);
}

// spec: MAP-25
#[test]
fn pages_that_are_no_memory_have_no_owner() {
    let map = map_full();
    let number = map.root.layout.leaves()[0];
    let memory = map.root.layout.leaf_pages(number);
    let gap = memory.runs().next().map(|(start, count)| start + count);
    let gap = gap.expect("memory that ends within its leaf");
    let of = |owner_of: &dyn Fn(usize) -> u16| {
        let bytes = OwnerLeaf::from_fn(number, owner_of).encode();
        let mut reference = *map.root.owners.get(number).expect("the first leaf");
        reference.digest = Digest::of(&bytes);
        reference.len = u32::try_from(bytes.len()).expect("a leaf");
        map.root.owner_leaf(&reference, &bytes)
    };
    let sound = |page| u16::from(memory.contains(page));
    assert_eq!(of(&sound).map(|leaf| leaf.owner(gap)), Ok(0));
    corrupt(
        of(&|page| sound(page).max(u16::from(page == gap))),
        "have no owner",
    );
    corrupt(of(&|_| 1), "have no owner");
    // A leaf for less memory than it was made for owns nothing of the rest.
    let narrow = OwnerLeaf::uniform(number, 1).within(&memory);
    assert_eq!((narrow.owned_outside(&memory), narrow.owner(0)), (None, 1));
}

/// A manifest whose payload has other bytes in place of `from`.
fn with_payload(from: &[u8], to: &[u8]) -> Result<Manifest, DecodeError> {
    let file = manifest_full().encode();
    let envelope = snapshot_format::Envelope::parse(&file).expect("a sound manifest");
    let mut sections = envelope.payloads().expect("sound sections");
    let payload = &mut sections[0].bytes;
    let at = payload
        .windows(from.len())
        .position(|window| window == from);
    let at = at.expect("bytes of the payload");
    payload[at..at + to.len()].copy_from_slice(to);
    let builder = EnvelopeBuilder::new(FileKind::Manifest, snapshot_format::Arch::X86_64, FULL);
    Manifest::parse(
        &sections
            .iter()
            .fold(builder, EnvelopeBuilder::section)
            .finish(),
    )
}

// spec: MAN-01, MAN-02
#[test]
fn a_manifest_agrees_with_its_header_and_its_rules() {
    corrupt(
        with_payload(&FULL.0, &DIFF.0),
        "without a parent is expected",
    );
    corrupt(
        with_payload(b"web-1", b"web/1"),
        "is no name of a virtual machine",
    );
    corrupt(with_payload(b"main", b"-ain"), "is no name of a branch");
    with_payload(b"main", b"mein").expect("another branch");
}

// spec: MAN-03
#[test]
fn a_configuration_has_a_limit() {
    let mut manifest = manifest_full();
    manifest.vm_config = vec![7; limits::MAX_VM_CONFIG_BYTES];
    assert_eq!(Manifest::parse(&manifest.encode()), Ok(manifest.clone()));
    manifest.vm_config.push(7);
    refused(
        Manifest::parse(&manifest.encode()),
        ErrorKind::Limit,
        "at most 1048576",
    );
}

// spec: MAN-04
#[test]
fn a_child_names_its_parent_by_its_bytes() {
    let mut child = manifest_diff();
    let parent = manifest_full().encode();
    let reference = snapshot_format::SnapshotRef {
        id: FULL,
        digest: Digest::of(&parent),
    };
    child.parent = Some(reference);
    let read = Manifest::parse(&child.encode()).expect("what was written");
    let named = read.parent.expect("a parent").digest;
    assert_eq!(named.check(&parent), Ok(()));
    let other = manifest_diff().encode();
    assert_eq!(named.check(&other), Err(Digest::of(&other)));
}

// spec: MAN-05
#[test]
fn a_fingerprint_from_the_future_does_not_hide_a_snapshot() {
    let mut manifest = manifest_full();
    manifest.fingerprint = Some(SectionPayload {
        version: 99,
        codec: Codec::Bitcode,
        ..SectionPayload::raw(SectionKind::FINGERPRINT, 0, 1, vec![0xff; 40])
    });
    let read = Manifest::parse(&manifest.encode()).expect("a manifest to list");
    let fingerprint = read.fingerprint.expect("a fingerprint");
    let value = fingerprint.value::<snapshot_format::state::Fingerprint>();
    refused(value, ErrorKind::Unsupported, "version 99");
}

/// A placement with one thing changed.
fn with_placement(change: impl FnOnce(&mut Placement)) -> Result<Placement, DecodeError> {
    let mut changed = placement();
    change(&mut changed);
    Placement::parse(&changed.encode())
}

// spec: PLC-01, PLC-02, PLC-03, PLC-06
#[test]
fn a_placement_names_files_once() {
    assert_eq!(with_placement(|_| ()), Ok(placement()));
    corrupt(with_placement(|p| p.generation = 0), "count from 1");
    corrupt(
        with_placement(|p| p.files.swap(0, 1)),
        "sorted by kind and index",
    );
    corrupt(
        with_placement(|p| p.files[1] = p.files[0]),
        "sorted by kind and index",
    );
    corrupt(
        with_placement(|p| p.manifest = Digest::of(b"another")),
        "the manifest is among",
    );
    corrupt(
        with_placement(|p| p.files.retain(|file| file.kind != FileKind::Manifest)),
        "the manifest is among",
    );
    let file = placement().files[2];
    let many = with_placement(|p| p.files = vec![file; limits::MAX_FILES + 1]);
    refused(many, ErrorKind::Limit, "files, at most 64");
    let other = crate::damaged::with_header_byte(&placement().encode(), 79, 0);
    corrupt(Placement::parse(&other), "is expected");
}

// spec: PLC-04, PLC-05
#[test]
fn a_placement_names_all_memory_that_it_needs() {
    let file = placement().dependencies[0];
    corrupt(with_placement(|p| p.dependencies.push(file)), "named once");
    let index = |index| DataFileRef { index, ..file };
    let many = (0..=4096).map(index).collect();
    let many = with_placement(|p| p.dependencies = many);
    refused(many, ErrorKind::Limit, "data files, at most 4096");
    corrupt(
        with_placement(|p| p.files.retain(|file| file.kind != FileKind::MemoryMap)),
        "among the files",
    );
    corrupt(
        with_placement(|p| p.files[2].digest = Digest::of(b"other")),
        "among the files",
    );
    corrupt(
        with_placement(|p| p.dependencies[1].index = 1),
        "among the files",
    );
    corrupt(
        with_placement(|p| p.dependencies.truncate(1)),
        "a data file that is named",
    );
}

// spec: PLC-07
#[test]
fn names_of_files_follow_from_kind_and_index() {
    let names = [
        (FileKind::Store, 0, "store.vms"),
        (FileKind::Manifest, 0, "manifest.vms"),
        (FileKind::Placement, 12, "place.12.vms"),
        (FileKind::State, 0, "state.vms"),
        (FileKind::MemoryMap, 0, "memory.map"),
        (FileKind::MemoryMap, 3, "memory.3.map"),
        (FileKind::MemoryData, 0, "memory.img"),
        (FileKind::MemoryData, 3, "memory.3.img"),
        (FileKind::WorkingSet, 0, "working-set.0"),
    ];
    for (kind, index, name) in names {
        assert_eq!(kind.file_name(index), name);
    }
    assert_eq!(placement().file_name(), "place.1.vms");
    let names = placement()
        .files
        .iter()
        .map(snapshot_format::FileEntry::file_name)
        .collect::<Vec<_>>();
    assert_eq!(names, ["manifest.vms", "memory.map", "memory.img"]);
}

// spec: MAP-13
#[test]
fn a_layout_of_data_is_one_of_two() {
    let sparse = with_root(map_full(), |root| root.data_layout = DataLayout::Sparse);
    assert_eq!(sparse, Ok(()));
    let packed = with_root(map_full(), |root| root.data_layout = DataLayout::Packed);
    corrupt(packed, "1 in packed data");
}
