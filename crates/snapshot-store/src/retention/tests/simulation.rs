//! Policies over a calendar.

use jiff::civil::{DateTime, datetime};

use super::rig::{berlin, every, last, policy};
use crate::retention::{Period, PolicyError, RetentionPolicy, Schedule, Simulation, simulate};

fn run(policy: &RetentionPolicy, start: DateTime, step: &str, end: DateTime) -> Simulation {
    let schedule = Schedule::new(start, step.parse().unwrap(), end);
    simulate(policy, &schedule).unwrap()
}

fn midnight(year: i16, month: i8, day: i8) -> DateTime {
    datetime(year, month, day, 0, 0, 0, 0)
}

// spec: RET-18
#[test]
fn a_simulation_prunes_after_each_snapshot_as_a_store_would() {
    let found = run(
        &policy(&[every(Period::Daily, 3), every(Period::Monthly, 2)]),
        datetime(2026, 1, 1, 6, 0, 0, 0),
        "12h",
        midnight(2026, 3, 1),
    );
    assert_eq!((found.taken, found.days.len()), (118, 59));
    let times: Vec<String> = found.kept.iter().map(|one| one.time.to_string()).collect();
    assert_eq!(
        times,
        [
            "2026-01-31T18:00:00",
            "2026-02-26T18:00:00",
            "2026-02-27T18:00:00",
            "2026-02-28T18:00:00"
        ]
    );
    let held: Vec<u32> = found.days.iter().map(|day| day.held).collect();
    assert_eq!(held[..4], [1, 2, 3, 3]);
    // From the first of February on there is one of January more, once that is older than 3 days.
    assert_eq!(held[30..36], [3, 3, 3, 4, 4, 4]);
    assert!(found.days.iter().all(|day| day.taken == 2));
    let kept: u32 = found.days.iter().map(|day| day.kept).sum();
    assert_eq!(kept, 4);
    let json = serde_json::to_value(&found).unwrap();
    assert_eq!(json["days"][58]["date"], "2026-02-28");
    assert_eq!(json["kept"][3]["reasons"][0]["is"], "hold");
}

// spec: RET-03
// spec: RET-18
#[test]
fn days_of_23_and_25_hours_have_as_many_snapshots() {
    for (month, day, hours) in [(3, 29, 23), (6, 1, 24), (10, 25, 25)] {
        let start = midnight(2026, month, day);
        let end = midnight(2026, month, day + 1);
        let found = run(&berlin(&[every(Period::Hourly, 48)]), start, "1h", end);
        assert_eq!(found.taken, hours);
        assert_eq!(found.kept.len() as u64, hours);
        assert_eq!(found.days.len(), 1);
    }
    // At the same civil time each day, also where that is not there or there twice.
    let start = datetime(2026, 1, 1, 2, 30, 0, 0);
    let found = run(
        &berlin(&[every(Period::Daily, 999)]),
        start,
        "1d",
        midnight(2027, 1, 1),
    );
    assert_eq!((found.taken, found.kept.len()), (365, 365));
    assert!(found.days.iter().all(|day| day.taken == 1 && day.kept == 1));
}

// spec: RET-18
#[test]
fn months_end_when_they_end() {
    let start = datetime(2026, 1, 31, 12, 0, 0, 0);
    let found = run(&policy(&[last(12)]), start, "1mo", midnight(2027, 1, 1));
    let days: Vec<i8> = found.kept.iter().map(|one| one.time.day()).collect();
    assert_eq!(days, [31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31]);
}

// spec: RET-06
// spec: RET-18
#[test]
fn what_cannot_be_simulated_is_refused() {
    let (start, end) = (midnight(2026, 1, 1), midnight(2027, 1, 1));
    let simulated = |policy: &RetentionPolicy, step: &str, start, end| {
        simulate(policy, &Schedule::new(start, step.parse().unwrap(), end))
    };
    let one = policy(&[last(1)]);
    assert_eq!(
        simulated(&one, "1s", start, end),
        Err(PolicyError::TooLongSimulation { limit: 100_000 })
    );
    assert_eq!(
        simulated(&RetentionPolicy::default(), "1d", start, end),
        Err(PolicyError::Empty)
    );
    assert_eq!(simulated(&one, "1d", end, start).unwrap().taken, 0);
    let last_day = midnight(9999, 12, 31);
    let beyond = simulated(&one, "1y", midnight(9998, 1, 1), last_day);
    assert_eq!(beyond, Err(PolicyError::NoSuchTime));
}
