//! What became of each input.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

use snapshot_format::inspect;

use crate::golden::GoldenFile;
use crate::whole_file::WholeFile;

/// What must become of an input.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Expected {
    /// It must be refused: it says something false about itself.
    Refused,
    /// It may say anything, for its checksums are right; it must not panic.
    NoPanic,
}

/// How many inputs there were, and what went wrong with them.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Tally {
    inputs: u64,
    accepted_wrong: u64,
    panics: u64,
    examples: Vec<String>,
}

impl Tally {
    /// Gives the bytes to every reader and judges what they make of them.
    pub fn judge(&mut self, file: &str, what: impl fmt::Display, bytes: &[u8], expected: Expected) {
        let outcome = self.count(file, &what, || {
            // An inspection never fails; it says what is wrong.
            let inspection = inspect(bytes, bytes.len() as u64);
            (WholeFile::parse(bytes).is_ok(), inspection.error.is_none())
        });
        let Some((is_parsed, is_sound)) = outcome.filter(|_| expected == Expected::Refused) else {
            return;
        };
        if is_parsed || is_sound {
            let by = if is_parsed { "the parser" } else { "inspect" };
            self.accept_wrong(file, format_args!("{what} (by {by})"));
        }
    }

    /// Counts one input, and a panic of `body`.
    pub fn count<T>(
        &mut self,
        file: &str,
        what: impl fmt::Display,
        body: impl FnOnce() -> T,
    ) -> Option<T> {
        self.inputs += 1;
        let outcome = catch_unwind(AssertUnwindSafe(body)).ok();
        if outcome.is_none() {
            self.panics += 1;
            self.note(format!("{file}: {what}: panic"));
        }
        outcome
    }

    /// Counts something wrong that was accepted.
    pub fn accept_wrong(&mut self, file: &str, what: impl fmt::Display) {
        self.accepted_wrong += 1;
        self.note(format!("{file}: {what}: accepted"));
    }

    /// A file that nobody changed must be accepted, or the other answers mean nothing.
    pub(crate) fn expect_valid(&mut self, file: &GoldenFile) {
        let outcome = self.count(&file.name, "unchanged", || WholeFile::parse(&file.bytes));
        if !matches!(outcome, Some(Ok(_))) {
            self.accept_wrong(&file.name, format!("the valid file is not: {outcome:?}"));
        }
    }

    /// How many inputs there were.
    #[must_use]
    pub fn inputs(&self) -> u64 {
        self.inputs
    }

    /// Whether nothing went wrong.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.accepted_wrong == 0 && self.panics == 0
    }

    /// The first inputs that went wrong.
    #[must_use]
    pub fn examples(&self) -> &[String] {
        &self.examples
    }

    fn note(&mut self, example: String) {
        if self.examples.len() < MAX_EXAMPLES {
            self.examples.push(example);
        }
    }
}

const MAX_EXAMPLES: usize = 20;

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            inputs,
            accepted_wrong,
            panics,
            ..
        } = self;
        write!(
            f,
            "hostile inputs: {inputs}, accepted wrong: {accepted_wrong}, panics: {panics}"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::golden;

    #[test]
    fn what_goes_wrong_is_counted() {
        let mut tally = Tally::default();
        let bytes = [0];
        let valid = golden::valid().unwrap().remove(0);
        tally.judge(
            "a",
            "valid, but to be refused",
            &valid.bytes,
            Expected::Refused,
        );
        tally.judge("a", "empty", &[], Expected::Refused);
        assert_eq!(
            tally.count("a", "panics", || assert!(bytes.is_empty(), "on purpose")),
            None::<()>
        );
        assert_eq!(
            tally.to_string(),
            "hostile inputs: 3, accepted wrong: 1, panics: 1"
        );
        assert!(!tally.is_clean());
        assert_eq!(tally.examples().len(), 2);
    }
}
