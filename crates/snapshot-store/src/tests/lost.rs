//! Where a snapshot stands whose manifest is lost.

use super::rig::{image, named, path, read, restored, store, take};
use crate::{Forest, ParentLink};
use snapshot_format::SnapshotId;
use snapshot_memory::backend::{Backend, MemBackend};

const FILLS: [[u8; 8]; 5] = [
    [1, 0, 3, 0, 5, 6, 7, 8],
    [2, 0, 3, 0, 5, 6, 7, 8],
    [2, 9, 3, 0, 5, 6, 7, 8],
    [2, 9, 9, 0, 5, 6, 7, 8],
    [2, 9, 9, 9, 5, 6, 7, 8],
];

/// Puts other bytes in the place of a file.
fn spoil(tree: &MemBackend, id: SnapshotId, file: &str) {
    let file = path(&format!("snapshots/{id}/{file}"));
    let mut bytes = read(tree, &file);
    bytes.fill(0x5a);
    tree.remove_file(&file).unwrap();
    tree.create(&file).unwrap().write_all_at(0, &bytes).unwrap();
}

// spec: TRE-18
#[test]
fn a_lost_manifest_leaves_the_place_that_its_map_and_its_children_tell() {
    let (tree, store) = store();
    let mut chain = vec![take(&store, named("web", "a"), &image(&FILLS[0])).unwrap()];
    for fill in &FILLS[1..4] {
        let new = named("web", &format!("b{}", fill[1] + fill[2])).parent(chain.last().copied());
        chain.push(take(&store, new, &image(fill)).unwrap());
    }
    let [a, b, c, d] = chain[..] else {
        unreachable!("four were taken")
    };
    let side = take(
        &store,
        named("web", "side").parent(Some(b)),
        &image(&FILLS[4]),
    )
    .unwrap();
    // Two that follow each other are lost.
    spoil(&tree, b.id, "manifest.vms");
    spoil(&tree, c.id, "manifest.vms");
    let listing = store.list(None).unwrap();
    let lost = store.lost(&listing);
    let places: Vec<_> = lost
        .iter()
        .map(|one| (one.id, one.parent, one.children.clone()))
        .collect();
    assert_eq!(
        places,
        [
            (b.id, Some(a.id), vec![side.id]),
            (c.id, Some(b.id), vec![d.id])
        ]
    );
    assert!(lost.iter().all(|one| one.problem.contains("manifest.vms")));
    let forest = Forest::with_lost(&listing, &lost);
    let lines = [(a.id, 0), (b.id, 1), (c.id, 2), (d.id, 3), (side.id, 2)];
    let mut drawn = forest.lines();
    drawn.sort_unstable();
    let mut expected = lines.to_vec();
    expected.sort_unstable();
    assert_eq!(drawn, expected);
    assert_eq!(forest.roots(), [a.id]);
    // It is a picture: nothing else takes the links for proved, and nothing is lost with them.
    let entries = listing.tree();
    let parents = entries.iter().map(|one| (one.record.id, one.parent));
    let parents: Vec<_> = parents.filter(|(id, _)| *id != a.id).collect();
    let elsewhere = ParentLink::Elsewhere;
    assert_eq!(parents, [(d.id, elsewhere), (side.id, elsewhere)]);
    assert!(restored(&store, d).unwrap() == image(&FILLS[3]));
    // Without the map only the children tell.
    spoil(&tree, b.id, "memory.map");
    let lost = store.lost(&listing);
    assert_eq!(
        (lost[0].parent, &lost[0].children),
        (None, &vec![side.id]),
        "{lost:?}"
    );
    let forest = Forest::with_lost(&listing, &lost);
    assert_eq!(forest.roots(), [a.id, b.id]);
}

// spec: TRE-18
#[test]
fn a_map_of_another_snapshot_tells_nothing() {
    let (tree, store) = store();
    let a = take(&store, named("web", "a"), &image(&FILLS[0])).unwrap();
    let b = take(&store, named("web", "b").parent(Some(a)), &image(&FILLS[1])).unwrap();
    let c = take(&store, named("web", "c").parent(Some(b)), &image(&FILLS[2])).unwrap();
    spoil(&tree, b.id, "manifest.vms");
    let of_c = read(&tree, &path(&format!("snapshots/{}/memory.map", c.id)));
    let place = path(&format!("snapshots/{}/memory.map", b.id));
    tree.remove_file(&place).unwrap();
    tree.create(&place).unwrap().write_all_at(0, &of_c).unwrap();
    let lost = store.lost(&store.list(None).unwrap());
    assert_eq!(lost[0].parent, None);
    assert_eq!(lost[0].children, [c.id]);
}
