//! What things in a vault are called: domains, objects, chunks, scopes.

use std::fmt;
use std::str::FromStr;

use crate::error::VaultError;
use crate::limits;

/// A text that is no id or no name of a scope.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ParseNameError {
    /// Not 32 lower-case hexadecimal digits.
    #[error("{found:?} is not an id: 32 lower-case hexadecimal digits are expected")]
    Id {
        /// What was given.
        found: String,
    },
    /// Not a name.
    #[error(
        "{found:?} is no scope: a letter or digit, then up to {} letters, digits, '.', '_' or '-' \
         are expected",
        limits::MAX_SCOPE_BYTES - 1
    )]
    Scope {
        /// What was given, cut to the length of a name.
        found: String,
    },
}

macro_rules! random_id {
    ($(#[$doc:meta])* $type:ident) => {
        $(#[$doc])*
        ///
        /// 16 random bytes, shown as 32 lower-case hexadecimal digits.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $type(pub [u8; 16]);

        impl $type {
            /// An id that nobody has had and nobody will have.
            pub fn random() -> Result<Self, VaultError> {
                let mut bytes = [0; 16];
                getrandom::fill(&mut bytes).map_err(VaultError::random)?;
                Ok(Self(bytes))
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($type), "({})"), self)
            }
        }

        impl FromStr for $type {
            type Err = ParseNameError;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                from_hex(text).map(Self).ok_or_else(|| ParseNameError::Id {
                    found: text.chars().take(64).collect(),
                })
            }
        }
    };
}

random_id!(
    /// The chunks of a scope under one set of keys.
    DomainId
);
random_id!(
    /// An object of a domain: a pack, a recipe, a tombstone. A commit has the id of its recipe.
    ObjectId
);

/// A chunk: keyed BLAKE3 of its 65,536 bytes, under the id key of its domain.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChunkId(pub [u8; 32]);

/// What an operator keeps apart: a tenant, say. Nothing is shared between scopes.
///
/// A letter or digit, then up to 127 letters, digits, `.`, `_` or `-`, in ASCII; in lower case.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ScopeName(String);

impl ChunkId {
    /// The id that stands for none: a full record has no base.
    pub(crate) const NONE: Self = Self([0; 32]);
}

impl fmt::Display for ChunkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for ChunkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ChunkId({self})")
    }
}

impl ScopeName {
    /// Checks a text and makes a name of it, in lower case.
    pub fn new(text: &str) -> Result<Self, ParseNameError> {
        let mut bytes = text.bytes();
        let starts = bytes
            .next()
            .is_some_and(|byte| byte.is_ascii_alphanumeric());
        let goes_on =
            bytes.all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-'));
        if starts && goes_on && text.len() <= limits::MAX_SCOPE_BYTES {
            return Ok(Self(text.to_ascii_lowercase()));
        }
        Err(ParseNameError::Scope {
            found: text.chars().take(limits::MAX_SCOPE_BYTES).collect(),
        })
    }

    /// The scope of a store that keeps nothing apart.
    #[must_use]
    pub fn default_scope() -> Self {
        Self("default".to_owned())
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ScopeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Bytes of exactly 32 lower-case hexadecimal digits: an id has one spelling.
fn from_hex(text: &str) -> Option<[u8; 16]> {
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    if pairs.len() != 16 || !rest.is_empty() {
        return None;
    }
    let mut bytes = [0; 16];
    for (byte, pair) in bytes.iter_mut().zip(pairs) {
        let [high, low] = *pair;
        *byte = (digit(high)? << 4) | digit(low)?;
    }
    Some(bytes)
}

const fn digit(letter: u8) -> Option<u8> {
    match letter {
        b'0'..=b'9' => Some(letter - b'0'),
        b'a'..=b'f' => Some(letter - b'a' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_has_one_spelling() {
        let id = ObjectId([0xA7; 16]);
        assert_eq!(id.to_string().parse(), Ok(id));
        for other in [
            "",
            "a7",
            &"A7".repeat(16),
            &"a7".repeat(17),
            &"g7".repeat(16),
        ] {
            assert!(other.parse::<ObjectId>().is_err(), "{other:?} was accepted");
        }
    }

    #[test]
    fn scopes_that_differ_in_case_are_the_same() {
        assert_eq!(ScopeName::new("Tenant-1"), ScopeName::new("tenant-1"));
        for text in ["", ".a", "a/b", "ä", &"x".repeat(129)] {
            assert!(ScopeName::new(text).is_err(), "{text:?} was accepted");
        }
    }
}
