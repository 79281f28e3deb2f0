//! Decisions and calendars of retention, as people read them.

use std::collections::BTreeMap;

use snapshot_store::retention::{
    Action, Decision, Exceeded, Hold, KeepRule, Limit, Reason, RetentionPlan, RetentionPolicy,
    SimulatedDay, Simulation, UnmetCap,
};

use crate::quantity::{counted, show_bytes};
use crate::table::{draw, table};
use crate::view::short;

/// A policy, as `policy set` takes it.
pub(crate) fn show_policy(policy: &RetentionPolicy) -> String {
    let mut words: Vec<String> = policy.keep.iter().map(show_rule).collect();
    let caps = &policy.caps;
    words.extend(caps.max_bytes.map(|bytes| format!("--max-bytes {bytes}")));
    words.extend(caps.max_age.map(|age| format!("--max-age '{age}'")));
    words.extend(caps.max_depth.map(|depth| format!("--max-depth {depth}")));
    words.push(format!("--zone {}", policy.zone));
    words.join(" ")
}

fn show_rule(rule: &KeepRule) -> String {
    match rule {
        KeepRule::Last { count } => format!("--keep-last {count}"),
        KeepRule::Every { period, limit } => match limit {
            Limit::Count(count) => format!("--keep-{period} {count}"),
            Limit::Within(span) => format!("--keep-{period} '{span}'"),
        },
        KeepRule::Within { span } => format!("--keep-within '{span}'"),
        KeepRule::Tag { tag } => format!("--keep-tag {tag}"),
        KeepRule::Label { key, value: None } => format!("--keep-label {key}"),
        KeepRule::Label {
            key,
            value: Some(value),
        } => format!("--keep-label '{key}={value}'"),
        other => format!("{other:?}"),
    }
}

/// A table of decisions, and a line for each cap that is not met.
pub(crate) fn show_plan(plan: &RetentionPlan) -> String {
    let mut rows = table(&["", ">SEQ", "ID", "BRANCH", "WHY"]);
    for decision in &plan.decisions {
        rows.add_row([
            match decision.action {
                Action::Keep => "keep".to_owned(),
                Action::Remove => "remove".to_owned(),
            },
            decision.seq.to_string(),
            short(decision.id),
            decision.branch.to_string(),
            why(decision),
        ]);
    }
    let mut text = draw(&rows);
    for unmet in &plan.unmet {
        text.push_str(&show_unmet(unmet));
    }
    text
}

fn why(decision: &Decision) -> String {
    let reasons = decision.reasons.iter().map(reason);
    let overruled = decision.overruled.iter().map(reason).collect::<Vec<_>>();
    let overruled = match overruled.as_slice() {
        [] => None,
        reasons => Some(format!("in spite of {}", reasons.join(", "))),
    };
    let base = decision.hidden_base_of.len() as u64;
    let base = (base > 0).then(|| format!("stays in the trash for {}", counted(base, "snapshot")));
    let all = reasons.chain(overruled).chain(base);
    all.collect::<Vec<_>>().join(", ")
}

fn reason(reason: &Reason) -> String {
    match reason {
        Reason::Hold { hold } => self::hold(hold),
        Reason::Last { number, .. } => format!("last {number}"),
        Reason::Every {
            period,
            number,
            name,
        } => format!("{period} {number} ({name})"),
        Reason::Within { span } => format!("within {span}"),
        Reason::Tag { tag } => format!("tag {tag}"),
        Reason::Label { key, value } => format!("label {key}={value}"),
        Reason::NoRules => "nothing but caps".to_owned(),
        Reason::NoRule => "no rule keeps it".to_owned(),
        Reason::TooOld { max_age } => format!("older than {max_age}"),
        Reason::TooDeep { max_depth } => format!("deeper than {max_depth}"),
        Reason::TooManyBytes { freed_bytes, .. } => format!("frees {}", show_bytes(*freed_bytes)),
        _ => "for another reason".to_owned(),
    }
}

