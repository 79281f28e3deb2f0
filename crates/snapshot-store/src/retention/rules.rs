//! What the rules of a policy keep of one branch.

use std::collections::BTreeSet;

use jiff::tz::TimeZone;
use jiff::{Timestamp, Zoned};

use super::zone::instant;
use super::{Age, Candidate, Hold, KeepRule, Limit, Period, Reason, RetentionPolicy};

/// The snapshots of one branch, the newest first, with their times in the zone of the policy.
pub(super) struct Group<'a> {
    members: Vec<Member<'a>>,
    anchor: Zoned,
}

struct Member<'a> {
    /// Its place among all candidates.
    at: usize,
    candidate: &'a Candidate,
    time: Zoned,
}

impl<'a> Group<'a> {
    /// The candidates of one branch, by ascending sequence number, each with its place among all.
    ///
    /// The time of the head is the anchor: a machine that takes no more snapshots loses none by
    /// time passing. Where it is ahead of `now`, a clock was wrong, and now counts.
    pub(super) fn new(
        candidates: impl Iterator<Item = (usize, &'a Candidate)>,
        zone: &TimeZone,
        now: Timestamp,
    ) -> Self {
        let member = |(at, candidate): (usize, &'a Candidate)| Member {
            at,
            candidate,
            time: instant(candidate.created_unix_ms).to_zoned(zone.clone()),
        };
        let mut members: Vec<Member<'a>> = candidates.map(member).collect();
        members.reverse();
        let newest = members.first().map_or(now, |head| head.time.timestamp());
        Self {
            members,
            anchor: newest.min(now).to_zoned(zone.clone()),
        }
    }

    /// Tells `keep` every reason to keep a member, by its place among all candidates.
    pub(super) fn apply(&self, policy: &RetentionPolicy, keep: &mut dyn FnMut(usize, Reason)) {
        if let Some(head) = self.members.first() {
            keep(head.at, Reason::Hold { hold: Hold::Head });
        }
        for rule in &policy.keep {
            self.apply_rule(rule, keep);
        }
        if policy.keep.is_empty() {
            for member in &self.members {
                keep(member.at, Reason::NoRules);
            }
        }
    }

    /// Whether the member at `at` among all candidates is older than `age`.
    pub(super) fn older_than(&self, age: Age) -> impl Iterator<Item = usize> {
        let since = age.before(&self.anchor);
        let old = move |member: &&Member<'_>| member.time.timestamp() < since;
        self.members.iter().filter(old).map(|member| member.at)
    }

    fn apply_rule(&self, rule: &KeepRule, keep: &mut dyn FnMut(usize, Reason)) {
        match rule {
            KeepRule::Last { count } => {
                for (number, member) in (1..=count.get()).zip(&self.members) {
                    let count = *count;
                    keep(member.at, Reason::Last { number, count });
                }
            }
            KeepRule::Every { period, limit } => self.apply_period(*period, *limit, keep),
            KeepRule::Within { span } => {
                let since = span.before(&self.anchor);
                let young = |member: &&Member<'_>| member.time.timestamp() >= since;
                for member in self.members.iter().filter(young) {
                    keep(member.at, Reason::Within { span: *span });
                }
            }
            KeepRule::Tag { tag } => {
                let tagged = |member: &&Member<'_>| member.candidate.tags.contains(tag);
                for member in self.members.iter().filter(tagged) {
                    keep(member.at, Reason::Tag { tag: tag.clone() });
                }
            }
            KeepRule::Label { key, value: wanted } => {
                for member in &self.members {
                    let found = member.candidate.labels.get(key);
                    let found = found.filter(|found| wanted.as_ref().is_none_or(|w| w == *found));
                    if let Some(value) = found {
                        let (key, value) = (key.clone(), value.clone());
                        keep(member.at, Reason::Label { key, value });
                    }
                }
            }
        }
    }

    /// The newest of each period. A period that times jump back into was seen before.
    fn apply_period(&self, period: Period, limit: Limit, keep: &mut dyn FnMut(usize, Reason)) {
        let (count, since) = match limit {
            Limit::Count(count) => (count.get(), Timestamp::MIN),
            Limit::Within(span) => (u32::MAX, span.before(&self.anchor)),
        };
        let mut seen = BTreeSet::new();
        let mut number = 0;
        for member in &self.members {
            if member.time.timestamp() < since {
                continue;
            }
            let name = period.of(&member.time);
            if seen.contains(&name) {
                continue;
            }
            if number == count {
                break;
            }
            number += 1;
            seen.insert(name.clone());
            keep(
                member.at,
                Reason::Every {
                    period,
                    number,
                    name,
                },
            );
        }
    }
}
