//! What people type to name a snapshot.

use std::fmt;
use std::str::FromStr;

use snapshot_format::{SnapshotId, SnapshotName, VmName};

use crate::error::StoreError;

/// A snapshot as named on a command line.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Reference {
    /// A whole id.
    Id(SnapshotId),
    /// The beginning or the end of the ids of exactly one snapshot: hexadecimal digits and hyphens.
    ///
    /// Ids begin with the time, so it is the end that tells neighbours apart, and that lists show.
    Part(String),
    /// `VM/NAME`: the snapshot of that name.
    Named {
        /// Whose snapshot.
        vm: VmName,
        /// Its name.
        name: SnapshotName,
    },
    /// `VM@latest`: the one with the highest sequence number.
    Latest {
        /// Whose snapshot.
        vm: VmName,
    },
}

impl FromStr for Reference {
    type Err = StoreError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = || StoreError::InvalidReference {
            text: text.chars().take(256).collect(),
        };
        if let Ok(id) = text.parse() {
            return Ok(Self::Id(id));
        }
        if let Some((vm, name)) = text.split_once('/') {
            let (vm, name) = (VmName::new(vm), SnapshotName::new(name));
            return match (vm, name) {
                (Ok(vm), Ok(name)) => Ok(Self::Named { vm, name }),
                _ => Err(invalid()),
            };
        }
        if let Some((vm, what)) = text.split_once('@') {
            return match (VmName::new(vm), what) {
                (Ok(vm), "latest") => Ok(Self::Latest { vm }),
                _ => Err(invalid()),
            };
        }
        let of_an_id = |b: u8| matches!(b, b'0'..=b'9' | b'a'..=b'f' | b'-');
        if !text.is_empty() && text.len() < ID_TEXT_BYTES && text.bytes().all(of_an_id) {
            Ok(Self::Part(text.to_owned()))
        } else {
            Err(invalid())
        }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Id(id) => id.fmt(f),
            Self::Part(part) => part.fmt(f),
            Self::Named { vm, name } => write!(f, "{vm}/{name}"),
            Self::Latest { vm } => write!(f, "{vm}@latest"),
        }
    }
}

impl From<SnapshotId> for Reference {
    fn from(id: SnapshotId) -> Self {
        Self::Id(id)
    }
}

/// Bytes in the text of an id.
const ID_TEXT_BYTES: usize = 36;

#[cfg(test)]
mod tests {
    use super::*;

    // spec: STO-05
    #[test]
    fn each_form_parses_and_prints_itself() {
        let id = SnapshotId([0x5a; 16]);
        let vm = || VmName::new("web").unwrap();
        let cases = [
            (id.to_string(), Reference::Id(id)),
            ("5a5a".into(), Reference::Part("5a5a".into())),
            ("5a5a5a5a-5a".into(), Reference::Part("5a5a5a5a-5a".into())),
            (
                "web/base".into(),
                Reference::Named {
                    vm: vm(),
                    name: SnapshotName::new("base").unwrap(),
                },
            ),
            ("web@latest".into(), Reference::Latest { vm: vm() }),
        ];
        for (text, reference) in cases {
            assert_eq!(text.parse::<Reference>().unwrap(), reference);
            assert_eq!(reference.to_string(), text);
        }
    }

    // spec: STO-05
    #[test]
    fn other_texts_are_refused() {
        for text in [
            "",
            "web",
            "5A",
            "/",
            "web/",
            "/base",
            "web/a/b",
            "web@",
            "web@1",
            "@latest",
            "../etc",
            "5a5a/../x",
            "web/ba\0se",
        ] {
            assert!(text.parse::<Reference>().is_err(), "{text:?} was accepted");
        }
    }
}
