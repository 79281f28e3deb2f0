//! What a restore will do.

use std::fmt;

use serde::{Deserialize, Serialize};
use snapshot_format::PAGE_BYTES;

use super::costs::RestoreCosts;
use super::facts::{Discards, MemoryFacts, TargetFacts};
use super::method::{Faults, GivenBack, MappedFrom, MethodKind, RestoreMethod};
use super::offer::{Offer, Way};
use super::refusal::{Millis, Refusal, Why};
use super::wanted::Wanted;
use crate::restore::Verification;

/// What a restore will do, and why nothing else: pure data, made without touching memory or files.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub struct RestorePlan {
    /// How memory is put in place.
    pub method: RestoreMethod,
    /// When pages are checked: as was wanted, or earlier.
    pub verification: Verification,
    /// What checks them.
    pub checked_by: CheckedBy,
    /// What the caller named.
    pub wanted: Wanted,
    /// Threads that work before the guest runs, the caller's included.
    pub threads: u32,
    /// Whether the recorded working set is brought in before and beside the guest.
    pub replays_working_set: bool,
    /// Whether pages are given back while the guest runs, as the target was said to do. Where they
    /// must be zero, the method makes them so.
    #[serde(default, skip_serializing_if = "Discards::is_none")]
    pub discards: Discards,
    /// How long it is expected to take.
    pub estimate: Estimate,
    /// Every other way, and why it was not chosen.
    pub refused: Vec<Refusal>,
    /// What would make a better plan possible.
    pub advice: Option<Advice>,
}

/// What checks the pages of a restore.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CheckedBy {
    /// This engine, by the digests of the snapshot.
    Digests,
    /// The kernel, by the tree of digests that was made when fs-verity was enabled for the file.
    FsVerity,
    /// Nobody.
    Nobody,
}

/// How long a restore is expected to take, with all files in the page cache.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub struct Estimate {
    /// Nanoseconds until the guest may run.
    pub start_ns: u64,
    /// Nanoseconds that the guest then waits for the pages of its working set, in all.
    pub warm_ns: u64,
}

/// What would make a better plan possible.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Advice {
    /// A raw image in the cache could be mapped, and shared by all guests of the snapshot.
    WarmCache,
}

/// No way of putting memory in place does what was asked.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("no way of restoring does what is asked: {}", all(.refused))]
pub struct NoPlan {
    /// Every way, and why not.
    pub refused: Vec<Refusal>,
}

fn all(refused: &[Refusal]) -> String {
    let texts: Vec<String> = refused.iter().map(ToString::to_string).collect();
    texts.join("; ")
}

/// A nanosecond before the first instruction counts as much as so many that the guest waits later.
const START_WEIGHT: u64 = 4;

impl Estimate {
    /// What a plan is chosen by.
    fn weight(&self) -> u64 {
        let start = self.start_ns.saturating_mul(START_WEIGHT);
        start.saturating_add(self.warm_ns)
    }
}

impl RestorePlan {
    /// The best way of bringing `memory` to `target` that does what is `wanted`, by `costs`.
    ///
    /// A policy is kept or exceeded, never undercut; without one nothing reaches the guest
    /// unchecked. Where pages should be shared, ways that share them come first.
    pub fn choose(
        memory: &MemoryFacts,
        target: &TargetFacts,
        wanted: Wanted,
        costs: &RestoreCosts,
    ) -> Result<Self, NoPlan> {
        let mut offers: Vec<Offer> = Vec::new();
        let mut refused: Vec<Refusal> = Vec::new();
        for way in Way::ALL {
            match way.offer(memory, target, wanted, costs) {
                Ok(offer) => offers.push(offer),
                Err(why) => refused.push(way.refusal(why)),
            }
        }
        let rank = |offer: &Offer| {
            let lacks_sharing = target.shared && !offer.shares;
            (lacks_sharing, offer.estimate.weight())
        };
        // The first of equals: they stand in the order of what they cost in memory.
        let best = (0..offers.len()).min_by_key(|&place| offers.get(place).map(rank));
        let Some(best) = best.map(|place| offers.remove(place)) else {
            return Err(NoPlan { refused });
        };
        refused.extend(offers.iter().map(|other| {
            let why = if target.shared && best.shares && !other.shares {
                Why::CannotShare
            } else {
                let estimate = other.estimate;
                Why::Slower { estimate }
            };
            other.way.refusal(why)
        }));
        refused.sort_by_key(|refusal| Way::ALL.iter().position(|way| way.names(refusal)));
        let advice = advice(&refused, wanted);
        Ok(Self {
            method: best.method,
            verification: best.verification,
            checked_by: best.checked_by,
            wanted,
            threads: target.threads.max(1),
            replays_working_set: best.method.kind() == MethodKind::Served
                && memory.working_set_bytes.is_some(),
            discards: target.discards,
            estimate: best.estimate,
            refused,
            advice,
        })
    }
}

