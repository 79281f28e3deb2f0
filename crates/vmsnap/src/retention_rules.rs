//! The options that make up a retention policy.

use std::num::NonZeroU32;

use clap::Args;
use snapshot_format::{LabelKey, LabelValue, Tag};
use snapshot_store::retention::{Age, Caps, KeepRule, Limit, Period, RetentionPolicy, ZoneName};

use crate::quantity::parse_bytes;

/// What is kept, and what is taken all the same.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct RetentionRules {
    /// Keep the newest N of each branch
    #[arg(long, value_name = "N")]
    keep_last: Option<NonZeroU32>,

    /// Keep the newest of each of N minutes, or of each minute since AGE before the newest
    #[arg(long, value_name = "N|AGE", value_parser = limit)]
    keep_minutely: Option<Limit>,

    /// The same of hours
    #[arg(long, value_name = "N|AGE", value_parser = limit)]
    keep_hourly: Option<Limit>,

    /// The same of days
    #[arg(long, value_name = "N|AGE", value_parser = limit)]
    keep_daily: Option<Limit>,

    /// The same of weeks, from Monday on
    #[arg(long, value_name = "N|AGE", value_parser = limit)]
    keep_weekly: Option<Limit>,

    /// The same of months
    #[arg(long, value_name = "N|AGE", value_parser = limit)]
    keep_monthly: Option<Limit>,

    /// The same of quarters
    #[arg(long, value_name = "N|AGE", value_parser = limit)]
    keep_quarterly: Option<Limit>,

    /// The same of half-years
    #[arg(long, value_name = "N|AGE", value_parser = limit)]
    keep_half_yearly: Option<Limit>,

    /// The same of years
    #[arg(long, value_name = "N|AGE", value_parser = limit)]
    keep_yearly: Option<Limit>,

    /// Keep all that are not older than AGE before the newest of their branch: 36h, 30d, 6mo
    #[arg(long, value_name = "AGE")]
    keep_within: Option<Age>,

    /// Keep all with this tag; may be given more than once
    #[arg(long, value_name = "TAG")]
    keep_tag: Vec<Tag>,

    /// Keep all with this label, or this value of it; may be given more than once
    #[arg(long, value_name = "K[=V]", value_parser = label)]
    keep_label: Vec<(LabelKey, Option<LabelValue>)>,

    /// Then remove the oldest until what is kept takes so many bytes at most
    #[arg(long, value_name = "SIZE", value_parser = parse_bytes)]
    max_bytes: Option<u64>,

    /// Then remove those that are older than AGE before the newest of their branch
    #[arg(long, value_name = "AGE")]
    max_age: Option<Age>,

    /// Then remove the oldest until no more than N are above each other
    #[arg(long, value_name = "N")]
    max_depth: Option<NonZeroU32>,

    /// The time zone of days and hours, as Europe/Berlin; UTC unless given
    #[arg(long, value_name = "ZONE")]
    zone: Option<ZoneName>,
}

impl RetentionRules {
    /// The policy that the options say; `None` where none is given.
    pub(crate) fn policy(&self) -> Option<RetentionPolicy> {
        let caps = Caps::default()
            .max_bytes(self.max_bytes)
            .max_age(self.max_age)
            .max_depth(self.max_depth);
        let rules = self.rules();
        if rules.is_empty() && caps.is_empty() && self.zone.is_none() {
            return None;
        }
        let policy = RetentionPolicy::default()
            .zone(self.zone.clone().unwrap_or_default())
            .caps(caps);
        Some(rules.into_iter().fold(policy, RetentionPolicy::keep))
    }

    fn rules(&self) -> Vec<KeepRule> {
        let last = self.keep_last.map(|count| KeepRule::Last { count });
        let periods = [
            (Period::Minutely, self.keep_minutely),
            (Period::Hourly, self.keep_hourly),
            (Period::Daily, self.keep_daily),
            (Period::Weekly, self.keep_weekly),
            (Period::Monthly, self.keep_monthly),
            (Period::Quarterly, self.keep_quarterly),
            (Period::HalfYearly, self.keep_half_yearly),
            (Period::Yearly, self.keep_yearly),
        ];
        let periods = periods.into_iter();
        let periods = periods
            .filter_map(|(period, limit)| limit.map(|limit| KeepRule::Every { period, limit }));
        let within = self.keep_within.map(|span| KeepRule::Within { span });
        let tags = self.keep_tag.iter().cloned();
        let labels = self.keep_label.iter().cloned();
        last.into_iter()
            .chain(periods)
            .chain(within)
            .chain(tags.map(|tag| KeepRule::Tag { tag }))
            .chain(labels.map(|(key, value)| KeepRule::Label { key, value }))
            .collect()
    }
}

/// Reads `7` or `30d`.
fn limit(text: &str) -> Result<Limit, String> {
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        let count: Option<NonZeroU32> = text.parse().ok();
        return count
            .map(Limit::Count)
            .ok_or_else(|| format!("{text:?} is no number above zero"));
    }
    let age = text.parse::<Age>().map_err(|error| error.to_string());
    age.map(Limit::Within)
}

/// Reads `KEY` or `KEY=VALUE`.
fn label(text: &str) -> Result<(LabelKey, Option<LabelValue>), String> {
    let (key, value) = match text.split_once('=') {
        Some((key, value)) => (key, Some(value)),
        None => (text, None),
    };
    let key = LabelKey::new(key).map_err(|error| error.to_string())?;
    let value = value.map(LabelValue::new).transpose();
    Ok((key, value.map_err(|error| error.to_string())?))
}

#[cfg(test)]
mod tests {
    use super::*;

    // spec: CLI-70
    #[test]
    fn a_limit_is_a_number_or_an_age() {
        let count = |number| Limit::Count(NonZeroU32::new(number).unwrap());
        assert_eq!(limit("7"), Ok(count(7)));
        assert_eq!(limit("2w"), Ok(Limit::Within("2w".parse().unwrap())));
        for text in ["", "0", "-1", "4294967296", "7 fortnights", "0d"] {
            assert!(limit(text).is_err(), "{text:?} was accepted");
        }
    }

    // spec: CLI-70
    #[test]
    fn a_label_has_a_value_or_any() {
        let key = LabelKey::new("team").unwrap();
        let value = |text: &str| Some(LabelValue::new(text).unwrap());
        assert_eq!(label("team"), Ok((key.clone(), None)));
        assert_eq!(label("team=a=b"), Ok((key.clone(), value("a=b"))));
        assert_eq!(label("team="), Ok((key, value(""))));
        label("=x").unwrap_err();
    }

    #[test]
    fn options_that_say_nothing_are_no_policy() {
        let nothing = RetentionRules::default();
        assert_eq!(nothing.policy(), None);
        let zone_alone = RetentionRules {
            zone: Some(ZoneName::default()),
            ..nothing
        };
        // Which is refused as saying nothing, and not passed over.
        assert!(zone_alone.policy().unwrap().check().is_err());
    }
}
