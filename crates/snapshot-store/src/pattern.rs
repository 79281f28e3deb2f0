//! Names by pattern: to find snapshots by, and to name new ones by.

use std::fmt;
use std::str::FromStr;

use snapshot_format::limits::MAX_NAME_BYTES;
use snapshot_format::{BranchName, SnapshotName, VmName};

use crate::error::StoreError;

/// Bytes of a pattern, of a template, and of a text to search for.
pub(crate) const MAX_PATTERN_BYTES: usize = 256;

/// Which names are meant: `*` is any characters, `?` is one, and case is of no account.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NamePattern(String);

/// What a new snapshot is to be called, once its number is known.
///
/// `{vm}`, `{branch}` and `{seq}` stand for those of the snapshot.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NameTemplate {
    text: String,
    parts: Vec<Part>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum Part {
    Text(String),
    Vm,
    Branch,
    Seq,
}

impl NamePattern {
    /// Whether a name is meant.
    #[must_use]
    pub fn matches(&self, name: &SnapshotName) -> bool {
        matches(self.0.as_bytes(), name.key().as_bytes())
    }
}

impl FromStr for NamePattern {
    type Err = StoreError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let of_a_name = |byte: u8| byte.is_ascii_alphanumeric() || b"._-*?".contains(&byte);
        if text.is_empty() || text.len() > MAX_PATTERN_BYTES || !text.bytes().all(of_a_name) {
            return Err(invalid(text, "pattern of names"));
        }
        Ok(Self(text.to_ascii_lowercase()))
    }
}

/// Whether `pattern` fits all of `text`: what the last star stands for grows until the rest fits.
fn matches(pattern: &[u8], text: &[u8]) -> bool {
    let (mut at, mut from) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while let Some(byte) = text.get(from) {
        match (pattern.get(at), star) {
            (Some(b'*'), _) => {
                star = Some((at, from));
                at += 1;
            }
            (Some(wanted), _) if *wanted == b'?' || wanted == byte => {
                at += 1;
                from += 1;
            }
            (_, Some((star_at, taken))) => {
                star = Some((star_at, taken + 1));
                at = star_at + 1;
                from = taken + 1;
            }
            (_, None) => return false,
        }
    }
    pattern.iter().skip(at).all(|byte| *byte == b'*')
}

impl NameTemplate {
    /// The name of number `seq` of `vm` on `branch`.
    pub fn fill(
        &self,
        vm: &VmName,
        branch: &BranchName,
        seq: u64,
    ) -> Result<SnapshotName, StoreError> {
        let parts = self.parts.iter().map(|part| match part {
            Part::Text(text) => text.clone(),
            Part::Vm => vm.to_string(),
            Part::Branch => branch.to_string(),
            Part::Seq => format!("{seq:04}"),
        });
        let name = parts.collect::<String>();
        SnapshotName::new(name).map_err(|_| invalid(&self.text, "template of a name of this VM"))
    }

    /// Fails if the name of any number would be none.
    pub fn check(&self, vm: &VmName, branch: &BranchName) -> Result<(), StoreError> {
        self.fill(vm, branch, u64::MAX).map(drop)
    }
}

impl FromStr for NameTemplate {
    type Err = StoreError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let refused = || invalid(text, "template of a name");
        if text.is_empty() || text.len() > MAX_PATTERN_BYTES {
            return Err(refused());
        }
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('{') {
            let (word, behind) = after.split_once('}').ok_or_else(refused)?;
            if !before.is_empty() {
                parts.push(Part::Text(before.to_owned()));
            }
            parts.push(match word {
                "vm" => Part::Vm,
                "branch" => Part::Branch,
                "seq" => Part::Seq,
                _ => return Err(refused()),
            });
            rest = behind;
        }
        if !rest.is_empty() {
            parts.push(Part::Text(rest.to_owned()));
        }
        let template = Self {
            text: text.to_owned(),
            parts,
        };
        // With the shortest of each: what is no name then never is.
        let short = |_| refused();
        let vm = VmName::new("v").map_err(short)?;
        template
            .fill(&vm, &BranchName::main(), 1)
            .map(|_| template)
            .map_err(|_| refused())
    }
}

impl fmt::Display for NameTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

fn invalid(text: &str, what: &'static str) -> StoreError {
    StoreError::InvalidText {
        text: text.chars().take(MAX_NAME_BYTES).collect(),
        what,
    }
}

#[cfg(test)]
mod tests;
