//! What each rule keeps, and that rules do not see each other.

use super::rig::{
    DAY, HOUR, NEW_YEAR, at_times, berlin, every, id, kept, kept_of, last, ms, on_branch, plan,
    policy, reasons, taken, within,
};
use crate::retention::{Action, Hold, KeepRule, Limit, Period, Reason, decide};
use snapshot_format::{LabelKey, LabelValue, Tag};

// spec: RET-01
// spec: RET-11
#[test]
fn rules_are_independent_and_every_reason_is_told() {
    // Two a day for four days.
    let times: Vec<u64> = (0..8).map(|half| NEW_YEAR + half * DAY / 2).collect();
    let found = plan(
        &policy(&[last(3), every(Period::Daily, 2), every(Period::Monthly, 1)]),
        &at_times(&times),
    );
    // The second daily one is not pushed back by what `last` keeps of that day.
    assert_eq!(kept(&found), [6, 7, 8]);
    let told: Vec<_> = reasons(&found, 8);
    assert_eq!(told.len(), 4, "{told:?}");
    assert_eq!(told[0], Reason::Hold { hold: Hold::Head });
    assert!(
        matches!(&told[2], Reason::Every { period: Period::Daily, number: 1, name }
        if name == "2026-01-04")
    );
    assert!(matches!(
        &reasons(&found, 6)[..],
        [
            Reason::Last { number: 3, .. },
            Reason::Every {
                period: Period::Daily,
                number: 2,
                ..
            },
        ]
    ));
    assert_eq!(reasons(&found, 5), [Reason::NoRule]);
    let removed: Vec<u64> = found.removals().map(|decision| decision.seq).collect();
    assert_eq!(removed, [5, 4, 3, 2, 1]);
}

// spec: RET-02
#[test]
fn empty_periods_do_not_count_and_the_newest_of_each_is_kept() {
    // Three on the first day, none for a year, two on a day.
    let times = [
        NEW_YEAR,
        NEW_YEAR + HOUR,
        NEW_YEAR + 2 * HOUR,
        NEW_YEAR + 365 * DAY,
        NEW_YEAR + 365 * DAY + HOUR,
    ];
    for period in [
        Period::Daily,
        Period::Weekly,
        Period::Monthly,
        Period::Yearly,
    ] {
        assert_eq!(
            kept_of(&policy(&[every(period, 2)]), &times),
            [3, 5],
            "{period}"
        );
        assert_eq!(
            kept_of(&policy(&[every(period, 1)]), &times),
            [5],
            "{period}"
        );
        assert_eq!(
            kept_of(&policy(&[every(period, 9)]), &times),
            [3, 5],
            "{period}"
        );
    }
    assert_eq!(
        kept_of(&policy(&[every(Period::Hourly, 3)]), &times),
        [3, 4, 5]
    );
}

// spec: RET-02
#[test]
fn newest_is_by_sequence_number_and_a_period_counts_once_however_times_jump() {
    // The clock went back by three days after the third, and came back after the fifth.
    let days = [5, 6, 7, 4, 6, 7, 8];
    let times: Vec<u64> = days.iter().map(|day| NEW_YEAR + day * DAY).collect();
    let found = plan(&policy(&[every(Period::Daily, 4)]), &at_times(&times));
    assert_eq!(kept(&found), [4, 5, 6, 7]);
    let found = plan(&policy(&[every(Period::Daily, 5)]), &at_times(&times));
    assert_eq!(kept(&found), [1, 4, 5, 6, 7]);
    assert_eq!(kept_of(&policy(&[last(2)]), &times), [6, 7]);
}

// spec: RET-03
#[test]
fn days_are_those_of_the_zone_also_where_they_have_23_or_25_hours() {
    // The example of the specification: the end of summer time.
    let times = [
        ms("2026-10-24T12:00:00Z"),
        ms("2026-10-24T21:59:00Z"),
        ms("2026-10-24T22:00:00Z"),
        ms("2026-10-25T22:59:00Z"),
    ];
    assert_eq!(kept_of(&berlin(&[every(Period::Daily, 2)]), &times), [2, 4]);
    assert_eq!(kept_of(&policy(&[every(Period::Daily, 2)]), &times), [3, 4]);
    // One each half hour: the day has 25 hours, and 23 in March.
    for (midnight, hours) in [("2026-10-24T22:00:00Z", 25), ("2026-03-28T23:00:00Z", 23)] {
        let start = ms(midnight);
        let times: Vec<u64> = (0..2 * hours).map(|half| start + half * HOUR / 2).collect();
        let hourly = kept_of(&berlin(&[every(Period::Hourly, 24)]), &times);
        assert_eq!(hourly.len() as u64, hours.min(24), "{midnight}");
        let all = kept_of(&berlin(&[every(Period::Hourly, 99)]), &times);
        assert_eq!(all.len() as u64, hours, "{midnight}");
        let daily = kept_of(&berlin(&[every(Period::Daily, 9)]), &times);
        assert_eq!(daily, [2 * hours], "{midnight}");
    }
}