/// What holds a snapshot.
pub(crate) fn hold(hold: &Hold) -> String {
    match hold {
        Hold::Protected => "protected".to_owned(),
        Hold::Unreadable => "taken for protected".to_owned(),
        Hold::Leased { .. } => "in use".to_owned(),
        Hold::Needed { by, .. } => format!("needed by {}, which is in use", short(*by)),
        Hold::Current => "current".to_owned(),
        Hold::Head => "head".to_owned(),
        _ => "held".to_owned(),
    }
}

fn show_unmet(unmet: &UnmetCap) -> String {
    let told = match &unmet.cap {
        Exceeded::MaxAge { limit } => format!("older than {limit} remain"),
        Exceeded::MaxDepth { limit, reached } => {
            format!("{reached} above each other remain, and {limit} are allowed")
        }
        Exceeded::MaxBytes { limit, reached } => {
            let (reached, limit) = (show_bytes(*reached), show_bytes(*limit));
            format!("{reached} remain, and {limit} are allowed")
        }
        _ => "a cap is not met".to_owned(),
    };
    let standing = unmet.standing.iter().map(|one| {
        let holds = one.holds.iter().map(hold);
        let needed = one.needed_by.len() as u64;
        let needed = (needed > 0).then(|| format!("needed by {}", counted(needed, "snapshot")));
        let why: Vec<_> = holds.chain(needed).collect();
        format!("  {}: {}\n", short(one.id), why.join(", "))
    });
    format!("not met: {told}\n{}", standing.collect::<String>())
}

/// A row for each month, a column for each day.
pub(crate) fn show_calendar(simulation: &Simulation) -> String {
    let mut months: BTreeMap<(i16, i8), [char; 31]> = BTreeMap::new();
    for day in &simulation.days {
        let month = (day.date.year(), day.date.month());
        let row = months.entry(month).or_insert([' '; 31]);
        let column = usize::try_from(day.date.day() - 1).unwrap_or(0);
        if let Some(cell) = row.get_mut(column) {
            *cell = mark(day);
        }
    }
    let mut text = format!("         {DAYS}\n");
    for ((year, month), row) in months {
        let row: String = row.iter().collect();
        let line = format!("{year:04}-{month:02}  {row}");
        text.push_str(line.trim_end());
        text.push('\n');
    }
    let kept = simulation.kept.len();
    let taken = counted(simulation.taken, "snapshot");
    text + &format!(
        "{taken} taken, {kept} kept; times are of {}\n",
        simulation.zone
    )
}

/// The days of a month, by their last digits.
const DAYS: &str = "1234567890123456789012345678901";

fn mark(day: &SimulatedDay) -> char {
    match day.kept {
        0 => '·',
        kept => char::from_digit(kept, 10).unwrap_or('+'),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use snapshot_store::retention::{Period, Schedule, simulate};

    // spec: CLI-72
    #[test]
    fn a_calendar_has_a_row_for_each_month() {
        let limit = Limit::Count(2_u32.try_into().unwrap());
        let daily = KeepRule::Every {
            period: Period::Daily,
            limit,
        };
        let last = KeepRule::Last {
            count: 12_u32.try_into().unwrap(),
        };
        let policy = RetentionPolicy::default().keep(daily).keep(last);
        let schedule = Schedule::new(
            "2026-01-30".parse().unwrap(),
            "2h".parse().unwrap(),
            "2026-02-03".parse().unwrap(),
        );
        let drawn = show_calendar(&simulate(&policy, &schedule).unwrap());
        let lines: Vec<&str> = drawn.lines().collect();
        assert_eq!(lines[0], "         1234567890123456789012345678901");
        assert_eq!(lines[1], format!("2026-01  {}··", " ".repeat(29)));
        assert_eq!(lines[2], "2026-02  1+");
        assert_eq!(lines[3], "48 snapshots taken, 13 kept; times are of UTC");
    }
}
