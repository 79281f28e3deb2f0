//! Civil periods, from the minute to the year.

use std::fmt;

use jiff::Zoned;
use serde::{Deserialize, Serialize};

/// A length of civil periods.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Period {
    /// Minutes.
    Minutely,
    /// Hours.
    Hourly,
    /// Days, of 23, 24 or 25 hours.
    Daily,
    /// Weeks of ISO 8601, from Monday on.
    Weekly,
    /// Months.
    Monthly,
    /// January to March, and so on.
    Quarterly,
    /// January to June, July to December.
    HalfYearly,
    /// Years.
    Yearly,
}

impl Period {
    /// Every length, the shortest first.
    pub const ALL: [Self; 8] = [
        Self::Minutely,
        Self::Hourly,
        Self::Daily,
        Self::Weekly,
        Self::Monthly,
        Self::Quarterly,
        Self::HalfYearly,
        Self::Yearly,
    ];

    /// The name of the period that holds `time`, in the zone of that. Two times are in one period
    /// where its names are equal.
    ///
    /// Minutes and hours come with the offset from UTC, as a change of the clock repeats some.
    #[must_use]
    pub fn of(self, time: &Zoned) -> String {
        let date = time.date();
        let (year, month) = (date.year(), date.month());
        match self {
            Self::Minutely => format!(
                "{date}T{:02}:{:02}{}",
                time.hour(),
                time.minute(),
                time.offset()
            ),
            Self::Hourly => format!("{date}T{:02}{}", time.hour(), time.offset()),
            Self::Daily => date.to_string(),
            Self::Weekly => {
                let week = date.iso_week_date();
                format!("{:04}-W{:02}", week.year(), week.week())
            }
            Self::Monthly => format!("{year:04}-{month:02}"),
            Self::Quarterly => format!("{year:04}-Q{}", (month + 2) / 3),
            Self::HalfYearly => format!("{year:04}-H{}", (month + 5) / 6),
            Self::Yearly => format!("{year:04}"),
        }
    }
}

impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Minutely => "minutely",
            Self::Hourly => "hourly",
            Self::Daily => "daily",
            Self::Weekly => "weekly",
            Self::Monthly => "monthly",
            Self::Quarterly => "quarterly",
            Self::HalfYearly => "half-yearly",
            Self::Yearly => "yearly",
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use jiff::Timestamp;
    use jiff::tz::TimeZone;

    use super::*;
    use crate::retention::ZoneName;

    fn zone(name: &str) -> TimeZone {
        ZoneName::new(name).unwrap().zone().unwrap()
    }

    fn at(text: &str, zone: &TimeZone) -> Zoned {
        text.parse::<Timestamp>().unwrap().to_zoned(zone.clone())
    }

    /// How many periods the instants of a civil day are in, one each `step` minutes.
    fn periods_of_day(period: Period, first: &str, zone: &TimeZone, step: i64) -> usize {
        let start = at(first, zone);
        let mut found = BTreeSet::new();
        let mut time = start.clone();
        while time.date() == start.date() {
            found.insert(period.of(&time));
            let next = time.timestamp().as_second() + 60 * step;
            time = Timestamp::from_second(next).unwrap().to_zoned(zone.clone());
        }
        found.len()
    }

    // spec: RET-03
    #[test]
    fn a_day_has_as_many_hours_as_the_clock_gives_it() {
        let berlin = zone("Europe/Berlin");
        for (midnight, hours) in [
            ("2026-03-28T23:00:00Z", 23),
            ("2026-06-30T22:00:00Z", 24),
            ("2026-10-24T22:00:00Z", 25),
        ] {
            let count = |period, step| periods_of_day(period, midnight, &berlin, step);
            assert_eq!(count(Period::Hourly, 10), hours, "{midnight}");
            assert_eq!(count(Period::Minutely, 1), hours * 60, "{midnight}");
            assert_eq!(count(Period::Daily, 10), 1, "{midnight}");
        }
        // Half an hour is repeated there: it is a piece of an hour of its own.
        let howe = zone("Australia/Lord_Howe");
        let count = periods_of_day(Period::Minutely, "2026-04-03T13:00:00Z", &howe, 1);
        assert_eq!(count, 24 * 60);
        let count = periods_of_day(Period::Minutely, "2026-04-04T13:00:00Z", &howe, 1);
        assert_eq!(count, 24 * 60 + 30);
    }

    // spec: RET-03
    #[test]
    fn periods_are_named_as_people_name_them() {
        let berlin = zone("Europe/Berlin");
        let names = |text: &str| Period::ALL.map(|period| period.of(&at(text, &berlin)));
        assert_eq!(
            names("2026-12-31T22:59:30Z"),
            [
                "2026-12-31T23:59+01",
                "2026-12-31T23+01",
                "2026-12-31",
                "2026-W53",
                "2026-12",
                "2026-Q4",
                "2026-H2",
                "2026"
            ]
        );
        // The same week, in another year.
        assert_eq!(
            names("2026-12-31T23:00:00Z"),
            [
                "2027-01-01T00:00+01",
                "2027-01-01T00+01",
                "2027-01-01",
                "2026-W53",
                "2027-01",
                "2027-Q1",
                "2027-H1",
                "2027"
            ]
        );
        for (month, quarter, half) in [(3, "2026-Q1", 1), (4, "2026-Q2", 1), (7, "2026-Q3", 2)] {
            let found = names(&format!("2026-{month:02}-15T12:00:00Z"));
            assert_eq!(
                (found[5].as_str(), &found[6]),
                (quarter, &format!("2026-H{half}"))
            );
        }
    }
}
