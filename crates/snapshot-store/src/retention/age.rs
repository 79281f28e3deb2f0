//! Spans of calendar time: how long something is kept.

use std::fmt;
use std::str::FromStr;

use jiff::{Span, Timestamp, Zoned};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::PolicyError;

/// A positive span of calendar time: `36h`, `30d`, `2w`, `6mo`, `1y 6mo`, or ISO 8601 as `P1Y6M`.
///
/// A day is one of the civil calendar, of 23, 24 or 25 hours, as it falls.
#[derive(Clone, Copy, Debug)]
pub struct Age(Span);

impl Age {
    /// Checks a span and takes it.
    pub fn new(span: Span) -> Result<Self, PolicyError> {
        if span.is_positive() {
            Ok(Self(span))
        } else {
            Err(PolicyError::Age {
                found: span.to_string(),
            })
        }
    }

    /// The span.
    #[must_use]
    pub fn span(self) -> Span {
        self.0
    }

    /// The instant that is as long before `anchor`, by civil time in its zone; the beginning of time
    /// where there is none.
    #[must_use]
    pub(crate) fn before(self, anchor: &Zoned) -> Timestamp {
        anchor.saturating_sub(self.0).timestamp()
    }
}

impl PartialEq for Age {
    /// Unit by unit: a day is not 24 hours.
    fn eq(&self, other: &Self) -> bool {
        self.0.fieldwise() == other.0.fieldwise()
    }
}

impl Eq for Age {}

impl fmt::Display for Age {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#}", self.0)
    }
}

impl FromStr for Age {
    type Err = PolicyError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let span = text.parse::<Span>().map_err(|_| PolicyError::Age {
            found: text.chars().take(MAX_SHOWN).collect(),
        })?;
        Self::new(span)
    }
}

impl Serialize for Age {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Age {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(D::Error::custom)
    }
}

/// Characters of a text that an error repeats.
const MAX_SHOWN: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    // spec: RET-06
    #[test]
    fn an_age_is_positive_and_reads_back_as_it_prints() {
        for (text, printed) in [
            ("36h", "36h"),
            ("30d", "30d"),
            ("2 weeks", "2w"),
            ("P1Y6M", "1y 6mo"),
            ("90 minutes", "90m"),
        ] {
            let age: Age = text.parse().unwrap();
            assert_eq!(age.to_string(), printed);
            assert_eq!(printed.parse(), Ok(age));
            let json = serde_json::to_string(&age).unwrap();
            assert_eq!(serde_json::from_str::<Age>(&json).unwrap(), age);
        }
        for text in ["", "0d", "-3d", "3", "d", "3 fortnights", "P", "1d ago"] {
            assert!(text.parse::<Age>().is_err(), "{text:?} was accepted");
        }
        assert_ne!("1d".parse::<Age>(), "24h".parse::<Age>());
    }

    #[test]
    fn an_age_beyond_all_time_ends_at_its_beginning() {
        let age: Age = "19000y".parse().unwrap();
        let anchor = Timestamp::UNIX_EPOCH.to_zoned(jiff::tz::TimeZone::UTC);
        assert_eq!(age.before(&anchor), Timestamp::MIN);
    }
}
