use super::*;
use proptest::prelude::*;

fn id(number: usize) -> SnapshotId {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&(number as u64 + 1).to_le_bytes());
    SnapshotId(bytes)
}

fn forest(parents: &[Option<usize>]) -> Forest {
    let links = parents.iter().enumerate();
    Forest::new(links.map(|(at, parent)| (id(at), parent.map(id))))
}

/// The path by its definition, of parents that come before their children.
fn model_path(parents: &[Option<usize>], at: usize) -> Vec<usize> {
    std::iter::successors(Some(at), |&at| parents[at]).collect()
}

/// Parents that come before their children: a forest without circles.
fn descent() -> impl Strategy<Value = Vec<Option<usize>>> {
    prop::collection::vec((any::<prop::sample::Index>(), 0..5_u8), 1..40).prop_map(|choices| {
        let choices = choices.into_iter().enumerate();
        choices
            .map(|(at, (parent, is_root))| (at > 0 && is_root > 0).then(|| parent.index(at.max(1))))
            .collect()
    })
}

proptest! {
    // spec: TRE-01
    // spec: TRE-02
    #[test]
    fn paths_descendants_and_ancestors_are_those_of_the_definition(parents in descent()) {
        let forest = forest(&parents);
        let paths: Vec<Vec<usize>> =
            (0..parents.len()).map(|at| model_path(&parents, at)).collect();
        for (at, path) in paths.iter().enumerate() {
            let expected: Vec<_> = path.iter().map(|&at| id(at)).collect();
            prop_assert_eq!(forest.path(id(at)), expected);
            prop_assert_eq!(forest.parent(id(at)), parents[at].map(id));

            let found: BTreeSet<_> = forest.descendants(id(at)).into_iter().collect();
            let below = (0..parents.len()).filter(|&other| other != at && paths[other].contains(&at));
            prop_assert_eq!(found, below.map(id).collect::<BTreeSet<_>>());

            for (other, of_other) in paths.iter().enumerate() {
                let common = path.iter().find(|at| of_other.contains(at));
                let found = forest.common_ancestor(id(at), id(other));
                prop_assert_eq!(found, common.map(|&at| id(at)));
                prop_assert_eq!(forest.is_on_path(id(at), id(other)), of_other.contains(&at));
            }
        }
    }

    // spec: TRE-02
    // spec: TRE-03
    #[test]
    fn lines_have_each_once_before_its_children_and_siblings_in_order(parents in descent()) {
        let forest = forest(&parents);
        let lines = forest.lines();
        prop_assert_eq!(lines.len(), parents.len());
        let place: BTreeMap<_, _> = lines.iter().enumerate().map(|(at, line)| (line.0, at)).collect();
        prop_assert_eq!(place.len(), parents.len());
        for (at, parent) in parents.iter().enumerate() {
            let depth = lines[place[&id(at)]].1;
            prop_assert_eq!(depth, model_path(&parents, at).len() - 1);
            if let Some(parent) = parent {
                prop_assert!(place[&id(*parent)] < place[&id(at)]);
            }
            let children = (0..parents.len()).filter(|&child| parents[child] == Some(at));
            prop_assert_eq!(forest.children(id(at)), children.map(id).collect::<Vec<_>>());
        }
    }

    // spec: TRE-01
    #[test]
    fn whatever_the_links_each_is_there_once_and_every_walk_ends(
        links in prop::collection::vec(prop::option::of(0..24_usize), 1..20)
    ) {
        let forest = forest(&links);
        let lines = forest.lines();
        let found: BTreeSet<_> = lines.iter().map(|line| line.0).collect();
        prop_assert_eq!(lines.len(), links.len());
        prop_assert_eq!(found.len(), links.len());
        for at in 0..links.len() {
            let path = forest.path(id(at));
            prop_assert!(forest.roots().contains(path.last().unwrap()));
            // A link that is left is one that was given.
            let given = links[at].filter(|&parent| parent < links.len()).map(id);
            prop_assert!(forest.parent(id(at)).is_none() || forest.parent(id(at)) == given);
        }
        // As many links are cut as there are circles: one for each.
        let mut circles = BTreeSet::new();
        for start in 0..links.len() {
            let mut at = Some(start);
            let mut walked = Vec::new();
            while let Some(here) = at.filter(|&here| here < links.len()) {
                if let Some(first) = walked.iter().position(|&seen| seen == here) {
                    circles.insert(walked[first..].iter().copied().collect::<BTreeSet<_>>());
                    break;
                }
                walked.push(here);
                at = links[here];
            }
        }
        let given = links.iter().flatten().filter(|&&parent| parent < links.len()).count();
        let left = (0..links.len()).filter(|&at| forest.parent(id(at)).is_some()).count();
        prop_assert_eq!(given - left, circles.len());
    }
}

#[test]
fn what_is_not_there_has_no_relatives() {
    let forest = forest(&[None, Some(0)]);
    let stranger = id(7);
    assert!(!forest.contains(stranger));
    assert!(forest.path(stranger).is_empty() && forest.descendants(stranger).is_empty());
    assert_eq!(forest.common_ancestor(stranger, stranger), None);
    assert_eq!(forest.common_ancestor(id(1), stranger), None);
    assert_eq!((forest.len(), forest.is_empty()), (2, false));
}
