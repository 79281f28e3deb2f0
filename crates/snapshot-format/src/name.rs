//! Names that people give: virtual machines, snapshots, branches, tags, labels.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize};

use crate::limits;

/// A text that is no name of its sort.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NameError {
    /// Not a name.
    #[error(
        "{found:?} is no {what}: a letter or digit, then up to {} letters, digits, '.', '_' or '-' \
         are expected",
        limits::MAX_NAME_BYTES - 1
    )]
    Name {
        /// What sort of name.
        what: &'static str,
        /// What was given, cut to the length of a name.
        found: String,
    },
    /// A text that is too long.
    #[error("a {what} of {found} bytes, at most {limit} are allowed")]
    TooLong {
        /// What sort of text.
        what: &'static str,
        /// Its length in bytes.
        found: usize,
        /// The cap.
        limit: usize,
    },
    /// A text with a control character in it.
    #[error("a {what} must not hold control characters, {found:?} was found")]
    Control {
        /// What sort of text.
        what: &'static str,
        /// The character.
        found: char,
    },
}

macro_rules! name_type {
    ($(#[$doc:meta])* $type:ident, $what:literal) => {
        $(#[$doc])*
        ///
        /// A letter or digit, then up to 127 letters, digits, `.`, `_` or `-`, in ASCII.
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize)]
        #[serde(transparent)]
        pub struct $type(String);

        impl $type {
            /// Checks a text and makes a name of it.
            pub fn new(text: impl Into<String>) -> Result<Self, NameError> {
                let text = text.into();
                if is_name(&text) {
                    Ok(Self(text))
                } else {
                    Err(NameError::Name {
                        what: $what,
                        found: text.chars().take(limits::MAX_NAME_BYTES).collect(),
                    })
                }
            }

            /// The text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }

            /// What two names that count as the same share: the text in lower case.
            #[must_use]
            pub fn key(&self) -> String {
                self.0.to_ascii_lowercase()
            }
        }

        text_impls!($type);
    };
}

macro_rules! text_type {
    ($(#[$doc:meta])* $type:ident, $what:literal, $limit:expr, $control:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize)]
        #[serde(transparent)]
        pub struct $type(String);

        impl $type {
            /// Checks a text.
            pub fn new(text: impl Into<String>) -> Result<Self, NameError> {
                let text = text.into();
                if text.len() > $limit {
                    return Err(NameError::TooLong {
                        what: $what,
                        found: text.len(),
                        limit: $limit,
                    });
                }
                match text.chars().find($control) {
                    None => Ok(Self(text)),
                    Some(found) => Err(NameError::Control { what: $what, found }),
                }
            }

            /// The text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        text_impls!($type);
    };
}

macro_rules! text_impls {
    ($type:ident) => {
        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl FromStr for $type {
            type Err = NameError;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                Self::new(text)
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                Self::new(text).map_err(serde::de::Error::custom)
            }
        }
    };
}

name_type!(
    /// The name of a virtual machine.
    VmName,
    "name of a virtual machine"
);
name_type!(
    /// The name of a snapshot, unique in its virtual machine without regard to case.
    SnapshotName,
    "name of a snapshot"
);
name_type!(
    /// The name of a branch.
    BranchName,
    "name of a branch"
);
name_type!(
    /// A tag of a snapshot. See [`limits::MAX_TAGS`].
    Tag,
    "tag"
);
name_type!(
    /// The key of a label. See [`limits::MAX_LABELS`].
    LabelKey,
    "key of a label"
);
text_type!(
    /// The value of a label: up to [`limits::MAX_LABEL_VALUE_BYTES`] bytes on one line.
    LabelValue,
    "value of a label",
    limits::MAX_LABEL_VALUE_BYTES,
    |c: &char| c.is_control()
);
text_type!(
    /// A description: up to [`limits::MAX_DESCRIPTION_BYTES`] bytes, on several lines.
    Description,
    "description",
    limits::MAX_DESCRIPTION_BYTES,
    |c: &char| c.is_control() && *c != '\n' && *c != '\t'
);

impl BranchName {
    /// The branch that a virtual machine starts with: `main`.
    #[must_use]
    pub fn main() -> Self {
        Self("main".to_owned())
    }
}

fn is_name(text: &str) -> bool {
    let first = text.bytes().next();
    text.len() <= limits::MAX_NAME_BYTES
        && first.is_some_and(|byte| byte.is_ascii_alphanumeric())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-'))
}
