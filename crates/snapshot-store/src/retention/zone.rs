//! The time zone of a policy.

use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use jiff::tz::{TimeZone, TimeZoneDatabase};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};

use super::PolicyError;

/// The name of a time zone of the IANA database, as `Europe/Berlin`. `UTC` unless set.
///
/// The database is the one that is built in: a store decides alike on every host, and no file is
/// opened for it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(transparent)]
pub struct ZoneName(String);

impl ZoneName {
    /// Checks that there is such a zone.
    pub fn new(text: impl Into<String>) -> Result<Self, PolicyError> {
        let text = text.into();
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/_+-".contains(&byte);
        let unknown = || PolicyError::UnknownZone {
            found: text.chars().take(MAX_BYTES).collect(),
        };
        if text.is_empty() || text.len() > MAX_BYTES || !text.bytes().all(is_plain) {
            return Err(unknown());
        }
        find(&text).ok_or_else(unknown)?;
        Ok(Self(text))
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The zone of that name.
    pub(crate) fn zone(&self) -> Result<TimeZone, PolicyError> {
        find(&self.0).ok_or_else(|| PolicyError::UnknownZone {
            found: self.0.clone(),
        })
    }
}

fn find(name: &str) -> Option<TimeZone> {
    if name == UTC {
        return Some(TimeZone::UTC);
    }
    TimeZoneDatabase::bundled().get(name).ok()
}

/// The instant of a number of milliseconds since 1970; the end of time for one beyond it.
pub(crate) fn instant(unix_ms: u64) -> Timestamp {
    let ms = i64::try_from(unix_ms).ok();
    ms.and_then(|ms| Timestamp::from_millisecond(ms).ok())
        .unwrap_or(Timestamp::MAX)
}

impl Default for ZoneName {
    fn default() -> Self {
        Self(UTC.to_owned())
    }
}

impl fmt::Display for ZoneName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for ZoneName {
    type Err = PolicyError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::new(text)
    }
}

impl<'de> Deserialize<'de> for ZoneName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::new(text).map_err(D::Error::custom)
    }
}

const UTC: &str = "UTC";
const MAX_BYTES: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    // spec: RET-06
    // spec: RET-07
    #[test]
    fn a_zone_is_one_that_is_built_in() {
        for name in ["UTC", "Europe/Berlin", "Australia/Lord_Howe"] {
            assert_eq!(ZoneName::new(name).unwrap().as_str(), name);
        }
        let long = "x".repeat(65);
        for name in [
            "",
            "Nowhere/City",
            "../etc/localtime",
            "CET-1CEST,M3.5.0",
            &long,
        ] {
            assert!(ZoneName::new(name).is_err(), "{name:?} was accepted");
        }
    }

    #[test]
    fn a_time_that_is_none_is_the_end_of_time() {
        assert_eq!(instant(0), Timestamp::UNIX_EPOCH);
        assert_eq!(instant(u64::MAX), Timestamp::MAX);
    }
}
