//! What caps take of what rules keep, and what they never take.

use super::rig::{
    DAY, NEW_YEAR, at_times, capped, child_of, count, extent, id, kept, last, on_branch, plan,
    reasons, taken, weighed,
};
use crate::retention::{Caps, Exceeded, Hold, Reason};

fn bytes(max: u64) -> Caps {
    Caps::default().max_bytes(Some(max))
}

fn depth(max: u32) -> Caps {
    Caps::default().max_depth(Some(count(max)))
}

fn holds() -> [Hold; 5] {
    [
        Hold::Protected,
        Hold::Unreadable,
        Hold::Leased { holders: vec![7] },
        Hold::Needed {
            by: id(9),
            holders: vec![7],
        },
        Hold::Current,
    ]
}

// spec: RET-08
// spec: RET-11
#[test]
fn age_takes_what_rules_keep_and_says_what_it_overruled() {
    let days = at_times(&[0, 1, 2, 3].map(|day| NEW_YEAR + day * DAY));
    let caps = Caps::default().max_age(Some("36h".parse().unwrap()));
    let found = plan(&capped(&[last(4)], caps), &days);
    assert_eq!(kept(&found), [3, 4]);
    assert!(found.unmet.is_empty());
    let first = found.decision(id(1)).unwrap();
    assert!(matches!(first.reasons[..], [Reason::TooOld { .. }]));
    assert!(matches!(
        first.overruled[..],
        [Reason::Last { number: 4, .. }]
    ));
    // Caps alone keep everything else.
    let found = plan(&capped(&[], caps), &days);
    assert_eq!(kept(&found), [3, 4]);
    assert_eq!(reasons(&found, 3), [Reason::NoRules]);
}

// spec: RET-08
// spec: RET-10
#[test]
fn no_cap_beats_a_hold_and_what_stands_in_the_way_is_told() {
    let chain = |hold: &Hold| {
        let mut chain = at_times(&[0, 9, 18, 27].map(|day| NEW_YEAR + day * DAY));
        for (at, parent) in [(1, 1), (2, 2), (3, 3)] {
            chain[at] = child_of(chain[at].clone(), parent);
        }
        chain[0].holds.push(hold.clone());
        chain
    };
    let alone = [1, 2, 3, 4].map(|seq| extent(seq, 100, &[seq]));
    let age = Caps::default().max_age(Some("1d".parse().unwrap()));
    for hold in holds() {
        let chain = chain(&hold);
        for (caps, exceeded) in [
            (
                age,
                Exceeded::MaxAge {
                    limit: "1d".parse().unwrap(),
                },
            ),
            (
                depth(1),
                Exceeded::MaxDepth {
                    limit: count(1),
                    reached: 2,
                },
            ),
            (
                bytes(50),
                Exceeded::MaxBytes {
                    limit: 50,
                    reached: 200,
                },
            ),
        ] {
            let found = weighed(&capped(&[last(4)], caps), &chain, &alone);
            assert_eq!(kept(&found), [1, 4], "{hold:?} {caps:?}");
            let [unmet] = &found.unmet[..] else {
                unreachable!("{:?}", found.unmet)
            };
            assert_eq!(unmet.cap, exceeded);
            let held = unmet.standing.iter().find(|standing| standing.id == id(1));
            assert_eq!(held.unwrap().holds, std::slice::from_ref(&hold));
        }
    }
}

// spec: RET-08
#[test]
fn a_path_is_as_deep_as_what_is_kept_on_it_and_loses_its_oldest_first() {
    // 1 <- 2 <- 3 <- 4 <- 5, and 3 <- 6 on a branch.
    let mut tree = at_times(&[1, 2, 3, 4, 5]);
    for (parent, child) in (1..).zip(&mut tree[1..]) {
        *child = child_of(child.clone(), parent);
    }
    tree.push(on_branch(child_of(taken(6, 6), 3), "side"));
    let found = plan(&capped(&[], depth(3)), &tree);
    assert_eq!(kept(&found), [3, 4, 5, 6]);
    let found = plan(&capped(&[last(1)], depth(3)), &tree);
    // What rules remove counts no more.
    assert_eq!(kept(&found), [5, 6]);
    assert!(found.unmet.is_empty());
    let found = plan(&capped(&[], depth(1)), &tree);
    assert_eq!(kept(&found), [5, 6]);
}

