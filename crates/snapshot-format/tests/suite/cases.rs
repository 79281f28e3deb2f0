//! The values that the golden files hold: small snapshots to test with.

use snapshot_format::{
    Arch, BranchName, Codec, DataFileRef, DataLayout, Digest, EnvelopeBuilder, Features, FileEntry,
    FileKind, GuestAddress, Header, IndexLeaf, IndexLeafBuilder, LeafRef, LeafTable, Manifest,
    MapRoot, MemoryLayout, MemoryRegion, OwnerLeaf, Placement, SectionEntry, SectionKind,
    SectionPayload, SectionTable, SnapshotId, SnapshotRef, StateFile, VmName,
    page_map::{MAP_ROOT_VERSION, flatten},
};

/// The snapshot that the full cases are of.
pub(crate) const FULL: SnapshotId = SnapshotId(*b"\x01\x92\x00\x00\x00\x00\x70\x00\x80\x00-full-");

/// Its child.
pub(crate) const DIFF: SnapshotId = SnapshotId(*b"\x01\x92\x00\x00\x00\x01\x70\x00\x80\x00-diff-");

/// A file with its name in the golden directory.
pub(crate) struct Case {
    /// The name, with the folder of its version and its extension.
    pub(crate) name: &'static str,
    /// The bytes of the file.
    pub(crate) bytes: Vec<u8>,
}

/// Every golden file that is valid.
pub(crate) fn cases() -> Vec<Case> {
    let case = |name, bytes| Case { name, bytes };
    vec![
        case("v0.1/empty.vms", empty()),
        case("v0.1/manifest-full.vms", manifest_full().encode()),
        case("v0.1/manifest-diff.vms", manifest_diff().encode()),
        case("v0.1/placement.vms", placement().encode()),
        case("v0.1/state.vms", state().encode()),
        case(
            "v0.1/machine-x86_64.vms",
            crate::machine::state_file(&crate::machine::machine()).encode(),
        ),
        case(
            "v0.3/machine-x86_64.vms",
            crate::machine::state_file(&crate::machine::machine_v2()).encode(),
        ),
        case("v0.1/memory-full.map", map_full().bytes),
        case("v0.1/memory-diff.map", map_diff().bytes),
        case("v0.2/memory-frames.map", crate::framed::map().bytes),
        case(
            "v0.3/machine-aarch64.vms",
            crate::machine_arm64::state_file().encode(),
        ),
        case("v0.4/working-set.vms", crate::working_set::file()),
        case(
            "v0.4/placement-working-set.vms",
            crate::working_set::placement_with_it().encode(),
        ),
        case("v0.5/memory-merged.map", crate::merged::map().bytes),
        case(
            "v0.5/placement-merged.vms",
            crate::merged::placement_with_it().encode(),
        ),
    ]
}

/// A file without a section.
pub(crate) fn empty() -> Vec<u8> {
    EnvelopeBuilder::new(FileKind::Store, Arch::None, FULL).finish()
}

/// Memory below and above a hole, in two leaves.
pub(crate) fn layout() -> MemoryLayout {
    MemoryLayout::new(vec![
        MemoryRegion {
            start: GuestAddress(0),
            len_bytes: 40 * 4096,
        },
        MemoryRegion {
            start: GuestAddress(0x10_0000),
            len_bytes: 100 * 4096,
        },
        MemoryRegion {
            start: GuestAddress(0x400_0000),
            len_bytes: 4096,
        },
    ])
    .expect("a valid layout")
}

pub(crate) fn manifest_full() -> Manifest {
    Manifest {
        id: FULL,
        arch: Arch::X86_64,
        vm: VmName::new("web-1").expect("a valid name"),
        seq: 1,
        branch: BranchName::main(),
        parent: None,
        created_unix_ms: 1_700_000_000_000,
        layout: layout(),
        map_root: Some(map_full().root.digest()),
        state: Some(Digest::of(b"state")),
        vm_config: b"{\"vcpus\":2}".to_vec(),
        fingerprint: Some(
            SectionPayload::raw(SectionKind::FINGERPRINT, 0, 1, vec![1, 2, 3]).with_critical(false),
        ),
        features: Features::default(),
    }
}

pub(crate) fn manifest_diff() -> Manifest {
    Manifest {
        id: DIFF,
        seq: 2,
        parent: Some(full_ref()),
        map_root: Some(map_diff().root.digest()),
        state: None,
        vm_config: Vec::new(),
        fingerprint: None,
        ..manifest_full()
    }
}

/// The full snapshot as a parent. Digests that would change with the version of this crate, which
/// every header holds, are made up.
pub(crate) fn full_ref() -> SnapshotRef {
    SnapshotRef {
        id: FULL,
        digest: Digest::of(b"manifest of the full snapshot"),
    }
}

pub(crate) fn state() -> StateFile {
    let blob =
        |kind, instance, bytes: &[u8]| SectionPayload::raw(kind, instance, 1, bytes.to_vec());
    StateFile {
        id: FULL,
        parent: None,
        arch: Arch::X86_64,
        sections: vec![
            blob(SectionKind(SectionKind::CALLER.0 + 7), 0, b"serial"),
            blob(SectionKind(SectionKind::CALLER.0 + 7), 1, b"block device"),
            blob(SectionKind(SectionKind::CALLER.0 + 8), 0, b"").with_critical(false),
        ],
    }
}

