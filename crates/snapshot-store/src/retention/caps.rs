//! What caps take of what rules keep: the oldest first, and nothing that has a hold.

use std::collections::BTreeMap;
use std::num::NonZeroU32;

use snapshot_format::SnapshotId;

use super::rules::Group;
use super::space::Space;
use super::{Age, Candidate, Caps, Exceeded, Hold, Reason, Standing, UnmetCap};

/// The candidates, by ascending sequence number, and what is decided of them so far.
pub(super) struct Choice<'a> {
    pub(super) candidates: &'a [Candidate],
    pub(super) groups: &'a [Group<'a>],
    pub(super) space: Space<'a>,
    /// Why each is kept; nothing: it is not.
    pub(super) kept: Vec<Vec<Reason>>,
    /// The cap that took it, and why it would have been kept.
    pub(super) taken: BTreeMap<usize, (Reason, Vec<Reason>)>,
    pub(super) unmet: Vec<UnmetCap>,
}

impl Choice<'_> {
    /// Lets the caps act, bytes last: what the others take frees some.
    pub(super) fn apply(&mut self, caps: &Caps) {
        if let Some(max_age) = caps.max_age {
            self.cap_age(max_age);
        }
        if let Some(max_depth) = caps.max_depth {
            self.cap_depth(max_depth);
        }
        if let Some(max_bytes) = caps.max_bytes {
            self.cap_bytes(max_bytes);
        }
    }

    pub(super) fn is_kept(&self, at: usize) -> bool {
        self.kept.get(at).is_some_and(|reasons| !reasons.is_empty())
    }

    fn cap_age(&mut self, max_age: Age) {
        let groups = self.groups.iter();
        let mut old: Vec<usize> = groups.flat_map(|group| group.older_than(max_age)).collect();
        old.sort_unstable();
        old.retain(|at| self.is_kept(*at));
        for &at in &old {
            self.take(at, Reason::TooOld { max_age });
        }
        old.retain(|at| self.is_kept(*at));
        self.report(Exceeded::MaxAge { limit: max_age }, &old);
    }

    fn cap_depth(&mut self, max_depth: NonZeroU32) {
        let limit = max_depth.get();
        loop {
            let depths = self.depths();
            let reached = depths.iter().copied().max().unwrap_or(0);
            if reached <= limit {
                return;
            }
            let on_path = self.on_paths_below(&depths, limit);
            let next = on_path.iter().copied().find(|at| self.may_go(*at));
            let Some(at) = next else {
                let exceeded = Exceeded::MaxDepth {
                    limit: max_depth,
                    reached,
                };
                return self.report(exceeded, &on_path);
            };
            self.take(at, Reason::TooDeep { max_depth });
        }
    }

    fn cap_bytes(&mut self, max_bytes: u64) {
        while self.space.bytes() > max_bytes {
            let frees = |at: &usize| self.may_go(*at) && self.frees(*at) > 0;
            let Some(at) = (0..self.candidates.len()).find(frees) else {
                let left: Vec<usize> = (0..self.candidates.len())
                    .filter(|at| self.is_kept(*at))
                    .collect();
                let exceeded = Exceeded::MaxBytes {
                    limit: max_bytes,
                    reached: self.space.bytes(),
                };
                return self.report(exceeded, &left);
            };
            let freed_bytes = self.frees(at);
            self.take(
                at,
                Reason::TooManyBytes {
                    max_bytes,
                    freed_bytes,
                },
            );
        }
    }

    /// Bytes that are free once it is removed and collected; none where others need its data, as it
    /// stays whole then.
    fn frees(&self, at: usize) -> u64 {
        match self.candidates.get(at) {
            Some(one) if self.space.needed_by(one.id).is_empty() => self.space.exclusive(one.id),
            _ => 0,
        }
    }

    /// Whether it is kept, and by rules alone.
    fn may_go(&self, at: usize) -> bool {
        let is_hold = |reason: &Reason| matches!(reason, Reason::Hold { .. });
        self.is_kept(at) && !self.kept.get(at).into_iter().flatten().any(is_hold)
    }

    /// Removes one, unless it has a hold.
    fn take(&mut self, at: usize, reason: Reason) {
        if !self.may_go(at) {
            return;
        }
        if let (Some(kept), Some(one)) = (self.kept.get_mut(at), self.candidates.get(at)) {
            self.taken.insert(at, (reason, std::mem::take(kept)));
            self.space.remove(one.id);
        }
    }

    /// For each candidate, how many that are kept are on its path to the root, itself included.
    ///
    /// A parent has a lower sequence number. One that has not is no parent: nothing goes in circles.
    fn depths(&self) -> Vec<u32> {
        let mut by_id: BTreeMap<SnapshotId, u32> = BTreeMap::new();
        let mut depths = Vec::with_capacity(self.candidates.len());
        for (at, one) in self.candidates.iter().enumerate() {
            let above = one.parent.and_then(|parent| by_id.get(&parent)).copied();
            let depth = above.unwrap_or(0) + u32::from(self.is_kept(at));
            by_id.insert(one.id, depth);
            depths.push(depth);
        }
        depths
    }

    /// The kept ones on the paths to the roots of those that are deeper than `limit`, by sequence
    /// number.
    fn on_paths_below(&self, depths: &[u32], limit: u32) -> Vec<usize> {
        let ids = self.candidates.iter().enumerate();
        let places: BTreeMap<SnapshotId, usize> = ids.map(|(at, one)| (one.id, at)).collect();
        let mut on_path = vec![false; self.candidates.len()];
        for (at, one) in self.candidates.iter().enumerate().rev() {
            let is_deep = self.is_kept(at) && depths.get(at).is_some_and(|depth| *depth > limit);
            if !is_deep && !on_path.get(at).copied().unwrap_or(false) {
                continue;
            }
            let parent = one.parent.and_then(|parent| places.get(&parent));
            for place in [Some(&at), parent.filter(|above| **above < at)] {
                if let Some(mark) = place.and_then(|place| on_path.get_mut(*place)) {
                    *mark = true;
                }
            }
        }
        let marked = on_path.iter().enumerate().filter(|(_, marked)| **marked);
        marked
            .map(|(at, _)| at)
            .filter(|at| self.is_kept(*at))
            .collect()
    }

    /// Notes a cap that is not met, unless nothing stands in the way.
    fn report(&mut self, cap: Exceeded, left: &[usize]) {
        let standing: Vec<Standing> = left
            .iter()
            .filter_map(|at| {
                let one = self.candidates.get(*at)?;
                let reasons = self.kept.get(*at).into_iter().flatten();
                let holds = reasons.filter_map(|reason| match reason {
                    Reason::Hold { hold } => Some(hold.clone()),
                    _ => None,
                });
                Some(Standing {
                    id: one.id,
                    holds: holds.collect::<Vec<Hold>>(),
                    needed_by: self.space.needed_by(one.id).into_iter().collect(),
                })
            })
            .collect();
        if !standing.is_empty() {
            self.unmet.push(UnmetCap { cap, standing });
        }
    }
}