// spec: RET-04
#[test]
fn spans_count_back_from_the_newest_by_civil_time() {
    // A day before 25 October, 12:00 in Berlin, is 25 hours before.
    let times = [
        ms("2026-10-24T09:59:59Z"),
        ms("2026-10-24T10:00:00Z"),
        ms("2026-10-24T10:59:59Z"),
        ms("2026-10-25T11:00:00Z"),
    ];
    assert_eq!(kept_of(&berlin(&[within("1d")]), &times), [2, 3, 4]);
    assert_eq!(kept_of(&berlin(&[within("24h")]), &times), [4]);
    // Years later, of the same snapshots, nothing more goes.
    let much_later = decide(
        &berlin(&[within("1d")]),
        &at_times(&times),
        &[],
        ms("2036-01-01T00:00:00Z"),
    );
    assert_eq!(kept(&much_later.unwrap()), [2, 3, 4]);
    let rule = KeepRule::Every {
        period: Period::Hourly,
        limit: Limit::Within("1d".parse().unwrap()),
    };
    assert_eq!(kept_of(&berlin(&[rule]), &times), [3, 4]);
}

// spec: RET-05
#[test]
fn each_branch_has_rules_of_its_own_and_keeps_its_head() {
    let mut candidates = at_times(&[NEW_YEAR, NEW_YEAR + 1, NEW_YEAR + 2, NEW_YEAR + 3]);
    candidates.push(on_branch(taken(5, NEW_YEAR - 900 * DAY), "side"));
    candidates.push(on_branch(taken(6, NEW_YEAR - 899 * DAY), "side"));
    candidates[1].holds.push(Hold::Current);
    let found = plan(&policy(&[within("1m")]), &candidates);
    assert_eq!(kept(&found), [1, 2, 3, 4, 6]);
    let found = plan(&policy(&[every(Period::Yearly, 1)]), &candidates);
    assert_eq!(kept(&found), [2, 4, 6]);
    assert_eq!(
        reasons(&found, 2),
        [Reason::Hold {
            hold: Hold::Current
        }]
    );
    assert_eq!(found.decision(id(5)).unwrap().action, Action::Remove);
}

// spec: RET-01
#[test]
fn tags_and_labels_keep_whatever_the_time() {
    let mut candidates = at_times(&[0, 1, 2, 3, 4]);
    let (tag, key) = (Tag::new("gold").unwrap(), LabelKey::new("team").unwrap());
    let value = |text: &str| LabelValue::new(text).unwrap();
    candidates[0].tags.insert(tag.clone());
    candidates[1].labels.insert(key.clone(), value("core"));
    candidates[2].labels.insert(key.clone(), value("edge"));
    let label = |value| KeepRule::Label {
        key: key.clone(),
        value,
    };
    let tagged = KeepRule::Tag { tag };
    assert_eq!(kept(&plan(&policy(&[tagged]), &candidates)), [1, 5]);
    let any = plan(&policy(&[label(None)]), &candidates);
    assert_eq!(kept(&any), [2, 3, 5]);
    let core = plan(&policy(&[label(Some(value("core")))]), &candidates);
    assert_eq!(kept(&core), [2, 5]);
}

/// The regression of a store whose maintenance believed the clock of a laptop that had slept: times
/// that jump by a month either way.
// spec: RET-02
// spec: RET-04
#[test]
fn kopia_1949_clock_jumps_of_30_days_take_no_more_than_the_clock_itself() {
    let month = 30 * DAY;
    let rules = [last(2), within("7d"), every(Period::Daily, 5)];
    let right: Vec<u64> = (0..40).map(|day| NEW_YEAR + day * DAY).collect();
    let now = right[39];
    let keeps = |times: &[u64], now| {
        let plan = decide(&policy(&rules), &at_times(times), &[], now);
        kept(&plan.unwrap())
    };
    let expected = keeps(&right, now);
    assert_eq!(expected, (33..=40).collect::<Vec<_>>());
    // The clock of whoever prunes is ahead, or behind: what is kept is not less.
    assert_eq!(keeps(&right, now + month), expected);
    let behind = keeps(&right, now - month);
    assert!(
        expected.iter().all(|seq| behind.contains(seq)),
        "{behind:?}"
    );
    // The newest was taken while the clock was ahead, and it is right again.
    let mut ahead = right.clone();
    ahead[39] += month;
    assert_eq!(keeps(&ahead, now), expected);
    // One in the middle was: nothing else changes.
    let mut ahead = right.clone();
    ahead[36] += month;
    assert_eq!(keeps(&ahead, now), expected);
    // The newest was taken while the clock was behind: more is kept, and the newest by number too.
    let mut late = right;
    late[39] -= month;
    let found = keeps(&late, now);
    assert!(expected.iter().all(|seq| found.contains(seq)), "{found:?}");
}