/// A raw image helps where nothing but the shape of the data files stands against mapping, and
/// mapping does what is wanted.
fn advice(refused: &[Refusal], wanted: Wanted) -> Option<Advice> {
    let has = |from, why: fn(&Why) -> bool| {
        let of = |refusal: &&Refusal| refusal.from == Some(from);
        refused.iter().filter(of).any(|refusal| why(&refusal.why))
    };
    let is_shape = has(MappedFrom::DataFiles, |why| {
        matches!(why, Why::TooManyMappings | Why::Compressed { .. })
    });
    let is_cold = has(MappedFrom::RawImage, |why| matches!(why, Why::NoRawImage));
    (is_shape && is_cold && !wanted.least().is_strict()).then_some(Advice::WarmCache)
}

impl fmt::Display for RestorePlan {
    /// A line for each thing that is planned.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.method {
            RestoreMethod::Mapped { from, mappings } => {
                let plural = if mappings == 1 { "" } else { "s" };
                writeln!(f, "mapped: {} in {mappings} mapping{plural}", from.name())?;
            }
            RestoreMethod::Served {
                faults,
                splits_huge_pages,
            } => {
                let sharing = match faults {
                    Faults::Missing => "a copy for this guest",
                    Faults::Minor => "shared with other guests",
                };
                let pages = if splits_huge_pages {
                    ", on small pages"
                } else {
                    ""
                };
                writeln!(f, "served: faults are answered, {sharing}{pages}")?;
            }
            RestoreMethod::Eager => writeln!(f, "eager: all is read before the guest runs")?,
        }
        let named = match self.wanted.verification {
            Some(policy) if policy == self.verification => " (as named)".to_owned(),
            Some(policy) => format!(" (stricter than {policy}, which was named)"),
            None => " (none was named)".to_owned(),
        };
        let by = match self.checked_by {
            CheckedBy::Digests => "by the digests of the snapshot",
            CheckedBy::FsVerity => "by fs-verity",
            CheckedBy::Nobody => "by nobody",
        };
        writeln!(f, "verification: {}{named}, {by}", self.verification)?;
        if self.replays_working_set {
            writeln!(f, "working set: brought in before and beside the guest")?;
        }
        if !self.discards.is_none() {
            let read = match self.method.given_back() {
                GivenBack::Zero => "zero",
                GivenBack::AsInSnapshot => "in the snapshot, which is accepted",
            };
            writeln!(f, "pages that are given back: read as {read}")?;
        }
        let (start, warm) = (
            Millis(self.estimate.start_ns),
            Millis(self.estimate.warm_ns),
        );
        let plural = if self.threads == 1 { "" } else { "s" };
        let threads = self.threads;
        writeln!(
            f,
            "expected: {start} to start, {warm} to warm up, with {threads} thread{plural}"
        )?;
        for refusal in &self.refused {
            writeln!(f, "not {refusal}")?;
        }
        if self.advice == Some(Advice::WarmCache) {
            writeln!(f, "advice: warm the cache, and the memory can be mapped")?;
        }
        Ok(())
    }
}

/// Pages of so many bytes.
pub(super) const fn pages(len_bytes: u64) -> u64 {
    len_bytes.div_ceil(PAGE_BYTES)
}

#[cfg(test)]
mod tests;
