use super::*;

fn file(kind: ArchivedKind, len_bytes: u64) -> RecipeFile {
    let count = u8::try_from(len_bytes.div_ceil(CHUNK_BYTES as u64)).unwrap();
    RecipeFile {
        kind,
        index: 0,
        len_bytes,
        digest: Digest([5; 32]),
        chunks: (0..count).map(|at| ChunkId([at; 32])).collect(),
    }
}

/// Three leaves of memory, of which the second is all zero, in two regions; three files.
fn recipe() -> Recipe {
    let region = |start, len_bytes| MemoryRegion {
        start: GuestAddress(start),
        len_bytes,
    };
    let regions = vec![region(0, 65 << 20), region(1 << 32, 4096)];
    Recipe {
        snapshot: SnapshotId([1; 16]),
        manifest: Digest([5; 32]),
        layout: Some(MemoryLayout::new(regions).unwrap()),
        leaves: vec![(0, ChunkId([2; 32])), (64, ChunkId([3; 32]))],
        files: vec![
            file(ArchivedKind::MANIFEST, 700),
            file(ArchivedKind::Snapshot(FileKind::MemoryMap), 65_537),
            file(ArchivedKind::Metadata, 0),
        ],
    }
}

#[test]
fn a_recipe_survives_its_bytes_with_and_without_memory() {
    let whole = recipe();
    assert_eq!(Recipe::parse(&whole.encode()), Ok(whole.clone()));
    assert_eq!(whole.chunks().count(), 2 + 1 + 2);
    let bare = Recipe {
        layout: None,
        leaves: Vec::new(),
        ..whole
    };
    assert_eq!(Recipe::parse(&bare.encode()), Ok(bare));
}

// spec: VLT-12
#[test]
fn a_recipe_that_contradicts_itself_is_refused() {
    let changes: [fn(&mut Recipe); 9] = [
        |recipe| recipe.manifest = Digest([6; 32]),
        |recipe| drop(recipe.files.remove(0)),
        |recipe| recipe.files.swap(0, 1),
        |recipe| recipe.files[0].len_bytes = 0,
        |recipe| recipe.files[1].chunks.truncate(1),
        |recipe| recipe.leaves.swap(0, 1),
        |recipe| recipe.leaves[1].0 = 2,
        |recipe| recipe.leaves[1].0 = 65,
        |recipe| recipe.layout = None,
    ];
    for (number, change) in changes.into_iter().enumerate() {
        let mut lying = recipe();
        change(&mut lying);
        assert!(Recipe::parse(&lying.encode()).is_err(), "change {number}");
    }
}

// spec: VLT-03
#[test]
fn counts_without_bytes_behind_them_are_refused_before_anything_is_allocated() {
    let bytes = recipe().encode();
    for len in 0..bytes.len() {
        assert!(Recipe::parse(&bytes[..len]).is_err(), "cut to {len}");
    }
    // Counts of regions, leaves, files, and of the chunks of the first file.
    let first_file = 72 + 2 * 16 + 2 * 36;
    for at in [56, 60, 64, first_file + 4] {
        let mut lying = bytes.clone();
        lying[at..at + 4].fill(0xFF);
        assert!(Recipe::parse(&lying).is_err(), "count at {at}");
    }
}