// spec: RET-08
#[test]
fn parents_in_a_circle_or_out_of_order_count_as_none() {
    let mut tree = at_times(&[1, 2, 3]);
    tree[0] = child_of(tree[0].clone(), 3);
    tree[1] = child_of(tree[1].clone(), 2);
    tree[2] = child_of(tree[2].clone(), 99);
    let found = plan(&capped(&[], depth(1)), &tree);
    assert_eq!(kept(&found), [1, 2, 3]);
}

// spec: RET-09
#[test]
fn bytes_are_freed_oldest_first_and_only_as_far_as_needed() {
    let fulls = at_times(&[1, 2, 3, 4]);
    let alone = [1, 2, 3, 4].map(|seq| extent(seq, 100 * seq, &[seq]));
    let found = weighed(&capped(&[last(4)], bytes(700)), &fulls, &alone);
    assert_eq!(kept(&found), [3, 4]);
    assert_eq!((found.bytes_before, found.bytes_after), (1000, 700));
    assert!(matches!(
        reasons(&found, 2)[..],
        [Reason::TooManyBytes {
            max_bytes: 700,
            freed_bytes: 200
        }]
    ));
    // What rules remove is free before the cap looks.
    let found = weighed(&capped(&[last(2)], bytes(700)), &fulls, &alone);
    assert_eq!(reasons(&found, 2), [Reason::NoRule]);
    assert_eq!(kept(&found), [3, 4]);
}

// spec: RET-09
// spec: RET-10
#[test]
fn what_kept_snapshots_need_is_passed_over_until_they_are_gone() {
    // 1 <- 2 <- 3, the head; a branch 1 <- 4 <- 5 with a head of its own; 6 to 8 full.
    let mut tree = at_times(&[1, 2, 3]);
    tree[1] = child_of(tree[1].clone(), 1);
    tree[2] = child_of(tree[2].clone(), 2);
    tree.push(on_branch(child_of(taken(4, 4), 1), "side"));
    tree.push(on_branch(child_of(taken(5, 5), 4), "side"));
    for seq in [6, 7, 8] {
        tree.push(on_branch(taken(seq, seq), "full"));
    }
    let extents = [
        extent(1, 1000, &[1, 2, 3, 4, 5]),
        extent(1, 1, &[1]),
        extent(2, 100, &[2, 3]),
        extent(2, 1, &[2]),
        extent(3, 100, &[3]),
        extent(4, 100, &[4, 5]),
        extent(5, 100, &[5]),
        // A clone on another machine needs 6.
        extent(6, 500, &[6, 60]),
        extent(7, 500, &[7]),
        extent(8, 500, &[8]),
    ];
    let found = weighed(&capped(&[], bytes(2400)), &tree, &extents);
    assert_eq!(kept(&found), [1, 2, 3, 4, 5, 6, 8]);
    assert_eq!(found.bytes_after, 2402);
    let [unmet] = &found.unmet[..] else {
        unreachable!("{:?}", found.unmet)
    };
    let standing = |seq: u64| {
        let mut standing = unmet.standing.iter();
        standing.find(|one| one.id == id(seq)).unwrap()
    };
    assert_eq!(standing(6).needed_by, [id(60)]);
    assert_eq!(standing(2).needed_by, [id(3)]);
    assert_eq!(standing(3).holds, [Hold::Head]);
}

// spec: RET-11
// spec: RET-14
#[test]
fn what_is_removed_and_needed_is_told_as_a_hidden_base() {
    let mut chain = at_times(&[1, 2, 3]);
    chain[1] = child_of(chain[1].clone(), 1);
    chain[2] = child_of(chain[2].clone(), 2);
    let extents = [
        extent(1, 1000, &[1, 2, 3]),
        extent(2, 100, &[2, 3]),
        extent(3, 10, &[3]),
        extent(2, 1, &[2]),
    ];
    let found = weighed(&capped(&[last(1)], Caps::default()), &chain, &extents);
    assert_eq!(kept(&found), [3]);
    assert_eq!(found.decision(id(1)).unwrap().hidden_base_of, [id(3)]);
    assert_eq!(found.decision(id(2)).unwrap().hidden_base_of, [id(3)]);
    assert!(found.decision(id(3)).unwrap().hidden_base_of.is_empty());
    assert_eq!((found.bytes_before, found.bytes_after), (1111, 1110));
}
