//! What an enumeration found.

use std::collections::BTreeSet;

/// Violations that are kept as text.
const MAX_EXAMPLES: usize = 20;

/// What an enumeration found.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Report {
    /// Distinct crash points: a scenario, a call that was cut or failed, and a tree that a machine
    /// may find then.
    pub points: usize,
    /// Distinct pairs of a changing call and the place in the source that makes it.
    pub sites: BTreeSet<(&'static str, String)>,
    /// Crash points at which the store was not right.
    pub violations: usize,
    /// The first of them, in words.
    pub examples: Vec<String>,
}

impl Report {
    pub(super) fn point(&mut self, place: &dyn Fn() -> String, result: Result<(), String>) {
        self.points += 1;
        if let Err(problem) = result {
            self.violation(format!("{}: {problem}", place()));
        }
    }

    pub(super) fn add(&mut self, other: Self) {
        self.points += other.points;
        self.violations += other.violations;
        self.sites.extend(other.sites);
        self.examples.extend(other.examples);
        self.examples.truncate(MAX_EXAMPLES);
    }

    pub(super) fn violation(&mut self, problem: String) {
        self.violations += 1;
        if self.examples.len() < MAX_EXAMPLES {
            self.examples.push(problem);
        }
    }
}