pub(crate) fn placement() -> Placement {
    let manifest = Digest::of(b"manifest");
    let (full, diff) = (map_full(), map_diff());
    let file = |kind, len_bytes, digest| FileEntry {
        kind,
        index: 0,
        len_bytes,
        digest,
    };
    let data = |snapshot, map_root| DataFileRef {
        snapshot,
        index: 0,
        map_root,
    };
    Placement {
        id: DIFF,
        generation: 1,
        manifest,
        files: vec![
            file(FileKind::Manifest, 400, manifest),
            file(
                FileKind::MemoryMap,
                diff.bytes.len() as u64,
                Digest::of(b"map"),
            ),
            file(
                FileKind::MemoryData,
                diff.root.data_len_bytes,
                diff.root.digest(),
            ),
        ],
        dependencies: vec![
            data(FULL, full.root.digest()),
            data(DIFF, diff.root.digest()),
        ],
        flattened: full.root.owners.overlaid(&diff.root.owners),
        features: Features::default(),
    }
}

/// A `memory.map` with its leaves.
pub(crate) struct Map {
    pub(crate) root: MapRoot,
    pub(crate) index: Vec<IndexLeaf>,
    pub(crate) owners: Vec<OwnerLeaf>,
    pub(crate) bytes: Vec<u8>,
}

/// A full snapshot: sparse, units of 16 pages, page `n` zero where `n % 5 == 0`.
pub(crate) fn map_full() -> Map {
    let layout = layout();
    let leaves = layout.leaves().into_iter().map(|number| {
        let mut leaf = IndexLeafBuilder::new(number, 16).expect("a valid unit");
        let mut last_unit = None;
        for page in layout.leaf_pages(number).pages() {
            if page % 5 == 0 {
                leaf.zero().insert(page, 1);
                continue;
            }
            leaf.present().insert(page, 1);
            if last_unit.replace(page / 16) != Some(page / 16) {
                leaf.digest(Digest::of(
                    format!("unit {} of {number}", page / 16).as_bytes(),
                ));
            }
        }
        leaf.finish(0).expect("one digest a unit")
    });
    let index: Vec<_> = leaves.collect();
    let owners = index.iter().map(|leaf| flatten(None, leaf, 1)).collect();
    let root = MapRoot {
        id: FULL,
        parent: None,
        data_layout: DataLayout::Sparse,
        unit_pages: 16,
        data_len_bytes: layout.len_bytes(),
        layout,
        file: 1,
        index: LeafTable::default(),
        owners: LeafTable::default(),
    };
    write_map(root, index, owners)
}

/// Its child: packed, three pages written and one zeroed in the first leaf.
pub(crate) fn map_diff() -> Map {
    let full = map_full();
    let mut leaf = IndexLeafBuilder::new(0, 1).expect("a valid unit");
    leaf.present().insert(0, 1);
    leaf.present().insert(300, 2);
    leaf.zero().insert(302, 1);
    for page in [0u8, 1, 2] {
        leaf.digest(Digest::of(&[1, page]));
    }
    let index = vec![leaf.finish(0).expect("one digest a unit")];
    let owners = vec![flatten(full.owners.first(), &index[0], 2)];
    let root = MapRoot {
        id: DIFF,
        parent: Some(full_ref()),
        data_layout: DataLayout::Packed,
        unit_pages: 1,
        data_len_bytes: 3 * 4096,
        file: 2,
        ..full.root
    };
    write_map(root, index, owners)
}

/// Writes the leaves, then the root, as a streaming writer does.
pub(crate) fn write_map(root: MapRoot, index: Vec<IndexLeaf>, owners: Vec<OwnerLeaf>) -> Map {
    let index_bytes = index.iter().map(|leaf| (leaf.number(), leaf.encode()));
    let owner_bytes = owners.iter().map(|leaf| (leaf.number(), leaf.encode()));
    let (root, bytes) = write_leaves(root, index_bytes.collect(), owner_bytes.collect());
    Map {
        root,
        index,
        owners,
        bytes,
    }
}

/// Writes leaves of whatever bytes, each with its number.
pub(crate) fn write_leaves(
    mut root: MapRoot,
    index: Vec<(u32, Vec<u8>)>,
    owners: Vec<(u32, Vec<u8>)>,
) -> (MapRoot, Vec<u8>) {
    let mut leaves = Vec::new();
    let file = root.file;
    let mut place = |(number, bytes): (u32, Vec<u8>)| {
        let offset = 128 + leaves.len() as u64;
        leaves.extend_from_slice(&bytes);
        LeafRef {
            number,
            file,
            offset,
            len: bytes.len().try_into().expect("a leaf is short"),
            digest: Digest::of(&bytes),
        }
    };
    let refs = index.into_iter().map(&mut place);
    root.index = LeafTable::new(refs.collect()).expect("sorted leaves");
    let refs = owners.into_iter().map(&mut place);
    root.owners = LeafTable::new(refs.collect()).expect("sorted leaves");
    let root_bytes = root.encode();
    let entry = |kind, offset, bytes: &[u8]| {
        SectionEntry::new(kind, 0, MAP_ROOT_VERSION, Codec::Raw).located(
            offset,
            bytes.len() as u64,
            Digest::of(bytes),
        )
    };
    let table = SectionTable::new(vec![
        entry(SectionKind::MAP_LEAVES, 128, &leaves),
        entry(
            SectionKind::MAP_ROOT,
            128 + leaves.len() as u64,
            &root_bytes,
        ),
    ]);
    let parent = root.parent.map(|parent| parent.id);
    let mut header = Header::new(FileKind::MemoryMap, Arch::X86_64, root.id, parent);
    header.reader_minor = root.data_layout.reader_minor();
    let (header, table) = table.close(header);
    let mut bytes = header.encode().to_vec();
    bytes.extend([leaves, root_bytes, table].concat());
    (root, bytes)
}
