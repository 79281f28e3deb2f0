//! Names of things by content and by identity: digests, snapshot ids, references to a snapshot.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use uuid::Uuid;

use crate::sabotage::Sabotage;

/// A BLAKE3 digest of 32 bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest(pub [u8; 32]);

/// The identity of a snapshot: a UUID, version 7 where this project makes it.
///
/// Order is never taken from it: clocks jump. See `seq` in the manifest.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SnapshotId(pub [u8; 16]);

/// A snapshot named by id and by the digest of its manifest file: what a diff names its parent by.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct SnapshotRef {
    /// The identity.
    pub id: SnapshotId,
    /// BLAKE3 of the bytes of `manifest.vms`.
    pub digest: Digest,
}

/// A text that is no digest or no snapshot id.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ParseIdError {
    /// Not 64 lower-case hexadecimal digits.
    #[error("{found:?} is not a digest: 64 lower-case hexadecimal digits are expected")]
    Digest {
        /// What was given.
        found: String,
    },
    /// Not a hyphenated lower-case UUID.
    #[error("{found:?} is not a snapshot id: a lower-case UUID with hyphens is expected")]
    SnapshotId {
        /// What was given.
        found: String,
    },
}

impl Digest {
    /// The digest of `bytes`.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }

    /// That this is the digest of `bytes`; the error is the digest that they have.
    pub fn check(&self, bytes: &[u8]) -> Result<(), Self> {
        let computed = Self::of(bytes);
        if *self == computed || Sabotage::UncheckedDigest.is_on() {
            Ok(())
        } else {
            Err(computed)
        }
    }
}

impl SnapshotId {
    /// Whether every byte is zero: no snapshot has this id.
    #[must_use]
    pub fn is_nil(self) -> bool {
        self.0 == [0; 16]
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Digest({self})")
    }
}

impl FromStr for Digest {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bad = || ParseIdError::Digest {
            found: text.to_owned(),
        };
        let lower = text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        if text.len() != 64 || !lower {
            return Err(bad());
        }
        let hash = blake3::Hash::from_hex(text).map_err(|_| bad())?;
        Ok(Self(*hash.as_bytes()))
    }
}

impl fmt::Display for SnapshotId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = Uuid::encode_buffer();
        let id = Uuid::from_bytes(self.0);
        f.write_str(id.as_hyphenated().encode_lower(&mut text))
    }
}

impl fmt::Debug for SnapshotId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SnapshotId({self})")
    }
}

impl FromStr for SnapshotId {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bad = || ParseIdError::SnapshotId {
            found: text.to_owned(),
        };
        let id = Self(*Uuid::try_parse(text).map_err(|_| bad())?.as_bytes());
        // One spelling only: an id is also a directory name.
        let mut spelled = Uuid::encode_buffer();
        if *Uuid::from_bytes(id.0)
            .as_hyphenated()
            .encode_lower(&mut spelled)
            == *text
        {
            Ok(id)
        } else {
            Err(bad())
        }
    }
}

macro_rules! serde_as_text {
    ($type:ty) => {
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

serde_as_text!(Digest);
serde_as_text!(SnapshotId);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_survives_its_text() {
        let digest = Digest::of(b"page");
        assert_eq!(digest.to_string().parse(), Ok(digest));
        let upper = digest.to_string().to_uppercase();
        assert_ne!(upper.parse(), Ok(digest));
    }

    #[test]
    fn an_id_has_one_spelling() {
        let id = SnapshotId([7; 16]);
        assert_eq!(id.to_string().parse(), Ok(id));
        for other in [
            "",
            "07070707070707070707070707070707",
            "{07070707-0707-0707-0707-070707070707}",
        ] {
            assert!(
                other.parse::<SnapshotId>().is_err(),
                "{other:?} was accepted"
            );
        }
    }
}
