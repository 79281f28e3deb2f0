//! What an operator wants to keep.

use std::num::NonZeroU32;

use serde::{Deserialize, Serialize};
use snapshot_format::{LabelKey, LabelValue, Tag};

use super::{Age, Period, PolicyError, ZoneName};

/// Which snapshots of a virtual machine stay in use.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct RetentionPolicy {
    /// The zone whose civil time periods and spans are of.
    #[serde(default)]
    pub zone: ZoneName,
    /// What any of these keeps is kept.
    #[serde(default)]
    pub keep: Vec<KeepRule>,
    /// What is taken all the same, once the rules have chosen.
    #[serde(default)]
    pub caps: Caps,
}

/// A reason to keep a snapshot. Rules do not see each other.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
#[non_exhaustive]
pub enum KeepRule {
    /// The newest of a branch.
    Last {
        /// How many.
        count: NonZeroU32,
    },
    /// The newest of each period that has any.
    Every {
        /// Which periods.
        period: Period,
        /// How many of them, or since when.
        limit: Limit,
    },
    /// All that are not older.
    Within {
        /// Than this, before the newest of the branch.
        span: Age,
    },
    /// All with a tag.
    Tag {
        /// Which.
        tag: Tag,
    },
    /// All with a label.
    Label {
        /// Which.
        key: LabelKey,
        /// With this value; `None`: with any.
        value: Option<LabelValue>,
    },
}

/// How far back periods are looked at.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Limit {
    /// So many that have a snapshot.
    Count(NonZeroU32),
    /// Those with a snapshot that is not older than this, before the newest of the branch.
    Within(Age),
}

/// What rules keep and is taken all the same, the oldest first. Holds are never taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Caps {
    /// Blocks of all files that the kept snapshots need, in bytes.
    #[serde(default)]
    pub max_bytes: Option<u64>,
    /// Before the newest of the branch.
    #[serde(default)]
    pub max_age: Option<Age>,
    /// Kept snapshots on a path to a root, both ends included.
    #[serde(default)]
    pub max_depth: Option<NonZeroU32>,
}

impl RetentionPolicy {
    /// Sets [`zone`](Self::zone).
    #[must_use]
    pub fn zone(mut self, zone: ZoneName) -> Self {
        self.zone = zone;
        self
    }

    /// Adds a rule.
    #[must_use]
    pub fn keep(mut self, rule: KeepRule) -> Self {
        self.keep.push(rule);
        self
    }

    /// Sets [`caps`](Self::caps).
    #[must_use]
    pub fn caps(mut self, caps: Caps) -> Self {
        self.caps = caps;
        self
    }

    /// Refuses a policy that says nothing, or too much.
    pub fn check(&self) -> Result<(), PolicyError> {
        let found = self.keep.len();
        if found > MAX_RULES {
            let limit = MAX_RULES;
            return Err(PolicyError::TooManyRules { found, limit });
        }
        if found == 0 && self.caps.is_empty() {
            return Err(PolicyError::Empty);
        }
        Ok(())
    }
}

impl Caps {
    /// Whether nothing is capped.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Sets [`max_bytes`](Self::max_bytes).
    #[must_use]
    pub fn max_bytes(mut self, bytes: Option<u64>) -> Self {
        self.max_bytes = bytes;
        self
    }

    /// Sets [`max_age`](Self::max_age).
    #[must_use]
    pub fn max_age(mut self, age: Option<Age>) -> Self {
        self.max_age = age;
        self
    }

    /// Sets [`max_depth`](Self::max_depth).
    #[must_use]
    pub fn max_depth(mut self, depth: Option<NonZeroU32>) -> Self {
        self.max_depth = depth;
        self
    }
}

/// Rules of one policy.
const MAX_RULES: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    fn last(count: u32) -> KeepRule {
        KeepRule::Last {
            count: NonZeroU32::new(count).unwrap(),
        }
    }

    // spec: RET-06
    #[test]
    fn a_policy_says_something() {
        let empty = RetentionPolicy::default();
        assert_eq!(empty.check(), Err(PolicyError::Empty));
        let capped = Caps::default().max_bytes(Some(0));
        assert_eq!(empty.clone().caps(capped).check(), Ok(()));
        assert_eq!(empty.clone().keep(last(1)).check(), Ok(()));
        let many = (0..65).fold(empty, |policy, _| policy.keep(last(1)));
        assert!(matches!(
            many.check(),
            Err(PolicyError::TooManyRules { found: 65, .. })
        ));
    }

    // spec: RET-06
    // spec: RET-16
    #[test]
    fn a_policy_survives_its_json_and_nothing_unknown_is_passed_over() {
        let policy = RetentionPolicy::default()
            .zone(ZoneName::new("Europe/Berlin").unwrap())
            .keep(last(3))
            .keep(KeepRule::Every {
                period: Period::HalfYearly,
                limit: Limit::Within("2y".parse().unwrap()),
            })
            .keep(KeepRule::Label {
                key: LabelKey::new("team").unwrap(),
                value: None,
            })
            .caps(Caps::default().max_age(Some("10y".parse().unwrap())));
        let json = serde_json::to_string(&policy).unwrap();
        assert_eq!(
            serde_json::from_str::<RetentionPolicy>(&json).unwrap(),
            policy
        );
        for wrong in [
            r#"{"keep":[{"last":{"count":0}}]}"#,
            r#"{"keep":[{"last":{"count":1,"more":2}}]}"#,
            r#"{"keep":[{"every":{"period":"hourly","limit":{"count":0}}}]}"#,
            r#"{"keep":[{"lost":{"count":1}}]}"#,
            r#"{"keep":[],"caps":{"max_weight":1}}"#,
            r#"{"zone":"Nowhere"}"#,
            r#"{"kept":[]}"#,
        ] {
            let read = serde_json::from_str::<RetentionPolicy>(wrong);
            assert!(read.is_err(), "{wrong} was accepted");
        }
    }
}
